"""The pre-norm transformer block that both towers are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ACTIVATIONS", "QueryKeyValue", "TransformerBlock", "biased_quick_gelu", "norms_of_blocks"]

_QUICK = 1.702  # makes x * sigmoid(1.702 x) look like GELU


class _BiasedQuickGelu(torch.autograd.Function):
    """``u * sigmoid(1.702 u)`` of ``u = values + bias``, which is ``silu(1.702 u) / 1.702``.

    One tensor is kept for the backward pass instead of two, ``values`` are overwritten, and the gradient is one operation: on a
    CPU the text tower spends more on moving the perceptron's wide activations than on anything else but matrix products.
    """

    @staticmethod
    def forward(context: Any, values: Tensor, bias: Tensor) -> Tensor:
        # Written in place, which is safe: the product that made the values needs them no more.
        stretched = torch.add(bias * _QUICK, values, alpha=_QUICK, out=values)
        context.save_for_backward(stretched)
        return functional.silu(stretched).div_(_QUICK)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        (stretched,) = context.saved_tensors
        of_values: Tensor = torch.ops.aten.silu_backward(gradient, stretched)
        of_bias = of_values.flatten(0, -2).sum(0) if context.needs_input_grad[1] else None
        return of_values, of_bias


def biased_quick_gelu(values: Tensor, bias: Tensor) -> Tensor:
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with, of ``values + bias``; overwrites ``values``."""
    result: Tensor = _BiasedQuickGelu.apply(values, bias)  # type: ignore[no-untyped-call]  # torch gives it no types
    return result


ACTIVATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "quick_gelu": biased_quick_gelu,
    "gelu": lambda values, bias: functional.gelu(values + bias),
    "gelu_pytorch_tanh": lambda values, bias: functional.gelu(values + bias, approximate="tanh"),
}
"""By the name in a backbone's config: the perceptron's activation, of a product and its bias."""


class QueryKeyValue(nn.Linear):
    """The three matrices of self-attention as one, in this order, so that they cost one product."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width)

    def query(self, normed: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """The queries alone."""
        return functional.linear(normed, self.weight[: self.in_features], self.bias[: self.in_features])

    def key_value(self, normed: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows keys_and_values"]:
        """Keys and values, one behind the other."""
        return functional.linear(normed, self.weight[self.in_features :], self.bias[self.in_features :])


class TransformerBlock(nn.Module):
    """Self-attention and a two-layer perceptron, each after a layer norm and added to its input."""

    def __init__(self, width: int, heads: int, mlp_width: int, activation: str, layer_norm_epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm: nn.Module = nn.LayerNorm(width, eps=layer_norm_epsilon)
        self.query_key_value = QueryKeyValue(width)
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
        mask: Float[Tensor, "batch 1 query key"] | None,
        causal: bool = False,
    ) -> Float[Tensor, "batch query width"]:
        """Multi-head attention before the output matrix; ``mask`` is added to the scores: -inf where a query may not look."""
        split = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)]
        mixed = functional.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=mask, is_causal=causal)
        return mixed.transpose(1, 2).flatten(2)

    def perceptron(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """The second half of the block: norm, perceptron, residual."""
        wide = functional.linear(self.mlp_norm(hidden), self.mlp_in.weight)
        change: Tensor = self.mlp_out(self._activation(wide, self.mlp_in.bias))
        return hidden + change


def norms_of_blocks(blocks: nn.ModuleList) -> dict[str, nn.LayerNorm]:
    """The layer norms of a tower's ``blocks`` by their names in the tower."""
    return {name: module for name, module in blocks.named_modules(prefix="blocks") if isinstance(module, nn.LayerNorm)}
