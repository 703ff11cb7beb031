"""What a saved model says of labelled pictures, for measuring and calibrating it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from promptmix.data.records import LabelledPictures
from promptmix.errors import printable
from promptmix.evaluation.evaluate import class_logits
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.inference.predictor import Predictor

__all__ = ["LabelledLogits", "logits_of_labelled"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LabelledLogits:
    """Logits, before any calibration, and labels of the pictures that could be read (``kept``: their places); why not the others."""

    features: Float[Tensor, "image embedding"]
    logits: Float[Tensor, "image class"]
    labels: Int[Tensor, "image"]
    kept: tuple[int, ...]
    bad: tuple[tuple[str, str], ...]


def logits_of_labelled(
    predictor: Predictor,
    pictures: LabelledPictures,
    cache: FeatureCache | None,
    skip_bad: bool,
    on_progress: Callable[[str, int, int, str], None],
) -> LabelledLogits:
    """The logits of labelled pictures; those that cannot be read are told of.

    Raises:
        DataError: there are none, or one cannot be read and ``skip_bad`` is not set.
    """
    extracted = extract_features(
        predictor.backbone,
        pictures.pictures,
        cache=cache,
        skip_bad=skip_bad,
        steady=True,
        on_progress=lambda done, total: on_progress("pictures", done, total, ""),
    )
    for picture, reason in extracted.bad:
        logger.warning("left out %s: %s", printable(picture), printable(reason))
    features = extracted.features[:, 0]
    return LabelledLogits(
        features=features,
        logits=class_logits(predictor.classifier, features),
        labels=torch.tensor([pictures.labels[index] for index in extracted.kept]),
        kept=extracted.kept,
        bad=extracted.bad,
    )
