"""Means and deviations."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from promptmix.reporting.aggregate import spread


def test_mean_and_sample_deviation_are_numpys() -> None:
    values = [0.1, 0.4, 0.35, 0.8]
    ours = spread(values)
    assert ours.count == 4
    assert ours.mean == pytest.approx(np.mean(values))
    assert ours.deviation == pytest.approx(np.std(values, ddof=1))


def test_one_value_has_no_deviation_and_equal_values_one_of_nothing() -> None:
    assert (spread([0.5]).mean, spread([0.5]).deviation, spread([0.5]).count) == (0.5, None, 1)
    assert spread([0.5, 0.5]).deviation == 0


def test_a_spread_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        spread([0.5]).mean = 0.6  # type: ignore[misc]


@pytest.mark.parametrize("values", [[], [math.nan], [0.5, math.inf]])
def test_what_has_no_mean_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        spread(values)
