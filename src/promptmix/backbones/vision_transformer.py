"""CLIP's vision transformer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.configs import VisionTransformerConfig
from promptmix.backbones.transformer import TransformerBlock, norms_of_blocks

__all__ = ["VisionTransformer"]


class VisionTransformer(nn.Module):
    """Patches and a class token through pre-norm blocks; the class token is projected to the joint space."""

    def __init__(self, config: VisionTransformerConfig, embedding_width: int) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        positions = (config.image_size // config.patch_size) ** 2 + 1
        self.position_embedding = nn.Parameter(torch.zeros(positions, config.width))
        self.pre_norm = nn.LayerNorm(config.width, eps=config.layer_norm_epsilon)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.mlp_width, config.activation, config.layer_norm_epsilon)
            for _ in range(config.layers)
        )
        self.post_norm = nn.LayerNorm(config.width, eps=config.layer_norm_epsilon)
        self.projection = nn.Linear(config.width, embedding_width, bias=False)

    def forward(
        self, pixels: Float[Tensor, "image 3 height width"], prompts: Sequence[Float[Tensor, "prompt channel"]] = ()
    ) -> Float[Tensor, "image embedding"]:
        """Features of preprocessed pictures, NOT normalised.

        Args:
            prompts: learnt tokens behind the patches, one table a block from the first on: the first table enters before the first
                norm and has no position; before each further block its own takes the place of what became of the last.
        """
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        hidden = torch.cat([first, patches], dim=1) + self.position_embedding
        if prompts:
            hidden = torch.cat([hidden, prompts[0].to(hidden.dtype).expand(hidden.shape[0], -1, -1)], dim=1)
        hidden = self.pre_norm(hidden)
        for number, block in enumerate(self.blocks):
            if 0 < number < len(prompts):
                kept = hidden.shape[1] - prompts[number - 1].shape[0]
                hidden = torch.cat([hidden[:, :kept], prompts[number].to(hidden.dtype).expand(hidden.shape[0], -1, -1)], dim=1)
            hidden = block(hidden, causal=False)
        return functional.linear(self.post_norm(hidden[:, 0]), self.projection.weight)

    def block_norms(self) -> dict[str, nn.LayerNorm]:
        """The layer norms of the blocks by name, for methods that tune them."""
        return norms_of_blocks(self.blocks)
