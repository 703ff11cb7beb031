"""From image features to what a classifier says of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from promptmix.evaluation.predictions import Prediction, predictions_of
from promptmix.nn.calibration import Calibration
from promptmix.nn.classifier import AnyClassifier

__all__ = ["class_logits", "predict_features"]

_MOST_PICTURES = 1024  # at a time; a mixture has a table of picture x expert x class for them


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
    return predictions_of(logits.numpy(), weights.numpy(), class_names, expert_names, top, calibration)
