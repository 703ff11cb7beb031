"""Fitting a calibration on labelled pictures that the model did not learn from: temperature, abstaining, label sets, several labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from promptmix.data.records import class_key
from promptmix.errors import ConfigError, DataError
from promptmix.evaluation.metrics import Metrics, measure
from promptmix.evaluation.targets import Target, Wanted
from promptmix.nn.calibration import (
    NONE_OF_THESE,
    AbstainRule,
    Calibration,
    Criterion,
    LabelSetRule,
    MultiLabelRule,
    Reliability,
    log_odds,
    presences,
    probabilities,
)

__all__ = [
    "CONFIDENCE",
    "fit_abstain",
    "fit_calibration",
    "fit_label_sets",
    "fit_multi_label",
    "fit_temperature",
    "lower_bound",
    "reliability_of",
]

CONFIDENCE = 0.9
"""How sure a precision is that was asked for."""

_TEMPERATURES = (0.01, 100.0)
_KEPT_SHARES = 10  # thresholds that are tried for a precision: those that keep 10 %, 20 %, ... of the pictures
_FEWEST_POSITIVES = 4  # of a class that has a threshold of its own


def fit_calibration(
    logits: Float[np.ndarray, "image class"],
    labels: Int[np.ndarray, "image"],
    class_names: Sequence[str],
    wanted: Wanted,
    *,
    fitted_on: str,
    cross_fitted: bool,
    rules_on: Bool[np.ndarray, "image"] | None = None,
) -> Calibration:
    """Fit a calibration to what a model says of pictures that it did not learn from.

    Args:
        cross_fitted: each picture was judged by a model of its own fold, which had learnt from the other pictures.
        rules_on: which pictures abstaining and label sets are fitted on; the temperature is fitted on the others. None: all on all.

    Raises:
        DataError: there are too few pictures, or a logit is not finite.
        ConfigError: what is wanted cannot be reached on these pictures; the message says what can.
    """
    if wanted.abstain is not None and any(class_key(name) == class_key(NONE_OF_THESE) for name in class_names):
        raise ConfigError(
            f"a class is called {NONE_OF_THESE!r}, which is what no answer is called; rename it, or do without --abstain"
        )
    everywhere = np.ones(len(labels), dtype=bool)
    for_rules = everywhere if rules_on is None else rules_on
    for_temperature = everywhere if rules_on is None else ~rules_on
    if not for_temperature.any() or not for_rules.any():
        raise DataError(f"{len(labels)} pictures are too few to calibrate on; give more")
    before = reliability_of(logits[for_temperature], labels[for_temperature], class_names, 1.0)  # refuses what is not finite
    temperature = fit_temperature(logits[for_temperature], labels[for_temperature], wanted.temperature)
    shares = probabilities(logits[for_rules], temperature)
    right = shares.argmax(axis=1) == labels[for_rules]
    abstain = label_sets = None
    if wanted.abstain is not None:
        abstain = fit_abstain(shares.max(axis=1), right, wanted.abstain)
    if wanted.label_sets is not None:
        label_sets = fit_label_sets(shares, labels[for_rules], wanted.label_sets)
    return Calibration(
        temperature=temperature,
        criterion=wanted.temperature,
        fitted_on=fitted_on,
        num_pictures=int(for_temperature.sum()),
        num_rule_pictures=int(for_rules.sum()),
        cross_fitted=cross_fitted,
        held_apart=rules_on is not None and not cross_fitted,
        before=_headline(before),
        after=_headline(reliability_of(logits[for_temperature], labels[for_temperature], class_names, temperature)),
        abstain=abstain,
        label_sets=label_sets,
        multi_label=fit_multi_label(logits, labels, temperature, wanted.multi_label),
    )


def reliability_of(
    logits: Float[np.ndarray, "image class"], labels: Int[np.ndarray, "image"], class_names: Sequence[str], temperature: float
) -> Metrics:
    """What probabilities at a temperature are worth on labelled pictures.

    Raises:
        DataError: there is no picture, or a logit is not finite.
    """
    return measure(torch.from_numpy(logits.astype(np.float64) / temperature), torch.from_numpy(labels), class_names)


def _headline(metrics: Metrics) -> Reliability:
    return Reliability(
        expected_calibration_error=metrics.expected_calibration_error,
        negative_log_likelihood=metrics.negative_log_likelihood,
    )


def fit_temperature(
    logits: Float[np.ndarray, "image class"], labels: Int[np.ndarray, "image"], criterion: Criterion = "accuracy"
) -> float:
    """The temperature, from 0.01 to 100, that fits labelled pictures.

    By ``accuracy`` the mean top probability becomes the share of pictures told right (expectation consistency, arXiv 2303.02644); by
    ``likelihood`` the labels become as likely as can be (Guo et al., arXiv 1706.04599). Where one number cannot put all right, the
    second is ruled by a few pictures that are far off, and leaves the larger calibration error.

    One more picture is made up, which is like the mean of all but may be of any class alike, as Platt (1999) does: else, where every
    picture is told right, the temperature would be as low as may be, and the model as sure of itself as can be. With it such a
    model expects to be wrong about once in as many pictures as there were. Either has one solution: the top probability falls with the
    temperature, and the likelihood is concave in 1/T.
    """
    from scipy.optimize import brentq  # type: ignore[import-untyped]

    relative = logits.astype(np.float64)
    relative = relative - relative.max(axis=1, keepdims=True)
    true, mean = relative[np.arange(len(labels)), labels], relative.mean(axis=1)
    num_right = float((relative.argmax(axis=1) == labels).sum())
    wanted = (num_right + 1 / logits.shape[1]) / (len(labels) + 1)

    def excess(log_factor: float) -> float:
        """How far 1/T is above the solution: below 0, 0 or above 0."""
        shares = probabilities(relative, math.exp(-log_factor))
        if criterion == "accuracy":
            return float(shares.max(axis=1).mean() - wanted)
        expected = (shares * relative).sum(axis=1)
        return float((expected - true).sum() + (expected - mean).mean())

    lowest, highest = (-math.log(end) for end in reversed(_TEMPERATURES))
    if not relative.any():
        return 1.0  # all classes have the same logit, and no temperature changes that
    if excess(lowest) >= 0 or excess(highest) <= 0:
        return _TEMPERATURES[1] if excess(lowest) >= 0 else _TEMPERATURES[0]
    return math.exp(-float(brentq(excess, lowest, highest, xtol=1e-12)))


def lower_bound(values: Float[np.ndarray, "image"], share: float) -> float:
    """The bound that a further value of the same kind reaches with probability ``share`` at least; 0 where none of these will do.

    It is the m-th lowest of n values, with ``m = floor((n + 1) * (1 - share))``: of n + 1 exchangeable values each is the last with
    the same probability, so that the last is below the m-th lowest of the others with probability m / (n + 1) at most.
    """
    rank = math.floor((len(values) + 1) * (1 - share) + 1e-9)
    return float(np.sort(values)[rank - 1]) if rank > 0 else 0.0


def fit_abstain(top: Float[np.ndarray, "image"], right: Bool[np.ndarray, "image"], target: Target) -> AbstainRule:
    """The lowest top probability that is answered.

    For a coverage it is :func:`lower_bound`. For a precision it is the lowest of ten thresholds, which keep 10 %, 20 %, ... 100 % of the
    pictures, of which an exact binomial test says that the precision is above the target: all ten together are wrong with
    probability 1 - :data:`CONFIDENCE` at most (learn then test, arXiv 2110.01052, with the correction of Holm).

    Args:
        top: the highest probability of each picture; ``right``: whether it is that of its class.

    Raises:
        ConfigError: so few pictures, or so many wrong ones, do not show such a precision; the message says which they do show.
    """
    assert target.share is not None
    is_precision = target.kind == "precision"
    minimum = _precise_threshold(top, right, target.share) if is_precision else lower_bound(top, target.share)
    answered = top >= minimum
    return AbstainRule(
        target="precision" if is_precision else "coverage",
        wanted=target.share,
        confidence=CONFIDENCE if is_precision else None,
        minimum_probability=minimum,
        coverage=float(answered.mean()),
        precision=float(right[answered].mean()) if answered.any() else None,
    )


def _precise_threshold(top: Float[np.ndarray, "image"], right: Bool[np.ndarray, "image"], wanted: float) -> float:
    from scipy.special import betainc, betaincinv  # type: ignore[import-untyped]

    falling = -np.sort(-top)
    kept = [math.ceil(len(top) * step / _KEPT_SHARES) for step in range(1, _KEPT_SHARES)]
    thresholds = [0.0, *sorted({float(falling[count - 1]) for count in kept})]
    # Given its threshold, the pictures above it are independent draws; the one that gave the threshold is not one of them.
    above = [int((top > threshold).sum()) for threshold in thresholds]
    hits = [int(right[top > threshold].sum()) for threshold in thresholds]
    error = 1 - CONFIDENCE
    # So few that all of them right would show nothing need no test, and make the others no harder.
    tested = [place for place, count in enumerate(above) if wanted**count <= error]
    # The chance of so many right ones or more, were the precision just what is wanted: a binomial tail.
    doubts = {
        place: float(betainc(hits[place], above[place] - hits[place] + 1, wanted)) if hits[place] else 1.0 for place in tested
    }
    shown = []
    for number, place in enumerate(sorted(tested, key=lambda place: doubts[place])):
        if doubts[place] > error / (len(tested) - number):
            break
        shown.append(thresholds[place])
    if shown:
        return min(shown)
    # Precisions of which the most doubtful correction leaves no doubt.
    surely = [
        float(betaincinv(count_right, count - count_right + 1, error / len(thresholds))) if count_right else 0.0
        for count, count_right in zip(above, hits, strict=True)
    ]
    most = math.floor(1000 * max(surely)) / 1000
    raise ConfigError(
        f"precision={wanted:g} cannot be shown on {len(top)} pictures, {int(right.sum())} of them told right, with"
        f" {100 * CONFIDENCE:.0f} % confidence; the most that can is about {most:g}: ask for less, for a coverage, or give more pictures"
    )


def fit_label_sets(shares: Float[np.ndarray, "image class"], labels: Int[np.ndarray, "image"], coverage: float) -> LabelSetRule:
    """Split conformal prediction with the score 1 - p of the true class (arXiv 2107.07511, section 1).

    For pictures that are exchangeable with these a set holds the true class with probability ``coverage`` at least, over the draw of
    these and of the new one; not for each class by itself. The most probable class is always in the set.

    Raises:
        DataError: there are so few pictures that only the set of all classes would do.
    """
    needed = math.ceil(1 / (1 - coverage) - 1e-9) - 1
    if len(labels) < needed:
        raise DataError(
            f"label sets of coverage {coverage:g} need at least {needed} pictures, but there are {len(labels)}; give more pictures, or"
            " ask for a lower coverage"
        )
    minimum = lower_bound(shares[np.arange(len(labels)), labels], coverage)
    sets = shares >= np.minimum(minimum, shares.max(axis=1, keepdims=True))
    return LabelSetRule(coverage=coverage, minimum_probability=minimum, mean_size=float(sets.sum(axis=1).mean()))


def fit_multi_label(
    logits: Float[np.ndarray, "image class"], labels: Int[np.ndarray, "image"], temperature: float, target: Target
) -> MultiLabelRule:
    """A sigmoid for all classes, and a threshold for each, which does not depend on the others'.

    Slope and offset make the labels most likely, each class of each picture counted by itself, with Platt's softened labels. A class
    of fewer than four pictures, and one that does not reach the precision, has the threshold of all classes together.

    Raises:
        ConfigError: not even all classes together reach the precision.
    """
    truths = np.zeros(logits.shape, dtype=bool)
    truths[np.arange(len(labels)), labels] = True
    slope, offset = _sigmoid(log_odds(logits, temperature), truths)
    each = presences(logits, temperature, slope, offset)
    shared, best = (float(values[0]) for values in _thresholds(each.reshape(-1, 1), truths.reshape(-1, 1), target.share))
    if target.share is not None and best < target.share:
        raise ConfigError(
            f"--multi-label precision={target.share:g} is not reached on these pictures; {math.floor(1000 * best) / 1000:g} is: ask for"
            " that or less, or for f1"
        )
    own, reached = _thresholds(each, truths, target.share)
    has_own = (truths.sum(axis=0) >= _FEWEST_POSITIVES) & (reached >= (target.share or 0.0))
    return MultiLabelRule(
        target="f1" if target.kind == "f1" else "precision",
        wanted=target.share,
        slope=slope,
        offset=offset,
        thresholds=tuple(np.where(has_own, own, shared).tolist()),
        shared_threshold=shared,
    )


def _sigmoid(odds: Float[np.ndarray, "image class"], truths: Bool[np.ndarray, "image class"]) -> tuple[float, float]:
    """Slope and offset of the most likely sigmoid of these log odds."""
    positives = int(truths.sum())
    softened = np.where(truths, (positives + 1) / (positives + 2), 1 / (truths.size - positives + 2))
    mean, deviation = float(odds.mean()), float(odds.std()) or 1.0
    standard = (odds - mean) / deviation

    def loss(parameters: Float[np.ndarray, "2"]) -> tuple[float, Float[np.ndarray, "2"]]:
        values = parameters[0] * standard + parameters[1]
        errors = 0.5 * (1 + np.tanh(values / 2)) - softened
        return float((np.logaddexp(0, values) - softened * values).mean()), np.array([(errors * standard).mean(), errors.mean()])

    from scipy.optimize import minimize

    slope, offset = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}).x.tolist()
    return slope / deviation, offset - slope * mean / deviation


def _thresholds(
    each: Float[np.ndarray, "image class"], truths: Bool[np.ndarray, "image class"], precision: float | None
) -> tuple[Float[np.ndarray, "class"], Float[np.ndarray, "class"]]:
    """Of each class the threshold with the best F1, or the lowest with the precision, and what it reaches on these pictures.

    A threshold lies half way between a picture that is taken and the next one, which is not.
    """
    order = np.argsort(-each, axis=0, kind="stable")
    falling, hits = np.take_along_axis(each, order, axis=0), np.take_along_axis(truths, order, axis=0).cumsum(axis=0)
    taken = np.arange(1, len(each) + 1)[:, None]
    next_one = np.vstack([falling[1:], np.zeros((1, each.shape[1]))])
    if precision is None:
        reached = 2 * hits / (taken + hits[-1])
        reached = np.where(falling > next_one, reached, -1.0)  # of equal ones all or none are taken
        place = reached.argmax(axis=0)
    else:
        reached = np.where(falling > next_one, hits / taken, -1.0)
        enough = reached >= precision
        place = np.where(enough.any(axis=0), len(each) - 1 - enough[::-1].argmax(axis=0), reached.argmax(axis=0))
    columns = np.arange(each.shape[1])
    return (falling[place, columns] + next_one[place, columns]) / 2, reached[place, columns]
