"""Recipes: what a person changes, and a warm-up that leaves something to learn."""

from __future__ import annotations

import pytest

from promptmix.errors import ConfigError
from promptmix.methods.mocoop import MixtureOfPrompts


@pytest.mark.parametrize(("epochs", "warm"), [(1, 0), (2, 1), (5, 1), (16, 2), (40, 5), (50, 5), (300, 5)])
def test_a_warm_up_nobody_asked_for_is_short(epochs: int, warm: int) -> None:
    assert MixtureOfPrompts.recipe_for(None, {"epochs": epochs}).warmup_epochs == warm


def test_a_warm_up_that_was_asked_for_is_taken() -> None:
    assert MixtureOfPrompts.recipe_for(None, {"epochs": 8, "warmup_epochs": 7}).warmup_epochs == 7


@pytest.mark.parametrize("changes", [{"epochs": 3, "warmup_epochs": 3}, {"warmup_epochs": 50}])
def test_a_warm_up_of_all_epochs_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="nothing would be learnt"):
        MixtureOfPrompts.recipe_for(None, changes)


def test_unknown_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rate'"):
        MixtureOfPrompts.recipe_for(None, {"rates": 1})
