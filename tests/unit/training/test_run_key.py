"""A run that learns from the names of classes without pictures is not gone on with under other names."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.errors import CheckpointError, InterruptedRun
from promptmix.features.cache import FeatureCache
from promptmix.training.fit import RunConfig
from promptmix.training.run import run

NAMES = ("anchor", "cat", "skull")
CONFIG = RunConfig.model_validate(
    {"options": {"text_classes": "all"}, "recipe": {"epochs": 3, "batch_size": 4, "warmup_epochs": 0}, "device": "cpu"}
)


def drawn() -> LabelledPictures:
    pictures = draw_set(NAMES, ("stamp",), 4, 1)
    labels = [NAMES.index(one.class_name) for one in pictures]
    return LabelledPictures(pictures=[one.image for one in pictures], labels=labels, class_names=NAMES, description="drawn")


def test_the_names_without_pictures_belong_to_the_run(tmp_path: Path) -> None:
    given: dict[str, Any] = {"backbone": load_backbone("bundled", device="cpu"), "cache": FeatureCache(tmp_path / "features")}
    whole = run(CONFIG, drawn(), more_class_names=["heart"], **given).model.learnt
    other = run(CONFIG, drawn(), more_class_names=["snowman"], **given).model.learnt
    assert not torch.equal(whole["contexts"], other["contexts"])  # so that to mix them would be wrong

    def stop_once(stage: str, done: int, total: int, detail: str) -> None:
        if stage == "training" and done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRun):
        run(CONFIG, drawn(), more_class_names=["heart"], out=tmp_path / "run", on_progress=stop_once, **given)
    for names in (["snowman"], [], ["heart", "snowman"]):
        with pytest.raises(CheckpointError, match="other options"):
            run(CONFIG, drawn(), more_class_names=names, out=tmp_path / "run", resume=True, **given)
    resumed = run(CONFIG, drawn(), more_class_names=["heart"], out=tmp_path / "run", resume=True, **given).model.learnt
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
