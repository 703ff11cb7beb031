"""Exported models run by onnxruntime; torch is not loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from promptmix.backbones.configs import PreprocessConfig
from promptmix.inference.exported import data_path
from promptmix.inference.onnx_predictor import OnnxPredictor
from promptmix.nn.calibration import Calibration
from promptmix.serving.engine import ClassChange, EngineOutput, ReadModel, unchanged
from promptmix.serving.problems import Problem

__all__ = ["OnnxEngine", "OnnxLoader"]


class OnnxEngine:
    """An exported model, as :class:`~promptmix.inference.onnx_predictor.OnnxPredictor` runs it."""

    def __init__(self, predictor: OnnxPredictor) -> None:
        self._predictor = predictor
        self.class_names: tuple[str, ...] = predictor.facts.class_names
        self.expert_names: tuple[str, ...] = predictor.facts.expert_names
        self.preprocess: PreprocessConfig = predictor.facts.preprocess
        self.calibration: Calibration | None = predictor.facts.calibration

    def run(self, pixels: UInt8[np.ndarray, "image crop crop 3"]) -> EngineOutput:
        said = self._predictor.run(pixels)
        return EngineOutput(logits=said.logits, expert_weights=said.expert_weights, features=said.features)


class OnnxLoader:
    """Loads files that ``promptmix export`` has written. Their classes are fixed: the text tower is not in the file."""

    changes_classes = False

    def files(self, path: Path) -> tuple[Path, ...]:
        data = data_path(path)
        return (path, data) if data.exists() else (path,)

    def load(self, path: Path) -> ReadModel:
        digest = hashlib.sha256()
        with unchanged(path, self) as state:
            predictor = OnnxPredictor(path)
            for file in self.files(path):
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        facts = predictor.facts
        return ReadModel(
            engine=OnnxEngine(predictor),
            content_hash=digest.hexdigest()[:12],
            state=state,
            method=facts.method,
            backbone_name=facts.backbone_name,
            class_words={},
        )

    def change_classes(self, path: Path, change: ClassChange) -> None:
        detail = (
            "the classes of an exported model are fixed, because the text tower is not in its file; change them in the model folder"
            " with promptmix classes, and export it again"
        )
        raise Problem(409, "fixed-classes", detail)
