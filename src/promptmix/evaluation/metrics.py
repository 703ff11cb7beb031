"""Measures of a classifier on labelled pictures, computed in double precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from promptmix.config import StrictModel
from promptmix.errors import DataError

__all__ = ["Metrics", "harmonic_mean", "measure"]

_BINS = 15
_MOST_PICTURES = 1024  # at a time


Share = Annotated[float, Field(ge=0, le=1)]


class Metrics(StrictModel):
    """What was measured; shares are 0 to 1.

    Attributes:
        accuracy: top-1. ``accuracy_per_class_mean``: the mean over classes that have pictures.
        per_class: top-1 of each class; None for a class without a picture.
        expected_calibration_error: over 15 equal bins of the top probability.
        negative_log_likelihood: mean, in nats.
        calibration: the 15 bins themselves, lowest confidence first: pictures, mean top probability and accuracy of each, with 0 for
            the means of an empty one.
        confusion: ``[true class, predicted class, pictures]`` by the classes' places, where there is a picture; in the order of the
            classes. Not a table: with a thousand classes one would be nearly all zeros, and a result tens of megabytes.
    """

    num_pictures: int = Field(ge=1)
    num_classes: int = Field(ge=1)
    accuracy: Share
    accuracy_per_class_mean: Share
    per_class: dict[str, Share | None]
    expected_calibration_error: Share
    negative_log_likelihood: float
    calibration: list[list[float]]
    confusion: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return self.model_dump()


def measure(logits: Float[Tensor, "image class"], labels: Int[Tensor, "image"], class_names: Sequence[str]) -> Metrics:
    """Measure logits against labels; a tie goes to the class that comes first.

    Raises:
        DataError: there is no picture, or a logit is not a finite number.
    """
    if len(labels) == 0:
        raise DataError("there is no picture to measure on")
    if not torch.isfinite(logits).all():
        raise DataError("a logit is not a finite number, so nothing can be measured; the model is broken")
    num_classes = len(class_names)
    predictions, confidence, likelihood = (torch.cat(parts) for parts in zip(*_by_picture(logits, labels.long()), strict=True))
    right = (predictions == labels).double()
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.long)
    confusion.index_put_((labels.long(), predictions), torch.ones(len(labels), dtype=torch.long), accumulate=True)
    totals = confusion.sum(dim=1)
    shares = confusion.diagonal().double() / totals.clamp_min(1)
    bins = (confidence * _BINS).ceil().long().clamp(1, _BINS) - 1
    in_bin = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, torch.ones_like(confidence))
    sum_confidence = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, confidence)
    sum_right = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, right)
    means = (total / in_bin.clamp_min(1) for total in (sum_confidence, sum_right))
    return Metrics(
        num_pictures=len(labels),
        num_classes=num_classes,
        accuracy=float(right.mean()),
        accuracy_per_class_mean=float(shares[totals > 0].mean()),
        per_class={name: float(shares[row]) if totals[row] else None for row, name in enumerate(class_names)},
        expected_calibration_error=float((sum_confidence - sum_right).abs().sum() / len(labels)),
        negative_log_likelihood=float(-likelihood.mean()),
        calibration=torch.stack([in_bin, *means], dim=1).tolist(),
        confusion=torch.cat([confusion.nonzero(), confusion[confusion > 0][:, None]], dim=1).tolist(),
    )


def _by_picture(logits: Float[Tensor, "image class"], labels: Int[Tensor, "image"]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The predicted class, its probability and the logarithm of the true class's, of some pictures at a time: in double precision all
    together would take up more room than the logits themselves."""
    for block, true in zip(logits.split(_MOST_PICTURES), labels.split(_MOST_PICTURES), strict=True):
        log_probabilities = block.double().log_softmax(dim=1)
        predictions = log_probabilities.argmax(dim=1)
        yield predictions, log_probabilities.max(dim=1).values.exp(), log_probabilities.gather(1, true[:, None])[:, 0]


def harmonic_mean(first: float, second: float) -> float:
    """Harmonic mean of two shares; 0 when either is 0."""
    return 0.0 if min(first, second) <= 0 else 2 * first * second / (first + second)
