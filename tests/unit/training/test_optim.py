"""Rates and weights of a recipe, against torch's own schedule and the formulas written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from promptmix.errors import ConfigError
from promptmix.methods.base import Recipe
from promptmix.methods.clip_lora import ClipLora
from promptmix.methods.coop import CoOp
from promptmix.training.optim import averaging_weight, rate_at


@pytest.mark.parametrize(
    ("rate", "final", "steps", "multiplier"), [(2e-4, 1e-6, 37, 1.0), (0.1, 0.0, 8, 0.1), (1.0, 0.5, 1, 1.0)]
)
def test_a_schedule_by_step_is_torch_s(rate: float, final: float, steps: int, multiplier: float) -> None:
    recipe = Recipe(rate=rate, final_rate=final, schedule="step", steps=steps)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=multiplier * rate)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=multiplier * final)
    for step in range(steps):
        assert rate_at(recipe, 0, multiplier, step / steps) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_a_schedule_by_step_has_no_warm_up_and_does_not_ask_for_the_epoch() -> None:
    recipe = Recipe(rate=0.3, schedule="step", warmup_epochs=5, warmup_rate=1e-9)
    assert rate_at(recipe, 0) == pytest.approx(0.3)
    assert rate_at(recipe, 0, progress=0.25) == rate_at(recipe, 7, progress=0.25)


@pytest.mark.parametrize(("mean", "deviation", "epochs"), [(15.0, 1.0, 20), (45.0, 5.0, 50), (2.5, 0.7, 4), (30.0, 30.0, 3)])
def test_weights_of_a_normal_density(mean: float, deviation: float, epochs: int) -> None:
    recipe = Recipe(averaging="gaussian", averaging_mean=mean, averaging_deviation=deviation)
    ours = torch.tensor([averaging_weight(recipe, epoch, epochs) for epoch in range(epochs)], dtype=torch.float64)
    density = torch.distributions.Normal(mean, deviation).log_prob(torch.arange(1.0, epochs + 1, dtype=torch.float64)).exp()
    torch.testing.assert_close(ours / ours.sum(), density / density.sum(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("mean", [-500.0, 500.0])
def test_a_density_far_outside_the_run_leaves_its_nearest_epoch(mean: float) -> None:
    recipe = Recipe(averaging="gaussian", averaging_mean=mean, averaging_deviation=0.5)
    weights = [averaging_weight(recipe, epoch, 10) for epoch in range(10)]
    assert weights.index(max(weights)) == (0 if mean < 0 else 9)
    assert max(weights) == 1.0
    assert sum(weights) == pytest.approx(1.0)


def test_the_second_half_counts_alike_and_nothing_counts_without_averaging() -> None:
    assert [averaging_weight(Recipe(averaging="second_half"), epoch, 5) for epoch in range(5)] == [0, 0, 1, 1, 1]
    assert [averaging_weight(Recipe(), epoch, 5) for epoch in range(5)] == [0] * 5


def test_a_length_in_steps_needs_a_schedule_by_step() -> None:
    with pytest.raises(ConfigError, match="a length in steps needs schedule=step; give epochs"):
        CoOp.recipe_for(16, {"steps": 100})
    assert CoOp.recipe_for(16, {"steps": 100, "schedule": "step"}).steps == 100


def test_epochs_that_were_asked_for_stand_in_for_a_length_in_steps() -> None:
    assert ClipLora.recipe_for(4, {}).steps == 2000
    assert ClipLora.recipe_for(4, {"steps": 30}).steps == 30
    changed = ClipLora.recipe_for(4, {"epochs": 3})
    assert changed.steps is None
    assert changed.epochs == 3
    assert changed.schedule == "step"
    # Where both are given, the steps count, as the recipe says of them.
    assert ClipLora.recipe_for(4, {"epochs": 3, "steps": 30}).steps == 30


def test_a_schedule_by_epoch_cannot_be_asked_of_a_length_in_steps() -> None:
    with pytest.raises(ConfigError, match="needs schedule=step"):
        ClipLora.recipe_for(4, {"schedule": "epoch"})
    by_epoch = ClipLora.recipe_for(4, {"schedule": "epoch", "epochs": 10})
    assert by_epoch.steps is None
    assert rate_at(by_epoch, by_epoch.warmup_epochs) == pytest.approx(2e-4)


def test_the_rate_falls_from_step_to_step_and_ends_above_the_final_one() -> None:
    recipe = ClipLora.recipe_for(1, {})
    rates = [rate_at(recipe, 0, progress=step / 500) for step in range(500)]
    assert rates[0] == 2e-4
    assert all(after < before for before, after in itertools.pairwise(rates))
    assert 1e-6 < rates[-1] < 1.01e-6
    assert rates[250] == pytest.approx((2e-4 + 1e-6) / 2)
    assert math.isclose(rate_at(recipe, 0, progress=1.0), 1e-6)
