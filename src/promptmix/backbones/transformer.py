"""The pre-norm transformer block that both towers are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ACTIVATIONS", "TransformerBlock", "quick_gelu"]


def quick_gelu(values: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with."""
    return values * torch.sigmoid(1.702 * values)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda values: functional.gelu(values, approximate="tanh"),
}


class TransformerBlock(nn.Module):
    """Self-attention and a two-layer perceptron, each after a layer norm and added to its input.

    Query, key and value share one matrix, in this order, so that they cost one product.
    """

    def __init__(self, width: int, heads: int, mlp_width: int, activation: str, layer_norm_epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, eps=layer_norm_epsilon)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=layer_norm_epsilon)
        self.mlp_in = nn.Linear(width, mlp_width)
        self.mlp_out = nn.Linear(mlp_width, width)
        self._activation = ACTIVATIONS[activation]

    def forward(self, hidden: Float[Tensor, "batch position width"], causal: bool) -> Float[Tensor, "batch position width"]:
        query, key, value = self.query_key_value(self.attention_norm(hidden)).chunk(3, dim=-1)
        hidden = hidden + self.attention_output(self.attend(query, key, value, mask=None, causal=causal))
        return self.perceptron(hidden)

    def attend(
        self,
        query: Float[Tensor, "batch query width"],
        key: Float[Tensor, "batch key width"],
        value: Float[Tensor, "batch key width"],
        mask: Bool[Tensor, "batch 1 query key"] | None,
        causal: bool = False,
    ) -> Float[Tensor, "batch query width"]:
        """Multi-head attention before the output matrix; ``mask`` is True where a query may look."""
        split = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)]
        mixed = functional.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=mask, is_causal=causal)
        return mixed.transpose(1, 2).flatten(2)

    def perceptron(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """The second half of the block: norm, perceptron, residual."""
        change: Tensor = self.mlp_out(self._activation(self.mlp_in(self.mlp_norm(hidden))))
        return hidden + change
