"""The calibration in a model folder: written in one step with the classes, read strictly, and absent from models without one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tests.unit.nn.test_calibration import RULES, calibration
from tests.unit.test_model_folder import FILES, files, model

from promptmix.errors import CheckpointError
from promptmix.model_folder import read_model, write_classes, write_model
from promptmix.nn.calibration import Calibration
from promptmix.runtime import short_hash, tensors_checksum, write_tensors

WHOLE = calibration(1 / 3, **RULES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", dataclasses.replace(model(), calibration=WHOLE))
    return tmp_path / "model"


def rewritten(folder: Path, change: dict[str, str | None], forged: bool) -> None:
    """Change the header of the file of the classes; a forger makes the checksum anew."""
    path = folder / "class_features.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    metadata = {name: value for name, value in {**metadata, **change}.items() if value is not None}
    if forged:
        parts = [metadata["calibration"]] if "calibration" in metadata else []
        metadata["checksum"] = short_hash(tensors_checksum(tensors), metadata["class_names"], *parts)
    write_tensors(path, tensors, metadata)


def test_it_comes_back_to_the_bit(folder: Path) -> None:
    assert read_model(folder).calibration == WHOLE
    assert {path.name for path in folder.iterdir()} == FILES


def test_models_without_one_are_as_they_always_were(folder: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "old", model())
    assert read_model(tmp_path / "old").calibration is None
    with safe_open(tmp_path / "old" / "class_features.safetensors", framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    assert metadata.keys() == {"class_names", "model_key", "checksum"}
    # What a promptmix that knows no calibration checks, and what makes it refuse a model that has one.
    assert metadata["checksum"] == short_hash(tensors_checksum(tensors), metadata["class_names"])
    with safe_open(folder / "class_features.safetensors", framework="pt") as file:
        assert file.metadata()["checksum"] != short_hash(tensors_checksum(tensors), metadata["class_names"])


def test_calibrating_changes_one_file_in_one_step_and_is_told_in_the_card(tmp_path: Path) -> None:
    write_model(tmp_path / "model", model())
    before = files(tmp_path / "model")
    write_classes(tmp_path / "model", dataclasses.replace(model(), calibration=WHOLE))
    after = files(tmp_path / "model")
    assert {name for name in FILES if after[name] != before[name]} == {"class_features.safetensors", "README.md"}
    assert read_model(tmp_path / "model").calibration == WHOLE
    write_classes(tmp_path / "model", model())
    assert read_model(tmp_path / "model").calibration is None


def test_a_calibration_that_was_touched_is_refused(folder: Path) -> None:
    text = WHOLE.model_dump_json()
    for change in (text.replace('"wanted":0.9', '"wanted":0.8'), None):
        rewritten(folder, {"calibration": change}, forged=False)
        with pytest.raises(CheckpointError, match="checksum"):
            read_model(folder)
        rewritten(folder, {"calibration": text}, forged=True)
    assert read_model(folder).calibration == WHOLE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "promptmix-calibration-2"}, "cannot read: update it"),
        ({"temperature": -1.0}, "cannot read"),
        ({"multi_label": {**WHOLE.model_dump()["multi_label"], "thresholds": [0.5]}}, "3 classes but 1 thresholds"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    changed = json.dumps({**WHOLE.model_dump(mode="json"), **change})
    rewritten(folder, {"calibration": changed}, forged=True)
    with pytest.raises(CheckpointError, match=message):
        read_model(folder)


@pytest.mark.parametrize(
    "names",
    [
        '"cat"',
        "3",
        "no JSON",
        '{"cat": 1, "red_fox": 2, "owl": 3}',
        '["cat", 1, "owl"]',
        '["cat", "Cat", "owl"]',
        '["cat", "", "owl"]',
        '["cat", "a\\u0000b", "owl"]',
        "[" * 100_000,
    ],
)
def test_class_names_that_are_none_are_refused(folder: Path, names: str) -> None:
    rewritten(folder, {"class_names": names}, forged=True)
    with pytest.raises(CheckpointError, match="no class names that can be used"):
        read_model(folder)


def test_a_thousand_classes_fit_into_the_header(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(1000))
    rule = RULES["multi_label"].model_copy(update={"thresholds": tuple(number / 1000 for number in range(1000))})
    many: Calibration = WHOLE.model_copy(update={"multi_label": rule})
    write_model(tmp_path / "model", dataclasses.replace(model(class_names=names), calibration=many))
    assert read_model(tmp_path / "model").calibration == many
