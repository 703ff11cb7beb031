"""Model folders run by torch."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from jaxtyping import UInt8

from promptmix.backbones.base import Backbone
from promptmix.backbones.configs import PreprocessConfig
from promptmix.errors import BackboneError
from promptmix.inference.open_classes import add_worded_classes, rename_class
from promptmix.inference.predictor import Predictor, backbone_of, needs_text, remove_classes
from promptmix.model_folder import MODEL_FILES, SavedModel, model_path, read_model, write_classes
from promptmix.nn.calibration import Calibration
from promptmix.runtime import short_hash
from promptmix.serving.engine import (
    AddClasses,
    ClassChange,
    Engine,
    EngineOutput,
    ReadModel,
    RemoveClasses,
    unchanged,
)

__all__ = ["TorchEngine", "TorchLoader"]


class TorchEngine:
    """A model folder run by torch, as :class:`~promptmix.inference.predictor.Predictor` runs it.

    Args:
        loaded: the model's backbone as it was before a method tuned it; it stays as long as the engine, for the engines to come.
    """

    def __init__(self, predictor: Predictor, loaded: Backbone | None = None) -> None:
        self._predictor, self._loaded = predictor, loaded
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


class TorchLoader:
    """Loads with torch; a backbone is loaded once for all models that are of it, and stays in memory as long as one of them.

    Args:
        backbone: where the model's backbone lies now, if elsewhere.
        device, precision: as for prediction.
        with_text: keep the text tower too, so that classes can be added.
    """

    changes_classes = True

    def __init__(self, *, backbone: str | None, device: str, precision: str, with_text: bool) -> None:
        self._elsewhere, self._device, self._precision, self._with_text = backbone, device, precision, with_text
        self._backbones: WeakValueDictionary[str, Backbone] = WeakValueDictionary()  # by fingerprint

    def files(self, path: Path) -> tuple[Path, ...]:
        folder = model_path(path)
        return tuple(folder / name for name in MODEL_FILES)

    def load(self, path: Path) -> ReadModel:
        folder = model_path(path)
        with unchanged(folder, self) as state:
            model = read_model(folder)
            content = [(folder / name).read_bytes() for name in ("config.json", "class_features.safetensors")]
        return ReadModel(
            engine=self.engine_of(model),
            content_hash=short_hash(*content)[:12],
            state=state,
            method=model.method,
            backbone_name=model.backbone_name,
            class_words=model.class_words,
        )

    def engine_of(self, model: SavedModel) -> Engine:
        """An engine of a model that was just read."""
        loaded = self._backbone_of(model, self._with_text or needs_text(model))
        return TorchEngine(Predictor(model, backbone=loaded), loaded)

    def change_classes(self, path: Path, change: ClassChange) -> None:
        folder = model_path(path)
        model = read_model(folder)
        if isinstance(change, RemoveClasses):
            changed = remove_classes(model, change.names)
        elif isinstance(change, AddClasses):
            changed = add_worded_classes(model, change.classes, self._backbone_of(model, True))
        else:
            changed = rename_class(model, change.old, change.new, self._backbone_of(model, True))
        write_classes(folder, changed)

    def _backbone_of(self, model: SavedModel, with_text: bool) -> Backbone:
        loaded = self._backbones.get(model.backbone_fingerprint)
        if loaded is None or (with_text and loaded.text is None):
            loaded = backbone_of(model, self._elsewhere, with_text=with_text, device=self._device, precision=self._precision)
            self._backbones[loaded.fingerprint] = loaded
        return loaded
