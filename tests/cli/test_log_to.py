"""promptmix train --log-to: names, a file of options, and what is told of a mistake."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Promptmix = Callable[..., Any]
QUICK = ("--shots", "2", "--epochs", "1")


def test_an_unknown_name_and_a_missing_library_are_one_line(
    promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    promptmix("train", photos, "--out", out, "--log-to", "wandb", "--log-to", "mlfow").fails(
        3, "log_to", "'mlfow'", "did you mean 'mlflow'?", "Allowed: tensorboard, wandb, mlflow"
    )
    monkeypatch.setitem(sys.modules, "wandb", None)
    promptmix("train", photos, "--out", out, "--log-to", "wandb").fails(3, "wandb", "pip install 'promptmix[track]'")
    assert not out.exists()


def test_tensorboard_by_option_and_by_file(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    config = tmp_path / "options.yaml"
    config.write_text("log_to: tensorboard\n")
    given = {"option": ["--log-to", "tensorboard"], "file": ["--config", config], "set": ["--set", "log_to=[tensorboard]"]}
    for name, words in given.items():
        done = promptmix("train", photos, "--out", tmp_path / name, *QUICK, *words, "--json")
        done.works()
        assert json.loads(done.out)["config"]["log_to"] == ["tensorboard"]
        assert list((tmp_path / name / "tracking" / "tensorboard").glob("events.out.*"))
