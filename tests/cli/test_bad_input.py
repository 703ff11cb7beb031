"""Whatever is wrong with what a person gives: one clear line, the promised exit code, nothing broken, nothing lost."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from promptmix import runtime
from promptmix.cli import guard
from promptmix.errors import CheckpointError
from promptmix.features import cache as feature_cache
from promptmix.model_folder import read_model
from promptmix.training import loop
from promptmix.training import run as training_run

Promptmix = Callable[..., Any]


@pytest.fixture
def copied(photos: Path, tmp_path: Path) -> Path:
    """The pictures, free to be changed."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


@pytest.fixture
def run_folder(trained: Path, tmp_path: Path) -> Path:
    """The finished run, free to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "trained"))


def zero_shot(source: Path, out: Path, *more: str | Path) -> list[str | Path]:
    """The quickest run there is."""
    return ["train", source, "--out", out, "--method", "zero-shot", *more]


def everything_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------- folders and classes


def test_folders_that_are_no_set_of_classes(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    shutil.copytree(photos / "cat", tmp_path / "one" / "cat")
    promptmix("train", tmp_path / "nowhere", "--out", out).fails(4, "there is no folder", "nowhere", "check the path")
    promptmix("train", photos / "cat" / "08.png", "--out", out).fails(4, "is a file", "one sub-folder a class")
    promptmix("train", tmp_path / "empty", "--out", out).fails(4, "is empty", "one sub-folder a class")
    promptmix("train", photos / "cat", "--out", out).fails(4, "8 pictures but no class folders", "sub-folder")
    promptmix("train", tmp_path / "one", "--out", out).fails(4, "only one class folder ('cat')", "further class")
    assert not out.exists()


def test_a_class_without_pictures(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    (copied / "dog").mkdir()
    (copied / "dog" / "notes.txt").write_text("no picture", encoding="utf-8")
    promptmix("train", copied, "--out", tmp_path / "out").fails(4, "dog", "holds no picture", "remove the folder")


def test_a_class_with_fewer_pictures_than_shots_is_used_and_named(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    for picture in sorted((copied / "cat").iterdir())[3:]:
        picture.unlink()
    done = promptmix(*zero_shot(copied, tmp_path / "out", "--shots", "4"))
    done.works()
    assert "note: fewer than 4 pictures, so all of them were learnt from: cat (3)\n" in done.out
    assert "note: no picture was there to measure these classes on: cat\n" in done.out
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert result["notes"][:2] == [line.removeprefix("note: ") for line in done.out.splitlines() if line.startswith("note: ")][:2]
    assert result["metrics"]["per_class"]["cat"] is None
    assert result["data"].startswith("trained on 11 pictures")


def test_nothing_left_to_measure_on_is_said(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    done = promptmix(*zero_shot(photos, tmp_path / "out", "--shots", "8"))
    done.works()
    assert "note: measured on the training pictures themselves" in done.out


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("red fox", "red_fox"), ("'red fox' and 'red_fox' are the same name", "rename one or merge")),
        (("Cat",), ("'Cat' and 'cat' are the same name",)),
        (("_",), ("class name '_' is empty", "letters or digits")),
        (("wolf\twolf\x07",), ("control character", "rename")),
        (("x" * 201,), ("201 characters", "at most 200")),
        ((" ".join(["quincunx"] * 20),), ("quincunx", "room for 77", "shorten the name")),
    ],
)
def test_class_names_that_cannot_be_used(
    promptmix: Promptmix, copied: Path, tmp_path: Path, names: tuple[str, ...], words: tuple[str, ...]
) -> None:
    for name in names:
        shutil.copytree(copied / "cat", copied / name)
    promptmix("train", copied, "--out", tmp_path / "out").fails(4, *words)
    assert not (tmp_path / "out").exists()


def test_class_names_in_any_language(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    names = ["лиса", "狐狸", "🦊", "Füchse & Co.", "<|endoftext|>", "{}", "a.b"]
    for name in names:
        shutil.copytree(copied / "cat", copied / name)
    promptmix("train", copied, "--out", tmp_path / "out", "--epochs", "1", "--shots", "2", "--cache").works()
    said = promptmix("predict", tmp_path / "out", copied / "🦊", "--json")
    said.works()
    assert len(said.out.splitlines()) == 8
    assert set(promptmix("classes", "list", tmp_path / "out").out.splitlines()) == {"anchor", "cat", "skull", *names}
    promptmix("classes", "add", tmp_path / "out", "Ωμέγα").works()


def test_class_names_that_cannot_be_added_or_removed(promptmix: Promptmix, run_folder: Path) -> None:
    before = everything_in(run_folder)
    promptmix("classes", "add", run_folder, "").fails(4, "class name '' is empty")
    promptmix("classes", "add", run_folder, "Skull").fails(4, "'skull' and 'Skull' are the same name")
    promptmix("classes", "add", run_folder, "quincunx " * 20).fails(4, "room for 77")
    promptmix("classes", "remove", run_folder, "scull").fails(3, "'scull'", "did you mean 'skull'")
    promptmix("classes", "remove", run_folder, "skull", "cat").fails(3, "at least two")
    assert everything_in(run_folder) == before


# ---------------------------------------------------------------------------------------------------------- templates


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ('[["a photo of it."]]', ("'a photo of it.' has no {}", "exactly one {}")),
        ('[["a {} of a {}."]]', ("2 times {}", "exactly one {}")),
        ('[["a {name}."], ["{}"]]', ("has no {}",)),
        ('[["{} {0}"]]', ("other braces",)),
        ("[[]]", ("is empty", "write a template")),
        ("[]", ("no template groups",)),
        ('[["a {}."], ["a {}.", "b {}."]]', ("two groups start with 'a {}.'",)),
        ("5", ("groups is 5",)),
        ("[[5]]", ("groups.0.0 is 5", "string")),
    ],
)
def test_templates_that_cannot_be_used(
    promptmix: Promptmix, photos: Path, tmp_path: Path, groups: str, words: tuple[str, ...]
) -> None:
    promptmix("train", photos, "--out", tmp_path / "out", "--set", f"method.groups={groups}").fails(3, *words)
    bank = tmp_path / "bank.yaml"
    bank.write_text(f"groups: {groups}\n", encoding="utf-8")
    promptmix("train", photos, "--out", tmp_path / "out", "--set", f"method.bank={bank}").fails(3)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("needs a key 'groups'",)),
        (b"- a\n- b\n", ("needs a key 'groups'",)),
        (b"groups: {a: b}\n", ("needs a key 'groups'",)),
        (b"groups: [1, 2]\n", ("not 1", "list of texts")),
        (b"groups: [null]\n", ("not None",)),
        (b"groups: [{a: b}]\n", ("list of texts",)),
        (b"groups: [[a\n", ("is not YAML",)),
        (b"groups: [['\xff {}']]\n", ("cannot be read as text",)),
    ],
)
def test_banks_that_cannot_be_used(
    promptmix: Promptmix, photos: Path, tmp_path: Path, content: bytes, words: tuple[str, ...]
) -> None:
    (tmp_path / "bank.yaml").write_bytes(content)
    arguments = ("--set", f"method.bank={tmp_path / 'bank.yaml'}")
    promptmix("train", photos, "--out", tmp_path / "out", *arguments).fails(3, *words)
    promptmix("train", photos, "--out", tmp_path / "out", "--method", "ensemble", *arguments).fails(3, *words)


def test_a_bank_that_is_not_there(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    promptmix("train", photos, "--out", tmp_path / "out", "--set", f"method.bank={missing}").fails(3, "no template file", "none")
    promptmix("train", photos, "--out", tmp_path / "out", "--set", "method.bank=genral").fails(3, "did you mean 'general'")


# ----------------------------------------------------------------------------------------------------------- pictures


def bomb() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def cut_in_half(folder: Path) -> bytes:
    whole = (folder / "cat" / "08.png").read_bytes()
    return whole[: len(whole) // 2]


BAD_PICTURES: dict[str, Callable[[Path], bytes]] = {
    "cut": cut_in_half,
    "empty": lambda folder: b"",
    "text": lambda folder: b"this is no picture\n" * 20,
    "bomb": lambda folder: bomb(),
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_a_bad_picture_stops_training_unless_it_is_skipped(
    promptmix: Promptmix, copied: Path, tmp_path: Path, run_folder: Path, kind: str
) -> None:
    name = f"{kind}.jpg"
    (copied / "cat" / name).write_bytes(BAD_PICTURES[kind](copied))
    out = tmp_path / "out"
    promptmix(*zero_shot(copied, out, "--hold-out", "0")).fails(4, name, "--skip-bad")
    done = promptmix(*zero_shot(copied, out, "--hold-out", "0", "--skip-bad"))
    assert done.code == 0
    assert done.err.count("\n") == 1
    assert f"left out {copied / 'cat' / name}: " in done.err
    assert f"note: left out 1 pictures that cannot be read: {copied / 'cat' / name}\n" in done.out
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["metrics"]["num_pictures"] == 24

    promptmix("eval", run_folder, copied).fails(4, name, "--skip-bad")
    measured = promptmix("eval", run_folder, copied, "--skip-bad", "--json")
    assert measured.code == 0
    assert f"left out {copied / 'cat' / name}: " in measured.err
    assert json.loads(measured.out)["metrics"]["num_pictures"] == 24
    assert len(json.loads(measured.out)["left_out"]) == 1

    said = promptmix("predict", run_folder, copied)
    assert said.code == 4
    assert len(said.out.splitlines()) == 24
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["promptmix", "promptmix"]
    assert name in said.err
    assert "1 of 25 pictures could not be read; the others were predicted" in said.err
    assert promptmix("predict", run_folder, copied, "--quiet").err.count("\n") == 1
    promptmix("predict", run_folder, copied / "cat" / name).fails(4, name)


def test_a_bad_test_picture_is_told_before_training(
    promptmix: Promptmix, photos: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "cat" / "broken.png").write_bytes(b"no picture")
    monkeypatch.setattr(training_run, "learn", lambda *_, **__: pytest.fail("training had begun"))
    promptmix("train", photos, "--out", tmp_path / "out", "--test", copied).fails(4, "broken.png", "--skip-bad")


def test_a_class_whose_pictures_are_all_bad(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    for picture in (copied / "cat").iterdir():
        picture.write_bytes(b"no picture")
    done = promptmix(*zero_shot(copied, tmp_path / "out", "--skip-bad"))
    assert done.code == 4
    assert done.err.splitlines()[-1].startswith("promptmix: no readable training picture of class 'cat'")


def test_unusual_pictures_are_read(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    """CMYK, palette, 16 bits, turned by a camera, animated, without a fitting name; and a folder with the name of a picture."""
    folder = copied / "cat"
    picture = Image.open(folder / "08.png").convert("RGB")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.quantize(16).save(folder / "palette.png")
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=turned)
    picture.save(folder / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    picture.save(folder / "really_png.jpg", format="PNG")
    (folder / "folder.jpg").mkdir()
    promptmix(*zero_shot(copied, tmp_path / "out", "--hold-out", "0")).works()
    assert len((tmp_path / "out" / "predictions.csv").read_text(encoding="utf-8").splitlines()) == 1 + 24 + 6
    promptmix("predict", tmp_path / "out", folder / "folder.jpg").fails(4, "folder.jpg", "no picture matches")


def test_a_picture_without_the_right_to_read_it(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    (copied / "cat" / "08.png").chmod(0)
    if os.access(copied / "cat" / "08.png", os.R_OK):
        pytest.skip("the administrator may read everything")
    promptmix(*zero_shot(copied, tmp_path / "out")).fails(4, "08.png", "permission denied")
    done = promptmix(*zero_shot(copied, tmp_path / "out", "--skip-bad"))
    assert done.code == 0
    assert "08.png" in done.err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems allow only names in UTF-8")
def test_a_file_name_that_is_not_utf8(promptmix: Promptmix, photos: Path, copied: Path, tmp_path: Path, run_folder: Path) -> None:
    odd = os.fsencode(copied / "cat") + b"/caf\xe9.png"
    shutil.copy(copied / "cat" / "08.png", odd)
    said = promptmix("predict", run_folder, copied / "cat")
    said.works()
    assert "caf\\udce9.png: " in said.out
    promptmix(*zero_shot(copied, tmp_path / "out")).fails(4, "not valid UTF-8", "rename the file")
    (copied / "cat" / "bad.png").write_bytes(b"no picture")
    os.rename(copied / "cat" / "bad.png", os.fsencode(copied / "cat") + b"/bad\xe9.png")
    os.rename(copied, os.fsencode(tmp_path) + b"/photos\xe9")
    tested = Path(os.fsdecode(os.fsencode(tmp_path) + b"/photos\xe9"))
    assert promptmix(*zero_shot(photos, tmp_path / "other", "--test", tested, "--skip-bad")).code == 0
    assert "caf\\udce9.png" in (tmp_path / "other" / "predictions.csv").read_text(encoding="utf-8")
    assert "bad\\udce9.png" in json.loads((tmp_path / "other" / "result.json").read_text(encoding="utf-8"))["notes"][0]
    shown = promptmix(*zero_shot(photos, tmp_path / "other", "--test", tested, "--skip-bad", "--resume"))
    assert shown.code == 0


def test_pictures_that_are_not_there(promptmix: Promptmix, photos: Path, trained: Path, tmp_path: Path) -> None:
    promptmix("predict", trained, tmp_path / "none.jpg").fails(4, "none.jpg", "check the path")
    promptmix("predict", trained, f"{photos}/*/*.webp").fails(4, "*.webp", "no picture matches")
    promptmix("predict", trained, tmp_path).fails(4, "no picture matches")
    assert promptmix("predict", trained, f"{photos}/*/0*.png").code == 0


# ------------------------------------------------------------------------------------------------- where things are put


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["os.fsync", "Path.replace"])
@pytest.mark.parametrize("number", range(8))
def test_a_full_disk_leaves_no_half_written_file(
    promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    out, calls = tmp_path / "out", 0
    owner: Any = runtime.os if place == "os.fsync" else Path
    original = getattr(owner, place.split(".")[1])

    def full_at_last(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return full_disk() if calls > number else original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, place.split(".")[1], full_at_last)
        done = promptmix(*zero_shot(photos, out))
    if calls <= number:
        done.works()  # there was room for all files
        assert number > 5
        return
    done.fails(4, "no disk space left to write", str(out), "free some")
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    for path in out.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    assert not (out / "result.json").exists()
    promptmix(*zero_shot(photos, out, "--overwrite" if (out / "predictions.csv").exists() else "--quiet")).works()
    read_model(out)


def test_a_full_disk_in_training(promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log and the checkpoint are written otherwise than the rest."""

    def write_to_full_disk(path: Path, *_: object) -> None:
        with runtime.writing(path):
            full_disk()

    arguments = ["train", photos, "--out", tmp_path / "out", "--epochs", "1", "--shots", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_append_line", write_to_full_disk)
        promptmix(*arguments).fails(4, "no disk space left", "log.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_append_line", full_disk)
        promptmix(*arguments).fails(4, "No space left on device", "free some space")


def test_classes_stay_as_they_were_where_the_disk_is_full(
    promptmix: Promptmix, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything_in(run_folder)
    with monkeypatch.context() as patch:
        patch.setattr(runtime.os, "fsync", full_disk)
        promptmix("classes", "add", run_folder, "heart").fails(4, "no disk space left", "class_features")
    assert everything_in(run_folder) == before


def test_out_that_cannot_be_written(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    promptmix(*zero_shot(photos, tmp_path / "file")).fails(4, "is a file", "choose a folder")
    promptmix(*zero_shot(photos, tmp_path / "file", "--resume")).fails(4, "is a file")
    promptmix(*zero_shot(photos, tmp_path / "file" / "below")).fails(4, "cannot write", "below", "can be written")
    promptmix(*zero_shot(photos, tmp_path / ("x" * 300))).fails(4, "File name too long")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_out_without_the_right_to_write(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("the administrator may write everywhere")
    promptmix(*zero_shot(photos, locked / "out")).fails(4, "cannot write", "Permission denied", "can be written")
    locked.chmod(0)
    promptmix(*zero_shot(photos, locked / "out")).fails(4, "Permission denied")
    promptmix("predict", locked / "model", photos).fails(4, "Permission denied")
    assert promptmix("train", locked, "--out", tmp_path / "out").code == 2  # typer looks at it first
    locked.chmod(0o700)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody may write")
def test_out_in_a_file_system_that_takes_no_files(promptmix: Promptmix, photos: Path) -> None:
    promptmix(*zero_shot(photos, Path("/proc/out"))).fails(4, "cannot write", "choose a folder that can be written")


def test_a_cache_that_cannot_be_used_is_done_without(
    promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    monkeypatch.setenv("PROMPTMIX_CACHE", str(tmp_path / "file"))
    done = promptmix("train", photos, "--out", tmp_path / "out", "--epochs", "1")
    assert done.code == 0
    assert done.err.count("\n") == 1
    assert "going on without the feature cache" in done.err
    assert "set PROMPTMIX_CACHE to a folder with room" in done.err
    promptmix("train", photos, "--out", tmp_path / "quiet", "--epochs", "1", "--quiet").works()
    promptmix("train", photos, "--out", tmp_path / "without", "--epochs", "1", "--no-cache").works()
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_cache_on_a_full_disk_is_done_without(
    promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = feature_cache._prepare

    def with_no_room(connection: Any) -> None:
        prepare(connection)
        connection.execute("PRAGMA max_page_count = 1")

    monkeypatch.setenv("PROMPTMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(feature_cache, "_prepare", with_no_room)
    done = promptmix("train", photos, "--out", tmp_path / "out", "--epochs", "1")
    assert done.code == 0
    assert done.err.count("\n") == 1
    assert "full" in done.err


# ------------------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "mocop"], ("unknown method 'mocop'", "did you mean 'mocoop'")),
        (["--set", "method.topk=1"], ("'topk'", "did you mean 'top_k'")),
        (["--set", "method.preset=as_relased"], ("'as_relased'", "did you mean 'as_released'")),
        (["--set", "method.preset=[1]"], ("no preset [1]",)),
        (["--method", "zero-shot", "--set", "method.preset=x"], ("no preset 'x'", "it has none")),
        (["--set", "recipe.rates=0.1"], ("'rates'", "did you mean 'rate'")),
        (["--set", "recipes.rate=0.1"], ("'recipes'", "did you mean 'recipe'")),
        (["--set", "augmentation.view=1"], ("view", "augmentation")),
        (["--set", "recipe.epochs=many"], ("epochs is 'many'", "valid integer")),
        (["--set", "recipe.epochs=1.5"], ("epochs is 1.5",)),
        (["--set", "recipe.rate=.nan"], ("rate is nan", "finite")),
        (["--set", "recipe.rate=-.inf"], ("rate is -inf",)),
        (["--set", "recipe.rate=-0.1"], ("rate is -0.1", "greater than 0")),
        (["--set", "recipe.rate=1e9"], ("rate is 1000000000.0", "less than or equal to 100")),
        (["--set", "recipe.batch_size=0"], ("batch_size is 0",)),
        (["--set", "recipe.epochs=100000000000000000000000"], ("epochs is", "100000")),
        (["--set", "augmentation.views=1000000000"], ("views is 1000000000", "1000")),
        (["--set", "method.top_k=true"], ("top_k is True",)),
        (["--set", "method.router_target=labels"], ("did you mean 'label'",)),
        (["--set", "method.regroup=1000"], ("1000 groups cannot be made",)),
        (["--set", "recipe=5"], ("recipe is 5",)),
        (["--set", "recipe.rate.deep=5"], ("rate",)),
        (["--set", "top_k"], ("'top_k' is not of the form name=value", "--set method.top_k=3")),
        (["--set", "=5"], ("not of the form name=value",)),
        (["--set", "recipe..rate=5"], ("not of the form name=value",)),
        (["--set", "method.template={} texture."], ("not YAML", "in quotes")),
        (["--set", "method.bank=2024-01-01"], ("bank", "general")),
        (["--method", "linear-probe", "--set", "method.strengths=[0]"], ("strengths.0 is 0", "greater than 0")),
        (["--method", "coop", "--set", "method.context_tokens=65"], ("context_tokens is 65", "64")),
        (["--epochs", "0"], ("epochs is 0", "greater than or equal to 1")),
        (["--shots", "0"], ("shots is 0", "greater than or equal to 1")),
        (["--hold-out", "1.5"], ("--hold-out 1.5", "below 1")),
        (["--hold-out", "nan"], ("--hold-out nan",)),
        (["--hold-out=-0.1"], ("--hold-out -0.1",)),
        (["--seed", "-1"], ("seed is -1", "greater than or equal to 0")),
        (["--seed", "99999999999999999999"], ("seed is",)),
        (["--device", "cudo"], ("unknown device 'cudo'", "did you mean 'cuda'")),
    ],
)
def test_options_that_cannot_be_used(
    promptmix: Promptmix, photos: Path, tmp_path: Path, arguments: list[str], words: tuple[str, ...]
) -> None:
    promptmix("train", photos, "--out", tmp_path / "out", *arguments).fails(3, *words)
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there(
    promptmix: Promptmix, photos: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    promptmix(*zero_shot(photos, tmp_path / "out", "--device", "cuda")).fails(3, "no cuda device", "--device cpu or auto")
    promptmix("predict", trained, photos, "--device", "cuda").fails(3, "no cuda device")
    promptmix("eval", trained, photos, "--device", "cuda").fails(3, "no cuda device")


def test_a_loss_that_runs_away(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    arguments = ["--set", "method.text_weight=1e39", "--epochs", "2", "--shots", "1"]
    promptmix("train", photos, "--out", tmp_path / "out", *arguments).fails(3, "the loss became", "lower the rate")


def test_numbers_as_people_write_them(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    arguments = ["--set", "recipe.rate=1e-3", "--set", "recipe.batch_size= 8", "--shots", "1", "--epochs", "1", "--json"]
    done = promptmix("train", photos, "--out", tmp_path / "out", *arguments)
    done.works()
    recipe = json.loads(done.out)["config"]["recipe"]
    assert (recipe["rate"], recipe["batch_size"]) == (0.001, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "MODEL"], "Missing argument"),
        (["predict", "MODEL", "PHOTOS", "--top", "0"], "--top"),
        (["predict", "MODEL", "PHOTOS", "--json", "--csv"], "give one of them"),
        (["train", "PHOTOS"], "--out"),
        (["train", "PHOTOS", "--out", "x", "--resume", "--overwrite"], "give one of them"),
        (["train", "PHOTOS", "--out", "x", "--epochs", "many"], "--epochs"),
        (["train", "PHOTOS", "--out", "x", "--shot", "4"], "--shots"),
        (["info", "--quiet", "--verbose"], "give one of them"),
        (["trian"], "trian"),
        (["classes", "rename", "MODEL"], "rename"),
    ],
)
def test_usage_errors(promptmix: Promptmix, photos: Path, trained: Path, arguments: list[str], words: str) -> None:
    places = {"PHOTOS": str(photos), "MODEL": str(trained)}
    done = promptmix(*[places.get(argument, argument) for argument in arguments])
    assert done.code == 2
    assert words in done.err
    assert "Usage: " in done.err
    assert done.out == ""
    assert not Path("x").exists()


# ------------------------------------------------------------------------------------------------ backbones and models


def test_backbones_that_are_not_there(promptmix: Promptmix, photos: Path, trained: Path, tmp_path: Path) -> None:
    hub = "openai/clip-vit-base-patch16"
    words = (f"there is no folder '{hub}'", "lacks everything of it", "HF_HUB_OFFLINE forbids to download it")
    promptmix(*zero_shot(photos, tmp_path / "out", "--backbone", hub)).fails(5, *words)
    promptmix("predict", trained, photos, "--backbone", hub).fails(5, *words)
    promptmix("info", hub).fails(5, *words)
    promptmix(*zero_shot(photos, tmp_path / "out", "--backbone", str(photos))).fails(5, str(photos), "config.json is missing")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{", encoding="utf-8")
    promptmix("info", tmp_path / "broken").fails(5, "config.json", "cannot be read")
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    promptmix("info", tmp_path / "broken").fails(5, "unknown kind of backbone (bert)")


def test_a_model_with_another_backbone(promptmix: Promptmix, photos: Path, run_folder: Path, tmp_path: Path) -> None:
    from promptmix.backbones.registry import bundled_folder, load_backbone

    other = Path(shutil.copytree(bundled_folder(), tmp_path / "other"))
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    config["preprocess"]["mean"] = [0.4, 0.5, 0.5]
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    prints = load_backbone(device="cpu").fingerprint, load_backbone(str(other), device="cpu").fingerprint
    assert prints[0] != prints[1]
    for arguments in (["predict", run_folder, photos], ["eval", run_folder, photos], ["classes", "add", run_folder, "heart"]):
        promptmix(*arguments, "--backbone", other).fails(5, *prints, "--backbone")
    same = Path(shutil.copytree(bundled_folder(), tmp_path / "same"))
    promptmix("predict", run_folder, photos, "--backbone", same).works()


def test_a_model_whose_backbone_is_gone(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    from promptmix.backbones.registry import bundled_folder

    moved = Path(shutil.copytree(bundled_folder(), tmp_path / "clip"))
    promptmix(*zero_shot(photos, tmp_path / "out", "--backbone", moved)).works()
    shutil.rmtree(moved)
    for arguments in (["predict", tmp_path / "out", photos], ["eval", tmp_path / "out", photos]):
        promptmix(*arguments).fails(5, str(moved), "--backbone")
    promptmix("predict", tmp_path / "out", photos, "--backbone", "bundled").works()


def test_folders_that_are_no_model(promptmix: Promptmix, photos: Path, tmp_path: Path, run_folder: Path) -> None:
    for arguments in (["predict", "MODEL", photos], ["eval", "MODEL", photos], ["classes", "list", "MODEL"]):
        for folder, words in ((tmp_path / "none", "there is no such folder"), (photos, "no config.json")):
            promptmix(*[folder if part == "MODEL" else part for part in arguments]).fails(5, "is no model folder", words)
    shutil.rmtree(run_folder / "model")
    promptmix("predict", run_folder, photos).fails(5, "no model yet", "--resume")
    promptmix("info", run_folder).fails(5, "no model yet", "--resume")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "class_features.safetensors"])
def test_no_flipped_bit_in_a_model_goes_unnoticed(run_folder: Path, name: str) -> None:
    path = run_folder / "model" / name
    whole = path.read_bytes()
    # What safetensors files carry for other programs says nothing about a model.
    marks = range(whole.find(b'"__metadata__"'), whole.find(b"}", whole.find(b'"__metadata__"')) + 1)
    # Every byte where the names are, and some of the numbers after them.
    places = [*range(min(len(whole), 1200)), *range(1200, len(whole), 997), len(whole) - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(bytes(damaged))
        if name == "model.safetensors" and place in marks:
            continue
        with pytest.raises(CheckpointError):
            read_model(run_folder)
    path.write_bytes(whole)
    read_model(run_folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "class_features.safetensors"])
def test_models_with_a_cut_or_missing_file(promptmix: Promptmix, photos: Path, run_folder: Path, name: str) -> None:
    path = run_folder / "model" / name
    whole = path.read_bytes()
    for length in (len(whole) // 2, 4, 0):
        path.write_bytes(whole[:length])
        promptmix("predict", run_folder / "model", photos).fails(5, name, "damaged")
    path.unlink()
    promptmix("predict", run_folder / "model", photos).fails(5, name)
    if name != "config.json":
        promptmix("info", run_folder).fails(5, name, "missing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 2}, ("format version 2", "reads 1")),
        ({"format": "other"}, ("does not describe a promptmix model",)),
        ({"optoins": {}}, ("unknown key 'optoins'", "did you mean 'options'")),
        ({"options": None}, ("lacks options",)),
        ({"method": "coop"}, ("belongs to another model", "restore")),
        ({"expert_names": ["one"]}, ("belongs to another model",)),
    ],
)
def test_a_config_of_another_model(
    promptmix: Promptmix, photos: Path, run_folder: Path, change: dict[str, Any], words: tuple[str, ...]
) -> None:
    path = run_folder / "model" / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **change}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}), encoding="utf-8")
    promptmix("predict", run_folder / "model", photos).fails(5, *words)
    promptmix("info", run_folder / "model").fails(5)


# ------------------------------------------------------------------------------------------------- runs that are there


def test_a_run_is_not_overwritten_unasked(promptmix: Promptmix, photos: Path, run_folder: Path) -> None:
    before = everything_in(run_folder)
    promptmix(*zero_shot(photos, run_folder)).fails(4, "is not empty", "--overwrite or --resume")
    assert everything_in(run_folder) == before


def test_overwriting_leaves_the_files_of_others_alone(promptmix: Promptmix, photos: Path, run_folder: Path) -> None:
    (run_folder / "diary.txt").write_text("mine", encoding="utf-8")
    (run_folder / "notes").mkdir()
    (run_folder / "notes" / "model.txt").write_text("mine", encoding="utf-8")
    promptmix(*zero_shot(photos, run_folder, "--overwrite")).works()
    assert read_model(run_folder).method == "zero-shot"
    assert (run_folder / "diary.txt").read_text(encoding="utf-8") == "mine"
    assert (run_folder / "notes" / "model.txt").read_text(encoding="utf-8") == "mine"
    assert not (run_folder / "log.jsonl").exists()

    (run_folder / "model" / "diary.txt").write_text("mine", encoding="utf-8")
    promptmix(*zero_shot(photos, run_folder, "--overwrite")).works()
    assert (run_folder / "model" / "diary.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.txt": "mine"},
        {"config.json": "{}", "model/weights.bin": "mine"},
        {"run.json": '{"format": "running shoes"}', "result.json": "{}"},
        {"run.json": "not JSON", "model/config.json": "{}"},
        {"model/config.json": "{}"},
        {"README.md": "mine", "model/README.md": "mine"},
    ],
)
def test_what_is_no_run_is_never_overwritten(promptmix: Promptmix, photos: Path, tmp_path: Path, files: dict[str, str]) -> None:
    out = tmp_path / "out"
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    before = everything_in(out)
    for arguments in ([], ["--overwrite"]):
        promptmix(*zero_shot(photos, out, *arguments)).fails(4, "choose another folder", str(out))
    assert promptmix(*zero_shot(photos, out, "--resume")).code in (4, 5)
    assert everything_in(out) == before


def test_a_model_folder_of_a_person_inside_a_run_is_never_overwritten(
    promptmix: Promptmix, photos: Path, run_folder: Path
) -> None:
    shutil.rmtree(run_folder / "model")
    (run_folder / "model").mkdir()
    (run_folder / "model" / "config.json").write_text("{}", encoding="utf-8")
    before = everything_in(run_folder)
    promptmix(*zero_shot(photos, run_folder, "--overwrite")).fails(4, "not a model", "choose another folder")
    assert everything_in(run_folder) == before


def test_a_saved_model_is_no_place_for_a_run(promptmix: Promptmix, photos: Path, run_folder: Path) -> None:
    before = everything_in(run_folder)
    promptmix(*zero_shot(photos, run_folder / "model", "--overwrite")).fails(4, "not a run", "choose another folder")
    assert everything_in(run_folder) == before


def test_a_run_that_failed_before_it_began_is_in_nobodys_way(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    (copied / "cat" / "broken.png").write_bytes(b"no picture")
    promptmix(*zero_shot(copied, tmp_path / "out")).fails(4, "broken.png")
    (copied / "cat" / "broken.png").unlink()
    promptmix(*zero_shot(copied, tmp_path / "out")).works()


def test_resuming_where_nothing_is_starts_a_run_and_says_so(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    done = promptmix(*zero_shot(photos, tmp_path / "out", "--resume"))
    assert done.code == 0
    assert done.err == f"promptmix: there is no run to resume in {tmp_path / 'out'}; a new one starts\n"
    again = promptmix(*zero_shot(photos, tmp_path / "out", "--resume"))
    assert again.code == 0
    assert "was finished before" in again.err
    assert again.out == done.out


def test_resuming_with_something_else(promptmix: Promptmix, copied: Path, tmp_path: Path) -> None:
    arguments = ["train", copied, "--out", tmp_path / "out", "--epochs", "1"]
    promptmix(*arguments).works()
    for other in (["--seed", "2"], ["--set", "method.top_k=1"], ["--epochs", "2"], ["--hold-out", "0.5"], ["--method", "coop"]):
        promptmix(*arguments, *other, "--resume").fails(5, "other options, pictures or backbone", "--overwrite")
    shutil.copy(copied / "cat" / "08.png", copied / "cat" / "more.png")
    promptmix(*arguments, "--resume").fails(5, "other options, pictures or backbone")


def test_damaged_records_of_a_run(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    promptmix(*zero_shot(photos, out)).works()
    (out / "result.json").write_text('{"method": 5}', encoding="utf-8")
    promptmix(*zero_shot(photos, out, "--resume")).fails(5, "result.json", "--overwrite")
    for text in ("{", "[]", '{"format": "promptmix-run"}'):
        (out / "run.json").write_text(text, encoding="utf-8")
        promptmix(*zero_shot(photos, out, "--resume")).fails(5, "run.json", "choose another folder, or remove it")


# -------------------------------------------------------------------------------------------- memory, and the unforeseen


@pytest.mark.parametrize(
    "problem",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 1 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
        ),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((10**9, 10**9), np.dtype("float32")),
    ],
)
def test_out_of_memory(
    promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(training_run, "learn", no_memory)
    promptmix("train", photos, "--out", tmp_path / "out").fails(6, "out of memory", "recipe.batch_size", "--device")


@pytest.mark.parametrize(
    "problem", [RuntimeError("first line\nsecond line"), KeyError("key"), AssertionError(), OSError(5, "I/O")]
)
def test_the_unforeseen_is_one_line_too(
    promptmix: Promptmix, trained: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def fail(*_: object) -> None:
        raise problem

    monkeypatch.setattr("promptmix.cli.info.info", fail)
    promptmix("info").fails(1, f"unexpected {type(problem).__name__}", "--debug for the whole traceback")
    debugged = promptmix("info", "--debug")
    assert debugged.code == 1
    assert "Traceback (most recent call last)" in debugged.err
    assert debugged.err.splitlines()[-1].startswith("promptmix: unexpected")


def test_debug_keeps_the_exit_code(promptmix: Promptmix, tmp_path: Path) -> None:
    done = promptmix("train", tmp_path / "nowhere", "--out", tmp_path / "out", "--debug")
    assert done.code == 4
    assert "Traceback" in done.err
    assert "DataError" in done.err


# ------------------------------------------------------------------------------------------------- what is printed where


def test_verbose_tells_the_time_and_quiet_tells_nothing(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    loud = promptmix(*zero_shot(photos, tmp_path / "loud", "--verbose"))
    assert loud.code == 0
    assert all(line.startswith("promptmix: ") and " s: " in line for line in loud.err.splitlines())
    assert "features of 24 pictures" in loud.err
    still = promptmix(*zero_shot(photos, tmp_path / "still", "-q", "--resume"))
    still.works()
    assert still.out.replace("still", "loud") == loud.out
    assert logging.getLogger("promptmix").handlers == []


def test_every_verb_has_the_common_options(promptmix: Promptmix) -> None:
    for verb in (["train"], ["eval"], ["predict"], ["info"], ["classes", "list"], ["classes", "add"], ["classes", "remove"]):
        done = promptmix(*verb, "--help")
        assert done.code == 0
        assert all(option in done.out for option in ("--quiet", "--verbose", "--debug", "Example: promptmix"))


def test_version(promptmix: Promptmix) -> None:
    import promptmix as package

    done = promptmix("--version")
    done.works()
    assert done.out == f"promptmix {package.__version__}\n"


def test_help_loads_nothing_heavy(subprocess_environment: dict[str, str]) -> None:
    code = (
        "import sys; from promptmix.cli.main import app; "
        "heavy = {'torch', 'numpy', 'rich', 'pydantic', 'PIL', 'yaml'} & set(sys.modules); assert not heavy, heavy; app()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--help"], capture_output=True, text=True, env=subprocess_environment
    )
    assert done.returncode == 0, done.stderr


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-W", "error", "-c", "from promptmix.cli.main import run; run()", *map(str, arguments)]


@pytest.mark.skipif(os.name != "posix", reason="pipes differ")
def test_a_closed_pipe_is_silent(trained: Path, photos: Path, subprocess_environment: dict[str, str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            command("predict", trained, photos), stdout=pipe, stderr=subprocess.PIPE, text=True, env=subprocess_environment
        )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_output_that_is_full(trained: Path, subprocess_environment: dict[str, str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("classes", "list", trained), stdout=full, stderr=subprocess.PIPE, text=True, env=subprocess_environment
        )
    assert done.returncode == 4
    assert (
        done.stderr
        == "promptmix: the output: No space left on device; free some space or choose a place that can be read and written\n"
    )


def test_a_terminal_that_cannot_show_a_name(
    promptmix: Promptmix, run_folder: Path, subprocess_environment: dict[str, str]
) -> None:
    promptmix("classes", "add", run_folder, "狐狸").works()
    done = subprocess.run(
        command("classes", "list", run_folder),
        capture_output=True,
        text=True,
        env={**subprocess_environment, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "\\u72d0\\u72f8"


def test_the_guard_lets_usage_errors_through() -> None:
    import typer

    def wrong() -> None:
        raise typer.BadParameter("no")

    with pytest.raises(typer.BadParameter):
        guard._exit_code_of(wrong, False)
