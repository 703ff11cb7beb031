"""Logits to probabilities one can trust, ``none of these``, label sets and several labels: what a calibration holds, and its use.

All that uses a stored calibration calls :func:`judge`, a pure function of logits and calibration in numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from promptmix.config import StrictModel

__all__ = [
    "NONE_OF_THESE",
    "AbstainRule",
    "Calibration",
    "Criterion",
    "Judged",
    "LabelSetRule",
    "MultiLabelRule",
    "Reliability",
    "judge",
    "log_odds",
    "presences",
    "probabilities",
]

NONE_OF_THESE = "none of these"
"""What is shown in place of a class where the model does not answer."""

Share = Annotated[float, Field(ge=0, le=1)]
Criterion: TypeAlias = Literal["accuracy", "likelihood"]
"""What a temperature is chosen by: that the mean top probability is the accuracy, or that the labels are most likely."""


class Reliability(StrictModel):
    """How far probabilities can be trusted: the expected calibration error (15 equal bins) and the mean negative log-likelihood (nats)."""

    expected_calibration_error: Share
    negative_log_likelihood: float


class AbstainRule(StrictModel):
    """When no class is named: the top probability is below ``minimum_probability``.

    Attributes:
        target: what was asked for: that of the answers at least the share ``wanted`` is right, or that at least so many are given.
        confidence: how sure the precision is, over the draw of the pictures it was fitted on; None for a coverage.
        coverage, precision: share of these pictures that are answered, and of the answers that are right; the latter None where
            none is answered.
    """

    target: Literal["precision", "coverage"]
    wanted: Share
    confidence: Share | None
    minimum_probability: Share
    coverage: Share
    precision: Share | None


class LabelSetRule(StrictModel):
    """Which classes a picture may be of: the most probable one, and all whose probability is at least ``minimum_probability``.

    Attributes:
        coverage: the share of sets that are to hold the true class.
        mean_size: classes in a set, on the pictures it was fitted on.
    """

    coverage: Share
    minimum_probability: Share
    mean_size: float


class MultiLabelRule(StrictModel):
    """Each class against the rest: it is on the picture where ``sigmoid(slope * log_odds + offset)`` reaches its threshold.

    Its log odds are those of its calibrated probability, ``log(p / (1 - p))``: logits alone mean different things on different pictures.

    Attributes:
        target: what each threshold was chosen for: the best F1, or the lowest that reaches the precision ``wanted``.
        thresholds: of each class, in the model's order.
        shared_threshold: of classes with too few pictures to choose one, and of classes added later.
    """

    target: Literal["f1", "precision"]
    wanted: Share | None
    slope: float
    offset: float
    thresholds: tuple[Share, ...]
    shared_threshold: Share


class Calibration(StrictModel):
    """What turns a model's logits into probabilities, and into answers.

    Attributes:
        temperature: logits are divided by it before the softmax: above 1 the model was too sure of itself. ``criterion``: what it was
            chosen by.
        fitted_on: the pictures, for people. ``num_pictures`` of them; of the rules' alone ``num_rule_pictures``.
        cross_fitted: whether each was judged by a model that had learnt from the others, and not by this model itself.
        held_apart: whether the rules for abstaining and for label sets were fitted on other pictures than the temperature, and on this
            very model: then what they promise is proved, for new pictures that are exchangeable with these.
        before, after: on the very pictures that the temperature was fitted on, without and with it.
        abstain, label_sets, multi_label: the rules that were asked for.
        classes_changed: whether the model has got other classes since, of which nothing was measured.
    """

    format: Literal["promptmix-calibration-1"] = "promptmix-calibration-1"
    temperature: float = Field(ge=0.001, le=1000)  # beyond, single precision would know no numbers for its logits
    criterion: Criterion
    fitted_on: str
    num_pictures: int = Field(ge=1)
    num_rule_pictures: int = Field(ge=1)
    cross_fitted: bool
    held_apart: bool
    before: Reliability
    after: Reliability
    abstain: AbstainRule | None = None
    label_sets: LabelSetRule | None = None
    multi_label: MultiLabelRule | None = None
    classes_changed: bool = False

    def with_classes(self, places: Sequence[int | None]) -> Calibration:
        """What still holds for other classes: the temperature, and the thresholds of the classes that were there.

        What was promised of precision, coverage and label sets was promised for the classes at hand, so that these rules go.

        Args:
            places: for each class its place among those before, or None where it is new: it has the shared threshold.
        """
        rule = self.multi_label
        if rule is not None:
            kept = tuple(rule.shared_threshold if place is None else rule.thresholds[place] for place in places)
            rule = rule.model_copy(update={"thresholds": kept})
        return self.model_copy(update={"abstain": None, "label_sets": None, "multi_label": rule, "classes_changed": True})


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a calibration says of pictures.

    Attributes:
        probabilities: of the classes; rows sum to 1.
        abstained: whether no class is named; never without a rule.
        label_sets: the classes a picture may be of; None without a rule.
        presences: of each class by itself, 0 to 1; None without a rule. ``present``: whether it reaches its threshold.
    """

    probabilities: Float[np.ndarray, "image class"]
    abstained: Bool[np.ndarray, "image"]
    label_sets: Bool[np.ndarray, "image class"] | None
    presences: Float[np.ndarray, "image class"] | None
    present: Bool[np.ndarray, "image class"] | None


def probabilities(logits: Float[np.ndarray, "image class"], temperature: float) -> Float[np.ndarray, "image class"]:
    """The softmax of ``logits / temperature``, in double precision."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    shares: Float[np.ndarray, "image class"] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def log_odds(logits: Float[np.ndarray, "image class"], temperature: float) -> Float[np.ndarray, "image class"]:
    """``log(p / (1 - p))`` of :func:`probabilities`, exact where p is all but 1, and never beyond 700."""
    scaled = logits.astype(np.float64) / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    powers = np.exp(scaled)
    rest = powers.sum(axis=1, keepdims=True) - powers
    # What is left of the sum without its largest part is lost in rounding, and is added up anew.
    row, top = np.arange(len(scaled)), scaled.argmax(axis=1)
    powers[row, top] = 0
    rest[row, top] = powers.sum(axis=1)
    odds: Float[np.ndarray, "image class"] = scaled - np.log(np.maximum(rest, 1e-300))
    return odds


def presences(
    logits: Float[np.ndarray, "image class"], temperature: float, slope: float, offset: float
) -> Float[np.ndarray, "image class"]:
    """``sigmoid(slope * log_odds + offset)``, in double precision."""
    shares: Float[np.ndarray, "image class"] = 0.5 * (1 + np.tanh((slope * log_odds(logits, temperature) + offset) / 2))
    return shares  # by the hyperbolic tangent nothing overflows


def judge(logits: Float[np.ndarray, "image class"], calibration: Calibration) -> Judged:
    """Probabilities of class logits by a calibration, and what its rules say of them."""
    shares = probabilities(logits, calibration.temperature)
    abstained = np.zeros(len(shares), dtype=bool)
    if calibration.abstain is not None:
        abstained = shares.max(axis=1) < calibration.abstain.minimum_probability
    label_sets = None
    if calibration.label_sets is not None:
        label_sets = shares >= np.minimum(calibration.label_sets.minimum_probability, shares.max(axis=1, keepdims=True))
    each = present = None
    if (rule := calibration.multi_label) is not None:
        each = presences(logits, calibration.temperature, rule.slope, rule.offset)
        present = each >= np.array(rule.thresholds)
    return Judged(probabilities=shares, abstained=abstained, label_sets=label_sets, presences=each, present=present)
