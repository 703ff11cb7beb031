"""The command line as people use it: output on stdout, one-line errors, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from promptmix.data.pictograms import draw_set


def promptmix(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", "from promptmix.cli.main import run; run()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number, drawn in enumerate(draw_set(("anchor", "cat", "skull"), ("stamp", "neon"), 4, 1)):
        folder = root / drawn.class_name
        folder.mkdir(exist_ok=True)
        drawn.image.save(folder / f"{number}.png")
    return root


def test_train_eval_predict_and_add_a_class(photos: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    trained = promptmix("train", photos, "--out", model, "--shots", "4", "--epochs", "3", "--json")
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr == ""
    result = json.loads(trained.stdout)
    assert result["metrics"]["num_pictures"] == 12
    assert "not trained on" in result["data"]
    evaluated = json.loads(promptmix("eval", model, photos, "--json").stdout)
    assert evaluated["metrics"]["num_pictures"] == 24
    assert promptmix("classes", "add", model, "heart").returncode == 0
    assert promptmix("classes", "list", model).stdout.split() == ["anchor", "cat", "skull", "heart"]
    lines = promptmix("predict", model, photos / "cat", "--json").stdout.splitlines()
    assert len(lines) == 8
    said = json.loads(lines[0])
    assert 0 < said["probability"] <= 1
    assert sum(expert["weight"] for expert in said["experts"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "nowhere", "--out", "m"], 4, "nowhere"),
        (["predict", "nowhere", "x.jpg"], 4, "x.jpg"),
        (["info", "nowhere"], 5, "nowhere"),
        (["train", "PHOTOS", "--out", "OUT", "--method", "mocop"], 3, "did you mean 'mocoop'"),
        (["train", "PHOTOS", "--out", "OUT", "--set", "method.topk=1"], 3, "did you mean 'top_k'"),
        (["train", "PHOTOS", "--out", "OUT", "--backbone", "nothing"], 5, "nothing"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(
    photos: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    places = {"PHOTOS": str(photos), "OUT": str(tmp_path / "out")}
    done = promptmix(*[places.get(argument, argument) for argument in arguments])
    assert done.returncode == code
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_broken_picture_does_not_stop_the_others(photos: Path, tmp_path: Path) -> None:
    assert promptmix("train", photos, "--out", tmp_path / "m", "--method", "zero-shot").returncode == 0
    (tmp_path / "broken.png").write_bytes(b"no picture")
    done = promptmix("predict", tmp_path / "m", tmp_path / "broken.png", photos / "cat")
    assert done.returncode == 4
    assert len(done.stdout.splitlines()) == 8
    assert "broken.png" in done.stderr


def test_help_is_there_and_imports_no_torch() -> None:
    code = "import sys; from promptmix.cli.main import app; assert 'torch' not in sys.modules; app(['--help'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in ("train", "eval", "predict", "info", "classes"))


def test_a_config_file_is_read_and_options_go_over_it(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("method: coop\nseed: 7\nrecipe: {epochs: 2, rate: 0.01}\noptions: {context_tokens: 2}\n")
    done = promptmix(
        "train",
        photos,
        "--out",
        tmp_path / "m",
        "--config",
        tmp_path / "my.yaml",
        "--epochs",
        "1",
        "--set",
        "method.context_tokens=3",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)["config"]
    assert (config["method"], config["seed"]) == ("coop", 7)
    assert (config["recipe"]["epochs"], config["recipe"]["rate"], config["options"]["context_tokens"]) == (1, 0.01, 3)
