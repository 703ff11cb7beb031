"""Losses against loops one can read."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from promptmix.nn import losses
from promptmix.nn.losses import consistency_loss, router_loss, sample_classes, text_loss


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


@pytest.mark.parametrize("direction", ["prototypes", "prompts"])
@pytest.mark.parametrize("most", [1, 40, 100])
def test_in_blocks_the_text_loss_and_its_gradients_are_the_same(
    direction: Literal["prototypes", "prompts"], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss_and_gradient() -> tuple[Tensor, Tensor]:
        prompts = unit(3, 7, 8).requires_grad_(True)
        loss = text_loss(prompts, unit(3, 9, 8, seed=1), 5.0, direction)
        loss.backward()
        assert prompts.grad is not None
        return loss.detach(), prompts.grad

    whole = loss_and_gradient()
    monkeypatch.setattr(losses, "MOST_SIMILARITIES", most)
    for ours, expected in zip(loss_and_gradient(), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


def test_sampled_classes_are_those_of_the_pictures_and_others_at_random() -> None:
    labels = torch.tensor([17, 3, 17, 90])
    drawn = [sample_classes(labels, 100, 8, torch.Generator().manual_seed(seed)) for seed in range(300)]
    for classes in drawn:
        assert len(classes) == 8
        assert {3, 17, 90} <= set(classes.tolist())
        assert classes.tolist() == sorted(set(classes.tolist()))
    # Of the others each as often as any: 300 draws of 5 among 97.
    counts = torch.bincount(torch.cat(drawn), minlength=100)
    others = [place for place in range(100) if place not in (3, 17, 90)]
    assert 2 <= int(counts[others].min()) <= int(counts[others].max()) <= 40
    assert sample_classes(labels, 100, 2, torch.Generator()).tolist() == [3, 17, 90]
    assert sample_classes(labels, 100, 100, torch.Generator()).tolist() == list(range(100))


def test_the_router_s_loss_is_a_cross_entropy() -> None:
    scores, target = unit(6, 3), unit(6, 3, seed=1).softmax(dim=1)
    terms = [-(target[image] * torch.log_softmax(scores[image], dim=0)).sum() for image in range(6)]
    torch.testing.assert_close(router_loss(scores, target), torch.stack(terms).mean())


def test_consistency_is_nothing_where_nothing_moved_and_two_where_all_turned_round() -> None:
    features = unit(5, 8)
    assert float(consistency_loss(features, features)) == pytest.approx(0, abs=1e-12)
    assert float(consistency_loss(-features, features)) == pytest.approx(2)
