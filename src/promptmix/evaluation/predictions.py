"""What a classifier's logits mean, picture by picture. Nothing here loads torch: exported models say what they say through it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from promptmix.nn.calibration import NONE_OF_THESE, Calibration, Judged, judge, probabilities

__all__ = ["Prediction", "predictions_of"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What is said of one picture.

    Attributes:
        class_name, probability: the most probable class and its probability, 0 to 1.
        margin: its probability less that of the second class.
        top: the most probable classes with their probabilities, falling.
        experts: the experts that answered with their weights, falling; the weights sum to 1.
        abstained: by its calibration the model had better not answer.
        label_set: the classes that it may be of by its calibration, the most probable first; None where that has no rule for it.
        labels: the classes that are on it by its calibration, each judged by itself, with their probabilities, falling; None where that
            has no rule for it.
    """

    class_name: str
    probability: float
    margin: float
    top: tuple[tuple[str, float], ...]
    experts: tuple[tuple[str, float], ...]
    abstained: bool = False
    label_set: tuple[str, ...] | None = None
    labels: tuple[tuple[str, float], ...] | None = None

    @property
    def answer(self) -> str:
        """The class to show: the most probable one, or ``none of these``."""
        return NONE_OF_THESE if self.abstained else self.class_name


def predictions_of(
    logits: Float[np.ndarray, "image class"],
    expert_weights: Float[np.ndarray, "image expert"],
    class_names: Sequence[str],
    expert_names: Sequence[str],
    top: int = 5,
    calibration: Calibration | None = None,
) -> list[Prediction]:
    """What logits and weights of the experts mean, picture by picture."""
    judged = None if calibration is None else judge(logits, calibration)
    shares = probabilities(logits, 1.0) if judged is None else judged.probabilities
    num_listed = min(max(top, 2), len(class_names))
    predictions = []
    for row, weights in enumerate(expert_weights.astype(np.float64)):
        ranked = [(class_names[place], float(shares[row, place])) for place in _largest(shares[row], num_listed)]
        answered = [
            (expert_names[place], float(weights[place])) for place in _largest(weights, len(weights)) if weights[place] > 0
        ]
        second = ranked[1][1] if len(ranked) > 1 else 0.0
        predictions.append(
            Prediction(
                class_name=ranked[0][0],
                probability=ranked[0][1],
                margin=ranked[0][1] - second,
                top=tuple(ranked[:top]),
                experts=tuple(answered),
            )
        )
    return predictions if judged is None else [_with_rules(one, judged, row, class_names) for row, one in enumerate(predictions)]


def _largest(values: Float[np.ndarray, "place"], number: int) -> list[int]:
    """The places of the largest values, falling; of equal ones the first comes first."""
    # Of many values only those that can be among them are sorted.
    least = np.partition(values, -number)[-number]
    places = np.flatnonzero(values >= least)
    chosen: list[int] = places[np.argsort(-values[places], kind="stable")][:number].tolist()
    return chosen


def _with_rules(prediction: Prediction, judged: Judged, row: int, class_names: Sequence[str]) -> Prediction:
    """A prediction with what the rules of a calibration say of its picture."""
    label_set = labels = None
    if judged.label_sets is not None:
        label_set = tuple(name for name, _ in _chosen(judged.probabilities[row], judged.label_sets[row], class_names))
    if judged.presences is not None and judged.present is not None:
        labels = _chosen(judged.presences[row], judged.present[row], class_names)
    return replace(prediction, abstained=bool(judged.abstained[row]), label_set=label_set, labels=labels)


def _chosen(
    shares: Float[np.ndarray, "class"], chosen: Bool[np.ndarray, "class"], class_names: Sequence[str]
) -> tuple[tuple[str, float], ...]:
    """The chosen classes with their shares, falling; of equal ones the first comes first."""
    places = [place for place in np.argsort(-shares, kind="stable").tolist() if chosen[place]]
    return tuple((class_names[place], float(shares[place])) for place in places)
