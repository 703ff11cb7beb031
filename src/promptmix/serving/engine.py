"""What a server asks of whatever runs a model, and the engine that runs it in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from promptmix.backbones.configs import PreprocessConfig
from promptmix.errors import BackboneError
from promptmix.inference.predictor import Predictor
from promptmix.nn.calibration import Calibration

__all__ = ["Engine", "EngineOutput", "TorchEngine"]


@dataclass(frozen=True, kw_only=True)
class EngineOutput:
    """What a model says of a batch of pictures.

    Attributes:
        logits: before any calibration.
        expert_weights: rows sum to 1.
        features: normalised image features; None where the engine does not give them.
    """

    logits: Float32[np.ndarray, "image class"]
    expert_weights: Float32[np.ndarray, "image expert"]
    features: Float32[np.ndarray, "image embedding"] | None

    def rows(self, first: int, end: int) -> EngineOutput:
        """Those of some pictures that follow one another."""
        features = None if self.features is None else self.features[first:end]
        return EngineOutput(logits=self.logits[first:end], expert_weights=self.expert_weights[first:end], features=features)


@runtime_checkable
class Engine(Protocol):
    """A model that is ready to predict; ``run`` is called from one thread at a time.

    Attributes:
        class_names: in the order of the logits; ``expert_names`` in that of the weights.
        preprocess: how pictures become its pixels.
        calibration: what makes probabilities of its logits; None: the plain softmax does.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def expert_names(self) -> tuple[str, ...]: ...
    @property
    def preprocess(self) -> PreprocessConfig: ...
    @property
    def calibration(self) -> Calibration | None: ...

    def run(self, pixels: UInt8[np.ndarray, "image crop crop 3"]) -> EngineOutput:
        """What the model says of resized and cropped pictures."""
        ...


class TorchEngine:
    """A model folder run by torch, as :class:`~promptmix.inference.predictor.Predictor` runs it."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.class_names: tuple[str, ...] = predictor.model.class_names
        self.expert_names: tuple[str, ...] = predictor.model.expert_names
        self.preprocess: PreprocessConfig = predictor.backbone.config.preprocess
        self.calibration: Calibration | None = predictor.model.calibration

    def run(self, pixels: UInt8[np.ndarray, "image crop crop 3"]) -> EngineOutput:
        with torch.inference_mode():
            features = self._predictor.backbone.encode_pixels(torch.from_numpy(pixels)).float().cpu()
            if not bool(features.isfinite().all()):
                raise BackboneError(f"backbone {self._predictor.backbone.name} gave features that are not finite")
            classifier = self._predictor.classifier
            logits, weights = classifier.logits(features), classifier.expert_weights(features)
        return EngineOutput(
            logits=logits.float().cpu().numpy(), expert_weights=weights.float().cpu().numpy(), features=features.numpy()
        )
