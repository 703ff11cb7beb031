"""Prediction from a saved model: its class features and the image tower; the text tower is loaded only to add classes.

Where class features depend on the picture, the text tower is there to predict too, and the method itself is made again.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.images import PictureSource
from promptmix.data.records import check_class_names, class_key
from promptmix.errors import BackboneError, CheckpointError, ConfigError, DataError, did_you_mean
from promptmix.evaluation.evaluate import predict_features
from promptmix.evaluation.predictions import Prediction
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import iter_features
from promptmix.inference.predicted import PredictedBatch
from promptmix.methods.base import Method
from promptmix.methods.registry import build_method, method_class
from promptmix.model_folder import SavedModel, read_model
from promptmix.model_hub import pretrained_folder, public_model, push_model
from promptmix.nn.calibration import Calibration
from promptmix.nn.classifier import AnyClassifier, Classifier

__all__ = [
    "PredictedPictures",
    "Predictor",
    "add_classes",
    "backbone_of",
    "calibration_for",
    "method_of",
    "needs_text",
    "remove_classes",
]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PredictedPictures:
    """Predictions for the pictures that could be read (``kept``: their places), and reasons for the others."""

    predictions: list[Prediction]
    kept: tuple[int, ...]
    bad: tuple[tuple[str, str], ...]


class Predictor:
    """A saved model ready to predict.

    Args:
        model: what was saved.
        backbone: its backbone, loaded already; else the one the model names is loaded, without its text tower unless that is
            needed.
        device: where a backbone loaded here goes.

    Raises:
        CheckpointError: the backbone is not the one the model was trained on, or its features are of another width than the model's.
        BackboneError: there is no such backbone any more, or it was loaded without the text tower that is needed.
    """

    def __init__(
        self, model: SavedModel, *, backbone: Backbone | None = None, device: str = "auto", cache: FeatureCache | None = None
    ) -> None:
        if backbone is None:
            backbone = backbone_of(model, with_text=needs_text(model), device=device)
        _check_backbone(model, backbone)
        self.model, self._cache = model, cache
        self.backbone = method_class(model.method).tuned_backbone(backbone, model.options, model.learnt)
        self.classifier: AnyClassifier = (
            method_of(model, backbone).classifier_for(model.class_names) if model.classifier is None else model.classifier
        )

    @staticmethod
    def from_folder(
        folder: Path,
        *,
        backbone: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        cache: FeatureCache | None = None,
    ) -> Predictor:
        """Read a model folder (or a run folder) and load the towers it needs; ``backbone`` says where they lie now."""
        model = read_model(folder)
        loaded = backbone_of(model, backbone, with_text=needs_text(model), device=device, precision=precision)
        return Predictor(model, backbone=loaded, cache=cache)

    @staticmethod
    def from_pretrained(
        name: str | Path,
        *,
        revision: str | None = None,
        backbone: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        cache: FeatureCache | None = None,
    ) -> Predictor:
        """As :meth:`from_folder`, of a folder or of ``owner/name`` on the Hugging Face hub, at a branch, tag or commit.

        Raises:
            HubError: there is no such model on the hub, it is private, or it cannot be downloaded.
        """
        folder = pretrained_folder(name, revision)
        return Predictor.from_folder(folder, backbone=backbone, device=device, precision=precision, cache=cache)

    def push_to_hub(
        self, name: str, *, private: bool | None = None, revision: str | None = None, message: str | None = None
    ) -> str:
        """Send the model to ``owner/name`` on the Hugging Face hub; what stays here, and all else, as
        :func:`~promptmix.model_hub.push_model` has it. Gives ``owner/name@commit``.

        Raises:
            ConfigError: the name is none.
            HubError: nobody is logged in, the network may not be asked, or the hub refuses.
        """
        return push_model(public_model(self.model), name, private=private, revision=revision, message=message)

    def predict(
        self,
        pictures: Sequence[PictureSource],
        *,
        top: int = 5,
        skip_bad: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> PredictedPictures:
        """Classes, probabilities and answering experts for pictures.

        Raises:
            DataError: a picture cannot be read and ``skip_bad`` is not set.
        """
        predictions: list[Prediction] = []
        kept: list[int] = []
        bad: list[tuple[str, str]] = []
        for batch in self.iter_predict(pictures, top=top, skip_bad=skip_bad):
            predictions += batch.predictions
            kept += batch.kept
            bad += batch.bad
            if on_progress is not None:
                on_progress(batch.done, len(pictures))
        return PredictedPictures(predictions=predictions, kept=tuple(kept), bad=tuple(bad))

    def iter_predict(
        self,
        pictures: Iterable[PictureSource],
        *,
        top: int = 5,
        skip_bad: bool = False,
        threads: int | None = None,
        steady: bool = False,
    ) -> Iterator[PredictedBatch]:
        """The predictions of ``predict``, batch by batch as they come: pictures are taken as they are needed and then let go.

        Args:
            threads, steady: see :func:`~promptmix.features.extract.iter_features`.

        Raises:
            DataError: a picture cannot be read and ``skip_bad`` is not set; there are none or, known at the end, none can be read.
        """
        model = self.model
        for batch in iter_features(self.backbone, pictures, cache=self._cache, skip_bad=skip_bad, threads=threads, steady=steady):
            features = batch.features[:, 0]
            yield PredictedBatch(
                predictions=predict_features(
                    self.classifier, model.class_names, model.expert_names, features, top, model.calibration
                ),
                pictures=batch.pictures,
                kept=batch.kept,
                bad=batch.bad,
                done=batch.done,
            )

    def logits(self, pictures: Sequence[PictureSource]) -> Float[Tensor, "image class"]:
        """Class logits before any calibration, on the CPU; every picture must be readable."""
        batches = iter_features(self.backbone, pictures, cache=self._cache)
        with torch.no_grad():
            return torch.cat([self.classifier.logits(batch.features[:, 0]) for batch in batches])


def needs_text(model: SavedModel) -> bool:
    """Whether prediction needs the text tower, because class features depend on the picture."""
    return method_class(model.method).needs_text_to_predict


def method_of(model: SavedModel, backbone: Backbone) -> Method:
    """The method of a saved model as it was after its training."""
    method = build_method(
        model.method, model.options, backbone, model.trained_class_names, more_class_names=model.more_class_names
    )
    method.load_learnt_state(model.learnt)
    return method


def backbone_of(
    model: SavedModel, elsewhere: str | None = None, *, with_text: bool = True, device: str = "auto", precision: str = "auto"
) -> Backbone:
    """The backbone a model names, or the one that lies ``elsewhere``.

    Raises:
        BackboneError: there is no such backbone (any more).
    """
    if elsewhere is not None:
        return load_backbone(elsewhere, with_text=with_text, device=device, precision=precision)
    try:
        return load_backbone(model.backbone_name, with_text=with_text, device=device, precision=precision)
    except BackboneError as problem:
        raise BackboneError(f"{problem}; the model was trained on it, so say with --backbone where it lies now") from problem


def add_classes(model: SavedModel, class_names: Sequence[str], backbone: Backbone) -> SavedModel:
    """The same model with more classes, known by name alone; nothing is retrained.

    A class it was trained on, and that was removed, comes back as it was: under the name it had, with its remembered pictures. Of a
    calibration stays what :meth:`~promptmix.nn.calibration.Calibration.with_classes` keeps.

    Raises:
        ConfigError: the method cannot know a class it was not trained on; the message gives the reason.
        DataError: a name is there already, is empty, or is too long for the text tower.
        CheckpointError: the backbone is not the model's.
    """
    _check_list(class_names)
    new_names = check_class_names([*model.class_names, *class_names])[len(model.class_names) :]
    _check_backbone(model, backbone)
    if not new_names:
        raise ConfigError("no class name was given to add")
    method = method_of(model, backbone)
    trained = {class_key(name): place for place, name in enumerate(model.trained_class_names)}
    # The names that were there stay as they are: a person's labels may have "_" where a prompt has a space.
    new_names = tuple(
        model.trained_class_names[trained[class_key(name)]] if class_key(name) in trained else name for name in new_names
    )
    names = (*model.class_names, *new_names)
    places = [*range(len(model.class_names)), *[None] * len(new_names)]
    if model.classifier is None:
        method.classifier_for(new_names)  # whether it knows them
        return dataclasses.replace(model, class_names=names, calibration=calibration_for(model, places))
    features = torch.cat([model.classifier.class_features, method.encode_classes(new_names).cpu()], dim=1)
    classifier = model.classifier.with_classes(features, places)
    if classifier.memory is not None and not set(new_names).isdisjoint(model.trained_class_names):
        whole = method.classifier()
        assert isinstance(whole, Classifier)
        memory = whole.cpu().memory
        assert memory is not None
        remembered = memory.of_classes([trained.get(class_key(name)) for name in names], whole.num_classes)
        classifier = dataclasses.replace(classifier, memory=remembered)
    calibration = calibration_for(model, places)
    return dataclasses.replace(model, class_names=names, classifier=classifier, calibration=calibration)


def remove_classes(model: SavedModel, class_names: Sequence[str]) -> SavedModel:
    """The same model without some classes, which may be written in any case, and with "_" for a space.

    Raises:
        ConfigError: a name is not one of the model's, fewer than two classes would be left, or the method has numbers of its own for
            each class.
        DataError: one text was given instead of a list of names.
    """
    _check_list(class_names)
    known = {class_key(name) for name in model.class_names}
    for name in class_names:
        if class_key(name) not in known:
            raise ConfigError(f"the model has no class {name!r}{did_you_mean(name, model.class_names)}")
    if not class_names:
        raise ConfigError("no class name was given to remove")
    removed = {class_key(name) for name in class_names}
    kept = [index for index, name in enumerate(model.class_names) if class_key(name) not in removed]
    if len(kept) < 2:
        raise ConfigError(f"{len(kept)} class would be left; a model needs at least two")
    names = tuple(model.class_names[index] for index in kept)
    if model.classifier is not None and model.classifier.class_bias is not None:
        raise ConfigError(f"a model of method {model.method} has its classes fixed by training; train again without them")
    calibration = calibration_for(model, kept)
    model = dataclasses.replace(model, class_words={name: words for name, words in model.class_words.items() if name in names})
    if model.classifier is None:
        return dataclasses.replace(model, class_names=names, calibration=calibration)
    return dataclasses.replace(model, class_names=names, classifier=model.classifier.select(kept), calibration=calibration)


def calibration_for(model: SavedModel, places: Sequence[int | None]) -> Calibration | None:
    """What is left of a model's calibration for other classes; which rules go with those that they were fitted for is told.

    Args:
        places: as for :meth:`~promptmix.nn.calibration.Calibration.with_classes`.
    """
    before = model.calibration
    if before is None:
        return None
    rules = (("'none of these'", before.abstain), ("label sets", before.label_sets))
    gone = [what for what, rule in rules if rule is not None]
    if gone:
        _logger.warning(
            "%s held for the classes as they were, and are gone; promptmix calibrate fits them anew", " and ".join(gone)
        )
    return before.with_classes(places)


def _check_list(class_names: Sequence[str]) -> None:
    if isinstance(class_names, str):
        raise DataError(f"class names must be a list of names, not the text {class_names!r}; write [{class_names!r}]")
    for name in class_names:
        if not isinstance(name, str):
            raise DataError(f"class name {name!r} is not text; write class names as text")


def _check_backbone(model: SavedModel, backbone: Backbone) -> None:
    if backbone.fingerprint != model.backbone_fingerprint:
        raise CheckpointError(
            f"the model was trained on backbone {model.backbone_name!r} ({model.backbone_fingerprint}), but {backbone.name!r} is"
            f" {backbone.fingerprint}; give the right one with --backbone"
        )
    width = backbone.config.embedding_width
    if model.classifier is not None and model.classifier.class_features.shape[2] != width:
        raise CheckpointError(
            f"tensor class_features of the model has width {model.classifier.class_features.shape[2]}, but backbone"
            f" {backbone.name!r} has features of width {width}; restore the model or train again"
        )
