"""The field's optimizer and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch

from promptmix.methods.base import Method, Recipe

__all__ = ["build_optimizer", "rate_at", "set_rates"]


def rate_at(recipe: Recipe, epoch: int, multiplier: float = 1.0) -> float:
    """The learning rate during an epoch, counted from 0.

    In the warm-up every parameter has ``warmup_rate`` and multipliers do not count. Afterwards a cosine whose period is the
    number of epochs, begun at the end of the warm-up, so that it never reaches 0.
    """
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_rate
    return multiplier * recipe.rate / 2 * (1 + math.cos(math.pi * (epoch - recipe.warmup_epochs) / recipe.epochs))


def build_optimizer(method: Method, recipe: Recipe) -> torch.optim.SGD:
    """SGD with momentum over what the method declares, a group for each parameter; weight decay holds for prompts too."""
    groups: list[dict[str, Any]] = [
        {"params": [parameter], "multiplier": method.rate_multiplier(name), "name": name}
        for name, parameter in method.named_parameters()
    ]
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int) -> None:
    """Give every group its rate for this epoch."""
    for group in optimizer.param_groups:
        group["lr"] = rate_at(recipe, epoch, group["multiplier"])
