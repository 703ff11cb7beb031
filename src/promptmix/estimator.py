"""``PromptClassifier``: scikit-learn's habits and Hugging Face's, over the same run and the same model folder as the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.config import parse_config
from promptmix.data.images import PictureSource
from promptmix.data.read import list_any_pictures, part_to_measure, read_parts
from promptmix.data.records import LabelledPictures, PictureSet, check_class_names, class_key
from promptmix.errors import ConfigError, DataError, NotFittedError
from promptmix.evaluation.targets import Wanted
from promptmix.features.cache import FeatureCache
from promptmix.inference.predictor import Predictor, add_classes, backbone_of, needs_text, remove_classes
from promptmix.model_folder import SavedModel, read_model, write_model
from promptmix.model_hub import pretrained_folder
from promptmix.nn.calibration import NONE_OF_THESE, Judged, judge
from promptmix.training.fit import RunConfig
from promptmix.training.left_out import check_can_leave_out, cross_fit
from promptmix.training.run import run

__all__ = ["PromptClassifier"]


class PromptClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Learns to tell picture classes apart from a few labelled pictures, with a frozen backbone.

    Args:
        method: by name, such as ``mocoop``, ``promptmix``, ``coop`` or ``linear-probe``; ``options`` are its own.
        backbone: ``bundled`` (knows drawings, not photographs), a folder or ``.pt`` file with a CLIP or
            SigLIP, or a name on the Hugging Face hub; see :func:`~promptmix.backbones.registry.load_backbone`.
        recipe: what to change of the method's recipe, such as ``{"epochs": 20}``.
        augmentation: augmented views to train on, such as ``{"views": 0}`` for none; see :class:`~promptmix.data.transforms.Augmentation`.
        seed: of every random choice.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: what the backbone calculates in: ``auto`` (which is ``fp32``), ``fp32``, ``bf16`` or ``fp16``.
        cache: keep image features on disk, so that the next fit is quick.
        calibrate: calibrate the probabilities on left-out shots; takes five more short trainings.
        abstain: calibrate, and answer ``none of these`` below a threshold for ``precision=0.95`` (of the answers) or ``coverage=0.9``.
        label_sets: calibrate, with label sets that hold the true class so often, such as 0.9.
        log_to: ``tensorboard``, ``wandb`` or ``mlflow``, or some of them: told of every step of ``fit``; see docs/tracking.md.

    After ``fit``, ``classes_`` has the class names and ``result_`` the record of the run, zero-shot beside it. Names given in ``y`` stay
    as they are given, so that predictions can be compared with them; in a prompt, "_" reads as a space. Numbers are no class names:
    the text tower reads them, and a 3 means nothing to it.
    """

    def __init__(
        self,
        method: str = "mocoop",
        *,
        backbone: str | Path = "bundled",
        options: Mapping[str, Any] | None = None,
        recipe: Mapping[str, Any] | None = None,
        augmentation: Mapping[str, Any] | None = None,
        seed: int = 1,
        device: str = "auto",
        precision: str = "auto",
        cache: bool = True,
        calibrate: bool = False,
        abstain: str | None = None,
        label_sets: float | None = None,
        log_to: str | Sequence[str] = (),
    ) -> None:
        self.method = method
        self.backbone = backbone
        self.options = options
        self.recipe = recipe
        self.augmentation = augmentation
        self.seed = seed
        self.device = device
        self.precision = precision
        self.cache = cache
        self.calibrate = calibrate
        self.abstain = abstain
        self.label_sets = label_sets
        self.log_to = log_to

    def fit(self, X: object, y: object = None) -> PromptClassifier:
        """Learn from labelled pictures, or from pictures (paths, PIL pictures, arrays) and their class names.

        Labelled pictures are any source of :func:`~promptmix.data.read.read_parts`, such as a folder with one sub-folder a class, of
        which the train part is learnt from; or what :func:`~promptmix.data.read.read_pictures` gives.

        Raises:
            DataError, ConfigError, BackboneError: see the message.
        """
        training = _labelled(X, y)
        given = {
            "method": self.method,
            "options": _plain(self.options),
            "recipe": _plain(self.recipe),
            "augmentation": _plain(self.augmentation),
            "backbone": str(self.backbone),
            "device": self.device,
            "precision": self.precision,
            "seed": self.seed,
            "log_to": self.log_to,
        }
        config = parse_config(RunConfig, given, "arguments of PromptClassifier")
        wanted = None
        if self.calibrate or self.abstain is not None or self.label_sets is not None:
            wanted = Wanted.parse(self.abstain, self.label_sets)
            check_can_leave_out(config.method, training.labels)
        backbone, cache = load_backbone(config.backbone, device=config.device, precision=config.precision), self._feature_cache()
        outcome = run(config, training, backbone=backbone, cache=cache)
        model = outcome.model
        if wanted is not None:
            left_out = cross_fit(config, training, model, backbone=backbone, cache=cache)
            model = dataclasses.replace(model, calibration=left_out.calibration(wanted))
        self.result_ = outcome.result
        return self._use(model, backbone)

    @property
    def classes_(self) -> Shaped[np.ndarray, "class"]:
        """The class names, in the order of the columns of ``predict_proba``."""
        return np.array(self._fitted().model.class_names)

    def predict(self, X: object) -> Shaped[np.ndarray, "image"]:
        """The most probable class of each picture; ``none of these`` where a calibration with ``abstain`` says so."""
        shares, judged = self._said_of(X)
        names = self.classes_[shares.argmax(axis=1)]
        answers: Shaped[np.ndarray, "image"] = names if judged is None else np.where(judged.abstained, NONE_OF_THESE, names)
        return answers

    def predict_proba(self, X: object) -> Float[np.ndarray, "image class"]:
        """Class probabilities of each picture, calibrated where the model is; rows sum to 1."""
        return self._said_of(X)[0]

    def predict_sets(self, X: object) -> list[tuple[str, ...]]:
        """The classes that each picture may be of, in the order of ``classes_``; together they hold its class as often as asked.

        Raises:
            ConfigError: the model has no calibration with ``label_sets``.
        """
        _, judged = self._said_of(X)
        return self._chosen(None if judged is None else judged.label_sets, "label sets; fit with label_sets=0.9")

    def predict_labels(self, X: object) -> list[tuple[str, ...]]:
        """All classes that are on each picture, each judged by itself, in the order of ``classes_``; perhaps none.

        Raises:
            ConfigError: the model has no calibration.
        """
        _, judged = self._said_of(X)
        return self._chosen(None if judged is None else judged.present, "thresholds for several labels; fit with calibrate=True")

    def score(self, X: object, y: object = None, sample_weight: Sequence[float] | NDArray[np.float64] | None = None) -> float:
        """Share of pictures whose class is told right: those of a source, in its test part where it has one, or pictures with their ``y``.

        Names that differ in case, white space or "_" alone are the same class. The most probable class counts, also where ``predict``
        would not answer.
        """
        if isinstance(X, (str, Path, PictureSet)):
            _refuse_labels(y)
            measured = X if isinstance(X, PictureSet) else _measured(X, [str(name) for name in self.classes_])
            pictures: Sequence[PictureSource] = measured.pictures
            truths = [measured.class_names[label] for label in measured.labels]
        else:
            pictures = _pictures(X)
            truths = _names(y, len(pictures))
        pairs = zip(self.classes_[self.predict_proba(pictures).argmax(axis=1)], truths, strict=True)
        return float(np.average([class_key(said) == class_key(truth) for said, truth in pairs], weights=sample_weight))

    def add_classes(self, class_names: Sequence[str]) -> PromptClassifier:
        """Tell more classes apart, known by name alone; nothing is retrained.

        Raises:
            ConfigError: the method cannot know a class it was not trained on.
            DataError: a name is there already, or is none.
        """
        model = self._fitted().model
        backbone = load_backbone(self._fitted().backbone.name, device=self.device, precision=self.precision)
        added = add_classes(model, class_names, backbone)
        # As in ``y``, the names stay as they are given.
        return self._use(dataclasses.replace(added, class_names=(*model.class_names, *class_names)), backbone)

    def remove_classes(self, class_names: Sequence[str]) -> PromptClassifier:
        """Forget classes.

        Raises:
            ConfigError: there is no such class, fewer than two would be left, or the method has its classes fixed by training.
        """
        model = remove_classes(self._fitted().model, class_names)
        name = self._fitted().backbone.name
        backbone = load_backbone(name, with_text=needs_text(model), device=self.device, precision=self.precision)
        return self._use(model, backbone)

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the model folder: tens of kilobytes to a megabyte, and enough to predict without a text tower, unless class features
        depend on the picture.
        """
        write_model(Path(folder), self._fitted().model, overwrite=overwrite)

    def push_to_hub(
        self, name: str, *, private: bool | None = None, revision: str | None = None, message: str | None = None
    ) -> str:
        """Send the model with its card to ``owner/name`` on the Hugging Face hub, which is made where there is none.

        Only the files of the model go, without paths and names of files of this machine.

        Args:
            private: whether a repository that is made is private; None: as your settings on the hub say.
            revision: branch to write to; ``main`` unless told otherwise.
            message: of the commit.

        Returns:
            ``owner/name@commit``, which means this very model for ever.

        Raises:
            ConfigError: the name is none.
            HubError: nobody is logged in, the network may not be asked, or the hub refuses.
        """
        return self._fitted().push_to_hub(name, private=private, revision=revision, message=message)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        revision: str | None = None,
        backbone: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        cache: bool = True,
    ) -> PromptClassifier:
        """Read a model folder, or a model on the Hugging Face hub.

        Args:
            folder: a folder; or ``owner/name`` or ``owner/name@revision`` on the hub, which is asked where there is no such folder.
            revision: branch, tag or commit of a model on the hub.
            backbone: where its backbone lies now, if elsewhere.

        Raises:
            HubError: there is no such model on the hub, it is private, or it cannot be downloaded.
            CheckpointError: the folder is no model or is damaged, or the backbone is not the one it was trained on.
            BackboneError: there is no such backbone.
        """
        model = read_model(pretrained_folder(folder, revision))
        place = None if backbone is None else str(backbone)
        loaded = backbone_of(model, place, with_text=needs_text(model), device=device, precision=precision)
        classifier = cls(
            model.method,
            backbone=loaded.name,
            options=model.options,
            recipe=model.training.get("recipe"),
            seed=model.training.get("seed", 1),
            device=device,
            precision=precision,
            cache=cache,
        )
        return classifier._use(model, loaded)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_predictor")

    def _use(self, model: SavedModel, backbone: Backbone) -> PromptClassifier:
        self._predictor = Predictor(model, backbone=backbone, cache=self._feature_cache())
        return self

    def _fitted(self) -> Predictor:
        predictor: Predictor | None = getattr(self, "_predictor", None)
        if predictor is None:
            raise NotFittedError("this PromptClassifier is not fitted; call fit, or PromptClassifier.from_pretrained")
        return predictor

    def _said_of(self, source: object) -> tuple[Float[np.ndarray, "image class"], Judged | None]:
        """Probabilities of pictures, and what the rules of a calibration say, where there is one."""
        predictor = self._fitted()
        logits, calibration = predictor.logits(_pictures(source)), predictor.model.calibration
        if calibration is None:
            return logits.double().softmax(dim=1).numpy(), None
        judged = judge(logits.numpy(), calibration)
        return judged.probabilities, judged

    def _chosen(self, chosen: Bool[np.ndarray, "image class"] | None, lacking: str) -> list[tuple[str, ...]]:
        if chosen is None:
            raise ConfigError(f"the model has no {lacking}, or calibrate it with promptmix calibrate")
        names = self._fitted().model.class_names
        return [tuple(names[place] for place in np.flatnonzero(row)) for row in chosen]

    def _feature_cache(self) -> FeatureCache | None:
        return FeatureCache() if self.cache else None


def _plain(options: object) -> object:
    """Options as a dict, whatever kind of mapping they are; what is no mapping is left for the config to refuse."""
    if options is None:
        return {}
    return dict(options) if isinstance(options, Mapping) else options


def _pictures(source: object) -> Sequence[PictureSource]:
    """The pictures of a source or a pattern, or those of a list, a tuple or an array; whatever comes from outside is looked at."""
    if isinstance(source, PictureSet):
        return source.pictures
    if isinstance(source, (str, Path)):
        return list_any_pictures(source)
    if isinstance(source, torch.Tensor):
        raise DataError("pictures come as paths, PIL pictures or numpy arrays, not as a torch tensor; call .numpy() on it")
    if isinstance(source, (Image.Image, bytes)) or (isinstance(source, np.ndarray) and source.ndim == 3):
        raise DataError("this is one picture; put it into a list: [picture]")
    pictures = _in_order(source)
    if pictures is None:
        raise DataError(f"pictures come as a folder or a list of paths, PIL pictures or arrays, not as {type(source).__name__}")
    if not pictures:
        raise DataError("there is no picture in the list")
    return [str(one) if isinstance(one, np.str_) else one for one in pictures]


def _names(labels: object, count: int) -> list[str]:
    """The class names that ``y`` holds for so many pictures."""
    names = None if isinstance(labels, (str, bytes)) else _in_order(labels)
    if names is None:
        raise DataError("a list of pictures needs y, a list of their class names")
    if len(names) != count:
        raise DataError(f"{count} pictures but {len(names)} labels")
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"label {name!r} is no text; y holds class names, which the model reads, such as 'red fox'")
    return [str(name) for name in names]


def _in_order(values: object) -> list[Any] | None:
    """A list of what a list, a tuple, an array or a column of a table holds, by place and not by label; None of anything else."""
    if not isinstance(values, Collection) or isinstance(values, (Mapping, AbstractSet)):
        return None
    return list(values)


def _measured(source: str | Path, class_names: Sequence[str]) -> PictureSet:
    parts = read_parts(source, class_names=class_names)
    return parts[part_to_measure(parts, None, source)]


def _refuse_labels(labels: object) -> None:
    if labels is not None:
        raise DataError("a folder or another source names its own classes; give y only with a list of pictures")


def _labelled(source: object, labels: object) -> LabelledPictures:
    if isinstance(source, (str, Path, PictureSet)):
        _refuse_labels(labels)
        if isinstance(source, PictureSet):
            return LabelledPictures.of(source, f"{len(source)} pictures of {source.root}")
        parts = read_parts(source)
        if "train" not in parts:
            raise DataError(f"{source} has no train part to learn from; it has {', '.join(parts)}")
        return LabelledPictures.of(parts["train"], f"the folder {source}" if len(parts) == 1 else f"the train part of {source}")
    pictures = _pictures(source)
    names = _names(labels, len(pictures))
    class_names = sorted(set(names))
    check_class_names(class_names)
    places = {name: place for place, name in enumerate(class_names)}
    return LabelledPictures(
        pictures=pictures,
        labels=[places[name] for name in names],
        class_names=tuple(class_names),
        description=f"{len(pictures)} given pictures",
    )
