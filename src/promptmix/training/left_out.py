"""What a method says of its own training pictures when it has not learnt from them: cross-fitting, for calibration.

On pictures it has learnt from, a model is far surer of itself than on any others; where these vote for their own class most of all.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open

from promptmix.backbones.base import Backbone
from promptmix.data.images import PictureSource, content_key
from promptmix.data.records import LabelledPictures
from promptmix.errors import CheckpointError, ConfigError, DataError, InterruptedRun
from promptmix.evaluation.calibration import fit_calibration
from promptmix.evaluation.targets import Wanted
from promptmix.features.cache import FeatureCache
from promptmix.methods.registry import method_class
from promptmix.model_folder import SavedModel
from promptmix.nn.calibration import Calibration
from promptmix.runtime import numpy_generator, short_hash, tensors_checksum, write_tensors
from promptmix.training.fit import Progress, RunConfig, logits_of_held_out, no_progress

__all__ = [
    "CALIBRATION_FILES",
    "FOLDS",
    "LeftOut",
    "check_can_leave_out",
    "cross_fit",
    "fold_of_each",
    "read_left_out",
    "write_left_out",
]

CALIBRATION_FILES = ("left_out.safetensors", "calibration.json", "reliability.png")
"""What a run folder holds of a calibration beside the model, which holds the calibration itself."""

FOLDS = 5
"""How many models are learnt besides, each without another part of the shots."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What was said of the shots that were left out.

    Attributes:
        logits: of each one, by a model that has not learnt from it; ``labels`` its class.
        folds: how many models were learnt for that; 0: the method learns nothing, so that the model itself was asked.
        class_names: the classes in the order of the logits.
    """

    logits: Float[np.ndarray, "image class"]
    labels: Int[np.ndarray, "image"]
    folds: int
    class_names: tuple[str, ...]

    def calibration(self, wanted: Wanted) -> Calibration:
        """The calibration that these shots give.

        Raises:
            ConfigError, DataError: what is wanted cannot be reached on so few, or so badly told, pictures.
        """
        count = len(self.labels)
        how = f", each left out of one of {self.folds} models" if self.folds else ", of which nothing was learnt"
        return fit_calibration(
            self.logits,
            self.labels,
            self.class_names,
            wanted,
            fitted_on=f"{count} training pictures{how}",
            cross_fitted=self.folds > 0,
        )


def check_can_leave_out(method: str, labels: Sequence[int]) -> None:
    """Raise unless the shots allow a calibration.

    Raises:
        DataError: the method learns, and there is one picture a class, so that none can be left out.
    """
    learns = method_class(method).learns != "nothing"
    if learns and max(np.bincount(labels)) < 2:
        raise DataError(
            "there is one training picture a class, so that none can be left out to calibrate on; give more shots, train without"
            " --calibrate, or calibrate the model on other labelled pictures (promptmix calibrate MODEL SOURCE)"
        )


def fold_of_each(
    labels: Sequence[int], class_names: Sequence[str], keys: Sequence[str], folds: int, seed: int
) -> Int[np.ndarray, "image"]:
    """The fold in which each picture is left out, from 0; -1 for the pictures of a class that has but one.

    The pictures of a class are dealt out evenly, and classes begin with folds in turn. Copies of a picture (the same key) share a
    fold: a model that has learnt from one has seen the other.
    """
    members: list[dict[str, list[int]]] = [{} for _ in class_names]
    for place, (label, key) in enumerate(zip(labels, keys, strict=True)):
        members[label].setdefault(key, []).append(place)
    dealt = np.full(len(labels), -1, dtype=np.int64)
    first = 0
    for name, copies in zip(class_names, members, strict=True):
        groups = [copies[key] for key in sorted(copies)]
        if len(groups) < 2:
            continue
        numpy_generator(seed, f"left-out shots of {name}").shuffle(groups)
        for number, group in enumerate(groups):
            dealt[group] = (first + number) % folds
        first += len(groups)
    return dealt


def cross_fit(
    config: RunConfig,
    training: LabelledPictures,
    model: SavedModel,
    *,
    backbone: Backbone,
    cache: FeatureCache | None = None,
    more_class_names: Sequence[str] = (),
    folds: int = FOLDS,
    on_progress: Progress = no_progress,
) -> LeftOut:
    """Learn anew without a fifth of the shots of each class, five times, and ask each model about those that it has not seen.

    All is as in the run that gave ``model``; options that were left open are those that the run chose. A class of one shot keeps it
    in all folds.

    Raises:
        DataError: there is one picture a class, so that none can be left out.
        ConfigError: fewer than 2 folds; else as :func:`~promptmix.training.fit.prepare`.
        InterruptedRun: stopped; the run itself is not touched.
    """
    if folds < 2:
        raise ConfigError(f"folds is {folds}; it must be at least 2")
    check_can_leave_out(config.method, training.labels)
    kind = method_class(config.method)
    settled = config.model_copy(update={"options": kind.options_as_learnt(model.options, model.learnt)})
    learns = kind.learns != "nothing"
    with _some_cache(cache) as store:
        parts: list[tuple[LabelledPictures, LabelledPictures]] = [(training, training)]
        if learns:
            keys = [_key_of(picture, place) for place, picture in enumerate(training.pictures)]
            dealt = fold_of_each(training.labels, training.class_names, keys, folds, config.seed)
            if (dealt < 0).all():
                raise DataError(
                    "the training pictures of each class are copies of one, so that none can be left out; give others"
                )
            parts = [
                (training.subset(np.flatnonzero(dealt != fold).tolist()), training.subset(np.flatnonzero(dealt == fold).tolist()))
                for fold in range(folds)
                if (dealt == fold).any()
            ]
        logits, labels = [], []
        for number, (learnt_from, held_out) in enumerate(parts):
            purpose = f"left-out shots {number + 1} of {len(parts)}"
            try:
                said, true = logits_of_held_out(
                    settled, learnt_from, held_out, purpose, backbone, store, more_class_names, on_progress
                )
            except InterruptedRun as problem:
                raise InterruptedRun("stopped while calibrating; the model itself is finished") from problem
            logits.append(said)
            labels.append(true)
    return LeftOut(
        logits=torch.cat(logits).cpu().numpy(),
        labels=torch.cat(labels).cpu().numpy(),
        folds=len(parts) if learns else 0,
        class_names=training.class_names,
    )


def write_left_out(path: Path, left_out: LeftOut, model: SavedModel) -> None:
    """Write what was said of the left-out shots, so that other thresholds can be fitted without learning anew."""
    tensors = {"logits": torch.from_numpy(left_out.logits), "labels": torch.from_numpy(left_out.labels)}
    metadata = {"class_names": json.dumps(left_out.class_names, ensure_ascii=False), "folds": str(left_out.folds)}
    write_tensors(path, tensors, {**metadata, "checksum": _checksum(tensors, metadata, model)})


def read_left_out(path: Path, model: SavedModel) -> LeftOut:
    """Read what :func:`write_left_out` wrote beside this model.

    Raises:
        DataError: there is no such file, or the model has other classes by now, or other words for them.
        CheckpointError: the file is damaged, or belongs to another model.
    """
    if not path.is_file():
        raise DataError(
            f"there are no left-out shots beside this model ({path.name}); train with --calibrate, or give labelled pictures that it did"
            " not learn from (promptmix calibrate MODEL SOURCE)"
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("logits", "labels")}
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"{path} is damaged: {problem}; train again with --calibrate") from problem
    checksum = metadata.pop("checksum", None)
    if checksum != _checksum(tensors, metadata, model):
        raise CheckpointError(f"{path} is damaged or belongs to another model; train again with --calibrate")
    class_names = tuple(json.loads(metadata["class_names"]))
    if class_names != model.class_names or model.class_words:
        raise DataError(
            f"the model has other classes than when {path} was written, or other words for them; give labelled pictures of its classes (promptmix calibrate MODEL"
            " SOURCE)"
        )
    return LeftOut(
        logits=tensors["logits"].numpy(),
        labels=tensors["labels"].numpy(),
        folds=int(metadata["folds"]),
        class_names=class_names,
    )


def _checksum(tensors: dict[str, torch.Tensor], metadata: dict[str, str], model: SavedModel) -> str:
    return short_hash(tensors_checksum(tensors), tensors_checksum(model.learnt), json.dumps(metadata, sort_keys=True))


def _key_of(picture: PictureSource, place: int) -> str:
    """Equal for copies; what is wrong with a picture that cannot be read is said when its features are made."""
    try:
        return content_key(picture)
    except DataError:
        return f"unreadable {place}"


@contextlib.contextmanager
def _some_cache(cache: FeatureCache | None) -> Iterator[FeatureCache]:
    """A cache for the folds alone where there is none: each picture is in all of them."""
    if cache is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="promptmix-") as folder:
        yield FeatureCache(Path(folder))
