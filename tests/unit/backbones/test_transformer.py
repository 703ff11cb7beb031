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
@pytest.mark.parametrize("learns", ["inputs", "bias", "both"])
def test_values_and_gradients_are_the_formula_s(name: str, learns: str) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64, requires_grad=learns != "bias")
    weight = torch.randn(11, 7, generator=generator, dtype=torch.float64)
    bias = torch.randn(11, generator=generator, dtype=torch.float64, requires_grad=learns != "inputs")
    direction = torch.randn(3, 5, 11, generator=generator, dtype=torch.float64)
    wanted = [one for one in (inputs, bias) if one.requires_grad]

    ours = ACTIVATIONS[name](torch.nn.functional.linear(inputs, weight), bias)
    reference = plain(name, torch.nn.functional.linear(inputs, weight), bias)
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(ours, wanted, direction)
    for mine, theirs in zip(gradients, torch.autograd.grad(reference, wanted, direction), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_values_that_another_gradient_needs_are_not_overwritten_unnoticed() -> None:
    values = torch.randn(4, 3, requires_grad=True).exp()  # the gradient of exp is made from what it gave
    changed = ACTIVATIONS["quick_gelu"](values, torch.zeros(3)).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        changed.backward()


def test_a_gradient_of_a_gradient_is_refused_and_not_made_wrong() -> None:
    inputs = torch.randn(4, 3, requires_grad=True)
    changed = ACTIVATIONS["quick_gelu"](torch.nn.functional.linear(inputs, torch.eye(3)), torch.zeros(3))
    (gradient,) = torch.autograd.grad(changed.sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()
