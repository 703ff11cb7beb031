"""Every method that learns does so: on pictures in styles the backbone has not seen, it beats zero-shot on new pictures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.demo import METHODS
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.inference.predictor import Predictor
from promptmix.methods import registry
from promptmix.model_folder import SavedModel
from promptmix.training.fit import RunConfig
from promptmix.training.run import run

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


# One context for all classes can hardly tell styles apart (the README's table); one for each class can, given steps enough.
CLASS_SPECIFIC_COOP = {
    **METHODS["CoOp"],
    "options": {"preset": "base-to-new", "class_specific": True},
    "recipe": {"epochs": 60, "rate": 0.1, "batch_size": 16},
}
CONFIGS = {
    "linear probe": METHODS["linear probe"],
    "Tip-Adapter": {"method": "tip-adapter", "augmentation": {"views": 0}},
    "Tip-Adapter-F": {"method": "tip-adapter-f", "recipe": {"epochs": 20}, "augmentation": {"views": 0}},
    "CoOp, class-specific": CLASS_SPECIFIC_COOP,
    "CoCoOp": {
        "method": "cocoop",
        "recipe": {"epochs": 20, "rate": 0.05, "batch_size": 8, "clip": 1.0},
        "augmentation": {"views": 0},
    },
    # The bundled backbone has no vision transformer to change.
    "CLIP-LoRA, text tower": {
        "method": "clip-lora",
        "options": {"towers": "text"},
        "recipe": {"epochs": 40, "rate": 0.01, "batch_size": 16},
        "augmentation": {"views": 0},
    },
    **{
        name: {
            "method": name,
            "recipe": {"epochs": 60, "rate": 0.1, "batch_size": 16, "clip": 1.0},
            "augmentation": {"views": 0},
        }
        for name in ("kgcoop", "prograd", "lasp")
    },
    "mixture of prompts": METHODS["mixture of prompts"],
    "mixture, image side": {
        "method": "mocoop",
        "options": {"bank": "styles", "preset": "image_side"},
        "recipe": {"epochs": 20, "rate": 0.0032, "warmup_epochs": 5},
        "augmentation": {"views": 0},
    },
    # All experts answer, so that the router's loss cannot fall far; and what is known before training leaves the map little to do.
    "promptmix": {
        **METHODS["promptmix"],
        "options": {"router_weight": 0.0, "consistency_weight": 2.0},
        "recipe": {"epochs": 30, "rate": 0.1},
    },
}


def test_every_method_that_learns_is_here() -> None:
    learning = {name for name in registry.METHODS if registry.method_class(name).learns != "nothing"}
    # Those that put prompts into CLIP's vision transformer, which the bundled backbone has not: test_deep_prompts_learn.py.
    assert {config["method"] for config in CONFIGS.values()} | {"maple", "promptsrc"} == learning


@pytest.mark.parametrize("name", CONFIGS)
def test_it_learns(name: str, backbone: Backbone, cache: FeatureCache, tmp_path: Path) -> None:
    config = RunConfig.model_validate({**CONFIGS[name], "shots": 12})
    shots = pictures(4, 1)
    outcome = run(config, shots, pictures(5, 2), backbone=backbone, cache=cache, out=tmp_path / "run")
    result = outcome.result
    assert result.metrics["accuracy"] - result.zero_shot["accuracy"] >= 0.04
    assert not result.worse_than_zero_shot
    untrained = run(RunConfig(method="zero-shot"), shots, backbone=backbone, cache=cache).model
    right, right_before = (shots_told_right(model, shots, backbone, cache) for model in (outcome.model, untrained))
    assert right - right_before >= 0.04
    if registry.method_class(config.method).learns == "by gradient":
        log = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8")
        losses = [json.loads(line)["loss"] for line in log.splitlines()]
        assert len(losses) == config.recipe["epochs"]
        assert losses[-1] < 0.7 * losses[0]


def shots_told_right(model: SavedModel, shots: LabelledPictures, backbone: Backbone, cache: FeatureCache) -> float:
    features = extract_features(backbone, shots.pictures, cache=cache).features[:, 0]
    logits = Predictor(model, backbone=backbone).classifier.logits(features)
    return float((logits.argmax(dim=1) == torch.tensor(shots.labels)).float().mean())


def test_wrong_labels_teach_what_is_wrong_and_the_run_says_so(backbone: Backbone, cache: FeatureCache) -> None:
    right = pictures(4, 1)
    wrong = dataclasses.replace(right, labels=[(label + 1) % len(CLASSES) for label in right.labels])
    config = RunConfig.model_validate({**CONFIGS["mixture, image side"], "shots": 12})
    result = run(config, wrong, pictures(5, 2), backbone=backbone, cache=cache).result
    assert result.worse_than_zero_shot
    assert any("below zero-shot" in note for note in result.notes)
