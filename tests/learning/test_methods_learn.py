"""Every method that learns does so: on pictures in styles the backbone has not seen, it beats zero-shot on new pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.demo import METHODS
from promptmix.features.cache import FeatureCache
from promptmix.training.run import LabelledPictures, RunConfig, run

CLASSES = ("anchor", "cat", "gear", "envelope", "snowman", "shamrock", "umbrella", "skull")
STYLES = ("neon", "stamp", "cross-stitch")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("features"))


def pictures(per_cell: int, seed: int) -> LabelledPictures:
    drawn = draw_set(CLASSES, STYLES, per_cell, seed)
    return LabelledPictures(
        pictures=[one.image for one in drawn],
        labels=[CLASSES.index(one.class_name) for one in drawn],
        class_names=CLASSES,
        description="drawn",
    )


@pytest.mark.parametrize("name", ["linear probe", "CoOp, class-specific", "mixture of prompts", "mixture, image side"])
def test_it_learns(name: str, backbone: Backbone, cache: FeatureCache, tmp_path: Path) -> None:
    options = METHODS[name.removesuffix(", class-specific")]
    if name.startswith("CoOp"):
        # One context for all classes can hardly tell styles apart (the README's table); one for each class can, given steps enough.
        recipe = {"epochs": 60, "rate": 0.1, "batch_size": 16}
        options = {**options, "options": {**options["options"], "class_specific": True}, "recipe": recipe}
    config = RunConfig.model_validate({**options, "shots": 12})
    result = run(config, pictures(4, 1), pictures(5, 2), backbone=backbone, cache=cache, out=tmp_path / "run").result
    gain = result.metrics["accuracy"] - result.zero_shot["accuracy"]
    assert gain >= 0.04
    log = tmp_path / "run" / "log.jsonl"
    if log.is_file():
        losses = [json.loads(line)["loss"] for line in log.read_text(encoding="utf-8").splitlines()]
        assert losses[-1] < 0.7 * losses[0]
