"""The model folder: written whole or not at all, read strictly, and a person's files beside it left alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from promptmix import model_folder
from promptmix.errors import CheckpointError, DataError
from promptmix.model_folder import SavedModel, is_model, model_path, read_model, remove_model, write_classes, write_model
from promptmix.nn.classifier import Classifier, Router
from promptmix.runtime import torch_generator, write_tensors

FILES = {"README.md", "class_features.safetensors", "config.json", "model.safetensors"}


def model(seed: int = 0, class_names: tuple[str, ...] = ("cat", "red_fox", "Ünïcorn 狐")) -> SavedModel:
    generator = torch_generator(seed, "model folder")
    classifier = Classifier(
        class_features=torch.randn(2, len(class_names), 4, generator=generator),
        scale=1 / 3,
        router=Router(weight=torch.randn(2, 4, generator=generator), bias=torch.randn(2, generator=generator), top_k=1),
        image_map=torch.randn(4, 4, generator=generator),
        renormalise=True,
    )
    return SavedModel(
        method="mocoop",
        options={"top_k": 1, "groups": [["a {}."], ["many {}."]]},
        class_names=class_names,
        trained_class_names=class_names,
        more_class_names=("owl",),
        backbone_name="bundled",
        backbone_fingerprint="0123456789abcdef",
        expert_names=("a {}.", "many {}."),
        classifier=classifier,
        learnt={"contexts": torch.randn(3, 5, generator=generator), "router_bias": torch.randn(2, generator=generator)},
        training={"seed": 3, "recipe": {"rate": 0.1}, "notes": ["a note"]},
    )


def same(first: SavedModel, second: SavedModel) -> bool:
    plain = [field.name for field in dataclasses.fields(SavedModel) if field.name not in ("classifier", "learnt")]
    tensors = ((first.learnt, second.learnt), (first.classifier.tensors(), second.classifier.tensors()))
    return all(getattr(first, name) == getattr(second, name) for name in plain) and all(
        mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine) for mine, theirs in tensors
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", model())
    return tmp_path / "model"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read_to_the_bit(folder: Path) -> None:
    again = read_model(folder)
    assert same(again, model())
    assert not same(again, model(seed=1))
    images = torch.randn(5, 4, generator=torch_generator(0, "images"))
    assert torch.equal(again.classifier.logits(images), model().classifier.logits(images))
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["model"]  # nothing temporary is left


def test_the_card_has_classes_and_notes(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "`cat`, `red_fox`, `Ünïcorn 狐`" in card
    assert "- Note: a note." in card


def test_a_model_is_not_overwritten_unless_asked(folder: Path) -> None:
    before = files(folder)
    with pytest.raises(DataError, match="--overwrite"):
        write_model(folder, model(seed=1))
    assert files(folder) == before
    (folder / "my notes.txt").write_text("mine")
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").write_bytes(b"mine too")
    write_model(folder, model(seed=1), overwrite=True)
    assert same(read_model(folder), model(seed=1))
    assert (folder / "my notes.txt").read_text() == "mine"
    assert (folder / "photos" / "a.png").read_bytes() == b"mine too"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_what_is_no_model_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"format": "of someone else"}')
    with pytest.raises(DataError, match="not a model"):
        write_model(tmp_path, model(), overwrite=True)
    assert files(tmp_path) == {"config.json": b'{"format": "of someone else"}'}
    (tmp_path / "a file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        write_model(tmp_path / "a file", model(), overwrite=True)


@pytest.mark.parametrize("step", ["write_tensors", "write_json", "write_classes", "write_text"])
def test_a_model_that_fails_half_way_leaves_the_old_one(folder: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise OSError(28, "No space left on device")

    before = files(folder)
    monkeypatch.setattr(model_folder, step, fail)
    with pytest.raises(DataError, match="no disk space"):
        write_model(folder, model(seed=1), overwrite=True)
    assert files(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_classes_are_changed_in_one_file_and_told_in_the_card(folder: Path) -> None:
    before = files(folder)
    changed = dataclasses.replace(model(class_names=("cat", "owl")), learnt=model().learnt)
    write_classes(folder, changed)
    after = files(folder)
    assert {name for name in FILES if after[name] != before[name]} == {"class_features.safetensors", "README.md"}
    assert read_model(folder).class_names == ("cat", "owl")
    assert read_model(folder).trained_class_names == model().trained_class_names


def test_classes_of_a_model_that_was_replaced_meanwhile_are_not_written(folder: Path) -> None:
    before = read_model(folder)
    write_model(folder, model(seed=1), overwrite=True)
    with pytest.raises(CheckpointError, match="replaced by another model meanwhile"):
        write_classes(folder, before)
    assert same(read_model(folder), model(seed=1))


@pytest.mark.parametrize("experts", [("a {}.",), ("a {}.", "many {}.", "one {}.")])
def test_every_expert_has_a_name(experts: tuple[str, ...], tmp_path: Path) -> None:
    write_model(tmp_path / "model", dataclasses.replace(model(), expert_names=experts))
    with pytest.raises(CheckpointError, match=rf"has 2 experts but .*config\.json names {len(experts)}"):
        read_model(tmp_path / "model")


@pytest.mark.parametrize("name", ["model.safetensors", "class_features.safetensors"])
def test_a_flipped_bit_is_noticed_wherever_it_is(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in range(start, len(whole), 7):
        broken = bytearray(whole)
        broken[place] ^= 1
        (folder / name).write_bytes(broken)
        with pytest.raises(CheckpointError, match="checksum"):
            read_model(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "class_features.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "junk"])
def test_a_damaged_file_is_named(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "junk": b"\xff\x00" * 40}[damage])
    with pytest.raises(CheckpointError) as caught:
        read_model(folder)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["contexts", "class_features", "router.weight", "image_map", "scale"])
def test_numbers_that_are_not_finite_are_named(name: str, number: float, tmp_path: Path) -> None:
    whole = model()
    if name == "contexts":
        contexts = whole.learnt["contexts"].clone()
        contexts[1, 2] = number
        bad = dataclasses.replace(whole, learnt={**whole.learnt, "contexts": contexts})
    else:
        tensors = {key: tensor.clone() for key, tensor in whole.classifier.tensors().items()}
        tensors[name].view(-1)[-1] = number
        bad = dataclasses.replace(whole, classifier=Classifier.from_tensors(tensors))
    write_model(tmp_path / "model", bad)
    with pytest.raises(CheckpointError, match=rf"tensor {name} has numbers that are not finite; restore") as caught:
        read_model(tmp_path / "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [None, "null", "[", "[" * 100_000, '{"cat": 1}', "[1, 2, 3]", '"cat"'])
def test_class_names_of_a_file_that_somebody_made_are_read_strictly(folder: Path, names: str | None) -> None:
    path = folder / "class_features.safetensors"
    tensors, metadata = model_folder._read_tensors(path)
    del metadata["class_names"]
    metadata |= {} if names is None else {"class_names": names}
    metadata["checksum"] = model_folder._header_checksum(tensors, metadata)
    write_tensors(path, tensors, metadata)
    with pytest.raises(CheckpointError, match=r"class_features\.safetensors has .*class names"):
        read_model(folder)


def test_files_of_two_models_do_not_mix(folder: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "other", dataclasses.replace(model(), training={"seed": 4}))
    shutil.copy(tmp_path / "other" / "class_features.safetensors", folder)
    with pytest.raises(CheckpointError, match="belongs to another model"):
        read_model(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": None}, "lacks method"),
        ({"backbone": None}, "lacks backbone"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"optionz": 1}, "did you mean 'options'"),
        ({"format": "promptmix-run"}, "does not describe a promptmix model"),
        ({"format_version": 2}, "format version 2"),
        ({"backbone": "bundled"}, "backbone"),
        ({"backbone": {"name": "bundled"}}, "backbone"),
        ({"trained_class_names": 3}, "trained_class_names"),
        ({"trained_class_names": "cat"}, "trained_class_names"),
        ({"expert_names": [1]}, "expert_names"),
        ({"options": []}, "options"),
        ({"training": None, "trainin": 1}, "training"),
        ({"method": 3}, "method is not a text"),
        ({"backbone": {"name": "bundled", "fingerprint": 3}}, "backbone is not a name and a fingerprint"),
    ],
)
def test_a_config_is_read_strictly(folder: Path, change: dict[str, Any], words: str) -> None:
    config = {**json.loads((folder / "config.json").read_text(encoding="utf-8")), **change}
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words) as caught:
        read_model(folder)
    assert "\n" not in str(caught.value)


def test_a_run_folder_stands_for_its_model(folder: Path, tmp_path: Path) -> None:
    assert model_path(tmp_path) == folder
    assert same(read_model(tmp_path), model())
    with pytest.raises(CheckpointError, match="no such folder"):
        read_model(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="it is a file"):
        read_model(folder / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_model(tmp_path / "empty")


def test_only_the_files_of_a_model_are_removed(folder: Path) -> None:
    (folder / "mine.txt").write_text("mine")
    remove_model(folder)
    assert {path.name for path in folder.iterdir()} == {"mine.txt"}
    assert not is_model(folder)
    (folder / "config.json").write_text("{}")
    remove_model(folder)
    assert {path.name for path in folder.iterdir()} == {"mine.txt", "config.json"}
