"""Losses against loops one can read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from promptmix.nn.losses import consistency_loss, router_loss, text_loss


def unit(*shape: int, seed: int = 0) -> Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("more", [0, 2])
def test_a_prompt_is_told_from_the_other_classes_prototypes(more: int) -> None:
    prompts, prototypes = unit(3, 4, 8), unit(3, 4 + more, 8, seed=1)
    terms = [
        -torch.log_softmax(torch.stack([5.0 * prompts[g, c] @ prototypes[g, d] for d in range(4 + more)]), dim=0)[c]
        for g in range(3)
        for c in range(4)
    ]
    torch.testing.assert_close(text_loss(prompts, prototypes, 5.0), torch.stack(terms).mean())


@pytest.mark.parametrize("more", [0, 2])
def test_or_a_prototype_from_the_other_classes_prompts(more: int) -> None:
    prompts, prototypes = unit(3, 4, 8), unit(3, 4 + more, 8, seed=1)
    terms = [
        -torch.log_softmax(torch.stack([5.0 * prompts[g, c] @ prototypes[g, d] for c in range(4)]), dim=0)[d]
        for g in range(3)
        for d in range(4)
    ]
    torch.testing.assert_close(text_loss(prompts, prototypes, 5.0, "prompts"), torch.stack(terms).mean())


def test_the_router_s_loss_is_a_cross_entropy() -> None:
    scores, target = unit(6, 3), unit(6, 3, seed=1).softmax(dim=1)
    terms = [-(target[image] * torch.log_softmax(scores[image], dim=0)).sum() for image in range(6)]
    torch.testing.assert_close(router_loss(scores, target), torch.stack(terms).mean())


def test_consistency_is_nothing_where_nothing_moved_and_two_where_all_turned_round() -> None:
    features = unit(5, 8)
    assert float(consistency_loss(features, features)) == pytest.approx(0, abs=1e-12)
    assert float(consistency_loss(-features, features)) == pytest.approx(2)
