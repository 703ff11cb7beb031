"""What is handed on while many pictures are predicted."""

from __future__ import annotations

from dataclasses import dataclass

from promptmix.data.images import PictureSource
from promptmix.evaluation.predictions import Prediction

__all__ = ["PredictedBatch"]


@dataclass(frozen=True, kw_only=True)
class PredictedBatch:
    """Predictions for some pictures that follow one another.

    Attributes:
        pictures: those that could be read; ``kept`` has their places among all pictures, from 0.
        bad: the others, each with the reason.
        done: pictures read so far, in this batch and all before it, those that could not be read too.
    """

    predictions: list[Prediction]
    pictures: tuple[PictureSource, ...]
    kept: tuple[int, ...]
    bad: tuple[tuple[str, str], ...]
    done: int
