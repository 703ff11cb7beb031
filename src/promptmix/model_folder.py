"""What a saved model is: a folder, written whole and read strictly.

    config.json                  method, options, backbone, training classes, how it was trained
    model.safetensors            what was learnt, and nothing else
    class_features.safetensors   the classifier: class features, router, scale; the class names stand in its header
                                 (the names alone where class features depend on the picture), and the calibration, if there is one
    README.md                    the model card; one marked block of it is ours

Prediction reads the first and third files and needs no text tower; where class features depend on the picture, it makes them from the
second, with the text tower. Classes are changed by replacing the third file in one step,
so a model is never half changed, and its calibration with them. It carries a key of the others, so files of two models cannot be mixed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

import promptmix
from promptmix.cards.content import model_card
from promptmix.cards.owner import has_own_text, renewed_card
from promptmix.data.class_words import ClassWords
from promptmix.data.records import check_class_names
from promptmix.errors import CheckpointError, ConfigError, DataError, did_you_mean
from promptmix.methods.registry import method_class
from promptmix.nn.calibration import Calibration
from promptmix.nn.classifier import Classifier
from promptmix.runtime import remove_leftovers, short_hash, tensors_checksum, write_json, write_tensors, write_text, writing

__all__ = [
    "CARD",
    "MODEL_FILES",
    "SavedModel",
    "is_model",
    "model_path",
    "read_config",
    "read_model",
    "refuse_overwrite",
    "remove_model",
    "write_card",
    "write_classes",
    "write_model",
]

_logger = logging.getLogger(__name__)

_FORMAT = "promptmix-model"
_VERSION = 1
_RUN_FORMAT = "promptmix-run"
CARD = "README.md"
MODEL_FILES = ("config.json", "model.safetensors", "class_features.safetensors")
"""What a model is read from; all other files of a folder are never looked at."""
_FILES = (*MODEL_FILES, CARD)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A fitted model, complete.

    Attributes:
        class_names: the classes it tells apart now; ``trained_class_names`` those it saw pictures of.
        options: the method's options, everything written out.
        classifier: what tells the classes apart; None where class features depend on the picture: then the method itself does.
        learnt: the method's parameters.
        expert_names: how people see the experts.
        training: what is worth knowing of its training: data, shots, seed, metrics, notes.
        calibration: what makes probabilities of its logits; None: the plain softmax does.
        class_words: by class name the words of the classes that were given more than a name.
    """

    method: str
    options: Mapping[str, Any]
    class_names: tuple[str, ...]
    trained_class_names: tuple[str, ...]
    more_class_names: tuple[str, ...]
    backbone_name: str
    backbone_fingerprint: str
    expert_names: tuple[str, ...]
    classifier: Classifier | None
    learnt: Mapping[str, Tensor]
    training: Mapping[str, Any]
    calibration: Calibration | None = None
    class_words: Mapping[str, ClassWords] = dataclasses.field(default_factory=dict)


def refuse_overwrite(folder: Path, overwrite: bool, kind: Literal["model", "run"] = "model") -> None:
    """Raise unless a model or run may be written to ``folder``: it is missing or empty, or overwriting was asked for and it holds
    one of the same kind. What it is, its own files say; a file that only has the name of one of ours is a person's.

    Raises:
        DataError: there is something in the way.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; choose a folder to write to")
    there = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if not there:
        return
    if kind == "model" and overwrite and there.isdisjoint(_FILES):
        return  # files of others, beside which there is room
    ours = is_model(folder) if kind == "model" else _has_format(folder / "run.json", _RUN_FORMAT)
    if kind == "run" and ours and there <= {"run.json", "split.json"}:
        return  # a run that failed before it had learnt anything
    if not ours:
        raise DataError(f"{folder} holds files that are not a {kind}; nothing there is overwritten, choose another folder")
    if not overwrite:
        also = " or --resume" if kind == "run" else ""
        raise DataError(f"{folder} is not empty; choose another folder, or pass --overwrite{also}")
    if kind == "run":
        refuse_overwrite(folder / "model", overwrite=True)


def is_model(folder: Path) -> bool:
    """Whether a folder says that it is a model; it may be damaged all the same."""
    return _has_format(folder / "config.json", _FORMAT)


def remove_model(folder: Path) -> None:
    """Remove the files of a model, and the folder unless other files lie in it. A card that somebody wrote into is kept as
    ``README.old.md``."""
    if is_model(folder):
        _set_card_aside(folder)
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def write_model(folder: Path, model: SavedModel, *, overwrite: bool = False) -> None:
    """Write a model folder whole or not at all. A model that is overwritten leaves the files of others that lie beside its own.

    Raises:
        DataError: the folder is not empty and ``overwrite`` was not given, or it cannot be written.
    """
    refuse_overwrite(folder, overwrite)
    with writing(folder):
        _write_model(folder, model)


def _write_model(folder: Path, model: SavedModel) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    try:
        learnt = {name: tensor.detach().cpu().contiguous() for name, tensor in model.learnt.items()}
        write_tensors(staging / "model.safetensors", learnt, {"format": "pt"})
        config = {
            "format": _FORMAT,
            "format_version": _VERSION,
            "promptmix_version": promptmix.__version__,
            "method": model.method,
            "options": dict(model.options),
            "trained_class_names": list(model.trained_class_names),
            "more_class_names": list(model.more_class_names),
            "expert_names": list(model.expert_names),
            "backbone": {"name": model.backbone_name, "fingerprint": model.backbone_fingerprint},
            "learnt_checksum": tensors_checksum(learnt),
            "training": dict(model.training),
        }
        write_json(staging / "config.json", config)
        write_classes(staging, model)
        _keep_card(folder, staging)
        staging.chmod(0o755)
        if folder.exists():
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".old"))
            os.replace(folder, aside / "old")
            os.replace(staging, folder)
            for entry in (aside / "old").iterdir():
                if entry.name not in _FILES:
                    os.replace(entry, folder / entry.name)
            shutil.rmtree(aside)
        else:
            os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_classes(folder: Path, model: SavedModel) -> None:
    """Replace a model folder's classes and calibration by those of ``model``, in one step; then what its card says of them.

    Raises:
        CheckpointError: the folder holds another model by now.
    """
    config = read_config(folder)
    if config["learnt_checksum"] != tensors_checksum(model.learnt):
        raise CheckpointError(f"{folder} was replaced by another model meanwhile, and is left as it is; do it again")
    tensors = {} if model.classifier is None else model.classifier.tensors()
    metadata = {
        "class_names": json.dumps(list(model.class_names), ensure_ascii=False),
        "model_key": _model_key(config),
    }
    if model.calibration is not None:
        metadata["calibration"] = model.calibration.model_dump_json()
    if model.class_words:
        metadata["class_words"] = json.dumps([words.model_dump() for words in model.class_words.values()], ensure_ascii=False)
    metadata["checksum"] = _header_checksum(tensors, metadata)
    for name in ("class_features.safetensors", CARD):
        remove_leftovers(folder / name)  # classes change as long as a server runs: what killed ones leave must not pile up
    write_tensors(folder / "class_features.safetensors", tensors, metadata)
    write_card(folder, model_card(config, model.class_names, model.calibration, worded=model.class_words))


def write_card(folder: Path, fresh: str, before: str | None = None) -> None:
    """Bring the card of a folder up to ``fresh``, and leave what its owner wrote into it, as
    :func:`~promptmix.cards.owner.renewed_card` does; a card without our marks is left alone."""
    path = folder / CARD
    existing = _card_text(path) if path.is_file() else fresh
    renewed = None if existing is None else renewed_card(existing, fresh, before)
    if renewed is None:
        _logger.warning("%s has no marks of promptmix in it and is left as it is; it may no longer fit the model", path)
    elif not path.is_file() or renewed != existing:
        write_text(path, renewed)


def _card_text(path: Path) -> str | None:
    """What a card says; None where it is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _fresh_card(folder: Path) -> str | None:
    """The card of the model in a folder as it is before anyone writes into it; None where the folder does not say what it holds."""
    try:
        config = read_config(folder)
    except CheckpointError:
        return None
    return model_card(config, config["trained_class_names"])


def _keep_card(folder: Path, staging: Path) -> None:
    """Take what somebody wrote into the card of a model that is overwritten over to the new one."""
    if not (folder / CARD).is_file():
        return
    fresh = (staging / CARD).read_text(encoding="utf-8")
    before = _fresh_card(folder) if is_model(folder) else None
    existing = _card_text(folder / CARD)
    if before is not None and existing is not None and not has_own_text(existing, before):
        return
    shutil.copy(folder / CARD, staging / CARD)
    write_card(staging, fresh, before)


def _set_card_aside(folder: Path) -> None:
    existing, before = _card_text(folder / CARD), _fresh_card(folder)
    if not (folder / CARD).is_file() or (existing is not None and before is not None and not has_own_text(existing, before)):
        return
    names = (f"README.old{number}.md" for number in ("", *range(2, 1000)))
    os.replace(folder / CARD, folder / next(name for name in names if not (folder / name).exists()))


def model_path(folder: Path) -> Path:
    """The model folder itself, where the folder of its run is given."""
    inside = folder / "model"
    return inside if not (folder / "config.json").is_file() and (inside / "config.json").is_file() else folder


def read_model(folder: Path) -> SavedModel:
    """Read a model folder, or the model inside a run folder.

    Raises:
        CheckpointError: the folder is not a model, a file is missing or damaged, a number is not finite, or the files are of
            different models.
    """
    folder = model_path(folder)
    config = read_config(folder)
    learnt, _ = _read_tensors(folder / "model.safetensors")
    if tensors_checksum(learnt) != config["learnt_checksum"]:
        raise CheckpointError(f"{folder / 'model.safetensors'} is damaged: its checksum does not fit; restore or train again")
    _check_finite(folder / "model.safetensors", learnt)
    path = folder / "class_features.safetensors"
    tensors, metadata = _read_tensors(path)
    if metadata.get("checksum") != _header_checksum(tensors, metadata):
        raise CheckpointError(f"{path} is damaged: its checksum does not fit; restore or train again")
    if metadata.get("model_key") != _model_key(config):
        raise CheckpointError(f"{path} belongs to another model than {folder / 'config.json'}; restore the right file")
    _check_finite(path, tensors)
    class_names = _read_class_names(path, metadata)
    classifier = None
    try:
        if not method_class(config["method"]).needs_text_to_predict:
            classifier = Classifier.from_tensors(tensors)
        elif tensors:
            raise ValueError(f"tensor {min(tensors)} is there, but method {config['method']} has no class features of its own")
    except (ValueError, ConfigError) as problem:
        raise CheckpointError(f"{path}: {problem}") from problem
    if classifier is not None and len(class_names) != classifier.num_classes:
        raise CheckpointError(f"{path} has {classifier.num_classes} classes but {len(class_names)} names")
    experts = len(config["expert_names"])
    if classifier is not None and classifier.class_features.shape[0] != experts:
        raise CheckpointError(
            f"{path} has {classifier.class_features.shape[0]} experts but {folder / 'config.json'} names {experts}"
        )
    return SavedModel(
        method=config["method"],
        options=config["options"],
        class_names=class_names,
        trained_class_names=tuple(config["trained_class_names"]),
        more_class_names=tuple(config["more_class_names"]),
        backbone_name=config["backbone"]["name"],
        backbone_fingerprint=config["backbone"]["fingerprint"],
        expert_names=tuple(config["expert_names"]),
        classifier=classifier,
        learnt=learnt,
        training=config["training"],
        calibration=_read_calibration(path, metadata, len(class_names)),
        class_words=_read_class_words(path, metadata),
    )


def _header_checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Over all that the file of the classes says; a promptmix that does not know calibrations refuses a file with one by it."""
    calibration = [metadata["calibration"]] if "calibration" in metadata else []
    words = ["class_words", metadata["class_words"]] if "class_words" in metadata else []
    return short_hash(tensors_checksum(tensors), metadata.get("class_names", ""), *calibration, *words)


def _read_class_names(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The names that a file of classes gives: texts that are classes to people too."""
    try:
        names = json.loads(metadata["class_names"])
        if not isinstance(names, list):
            raise ValueError("they are no list")
        check_class_names(names)
        return tuple(names)  # as they are spelled, with "_" where a person's labels have it
    except (KeyError, ValueError, TypeError, RecursionError) as problem:  # a DataError is of the second kind
        raise CheckpointError(f"{path} has no class names that can be used: {problem}; restore it or train again") from problem


def _read_class_words(path: Path, metadata: Mapping[str, str]) -> dict[str, ClassWords]:
    try:
        every = [ClassWords.model_validate_json(json.dumps(words)) for words in json.loads(metadata.get("class_words", "[]"))]
    except (ValueError, TypeError, RecursionError) as problem:
        raise CheckpointError(
            f"{path} has words of classes that this promptmix cannot read: update it, or add them again"
        ) from problem
    return {words.name: words for words in every}


def _read_calibration(path: Path, metadata: Mapping[str, str], num_classes: int) -> Calibration | None:
    if "calibration" not in metadata:
        return None
    try:
        calibration = Calibration.model_validate_json(metadata["calibration"])
    except ValidationError as problem:
        raise CheckpointError(f"{path} has a calibration that this promptmix cannot read: update it, or train again") from problem
    rule = calibration.multi_label
    if rule is not None and len(rule.thresholds) != num_classes:
        raise CheckpointError(
            f"{path} has {num_classes} classes but {len(rule.thresholds)} thresholds; restore it or train again"
        )
    return calibration


def read_config(folder: Path) -> dict[str, Any]:
    """What the ``config.json`` of a model folder holds.

    Raises:
        CheckpointError: the folder is no model, or the file is damaged or of another version.
    """
    path = folder / "config.json"
    if not path.is_file():
        if _has_format(folder / "run.json", _RUN_FORMAT):
            raise CheckpointError(f"{folder} holds a run that has no model yet; finish it with promptmix train --resume")
        what = "it has no config.json" if folder.is_dir() else "it is a file" if folder.exists() else "there is no such folder"
        raise CheckpointError(f"{folder} is no model folder: {what}; give one that promptmix train has written")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as problem:
        raise CheckpointError(f"{path} is damaged: {problem}") from problem
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise CheckpointError(f"{path} does not describe a promptmix model")
    if config.get("format_version") != _VERSION:
        raise CheckpointError(
            f"{path} has format version {config.get('format_version')}; this promptmix reads {_VERSION}: update it, or train again"
        )
    wanted = {
        "format",
        "format_version",
        "promptmix_version",
        "method",
        "options",
        "trained_class_names",
        "more_class_names",
        "expert_names",
        "backbone",
        "learnt_checksum",
        "training",
    }
    for key in sorted(wanted - config.keys()):
        raise CheckpointError(f"{path} lacks {key}; restore it or train again")
    for key in sorted(config.keys() - wanted):
        raise CheckpointError(f"{path} has the unknown key {key!r}{did_you_mean(key, sorted(wanted))}")
    backbone = config["backbone"]
    for kind, fits, keys in (
        ("a text", _is_text, ("promptmix_version", "method", "learnt_checksum")),
        ("a list of texts", _is_list_of_texts, ("trained_class_names", "more_class_names", "expert_names")),
        ("a JSON object", lambda value: isinstance(value, dict), ("options", "backbone", "training")),
    ):
        for key in keys:
            if not fits(config[key]):
                raise CheckpointError(f"{path}: {key} is not {kind}; restore it or train again")
    if backbone.keys() != {"name", "fingerprint"} or not _is_list_of_texts(list(backbone.values())):
        raise CheckpointError(f"{path}: backbone is not a name and a fingerprint; restore it or train again")
    return config


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _has_format(path: Path, wanted: str) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == wanted


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the model is not complete")
    try:
        with safe_open(path, framework="pt") as file:
            # Copied, because in the file a tensor may lie anywhere, and sums over memory that is not aligned round in another way.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"{path} is damaged: {problem}") from problem


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in sorted(tensors.items()):
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{path}: tensor {name} has numbers that are not finite; restore it or train again")


def _model_key(config: Mapping[str, Any]) -> str:
    return short_hash(json.dumps(config, sort_keys=True))
