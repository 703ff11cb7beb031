"""What a saved model is: a folder, written whole and read strictly.

    config.json                  method, options, backbone, training classes, how it was trained
    model.safetensors            what was learnt, and nothing else
    class_features.safetensors   the classifier: class features, router, scale; the class names stand in its header
    README.md                    the model card

Prediction reads the first and third files and needs no text tower. Classes are changed by replacing the third file in one step,
so a model is never half changed. It carries a key of the others, so files of two models cannot be mixed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import promptmix
from promptmix.errors import CheckpointError, DataError
from promptmix.nn.classifier import Classifier
from promptmix.runtime import atomic_path, short_hash, tensors_checksum, write_json, write_text

__all__ = ["SavedModel", "model_path", "read_model", "refuse_overwrite", "write_classes", "write_model"]

_FORMAT = "promptmix-model"
_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A fitted model, complete.

    Attributes:
        class_names: the classes it tells apart now; ``trained_class_names`` those it saw pictures of.
        options: the method's options, everything written out.
        learnt: the method's parameters.
        expert_names: how people see the experts.
        training: what is worth knowing of its training: data, shots, seed, metrics, notes.
    """

    method: str
    options: Mapping[str, Any]
    class_names: tuple[str, ...]
    trained_class_names: tuple[str, ...]
    more_class_names: tuple[str, ...]
    backbone_name: str
    backbone_fingerprint: str
    expert_names: tuple[str, ...]
    classifier: Classifier
    learnt: Mapping[str, Tensor]
    training: Mapping[str, Any]


def refuse_overwrite(folder: Path, overwrite: bool) -> None:
    """Raise unless ``folder`` is free (missing or empty), or overwriting was asked for and it is one of ours.

    Raises:
        DataError: there is something in the way.
    """
    if folder.is_file():
        raise DataError(f"{folder} is a file; choose a folder to write to")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    ours = any((folder / name).is_file() for name in ("config.json", "run.json", "model/config.json"))
    if not overwrite:
        raise DataError(f"{folder} is not empty; choose another folder, or pass --overwrite{' or --resume' if ours else ''}")
    if not ours:
        raise DataError(f"{folder} holds files that are not a model or a run; it is not overwritten, choose another folder")


def write_model(folder: Path, model: SavedModel, *, overwrite: bool = False) -> None:
    """Write a model folder whole or not at all.

    Raises:
        DataError: the folder is not empty and ``overwrite`` was not given, or it cannot be written.
    """
    refuse_overwrite(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    try:
        learnt = {name: tensor.detach().cpu().contiguous() for name, tensor in model.learnt.items()}
        with atomic_path(staging / "model.safetensors") as temporary:
            save_file(learnt, temporary, metadata={"format": "pt"})
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
        write_text(staging / "README.md", _card(model))
        staging.chmod(0o755)
        if folder.exists():
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".old"))
            os.replace(folder, aside / "old")
            os.replace(staging, folder)
            shutil.rmtree(aside)
        else:
            os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_classes(folder: Path, model: SavedModel) -> None:
    """Replace a model folder's classes by those of ``model``, in one step."""
    tensors = model.classifier.tensors()
    metadata = {
        "class_names": json.dumps(list(model.class_names), ensure_ascii=False),
        "model_key": _model_key(_read_config(folder)),
        "checksum": tensors_checksum(tensors),
    }
    with atomic_path(folder / "class_features.safetensors") as temporary:
        save_file(tensors, temporary, metadata=metadata)


def model_path(folder: Path) -> Path:
    """The model folder itself, where the folder of its run is given."""
    inside = folder / "model"
    return inside if not (folder / "config.json").is_file() and (inside / "config.json").is_file() else folder


def read_model(folder: Path) -> SavedModel:
    """Read a model folder, or the model inside a run folder.

    Raises:
        CheckpointError: the folder is not a model, a file is missing or damaged, or the files are of different models.
    """
    folder = model_path(folder)
    config = _read_config(folder)
    learnt, _ = _read_tensors(folder / "model.safetensors")
    if tensors_checksum(learnt) != config["learnt_checksum"]:
        raise CheckpointError(f"{folder / 'model.safetensors'} is damaged: its checksum does not fit; restore or train again")
    path = folder / "class_features.safetensors"
    tensors, metadata = _read_tensors(path)
    if metadata.get("checksum") != tensors_checksum(tensors):
        raise CheckpointError(f"{path} is damaged: its checksum does not fit; restore or train again")
    if metadata.get("model_key") != _model_key(config):
        raise CheckpointError(f"{path} belongs to another model than {folder / 'config.json'}; restore the right file")
    try:
        classifier = Classifier.from_tensors(tensors)
    except ValueError as problem:
        raise CheckpointError(f"{path}: {problem}") from problem
    class_names = tuple(json.loads(metadata["class_names"]))
    if len(class_names) != classifier.class_features.shape[1]:
        raise CheckpointError(f"{path} has {classifier.class_features.shape[1]} classes but {len(class_names)} names")
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
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is no model folder: it has no config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as problem:
        raise CheckpointError(f"{path} is damaged: {problem}") from problem
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise CheckpointError(f"{path} does not describe a promptmix model")
    if config.get("format_version") != _VERSION:
        raise CheckpointError(f"{path} has format version {config.get('format_version')}; this promptmix reads {_VERSION}")
    wanted = {
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
        raise CheckpointError(f"{path} lacks {key}")
    return config


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the model is not complete")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"{path} is damaged: {problem}") from problem


def _model_key(config: Mapping[str, Any]) -> str:
    bound = {key: config[key] for key in ("method", "options", "trained_class_names", "backbone", "learnt_checksum")}
    return short_hash(json.dumps(bound, sort_keys=True, ensure_ascii=False))


def _card(model: SavedModel) -> str:
    training = model.training
    measured = training.get("measured_on", "nothing")
    metrics, zero_shot = training.get("metrics") or {}, training.get("zero_shot") or {}
    rows = [
        f"| {label} | {100 * metrics[key]:.1f} | {100 * zero_shot[key]:.1f} |"
        for key, label in (("accuracy", "top-1 accuracy (%)"), ("accuracy_per_class_mean", "mean per class (%)"))
        if key in metrics and key in zero_shot
    ]
    listed = ", ".join(model.class_names[:50]) + (
        f" ... ({len(model.class_names)} in all)" if len(model.class_names) > 50 else ""
    )
    lines = [
        "---",
        "library_name: promptmix",
        "pipeline_tag: image-classification",
        "tags: [promptmix, prompt-learning, clip]",
        "---",
        "",
        f"# {model.method}: {len(model.class_names)} classes",
        "",
        f"Tells apart: {listed}.",
        "",
        f"Learnt with promptmix {promptmix.__version__}, method `{model.method}`, on the frozen backbone `{model.backbone_name}`"
        f" (fingerprint {model.backbone_fingerprint}).",
        f"Trained on {training.get('num_training_pictures', 'an unknown number of')} pictures, seed {training.get('seed', 'unknown')}.",
        "",
        f"Measured on {measured}:",
        "",
        "| | this model | zero-shot, same pictures |",
        "|---|---|---|",
        *rows,
        "",
        *(f"- Note: {note}." for note in training.get("notes", [])),
        "",
        "```python",
        "from promptmix import PromptClassifier",
        'model = PromptClassifier.from_pretrained("path/to/this/folder")',
        'model.predict(["picture.jpg"])',
        "```",
        "",
    ]
    return "\n".join(lines)
