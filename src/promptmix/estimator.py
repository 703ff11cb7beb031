"""``PromptClassifier``: scikit-learn's habits and Hugging Face's, over the same run and the same model folder as the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin

from promptmix.backbones.registry import load_backbone
from promptmix.data.images import PictureSource
from promptmix.data.records import check_class_names
from promptmix.data.sources import list_pictures, read_folder
from promptmix.errors import DataError, NotFittedError
from promptmix.features.cache import FeatureCache
from promptmix.inference.predictor import Predictor, add_classes, backbone_of, remove_classes
from promptmix.model_folder import read_model, write_model
from promptmix.training.run import LabelledPictures, RunConfig, run

__all__ = ["PromptClassifier"]


class PromptClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Learns to tell picture classes apart from a few labelled pictures, with a frozen backbone.

    Args:
        method: ``mocoop``, ``coop``, ``linear-probe``, ``zero-shot`` or ``ensemble``; ``options`` are its own.
        backbone: ``bundled`` (knows pictograms, not photographs) or a folder with a CLIP.
        recipe: what to change of the method's recipe, such as ``{"epochs": 20}``.
        seed: of every random choice.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        cache: keep image features on disk, so that the next fit is quick.

    After ``fit``, ``classes_`` has the class names and ``result_`` the record of the run, zero-shot beside it.
    """

    def __init__(
        self,
        method: str = "mocoop",
        *,
        backbone: str = "bundled",
        options: Mapping[str, Any] | None = None,
        recipe: Mapping[str, Any] | None = None,
        seed: int = 1,
        device: str = "auto",
        cache: bool = True,
    ) -> None:
        self.method = method
        self.backbone = backbone
        self.options = options
        self.recipe = recipe
        self.seed = seed
        self.device = device
        self.cache = cache

    def fit(self, X: object, y: object = None) -> PromptClassifier:
        """Learn from a folder with one sub-folder a class, or from pictures (paths, PIL pictures, arrays) and their class names.

        Raises:
            DataError, ConfigError, BackboneError: see the message.
        """
        config = RunConfig(
            method=self.method,
            options=dict(self.options or {}),
            recipe=dict(self.recipe or {}),
            backbone=self.backbone,
            device=self.device,
            seed=self.seed,
        )
        backbone = load_backbone(self.backbone, device=self.device)
        outcome = run(config, _labelled(X, y), backbone=backbone, cache=self._feature_cache())
        self.result_ = outcome.result
        self._predictor = Predictor(outcome.model, backbone=backbone, cache=self._feature_cache())
        return self

    @property
    def classes_(self) -> Shaped[np.ndarray, "class"]:
        """The class names, in the order of the columns of ``predict_proba``."""
        return np.array(self._fitted().model.class_names)

    def predict(self, X: object) -> Shaped[np.ndarray, "image"]:
        """The most probable class of each picture."""
        names: Shaped[np.ndarray, "image"] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return names

    def predict_proba(self, X: object) -> Float[np.ndarray, "image class"]:
        """Class probabilities of each picture; rows sum to 1."""
        probabilities: NDArray[np.float64] = self._fitted().logits(_pictures(X)).double().softmax(dim=1).numpy()
        return probabilities

    def add_classes(self, class_names: Sequence[str]) -> PromptClassifier:
        """Tell more classes apart, known by name alone; nothing is retrained.

        Raises:
            ConfigError: the method cannot know a class it was not trained on.
        """
        model = self._fitted().model
        backbone = backbone_of(model, device=self.device)
        added = add_classes(model, class_names, backbone)
        self._predictor = Predictor(added, backbone=backbone, cache=self._feature_cache())
        return self

    def remove_classes(self, class_names: Sequence[str]) -> PromptClassifier:
        """Forget classes."""
        model = remove_classes(self._fitted().model, class_names)
        self._predictor = Predictor(model, device=self.device, cache=self._feature_cache())
        return self

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the model folder: a few kilobytes, and enough to predict without a text tower."""
        write_model(Path(folder), self._fitted().model, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, backbone: str | None = None, device: str = "auto") -> PromptClassifier:
        """Read a model folder; ``backbone`` says where its backbone lies now, if elsewhere."""
        model = read_model(Path(folder))
        name = model.backbone_name if backbone is None else backbone
        classifier = cls(model.method, backbone=name, options=model.options, device=device)
        classifier._predictor = Predictor.from_folder(
            Path(folder), backbone=name, device=device, cache=classifier._feature_cache()
        )
        return classifier

    def _fitted(self) -> Predictor:
        predictor: Predictor | None = getattr(self, "_predictor", None)
        if predictor is None:
            raise NotFittedError("this PromptClassifier is not fitted; call fit, or PromptClassifier.from_pretrained")
        return predictor

    def _feature_cache(self) -> FeatureCache | None:
        return FeatureCache() if self.cache else None


def _pictures(source: object) -> Sequence[PictureSource]:
    """The pictures of a folder or a pattern, or those of a list, a tuple or an array; whatever comes from outside is looked at."""
    if isinstance(source, (str, Path)):
        return list_pictures(source)
    if isinstance(source, torch.Tensor):
        raise DataError("pictures come as paths, PIL pictures or numpy arrays, not as a torch tensor; call .numpy() on it")
    if isinstance(source, (Image.Image, bytes)) or (isinstance(source, np.ndarray) and source.ndim == 3):
        raise DataError("this is one picture; put it into a list: [picture]")
    if not isinstance(source, (Sequence, np.ndarray)):
        raise DataError(f"pictures come as a folder or a list of paths, PIL pictures or arrays, not as {type(source).__name__}")
    if len(source) == 0:
        raise DataError("there is no picture in the list")
    return [str(one) if isinstance(one, np.str_) else one for one in source]


def _labelled(source: object, labels: object) -> LabelledPictures:
    if isinstance(source, (str, Path)):
        if labels is not None:
            raise DataError("a folder names its own classes; give y only with a list of pictures")
        return LabelledPictures.of(read_folder(Path(source)), f"the folder {source}")
    pictures = _pictures(source)
    if not isinstance(labels, (Sequence, np.ndarray)) or isinstance(labels, str):
        raise DataError("a list of pictures needs y, a list of their class names")
    if len(labels) != len(pictures):
        raise DataError(f"{len(pictures)} pictures but {len(labels)} labels")
    for label in labels:
        if not isinstance(label, str):
            raise DataError(f"label {label!r} is no text; y holds class names, which the model reads, such as 'red fox'")
    names = [str(label) for label in labels]
    class_names = sorted(set(names))
    cleaned = check_class_names(class_names)
    places = {name: place for place, name in enumerate(class_names)}
    return LabelledPictures(
        pictures=pictures,
        labels=[places[name] for name in names],
        class_names=cleaned,
        description=f"{len(pictures)} given pictures",
    )
