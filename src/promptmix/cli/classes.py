"""promptmix classes"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from promptmix.inference.predictor import add_classes, backbone_of, remove_classes
from promptmix.model_folder import SavedModel, model_path, read_model, write_classes

logger = logging.getLogger(__name__)


def list_classes(folder: Path, json_output: bool) -> None:
    names = read_model(folder).class_names
    print(json.dumps(list(names)) if json_output else "\n".join(names))


def add(folder: Path, names: list[str], backbone: str | None) -> None:
    model = read_model(folder)
    added = add_classes(model, names, backbone_of(model, backbone))
    write_classes(model_path(folder), added)
    _tell_of_rules(model, added)
    print(
        f"{len(added.class_names)} classes now, nothing was retrained: {', '.join(added.class_names[len(model.class_names) :])} added"
    )


def remove(folder: Path, names: list[str]) -> None:
    model = read_model(folder)
    left = remove_classes(model, names)
    write_classes(model_path(folder), left)
    _tell_of_rules(model, left)
    print(f"{len(left.class_names)} classes now")


def _tell_of_rules(before: SavedModel, after: SavedModel) -> None:
    """Say which rules of the calibration are gone with the classes that they were fitted for."""
    if before.calibration is None or after.calibration is None:
        return
    gone = [
        what
        for what, rule in (("'none of these'", before.calibration.abstain), ("label sets", before.calibration.label_sets))
        if rule is not None
    ]
    if gone:
        logger.warning(
            "%s held for the classes as they were, and are gone; promptmix calibrate fits them anew", " and ".join(gone)
        )
