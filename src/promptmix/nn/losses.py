"""Losses of prompt learning, as pure functions of their arguments."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

__all__ = ["MOST_SIMILARITIES", "consistency_loss", "router_loss", "sample_classes", "text_loss"]

MOST_SIMILARITIES = 2**25  # numbers of one block: 128 MiB in float32


def text_loss(
    expert_features: Float[Tensor, "expert class embedding"],
    prototypes: Float[Tensor, "expert all_classes embedding"],
    temperature: float,
    direction: Literal["prototypes", "prompts"] = "prototypes",
) -> Float[Tensor, ""]:
    """Text supervision: every soft prompt should be told from the other classes by its own group's hard prompts.

    Mean over experts and classes of the cross-entropy of ``temperature * <e[g,c], q[g,.]>`` against c. The prototypes' first
    classes are the soft prompts' classes, in the same order; further ones are extra wrong answers.

    Args:
        direction: what the softmax runs over: the ``prototypes`` for each soft prompt, or the soft ``prompts`` for each
            prototype (then prototypes of classes that have no soft prompt are left out).
    """
    num_experts, num_classes, _ = expert_features.shape
    asking, answering = expert_features, prototypes
    if direction == "prompts":
        asking, answering = prototypes[:, :num_classes], expert_features
    block = max(1, MOST_SIMILARITIES // (num_experts * answering.shape[1]))
    if block >= num_classes:
        return _told_apart(asking, answering, 0, temperature, "mean")
    # All similarities together grow with the square of the classes; the backward pass makes those of each block anew.
    sums = [
        checkpoint(_told_apart, asking[:, first : first + block], answering, first, temperature, "sum", use_reentrant=False)
        for first in range(0, num_classes, block)
    ]
    return torch.stack(sums).sum() / (num_experts * num_classes)


def _told_apart(
    asking: Float[Tensor, "expert some_classes embedding"],
    answering: Float[Tensor, "expert all_classes embedding"],
    first: int,
    temperature: float,
    reduction: Literal["mean", "sum"],
) -> Float[Tensor, ""]:
    """The cross-entropies of the classes from ``first`` on, each asking which of all classes answers."""
    num_experts, num_classes, _ = asking.shape
    similarity = temperature * torch.bmm(asking, answering.transpose(1, 2))
    targets = torch.arange(first, first + num_classes, device=similarity.device).repeat(num_experts)
    return functional.cross_entropy(similarity.flatten(0, 1), targets, reduction=reduction)


def router_loss(router_logits: Float[Tensor, "image expert"], target: Float[Tensor, "image expert"]) -> Float[Tensor, ""]:
    """Cross-entropy of the router's softmax against a soft target, mean over the pictures."""
    return functional.cross_entropy(router_logits, target)


def consistency_loss(moved: Float[Tensor, "row embedding"], original: Float[Tensor, "row embedding"]) -> Float[Tensor, ""]:
    """Mean of 1 - cosine between normalised features and what they should stay near: 0 where nothing moved, 2 at most."""
    return (1 - (moved * original).sum(dim=-1)).mean()


def sample_classes(
    labels: Int[Tensor, "image"], num_classes: int, count: int, generator: torch.Generator
) -> Int[Tensor, "some_classes"]:
    """The classes of some pictures, and others drawn at random up to ``count``, in rising order.

    A softmax over fewer classes asks less than one over all: its gradient is that of another, easier loss, the more so the nearer the
    classes that are left out. Nothing is corrected for it.

    Args:
        generator: on the CPU.
    """
    wanted = torch.zeros(num_classes)
    wanted[labels.cpu()] = 2.0
    order = (wanted + torch.rand(num_classes, generator=generator)).argsort(descending=True)
    present = int((wanted > 0).sum())
    return order[: max(count, present)].sort().values.to(labels.device)
