"""Losses of prompt learning, as pure functions of their arguments."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["consistency_loss", "router_loss", "text_loss"]


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
    if direction == "prompts":
        prototypes = prototypes[:, :num_classes]
    similarity = temperature * torch.bmm(expert_features, prototypes.transpose(1, 2))  # expert, prompt's class, prototype's class
    if direction == "prompts":
        similarity = similarity.transpose(1, 2)
    targets = torch.arange(num_classes, device=similarity.device).repeat(num_experts)
    return functional.cross_entropy(similarity.flatten(0, 1), targets)


def router_loss(router_logits: Float[Tensor, "image expert"], target: Float[Tensor, "image expert"]) -> Float[Tensor, ""]:
    """Cross-entropy of the router's softmax against a soft target, mean over the pictures."""
    return functional.cross_entropy(router_logits, target)


def consistency_loss(moved: Float[Tensor, "row embedding"], original: Float[Tensor, "row embedding"]) -> Float[Tensor, ""]:
    """Mean of 1 - cosine between normalised features and what they should stay near: 0 where nothing moved, 2 at most."""
    return (1 - (moved * original).sum(dim=-1)).mean()
