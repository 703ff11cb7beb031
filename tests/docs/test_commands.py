"""The commands and the Python of the pages by task are run, on small files of the names that the pages use."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backbone_files import write_clip, write_open_clip, write_openai_archive
from tests.hub_server import served_hub
from tests.new_processes import Command
from tests.parity.siglip_files import write_siglip

from promptmix.backbones.registry import bundled_folder, load_backbone
from promptmix.data.pictograms import draw_set

Promptmix = Callable[..., Any]
DOCS = Path(__file__).resolve().parents[2] / "docs"
CLASSES = ("anchor", "cat", "skull")
QUICK = ("--epochs", "1")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def commands_of(page: str) -> list[list[str]]:
    """Every promptmix command of a page, without comments, pipes and redirections."""
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = re.findall(r"^    (promptmix .*)$", text, re.MULTILINE) + re.findall(r"\| `(promptmix .*?)` \|", text)
    commands = []
    for line in lines:
        words = shlex.split(line, comments=True)
        ends = [words.index(sign) for sign in ("|", ">") if sign in words]
        commands.append(words[1 : min(ends, default=len(words))])
    return commands


def python_of(page: str) -> list[str]:
    """Every block of Python of a page."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub("^    ", "", block, flags=re.MULTILINE) for block in blocks if "import" in block]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the pages name, in which the commands run."""
    monkeypatch.chdir(tmp_path)
    for place in ("photos", "other", "new"):
        for number, drawn in enumerate(draw_set(CLASSES, ("photo", "sketch"), 10, len(place))):
            folder = tmp_path / place / ("" if place == "new" else drawn.class_name)
            folder.mkdir(parents=True, exist_ok=True)
            drawn.image.convert("RGB").save(folder / f"{number:02}.jpg", quality=95)
    shutil.copy(tmp_path / "new" / "00.jpg", tmp_path / "a.jpg")
    shutil.copy(tmp_path / "new" / "01.jpg", tmp_path / "b.jpg")
    pictures = sorted((tmp_path / "photos").rglob("*.jpg"))
    rows = [
        f"{path.relative_to(tmp_path)},{path.parent.name},{'test' if place % 4 == 0 else 'train'}"
        for place, path in enumerate(pictures)
    ]
    (tmp_path / "pets.csv").write_text("\n".join(["file,kind,split", *rows]) + "\n")
    (tmp_path / "classes.yaml").write_text("anchor: ship's anchor\ncat: [cat, house cat]\nskull: skull\n")
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(tmp_path / "photos", "pets")
    shutil.copy(tmp_path / "pets.tar", tmp_path / "photos.tar")
    (tmp_path / "shards").mkdir()
    for number in range(32):
        with tarfile.open(tmp_path / "shards" / f"{number:04}.tar", "w") as archive:
            for path in pictures[number::32]:
                archive.add(path, f"{path.parent.name}/{path.name}")
    (tmp_path / "recipes").symlink_to(DOCS.parent / "recipes")
    return tmp_path


@pytest.fixture
def backbones(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones of the names that the pages use, one of them in the cache of the hub."""
    write_clip(desk / "clip-vit-base-patch16", "quick_gelu")
    write_open_clip(desk / "open-clip-folder")
    write_openai_archive(desk / "ViT-B-32.pt")
    write_siglip(desk / "siglip-base-patch16-224")
    stored = desk / "hub" / "models--openai--clip-vit-base-patch16"
    shutil.copytree(bundled_folder(), stored / "snapshots" / COMMIT)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(desk / "hub"))
    config = (desk / "clip-vit-base-patch16" / "config.json").read_text()
    # Its prompts have room for the longest of the pages' classes and of the default templates.
    assert '"max_position_embeddings": 20' in config


def run_all(promptmix: Promptmix, commands: list[list[str]], desk: Path) -> None:
    for words in commands:
        out = next((words[place + 1] for place, word in enumerate(words[:-1]) if word == "--out"), None)
        if words[0] in ("train", "data") and out is not None:
            target = desk / out
            if words[:2] == ["data", "unpack"]:
                shutil.rmtree(target, ignore_errors=True)
            elif target.is_dir():
                shutil.rmtree(target)
        quick = QUICK if words[0] == "train" and "--epochs" not in words else ()
        done = promptmix(*words, *quick)
        assert done.code == 0, (words, done)


def test_the_pages_have_commands() -> None:
    assert len(commands_of("backbones.md")) >= 10
    assert len(commands_of("your-own-pictures.md")) >= 15


@pytest.mark.usefixtures("backbones")
def test_the_commands_of_the_page_on_backbones(promptmix: Promptmix, desk: Path) -> None:
    run_all(promptmix, commands_of("backbones.md"), desk)


@pytest.mark.usefixtures("backbones")
def test_the_commands_of_the_page_on_pictures(promptmix: Promptmix, desk: Path) -> None:
    commands = commands_of("your-own-pictures.md")
    # The hub of data sets cannot be reached from here; a saved data set is made by a library that may be absent.
    left_out = [words for words in commands if any(word.startswith("hf:") or word == "saved/" for word in words)]
    assert len(left_out) == 2
    run_all(promptmix, [words for words in commands if words not in left_out], desk)


def test_the_commands_of_the_page_on_many_classes(desk: Path, tmp_path: Path) -> None:
    commands = commands_of("scale.md")
    assert len(commands) == 2
    # In processes of their own: the limit is on all that a process holds, and this one holds what the tests before have left.
    for words in commands:
        shutil.rmtree(desk / "run", ignore_errors=True)
        command = Command(tmp_path / "told", *words, *QUICK)
        _, err = command.communicate(timeout=120)
        assert command.returncode == 0, (words, err)


@pytest.mark.usefixtures("backbones")
def test_the_python_of_the_page_on_pictures(desk: Path) -> None:
    blocks = python_of("your-own-pictures.md")
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "your-own-pictures.md", "exec"), {"__name__": "page"})
    assert (desk / "model" / "config.json").is_file()
    assert os.listdir(desk / "model")


def test_the_commands_and_the_python_of_the_page_on_prediction(promptmix: Promptmix, desk: Path) -> None:
    commands = commands_of("predict.md")
    assert [words[0] for words in commands] == ["train", *["predict"] * 4, *["classes"] * 3]
    run_all(promptmix, commands, desk)
    (block,) = python_of("predict.md")
    exec(compile(block, "predict.md", "exec"), {"__name__": "page"})


def test_the_commands_of_the_page_on_millions_of_pictures(promptmix: Promptmix, desk: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: no Parquet here")
    commands = commands_of("bulk-prediction.md")
    here = [words for words in commands if "ray" not in words]
    assert len(commands) - len(here) == 2
    run_all(promptmix, here, desk)
    together = sorted(path.name for path in (desk / "said-together").iterdir())
    parts = [f"part-{number:05}.parquet" for number in range(6)]
    assert together == ["job.json", *parts, "summary-1-of-2.json", "summary-2-of-2.json"]


def test_the_commands_of_the_page_on_protocols(promptmix: Promptmix, desk: Path) -> None:
    # What a cluster does has tests of its own.
    commands = [words for words in commands_of("protocols.md") if "ray" not in words]
    assert len(commands) >= 10
    # The field's data sets are not here.
    for words in (words for words in commands if "--root" not in words):
        seeds = "1,2" if words[1] == "compare" else "1"  # two have an interval
        quick = ["--set", "recipe.epochs=1", "--seeds", seeds, "--jobs", "1"] if words[1] != "report" else []
        if quick and "--shots" not in words:
            quick += ["--shots", "2"]
        done = promptmix(*words, *quick)
        assert done.code == 0, (words, done)
    assert (desk / "few-shot" / "report" / "report.md").is_file()


def test_the_commands_of_the_page_on_calibration(promptmix: Promptmix, desk: Path) -> None:
    commands = commands_of("calibration.md")
    assert len(commands) >= 8
    # A calibration that was removed is no longer there for the commands further down.
    run_all(promptmix, [words for words in commands if "--remove" not in words], desk)
    assert (desk / "run" / "reliability.png").is_file()
    run_all(promptmix, [words for words in commands if "--remove" in words], desk)
    assert not (desk / "run" / "reliability.png").exists()


def test_the_python_of_the_page_on_calibration(desk: Path) -> None:
    (block,) = python_of("calibration.md")
    assert (desk / "a.jpg").is_file()
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(block, "calibration.md", "exec"), names)
    assert names["classifier"]._fitted().model.calibration.abstain.wanted == 0.8


def test_the_commands_of_the_page_on_the_server(promptmix: Promptmix, desk: Path) -> None:
    # A server runs until it is stopped; it has tests of its own.
    commands = [words for words in commands_of("serving.md") if words[0] != "serve"]
    assert len(commands) >= 5
    run_all(promptmix, commands, desk)


@pytest.mark.usefixtures("backbones")
def test_the_commands_and_the_python_of_the_page_on_sharing(promptmix: Promptmix, desk: Path) -> None:
    text, _ = load_backbone("openai/clip-vit-base-patch16").require_text()
    torch.save({"state_dict": {"ctx": torch.zeros(4, text.config.width)}, "epoch": 50}, desk / "model.pth.tar-50")
    (desk / "names.txt").write_text("\n".join(CLASSES) + "\n")
    commands = commands_of("sharing.md")
    assert [words[0] for words in commands] == [
        *["train", "share", "share"],
        *["predict", "eval", "info"],
        "share",
        "convert",
        "eval",
    ]
    (block,) = python_of("sharing.md")
    with served_hub(desk / "hub") as hub:
        run_all(promptmix, commands, desk)
        exec(compile(block, "sharing.md", "exec"), {"__name__": "page"})
    assert "base_model: openai/clip-vit-base-patch16" in hub.repositories["somebody/my-pets"].files()["README.md"].decode()
    assert (desk / "to-send" / "README.md").is_file()
    assert (desk / "my-copy" / "config.json").is_file()


def test_the_commands_of_the_page_on_exporting(promptmix: Promptmix, desk: Path) -> None:
    pytest.importorskip("onnxruntime", reason="exported models run by onnxruntime")
    pytest.importorskip("onnxscript", reason="exporting needs the libraries for ONNX")
    commands = commands_of("export.md")
    assert [words[0] for words in commands] == ["train", "export", "predict", "info", "export", "export"]
    run_all(promptmix, commands, desk)
    assert (desk / "small.onnx").stat().st_size < (desk / "model.onnx").stat().st_size


def test_the_commands_and_the_python_of_the_page_on_tracking(promptmix: Promptmix, desk: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    commands = commands_of("tracking.md")
    assert len(commands) == 3
    # MLflow's store has tests of its own.
    run_all(promptmix, [words for words in commands if not any("mlflow" in word for word in words)], desk)
    assert list((desk / "run" / "tracking" / "tensorboard").iterdir())
    (block,) = python_of("tracking.md")
    exec(compile(block, "tracking.md", "exec"), {"__name__": "page"})
    assert list((desk / "promptmix-tracking").iterdir())
