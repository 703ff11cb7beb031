"""From image features to what a classifier says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from promptmix.nn.calibration import NONE_OF_THESE, Calibration, Judged, judge
from promptmix.nn.classifier import AnyClassifier

__all__ = ["Prediction", "class_logits", "predict_features", "predictions_of"]

_MOST_PICTURES = 1024  # at a time; a mixture has a table of picture x expert x class for them


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


@torch.no_grad()
def class_logits(
    classifier: AnyClassifier, image_features: Float[Tensor, "image embedding"], device: torch.device | None = None
) -> Float[Tensor, "image class"]:
    """Class logits of any number of normalised image features, on the CPU; only some pictures at a time are on the way.

    Args:
        device: where the classifier is; None: the CPU.
    """
    return torch.cat([classifier.logits(block.to(device)).cpu() for block in image_features.split(_MOST_PICTURES)])


@torch.no_grad()
def predict_features(
    classifier: AnyClassifier,
    class_names: Sequence[str],
    expert_names: Sequence[str],
    image_features: Float[Tensor, "image embedding"],
    top: int = 5,
    calibration: Calibration | None = None,
) -> list[Prediction]:
    """Predictions for normalised image features, in their order."""
    logits, weights = class_logits(classifier, image_features), classifier.expert_weights(image_features)
    return predictions_of(logits, weights, class_names, expert_names, top, calibration)


def predictions_of(
    logits: Float[Tensor, "image class"],
    expert_weights: Float[Tensor, "image expert"],
    class_names: Sequence[str],
    expert_names: Sequence[str],
    top: int = 5,
    calibration: Calibration | None = None,
) -> list[Prediction]:
    """What logits and weights of the experts mean, picture by picture."""
    judged = None if calibration is None else judge(logits.numpy(), calibration)
    probabilities = logits.double().softmax(dim=1) if judged is None else torch.from_numpy(judged.probabilities)
    weights = expert_weights.double()
    values, classes = probabilities.topk(min(max(top, 2), len(class_names)), dim=1)
    weight_values, experts = weights.sort(dim=1, descending=True)
    predictions = []
    for row in range(logits.shape[0]):
        ranked = [(class_names[index], value) for index, value in zip(classes[row].tolist(), values[row].tolist(), strict=True)]
        answered = [
            (expert_names[index], value)
            for index, value in zip(experts[row].tolist(), weight_values[row].tolist(), strict=True)
            if value > 0
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
