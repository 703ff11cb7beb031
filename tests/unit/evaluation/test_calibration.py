"""Fitting: against naive searches, known answers, and simulations of what is promised."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from promptmix.errors import ConfigError, DataError
from promptmix.evaluation.calibration import (
    CONFIDENCE,
    fit_abstain,
    fit_calibration,
    fit_label_sets,
    fit_multi_label,
    fit_temperature,
    lower_bound,
)
from promptmix.evaluation.targets import Target, Wanted
from promptmix.nn.calibration import Criterion, judge, log_odds, probabilities

NAMES = ("anchor", "cat", "skull", "umbrella")
COVERAGE = Target(kind="coverage", share=0.9)


def made(count: int, seed: int, scale: float = 1.0, classes: int = 4, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax, divided by ``scale``, is the truth; and labels drawn from it."""
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.normal(size=(count, classes))
    gumbel = -np.log(-np.log(generator.uniform(size=logits.shape)))
    return (scale * logits).astype(np.float32), (logits + gumbel).argmax(axis=1)


def softened_loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    logs = np.log(probabilities(logits, temperature) + 1e-300)
    return float(-logs[np.arange(len(labels)), labels].sum() - logs.mean(axis=1).mean())


@pytest.mark.parametrize("criterion", ["accuracy", "likelihood"])
@pytest.mark.parametrize("scale", [0.2, 1.0, 3.0, 30.0])
def test_the_temperature_is_that_of_the_world(scale: float, criterion: Criterion) -> None:
    logits, labels = made(4000, 1, scale)
    assert fit_temperature(logits, labels, criterion) == pytest.approx(scale, rel=0.06)


@given(st.integers(2, 30), st.integers(0, 1000), st.floats(0.3, 3))
def test_the_mean_probability_is_the_accuracy(count: int, seed: int, scale: float) -> None:
    logits, labels = made(count, seed, scale)
    temperature = fit_temperature(logits, labels)
    right = (logits.argmax(axis=1) == labels).sum()
    wanted = (right + 0.25) / (count + 1)
    if temperature in (0.01, 100.0):
        assert right <= count / 4  # no better than chance
    else:
        assert probabilities(logits, temperature).max(axis=1).mean() == pytest.approx(wanted)


@given(st.integers(2, 30), st.integers(0, 1000), st.floats(0.3, 3))
def test_no_temperature_of_a_grid_does_better(count: int, seed: int, scale: float) -> None:
    logits, labels = made(count, seed, scale)
    temperature = fit_temperature(logits, labels, "likelihood")
    assert 0.01 <= temperature <= 100
    best = softened_loss(logits, labels, temperature)
    assert all(best <= softened_loss(logits, labels, other) + 1e-9 for other in np.geomspace(0.01, 100, 200))


@pytest.mark.parametrize("criterion", ["accuracy", "likelihood"])
def test_a_model_that_is_always_right_is_not_made_sure_without_end(criterion: Criterion) -> None:
    labels = np.arange(40) % 4
    logits = 10 * np.eye(4, dtype=np.float32)[labels]
    doubt = 1 - probabilities(logits, fit_temperature(logits, labels, criterion)).max()
    assert 1 / 100 < doubt < 1 / 20  # about one in forty


@pytest.mark.parametrize("criterion", ["accuracy", "likelihood"])
def test_what_no_temperature_can_help(criterion: Criterion) -> None:
    labels = np.arange(40) % 4
    assert fit_temperature(np.ones((40, 4), np.float32), labels, criterion) == 1.0
    worse_than_chance = -10 * np.eye(4, dtype=np.float32)[labels]
    assert fit_temperature(worse_than_chance, labels, criterion) == 100.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.01, 0.99))
def test_the_bound_is_the_m_th_lowest(values: list[float], share: float) -> None:
    ranks = [rank for rank in range(len(values) + 1) if rank / (len(values) + 1) <= 1 - share + 1e-9 / (len(values) + 1)]
    expected = 0.0 if max(ranks) == 0 else sorted(values)[max(ranks) - 1]
    assert lower_bound(np.array(values), share) == expected


def test_round_shares_lose_no_rank_to_rounding() -> None:
    values = np.arange(1, 20) / 100
    assert [lower_bound(values, share) for share in (0.95, 0.9, 0.7)] == [0.01, 0.02, 0.06]


def test_label_sets_hold_the_true_class_as_often_as_promised() -> None:
    """Over the draw of the pictures they are fitted on, with a temperature of other pictures that is wrong."""
    for coverage in (0.8, 0.9):
        found = []
        for seed in range(150):
            logits, labels = made(260, seed, classes=8)
            shares = probabilities(logits, 0.5)
            rule = fit_label_sets(shares[:60], labels[:60], coverage)
            sets = shares[60:] >= np.minimum(rule.minimum_probability, shares[60:].max(axis=1, keepdims=True))
            found.append(sets[np.arange(200), labels[60:]].mean())
        # The mean of 150 draws is known to about half a point.
        assert coverage - 0.01 < np.mean(found) < coverage + 0.04


def test_an_answered_share_is_as_large_as_promised() -> None:
    found = []
    for seed in range(150):
        top = np.random.default_rng(seed).beta(4, 1, 250)
        rule = fit_abstain(top[:50], np.ones(50, dtype=bool), COVERAGE)
        found.append((top[50:] >= rule.minimum_probability).mean())
    assert 0.895 < np.mean(found) < 0.93


def test_a_precision_is_missed_no_oftener_than_promised() -> None:
    """A world in which the pictures of a top probability are right with a probability of another kind, and all together all but
    enough: answering all of them is the mistake to make."""
    missed, reached = 0, 0
    grid = np.linspace(0, 1, 20001)

    def true_share(top: np.ndarray) -> np.ndarray:
        return 0.6 + 0.38 * top

    for seed in range(300):
        generator = np.random.default_rng(seed)
        top = generator.uniform(size=250)
        right = generator.uniform(size=250) < true_share(top)
        try:
            rule = fit_abstain(top, right, Target(kind="precision", share=0.8))
        except ConfigError:
            continue
        reached += 1
        missed += true_share(grid[grid >= rule.minimum_probability]).mean() < 0.8
    assert reached > 200
    assert 0 < missed / 300 <= 1 - CONFIDENCE


@given(st.integers(0, 300), st.sampled_from([0.6, 0.8, 0.9]))
def test_the_lowest_threshold_that_ten_tests_leave_is_taken(seed: int, wanted: float) -> None:
    generator = np.random.default_rng(seed)
    top = generator.uniform(size=100)
    right = generator.uniform(size=100) < 0.4 + 0.6 * top
    thresholds = [0.0, *(sorted(top, reverse=True)[10 * step - 1] for step in range(1, 10))]
    doubts = {}
    for threshold in thresholds:
        above = top > threshold
        if wanted ** above.sum() <= 0.1 + 1e-12:
            doubts[threshold] = binom.sf(right[above].sum() - 1, above.sum(), wanted)
    shown = []
    for number, threshold in enumerate(sorted(doubts, key=lambda one: doubts[one])):
        if doubts[threshold] > (1 - CONFIDENCE) / (len(doubts) - number):
            break
        shown.append(threshold)
    if shown:
        assert fit_abstain(top, right, Target(kind="precision", share=wanted)).minimum_probability == min(shown)
    else:
        with pytest.raises(ConfigError, match="cannot be shown"):
            fit_abstain(top, right, Target(kind="precision", share=wanted))


def test_a_precision_that_can_be_shown_is_told_where_the_wanted_one_cannot() -> None:
    top, right = np.linspace(0.3, 1, 80), np.arange(80) % 8 != 0
    with pytest.raises(ConfigError, match=r"80 pictures, 70 of them told right, with 90 % confidence") as problem:
        fit_abstain(top, right, Target(kind="precision", share=0.99))
    most = float(str(problem.value).split("about ")[1].split(":")[0])
    assert 0.6 < most < 0.9
    rule = fit_abstain(top, right, Target(kind="precision", share=most - 0.001))
    assert rule.precision is not None and rule.precision > most
    assert rule.confidence == CONFIDENCE


def test_too_few_pictures_for_label_sets() -> None:
    logits, labels = made(8, 1)
    with pytest.raises(DataError, match=r"coverage 0\.9 need at least 9 pictures, but there are 8"):
        fit_label_sets(probabilities(logits, 1.0), labels, 0.9)
    logits, labels = made(9, 1)
    assert fit_label_sets(probabilities(logits, 1.0), labels, 0.9).mean_size >= 1


@given(st.integers(0, 200), st.sampled_from([None, 0.5, 0.7]))
def test_thresholds_of_classes_are_the_best_of_all(seed: int, precision: float | None) -> None:
    logits, labels = made(30, seed)
    target = Target(kind="f1", share=None) if precision is None else Target(kind="precision", share=precision)
    try:
        rule = fit_multi_label(logits, labels, 1.0, target)
    except ConfigError as problem:
        assert "is not reached" in str(problem)  # noqa: PT017 - for some seeds only
        return
    each = 1 / (1 + np.exp(-(rule.slope * log_odds(logits, 1.0) + rule.offset)))
    truths = labels[:, None] == np.arange(4)

    def score(values: np.ndarray, true: np.ndarray, threshold: float) -> tuple[float, int]:
        """F1, or the precision where it is enough, and how many are taken."""
        taken = values >= threshold
        hits = (taken & true).sum()
        if precision is None:
            return 2 * hits / (taken.sum() + true.sum()), 0
        return (1.0, taken.sum()) if taken.any() and hits / taken.sum() >= precision else (0.0, 0)

    best_of_all = max(score(each.ravel(), truths.ravel(), one) for one in each.ravel())
    assert score(each.ravel(), truths.ravel(), rule.shared_threshold) == pytest.approx(best_of_all)
    for place in range(4):
        column, true = each[:, place], truths[:, place]
        best = max(score(column, true, one) for one in column)
        if true.sum() >= 4 and best[0] > 0:
            assert score(column, true, rule.thresholds[place]) == pytest.approx(best)
        else:
            assert rule.thresholds[place] == rule.shared_threshold


def test_the_sigmoid_is_the_most_likely_one() -> None:
    logits, labels = made(300, 2)
    rule = fit_multi_label(logits, labels, 1.0, Target(kind="f1", share=None))
    truths = labels[:, None] == np.arange(4)
    softened = np.where(truths, 301 / 302, 1 / 902)

    def loss(slope: float, offset: float) -> float:
        values = slope * log_odds(logits, 1.0) + offset
        return float((np.logaddexp(0, values) - softened * values).mean())

    best = loss(rule.slope, rule.offset)
    for shift in itertools.product((-0.01, 0.0, 0.01), repeat=2):
        assert best <= loss(rule.slope + shift[0], rule.offset + shift[1]) + 1e-9
    assert rule.slope == pytest.approx(1, abs=0.1)  # the odds are true in this world


def test_classes_without_pictures_have_the_shared_threshold() -> None:
    logits, labels = made(60, 3)
    keep = labels != 2
    rule = fit_multi_label(logits[keep], labels[keep], 1.0, Target(kind="f1", share=None))
    assert rule.thresholds[2] == rule.shared_threshold
    assert len(set(rule.thresholds)) > 1


def test_a_whole_calibration() -> None:
    logits, labels = made(400, 4, scale=3.0)
    wanted = Wanted.parse("coverage=0.8", 0.9)
    fitted = fit_calibration(logits, labels, NAMES, wanted, fitted_on="made", cross_fitted=True)
    assert fitted.after.negative_log_likelihood < fitted.before.negative_log_likelihood
    assert fitted.after.expected_calibration_error < 0.5 * fitted.before.expected_calibration_error
    assert (fitted.num_pictures, fitted.num_rule_pictures, fitted.held_apart) == (400, 400, False)
    said = judge(logits, fitted)
    assert said.label_sets is not None and fitted.abstain is not None and fitted.label_sets is not None
    # What stands in it is what using it gives, to the bit.
    assert (~said.abstained).mean() == fitted.abstain.coverage >= 0.8
    assert said.label_sets.sum(axis=1).mean() == fitted.label_sets.mean_size
    assert said.label_sets[np.arange(400), labels].mean() >= 0.9


def test_rules_may_be_fitted_on_other_pictures_than_the_temperature() -> None:
    logits, labels = made(400, 5, scale=3.0)
    half = np.arange(400) % 2 == 1
    wanted = Wanted.parse("coverage=0.8", 0.9)
    both = fit_calibration(logits, labels, NAMES, wanted, fitted_on="made", cross_fitted=False, rules_on=half)
    assert (both.num_pictures, both.num_rule_pictures, both.held_apart) == (200, 200, True)
    assert both.temperature == fit_temperature(logits[~half], labels[~half])
    assert both.label_sets == fit_label_sets(probabilities(logits[half], both.temperature), labels[half], 0.9)


def test_what_cannot_be_calibrated() -> None:
    logits, labels = made(1, 1)
    with pytest.raises(DataError, match="1 pictures are too few"):
        fit_calibration(logits, labels, NAMES, Wanted(), fitted_on="", cross_fitted=False, rules_on=np.zeros(1, dtype=bool))
    with pytest.raises(DataError, match="not a finite number"):
        fit_calibration(math.nan * logits, labels, NAMES, Wanted(), fitted_on="", cross_fitted=False)
    logits, labels = made(40, 1)
    names = ("anchor", "None_of  these", "cat", "skull")
    with pytest.raises(ConfigError, match="a class is called 'none of these'"):
        fit_calibration(logits, labels, names, Wanted(abstain=COVERAGE), fitted_on="", cross_fitted=False)
    fit_calibration(logits, labels, names, Wanted(), fitted_on="", cross_fitted=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, None, None, "acuracy"), "--temperature 'acuracy' is nothing to choose it by; did you mean 'accuracy'?"),
        (("precison=0.9", None, None), "--abstain 'precison=0.9' is no target; did you mean 'precision=0.9'"),
        (("precision", None, None), "--abstain 'precision' is no target"),
        (("coverage=1.5", None, None), "--abstain coverage=1.5 is no share between 0 and 1; write 0.95 for 95 %"),
        (("coverage=most", None, None), "--abstain coverage=most is no share"),
        ((None, 90.0, None), "--label-sets 90.0 is no share"),
        ((None, 1.0, None), "--label-sets 1.0 is no share"),
        ((None, None, "f2"), "--multi-label 'f2' is no target; did you mean 'f1'? Allowed: f1, precision=0.9"),
        ((None, None, "precision=nan"), "is no share"),
    ],
)
def test_targets_that_are_none(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError) as problem:
        Wanted.parse(*given)
    assert message in str(problem.value)
