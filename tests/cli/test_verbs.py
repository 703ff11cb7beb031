"""The command line as people use it: output on stdout, one-line errors, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptmix.data.pictograms import CLASS_NAMES, draw_set

Promptmix = Callable[..., Any]


def test_train_eval_predict_and_add_a_class(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    trained = promptmix("train", photos, "--out", model, "--shots", "4", "--epochs", "3", "--json")
    assert trained.code == 0, trained.err
    assert trained.err == ""
    result = json.loads(trained.out)
    assert result["metrics"]["num_pictures"] == 12
    assert "not trained on" in result["data"]
    evaluated = json.loads(promptmix("eval", model, photos, "--json").out)
    assert evaluated["metrics"]["num_pictures"] == 24
    assert promptmix("classes", "add", model, "heart").code == 0
    assert promptmix("classes", "list", model).out.split() == ["anchor", "cat", "skull", "heart"]
    lines = promptmix("predict", model, photos / "cat", "--json").out.splitlines()
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
    promptmix: Promptmix, photos: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    places = {"PHOTOS": str(photos), "OUT": str(tmp_path / "out")}
    done = promptmix(*[places.get(argument, argument) for argument in arguments])
    assert done.code == code
    assert words in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_training_keeps_to_the_memory_it_is_given_and_says_how(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    given = ("train", photos, "--out", tmp_path / "out", "--shots", "4", "--epochs", "3")
    refused = promptmix(*given, "--max-memory", "20MB")
    assert refused.code == 3
    assert "--max-memory 19.1 MiB is too little: 12 prompts a step need about" in refused.err
    assert not (tmp_path / "out").exists()
    assert "must be an amount of memory such as 8GB" in promptmix(*given, "--max-memory", "much").err
    trained = promptmix(*given, "--max-memory", "16GB")
    assert trained.code == 0, trained.err
    assert "memory: 12 prompts a step, all at once" in trained.err
    # The limit is no part of what is learnt.
    assert promptmix(*given, "--max-memory", "8GB", "--resume").code == 0
    without = promptmix("train", photos, "--out", tmp_path / "probe", "--method", "linear-probe", "--max-memory", "8GB")
    assert "linear-probe encodes no text in its training steps; --max-memory changes nothing" in without.err


def test_a_broken_picture_does_not_stop_the_others(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    assert promptmix("train", photos, "--out", tmp_path / "m", "--method", "zero-shot").code == 0
    (tmp_path / "broken.png").write_bytes(b"no picture")
    done = promptmix("predict", tmp_path / "m", tmp_path / "broken.png", photos / "cat")
    assert done.code == 4
    assert len(done.out.splitlines()) == 8
    assert "broken.png" in done.err


def test_help_is_there_and_imports_no_torch(subprocess_environment: dict[str, str]) -> None:
    code = "import sys; from promptmix.cli.main import app; assert 'torch' not in sys.modules; app(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=subprocess_environment)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in ("demo", "train", "eval", "predict", "info", "classes"))


def test_a_config_file_is_read_and_options_go_over_it(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
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
    assert done.code == 0, done.err
    config = json.loads(done.out)["config"]
    assert (config["method"], config["seed"]) == ("coop", 7)
    assert (config["recipe"]["epochs"], config["recipe"]["rate"], config["options"]["context_tokens"]) == (1, 0.01, 3)


@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="this system does not tell how much memory a process has held"
)
def test_a_run_holds_no_more_memory_than_it_is_given(tmp_path: Path) -> None:
    for drawn in draw_set(CLASS_NAMES, ("photo",), 2, 0):
        folder = tmp_path / "photos" / drawn.class_name
        folder.mkdir(parents=True, exist_ok=True)
        drawn.image.save(folder / f"{len(list(folder.iterdir()))}.png")
    groups = json.dumps([[f"number {number} of {{}}."] for number in range(40)])
    given = ("train", tmp_path / "photos", "--shots", "1", "--epochs", "1", "--set", f"method.groups={groups}", "--json")

    def peak(allowed: str) -> int:
        """Of a run of one step, in a process of its own, so that its peak is this run's."""
        words = ["-m", "promptmix", *map(str, given), "--out", str(tmp_path / allowed), "--set", "recipe.batch_size=120"]
        done = subprocess.run([sys.executable, *words, "--max-memory", allowed], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "memory: 4,800 prompts a step" in done.stderr
        return int(json.loads(done.stdout)["peak_memory_bytes"])

    plenty = peak("64GB")
    enough = int(0.92 * plenty)
    assert peak(str(enough)) < enough
