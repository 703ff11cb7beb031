"""Reading a backbone's files: every problem is one error that names the file and the key."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from promptmix.backbones.torch_archive import read_torch_archive
from promptmix.errors import BackboneError

__all__ = [
    "FORMAT",
    "OPEN_CLIP_CONFIG",
    "OPEN_CLIP_WEIGHTS",
    "TRANSFORMERS_WEIGHTS",
    "kind_of_folder",
    "read_json",
    "read_weights",
    "required",
    "validated",
    "weight_map",
]

FORMAT = "promptmix-backbone"
"""What ``format`` is in a ``config.json`` of our own."""
OPEN_CLIP_CONFIG = "open_clip_config.json"
# In the order of preference.
TRANSFORMERS_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_model.safetensors.index.json", "open_clip_pytorch_model.bin")


def kind_of_folder(names: Collection[str], config: Mapping[str, Any]) -> str | None:
    """Whose format a folder is in: ``own``, ``clip``, ``siglip``, ``siglip2`` or ``open_clip``; None where it is in none.

    Many repositories hold a model in two formats; the weights that are there say which of them to read.

    Args:
        names: of the files.
        config: what ``config.json`` holds; empty where there is none.
    """
    if config.get("format") == FORMAT:
        return "own"
    kind = config.get("model_type")
    is_known = kind in ("clip", "siglip", "siglip2")
    if OPEN_CLIP_CONFIG in names and not (is_known and any(name in names for name in TRANSFORMERS_WEIGHTS)):
        return "open_clip"
    return str(kind) if is_known else None


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        BackboneError: the file is missing, is no JSON, or holds something else.
    """
    if not path.is_file():
        raise BackboneError(f"no backbone at {path.parent}: {path.name} is missing")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as problem:
        raise BackboneError(f"{path} cannot be read: {problem}") from problem
    if not isinstance(value, dict):
        raise BackboneError(f"{path} does not hold a JSON object")
    return value


def required(mapping: dict[str, Any], key: str, where: Path) -> Any:
    """The value of a key.

    Raises:
        BackboneError: there is no such key.
    """
    if key not in mapping:
        raise BackboneError(f"{where}: {key} is missing")
    return mapping[key]


_Model = TypeVar("_Model", bound=BaseModel)


def validated(kind: type[_Model], fields: dict[str, Any], path: Path, their_names: Mapping[str, str] | None = None) -> _Model:
    """A config from the fields that a file gave.

    Args:
        their_names: by our dotted name of a field its key in the file, where that is another.

    Raises:
        BackboneError: a field is missing, unknown or out of range; the message names each.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as problem:
        wrong = "; ".join(
            ": ".join([*filter(None, [_key(error["loc"], their_names or {})]), error["msg"].removeprefix("Value error, ")])
            for error in problem.errors()
        )
        raise BackboneError(f"{path}: {wrong}") from problem


def _key(location: tuple[int | str, ...], their_names: Mapping[str, str]) -> str:
    """The place of a problem as the file calls it; the kind that a union was read as is no part of it."""
    parts = [str(part) for part in location if part not in _KINDS]
    for length in range(len(parts), 0, -1):
        theirs = their_names.get(".".join(parts[:length]))
        if theirs is not None:
            return ".".join([theirs, *parts[length:]])
    return ".".join(parts)


_KINDS = ("vision_transformer", "modified_resnet", "siglip")


def read_weights(folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The weights of a folder, from the first of these files that it has.

    Args:
        names: of a safetensors file, of an index of several, or of a file of ``torch.save``, in the order of preference.

    Raises:
        BackboneError: there are none, or a file is damaged.
    """
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise BackboneError(f"no weights at {folder / names[0]}; a backbone folder needs {' or '.join(names)}")
    if path.name.endswith(".bin"):
        return read_torch_archive(path)
    if path.name.endswith(".safetensors"):
        return _read_safetensors(path)
    tensors: dict[str, Tensor] = {}
    parts = weight_map(path)
    for name in sorted(set(parts.values())):
        tensors |= _read_safetensors(folder / name)
    missing = sorted(parts.keys() - tensors.keys())
    if missing:
        raise BackboneError(f"{path} names {missing[0]}, but {parts[missing[0]]} does not hold it")
    return tensors


def weight_map(index: Path) -> dict[str, str]:
    """The file of each weight, by an index of several safetensors files.

    Raises:
        BackboneError: the index is damaged, or names a file outside its folder.
    """
    parts = required(read_json(index), "weight_map", index)
    if not isinstance(parts, dict) or not all(isinstance(name, str) and Path(name).name == name for name in parts.values()):
        raise BackboneError(f"{index}: weight_map does not map weights to files of this folder")
    return parts


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise BackboneError(f"no weights at {path}; the folder is not whole")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as problem:
        raise BackboneError(f"{path} is damaged: {problem}") from problem
