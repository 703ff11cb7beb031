"""promptmix classes"""

from __future__ import annotations

import json
from pathlib import Path

from promptmix.inference.predictor import add_classes, backbone_of, remove_classes
from promptmix.model_folder import model_path, read_model, write_classes


def list_classes(folder: Path, json_output: bool) -> None:
    names = read_model(folder).class_names
    print(json.dumps(list(names)) if json_output else "\n".join(names))


def add(folder: Path, names: list[str], backbone: str | None) -> None:
    model = read_model(folder)
    added = add_classes(model, names, backbone_of(model, backbone))
    write_classes(model_path(folder), added)
    print(
        f"{len(added.class_names)} classes now, nothing was retrained: {', '.join(added.class_names[len(model.class_names) :])} added"
    )


def remove(folder: Path, names: list[str]) -> None:
    left = remove_classes(read_model(folder), names)
    write_classes(model_path(folder), left)
    print(f"{len(left.class_names)} classes now")
