"""promptmix classes: what its verbs do."""

from __future__ import annotations

import json
from pathlib import Path

from promptmix.config import parse_config
from promptmix.data.class_words import ClassWords
from promptmix.errors import listed, printable
from promptmix.inference.open_classes import add_worded_classes, rename_class
from promptmix.inference.predictor import backbone_of, remove_classes
from promptmix.model_folder import model_path, read_model, write_classes
from promptmix.model_hub import stored_model


def list_classes(folder: Path, json_output: bool) -> None:
    names = read_model(stored_model(folder)).class_names
    print(json.dumps(list(names)) if json_output else "\n".join(map(printable, names)))


def add(folder: Path, names: list[str], synonyms: list[str], description: str | None, backbone: str | None) -> None:
    model = read_model(folder)
    words = [_words(name, synonyms, description) for name in names]
    added = add_worded_classes(model, words, backbone_of(model, backbone))
    write_classes(model_path(folder), added)
    new = listed(added.class_names[len(model.class_names) :], most=100)
    print(f"{len(added.class_names)} classes now, nothing was retrained: {new} added")


def rename(folder: Path, old: str, new: str, synonyms: list[str], description: str | None, backbone: str | None) -> None:
    model = read_model(folder)
    by_name = model.classifier is None or model.classifier.class_bias is None
    renamed = rename_class(model, old, _words(new, synonyms, description), backbone_of(model, backbone) if by_name else None)
    write_classes(model_path(folder), renamed)
    print(f"{len(renamed.class_names)} classes, nothing was retrained: {old} is now {new}")


def _words(name: str, synonyms: list[str], description: str | None) -> ClassWords:
    return parse_config(ClassWords, {"name": name, "synonyms": synonyms, "description": description}, f"words of class {name!r}")


def remove(folder: Path, names: list[str]) -> None:
    model = read_model(folder)
    left = remove_classes(model, names)
    write_classes(model_path(folder), left)
    print(f"{len(left.class_names)} classes now")
