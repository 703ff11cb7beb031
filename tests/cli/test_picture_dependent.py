"""A method whose class features depend on the picture, from one command to the next: its model predicts with the text tower."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Promptmix = Callable[..., Any]


@pytest.fixture(scope="module")
def run(promptmix: Promptmix, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cocoop") / "run"
    promptmix("train", photos, "--out", out, "--method", "cocoop", "--set", "recipe.batch_size=8", "--epochs", "2").works()
    return out


def test_eval_and_predict_say_the_same(promptmix: Promptmix, run: Path, photos: Path) -> None:
    measured, predicted = promptmix("eval", run, photos, "--json"), promptmix("predict", run, photos, "--json")
    measured.works()
    predicted.works()
    said = [json.loads(line) for line in predicted.out.splitlines()]
    right = [one["class"] == Path(one["path"]).parent.name for one in said]
    metrics = json.loads(measured.out)["metrics"]
    assert metrics["num_pictures"] == len(right) == 24
    assert metrics["accuracy"] == pytest.approx(sum(right) / len(right))


def test_predict_classes_and_predict_again(promptmix: Promptmix, run: Path, photos: Path) -> None:
    done = promptmix("predict", run, photos / "cat", "--json")
    done.works()
    before = [json.loads(line) for line in done.out.splitlines()]
    assert len(before) == 8
    assert all(len(one["top"]) == 3 for one in before)
    promptmix("classes", "add", run, "polar bear", "heart").works()
    promptmix("classes", "remove", run, "heart").works()
    listed = promptmix("classes", "list", run)
    assert listed.out.splitlines() == ["anchor", "cat", "skull", "polar bear"]
    done = promptmix("predict", run, photos / "cat", "--json")
    done.works()
    after = [json.loads(line) for line in done.out.splitlines()]
    assert all({one["class"] for one in said["top"]} == {"anchor", "cat", "skull", "polar bear"} for said in after)
    assert [said["path"] for said in after] == [said["path"] for said in before]
