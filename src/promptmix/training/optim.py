"""The field's optimizer and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch

from promptmix.methods.base import Method, Recipe

__all__ = ["averaging_weight", "build_optimizer", "rate_at", "set_rates"]


def rate_at(recipe: Recipe, epoch: int, multiplier: float = 1.0, progress: float = 0.0) -> float:
    """The learning rate during an epoch, counted from 0, or at a step.

    By epoch, every parameter has ``warmup_rate`` in the warm-up and multipliers do not count. Afterwards a cosine whose period is
    the number of epochs, begun at the end of the warm-up, so that it never reaches 0. By step, a cosine over the whole run.

    Args:
        progress: the share of the run's steps that are done, 0 to 1, for a schedule by step.
    """
    if recipe.schedule == "step":
        return multiplier * (recipe.final_rate + (recipe.rate - recipe.final_rate) / 2 * (1 + math.cos(math.pi * progress)))
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_rate
    return multiplier * recipe.rate / 2 * (1 + math.cos(math.pi * (epoch - recipe.warmup_epochs) / recipe.epochs))


def build_optimizer(method: Method, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, over what the method declares, a group for each parameter; weight decay holds for prompts too."""
    groups: list[dict[str, Any]] = [
        {"params": [parameter], "multiplier": method.rate_multiplier(name), "name": name}
        for name, parameter in method.named_parameters()
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.rate, eps=recipe.epsilon, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int, progress: float) -> None:
    """Give every group its rate for this epoch, or for the step before which ``progress`` of all steps are done."""
    for group in optimizer.param_groups:
        group["lr"] = rate_at(recipe, epoch, group["multiplier"], progress)


def averaging_weight(recipe: Recipe, epoch: int, epochs: int) -> float:
    """The weight of the parameters after an epoch, counted from 0, in their mean over all ``epochs``; 0: they do not count."""
    if recipe.averaging == "second_half":
        return float(epoch >= epochs // 2)
    if recipe.averaging == "gaussian":
        # Beside the epoch nearest to the mean, so that not all weights are rounded to 0 where the mean lies far outside the run.
        nearest = min(max(round(recipe.averaging_mean), 1), epochs)
        far, near = ((number - recipe.averaging_mean) / recipe.averaging_deviation for number in (epoch + 1, nearest))
        return math.exp((near**2 - far**2) / 2)
    return 0.0
