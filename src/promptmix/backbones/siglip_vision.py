"""SigLIP's vision transformer: patches alone, gathered by attention from one learnt query."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.configs import SiglipVisionConfig
from promptmix.backbones.transformer import TransformerBlock, norms_of_blocks

__all__ = ["SiglipVisionTower"]


class _PoolingHead(TransformerBlock):
    """One learnt query gathers all positions; the perceptron follows as in every block."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__(config.width, config.heads, config.mlp_width, config.activation, config.layer_norm_epsilon)
        self.attention_norm = nn.Identity()  # what comes in has passed the tower's last norm
        self.probe = nn.Parameter(torch.zeros(config.width))

    def pool(self, hidden: Float[Tensor, "image position width"]) -> Float[Tensor, "image width"]:
        width = self.probe.shape[0]
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        query = functional.linear(self.probe, weight[:width], bias[:width]).expand(hidden.shape[0], 1, -1)
        key, value = functional.linear(hidden, weight[width:], bias[width:]).chunk(2, dim=-1)
        return self.perceptron(self.attention_output(self.attend(query, key, value, mask=None))[:, 0])


class SiglipVisionTower(nn.Module):
    """Patches through pre-norm blocks, a last norm, and a pooling head; the feature is as wide as the tower."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
        self.position_embedding = nn.Parameter(torch.zeros((config.image_size // config.patch_size) ** 2, config.width))
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.mlp_width, config.activation, config.layer_norm_epsilon)
            for _ in range(config.layers)
        )
        self.post_norm = nn.LayerNorm(config.width, eps=config.layer_norm_epsilon)
        self.head = _PoolingHead(config)

    def forward(self, pixels: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image embedding"]:
        """Features of preprocessed pictures, NOT normalised."""
        hidden = self.patch_embedding(pixels).flatten(2).transpose(1, 2) + self.position_embedding
        for block in self.blocks:
            hidden = block(hidden, causal=False)
        return self.head.pool(self.post_norm(hidden))

    def block_norms(self) -> dict[str, nn.LayerNorm]:
        """The layer norms of the blocks by name, for methods that tune them."""
        return norms_of_blocks(self.blocks)
