"""Means, deviations, intervals, paired differences and averages over data sets."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from random import Random

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from promptmix.reporting.aggregate import (
    average_over_sets,
    harmonic_means,
    paired_difference,
    pooled_calibration,
    spread,
)

SHARES = st.floats(0, 1, allow_nan=False)


def test_mean_and_sample_deviation_are_numpys() -> None:
    values = [0.1, 0.4, 0.35, 0.8]
    ours = spread(values)
    assert ours.count == 4
    assert ours.mean == pytest.approx(np.mean(values))
    assert ours.deviation == pytest.approx(np.std(values, ddof=1))


def test_what_does_not_vary_has_neither_deviation_nor_interval() -> None:
    """Zero-shot gives the same for every seed: three times the same number are no proof that it is the true one."""
    for values in ([0.5], [0.5, 0.5], [0.475] * 3):
        found = spread(values)
        assert found.mean == pytest.approx(values[0])
        assert (found.deviation, found.interval, found.count) == (None, None, len(values))
    # Differences of equal distances, which rounding makes unequal.
    assert len({0.7 - 0.5, 0.8 - 0.6, 0.75 - 0.55}) > 1
    constant = paired_difference({1: 0.7, 2: 0.8, 3: 0.75}, {1: 0.5, 2: 0.6, 3: 0.55}).difference
    assert constant is not None
    assert (constant.deviation, constant.interval, constant.count) == (None, None, 3)
    assert spread([0.5, 0.5 + 1e-6]).interval is not None


def test_a_difference_to_what_does_not_vary_has_an_interval() -> None:
    found = paired_difference({1: 0.6, 2: 0.7, 3: 0.8}, dict.fromkeys((1, 2, 3), 0.5)).difference
    assert found is not None
    assert found.interval == pytest.approx(spread([0.1, 0.2, 0.3]).interval)


def test_a_spread_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        spread([0.5]).mean = 0.6  # type: ignore[misc]


@pytest.mark.parametrize("values", [[], [math.nan], [0.5, math.inf]])
def test_what_has_no_mean_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        spread(values)


def test_the_interval_of_three_values_by_hand() -> None:
    """0.50, 0.54, 0.58: deviation 0.04; t of two degrees of freedom is 4.3027, as any table has it; 4.3027 * 0.04 / sqrt(3)."""
    interval = spread([0.50, 0.54, 0.58]).interval
    assert interval == pytest.approx((0.54 - 0.0993655, 0.54 + 0.0993655), abs=1e-6)


@given(st.lists(SHARES, min_size=2, max_size=12))
def test_the_interval_is_scipys(values: list[float]) -> None:
    ours = spread(values)
    assert (ours.interval is None) == (max(values) - min(values) <= 1e-12)
    error = scipy.stats.sem(values)
    if ours.interval is not None and error > 1e-12:
        theirs = scipy.stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
        assert ours.interval == pytest.approx(theirs, abs=1e-9)


@given(st.dictionaries(st.integers(0, 30), SHARES, min_size=1), st.dictionaries(st.integers(0, 30), SHARES), st.randoms())
def test_the_order_of_seeds_does_not_matter(ours: dict[int, float], baseline: dict[int, float], random: Random) -> None:
    seeds = list(ours)
    random.shuffle(seeds)
    shuffled = {seed: ours[seed] for seed in seeds}
    assert spread(list(ours.values())) == spread(list(shuffled.values()))
    first, second = paired_difference(ours, baseline), paired_difference(shuffled, dict(reversed(baseline.items())))
    assert first == second
    assert first.num_alone + 2 * (0 if first.difference is None else first.difference.count) == len(ours) + len(baseline)


def test_pairs_that_do_not_match_are_left_out_and_counted() -> None:
    ours = {("pets", 4, 1): 0.6, ("pets", 4, 2): 0.7, ("pets", 4, 3): 0.5, ("pets", 8, 1): 0.9}
    found = paired_difference(ours, {("pets", 4, 1): 0.5, ("pets", 4, 2): 0.5, ("pets", 4, 3): 0.5, ("pets", 16, 1): 0.0})
    assert found.difference is not None
    assert (found.difference.count, found.num_better, found.num_alone) == (3, 2, 2)
    assert found.difference.mean == pytest.approx(0.1)
    theirs = scipy.stats.ttest_rel([0.6, 0.7, 0.5], [0.5, 0.5, 0.5]).confidence_interval(0.95)
    assert found.difference.interval == pytest.approx((theirs.low, theirs.high))


def test_without_a_pair_there_is_no_difference() -> None:
    found = paired_difference({1: 0.5}, {2: 0.5})
    assert (found.difference, found.num_better, found.num_alone) == (None, 0, 2)


def test_an_average_is_of_the_seeds_that_every_set_has() -> None:
    assert average_over_sets({"pets": {1: 0.2, 2: 0.4, 3: 0.9}, "food": {2: 0.6, 1: 0.4}}) == pytest.approx({1: 0.3, 2: 0.5})
    assert average_over_sets({"pets": {1: 0.2}, "food": {2: 0.6}}) == {}
    assert average_over_sets({}) == {}


def test_both_harmonic_means_by_hand() -> None:
    """Base 0.8 and 0.6, new 0.4 and 0.6: H of the averages 0.7 and 0.5 is 0.5833; H of the sets is 0.5333 and 0.6, mean 0.5667."""
    found = harmonic_means({"pets": {1: 0.8}, "food": {1: 0.6}}, {"pets": {1: 0.4}, "food": {1: 0.6}})
    assert found is not None
    assert found.of_averages == pytest.approx(0.583333, abs=1e-6)
    assert found.averaged.mean == pytest.approx(0.566667, abs=1e-6)
    assert found.averaged.deviation is None


def test_harmonic_means_need_base_and_new_of_the_same_run() -> None:
    base = {"pets": {1: 0.8, 2: 0.9}, "food": {1: 0.6, 2: 0.7}}
    only_first = harmonic_means(base, {"pets": {1: 0.4}, "food": {1: 0.6, 2: 0.5}})
    assert only_first == harmonic_means({"pets": {1: 0.8}, "food": {1: 0.6}}, {"pets": {1: 0.4}, "food": {1: 0.6}})
    assert harmonic_means(base, {"pets": {}, "food": {1: 0.6}}) is None


@given(st.dictionaries(st.integers(0, 5), st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=1))
def test_of_one_data_set_the_averages_of_the_harmonic_means_are_those_of_its_runs(
    runs: Mapping[int, tuple[float, float]],
) -> None:
    found = harmonic_means(*({"pets": {seed: pair[side] for seed, pair in runs.items()}} for side in (0, 1)))
    assert found is not None
    assert found.averaged.mean == pytest.approx(statistics.fmean(statistics.harmonic_mean(pair) for pair in runs.values()))
    # The harmonic mean is concave, so that of the averages is never below.
    assert found.of_averages >= found.averaged.mean - 1e-12


def test_bins_of_several_runs_are_those_of_all_their_pictures() -> None:
    first = [(0, 0.0, 0.0), (3, 0.4, 1 / 3), (1, 0.9, 1.0)]
    second = [(0, 0.0, 0.0), (1, 0.8, 1.0), (0, 0.0, 0.0)]
    pooled = pooled_calibration([first, second])
    assert [count for count, _, _ in pooled] == [0, 4, 1]
    assert pooled[1][1:] == pytest.approx(((3 * 0.4 + 0.8) / 4, 0.5))
    assert pooled[0][1:] == (0, 0)
    with pytest.raises(ValueError, match="zip"):
        pooled_calibration([first, second[:2]])
