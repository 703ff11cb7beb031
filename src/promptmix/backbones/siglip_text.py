"""SigLIP's text tower: a transformer that sees all of a text, padding too, and is read at the last position."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from promptmix.backbones.configs import SiglipTextConfig
from promptmix.backbones.transformer import TransformerBlock

__all__ = ["SiglipTextTower"]


class SiglipTextTower(nn.Module):
    """Token and position embeddings, blocks without a mask, final norm and a linear head to the joint space.

    Args:
        config: sizes, activation and special tokens.
        embedding_width: width D of the joint space of pictures and texts.
    """

    def __init__(self, config: SiglipTextConfig, embedding_width: int) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.position_embedding = nn.Parameter(torch.zeros(config.context_length, config.width))
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.mlp_width, config.activation, config.layer_norm_epsilon)
            for _ in range(config.layers)
        )
        self.final_norm = nn.LayerNorm(config.width, eps=config.layer_norm_epsilon)
        self.projection = nn.Linear(config.width, embedding_width)

    def forward(self, tokens: Int[Tensor, "sequence position"]) -> Float[Tensor, "sequence embedding"]:
        """Features of texts given as tokens, each padded to the whole context; NOT normalised."""
        return self.encode_embeddings(self.token_embedding(tokens))

    def encode_embeddings(self, embeddings: Float[Tensor, "sequence position width"]) -> Float[Tensor, "sequence embedding"]:
        """Features of sequences of token embeddings (positions not yet added) over the whole context; NOT normalised.

        Pad tokens are attended to like any others, and the feature is read at the last position, which is one of them where a
        text leaves room: this is how SigLIP was trained. So the length of the padding matters.
        """
        hidden = embeddings + self.position_embedding
        for block in self.blocks:
            hidden = block(hidden, causal=False)
        features: Tensor = self.projection(self.final_norm(hidden[:, -1]))
        return features
