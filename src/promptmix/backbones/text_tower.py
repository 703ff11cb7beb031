"""CLIP's text tower: a causal transformer read at the end-of-text token.

The tower owns weights and single steps (embed, one block, read-out). Two ways to run it over many sequences exist:
:meth:`TextTower.encode_padded`, plain and obvious, here; and the packed one, fast, in ``promptmix.prompts.encoder``.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.configs import TextConfig
from promptmix.backbones.transformer import TransformerBlock

__all__ = ["TextTower"]


class TextTower(nn.Module):
    """Token and position embeddings, causal blocks, final norm and projection to the joint space.

    Args:
        config: sizes, activation and special tokens.
        embedding_width: width D of the joint space of pictures and texts.
    """

    def __init__(self, config: TextConfig, embedding_width: int) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.position_embedding = nn.Parameter(torch.zeros(config.context_length, config.width))
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, config.mlp_width, config.activation, config.layer_norm_epsilon)
            for _ in range(config.layers)
        )
        self.final_norm = nn.LayerNorm(config.width, eps=config.layer_norm_epsilon)
        self.projection = nn.Linear(config.width, embedding_width, bias=False)

    def encode_padded(
        self, embeddings: Float[Tensor, "sequence position width"], end_positions: Int[Tensor, "sequence"]
    ) -> Float[Tensor, "sequence embedding"]:
        """Encode sequences of token embeddings (positions not yet added), padded to one length; NOT normalised.

        What stands after a sequence's end position changes nothing, because attention is causal.
        """
        hidden = embeddings + self.position_embedding[: embeddings.shape[1]]
        for block in self.blocks:
            hidden = block(hidden, causal=True)
        ends = hidden[torch.arange(hidden.shape[0], device=hidden.device), end_positions.long()]
        return self.read_out(ends)

    def read_out(self, ends: Float[Tensor, "sequence width"]) -> Float[Tensor, "sequence embedding"]:
        """Final norm and projection of the hidden states at the end tokens."""
        return functional.linear(self.final_norm(ends), self.projection.weight)
