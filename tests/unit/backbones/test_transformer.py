"""The activation of the perceptron, which is computed in place and with a backward pass of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from promptmix.backbones.transformer import ACTIVATIONS


def plain(name: str, values: Tensor, bias: Tensor) -> Tensor:
    u = values + bias
    if name == "quick_gelu":
        return u * torch.sigmoid(1.702 * u)
    return torch.nn.functional.gelu(u, approximate="none" if name == "gelu" else "tanh")


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias_learns", [False, True])
def test_values_and_gradients_are_the_formula_s(name: str, bias_learns: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 7, generator=generator, dtype=torch.float64)
    bias = torch.randn(11, generator=generator, dtype=torch.float64, requires_grad=bias_learns)
    direction = torch.randn(3, 5, 11, generator=generator, dtype=torch.float64)
    wanted = [inputs, bias] if bias_learns else [inputs]

    ours = ACTIVATIONS[name](torch.nn.functional.linear(inputs, weight), bias)
    reference = plain(name, torch.nn.functional.linear(inputs, weight), bias)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(ours, wanted, direction)
    for mine, theirs in zip(gradients, torch.autograd.grad(reference, wanted, direction), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
