"""Views drawn anew at each step: none comes from a cache, a resumed run sees the same ones, and nothing mixes the kinds of feed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backbone_files import write_clip

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.data.transforms import Augmentation
from promptmix.errors import CheckpointError, ConfigError, InterruptedRun
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.methods.base import Recipe
from promptmix.methods.registry import build_method
from promptmix.training.feeds import CachedFeed, LiveFeed
from promptmix.training.fit import RunConfig
from promptmix.training.loop import train
from promptmix.training.run import run

CLASSES = ("anchor", "cat", "gear")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(device="cpu")


def pictures() -> LabelledPictures:
    drawn = draw_set(CLASSES, ("photo", "sketch"), 3, 1)
    labels = [CLASSES.index(one.class_name) for one in drawn]
    return LabelledPictures(pictures=[one.image for one in drawn], labels=labels, class_names=CLASSES, description="drawn")


def config(**augmentation: Any) -> RunConfig:
    recipe = {"epochs": 4, "batch_size": 6, "rate": 0.05}
    options = {"groups": [["a photo of a {}."], ["a sketch of a {}."]]}
    return RunConfig.model_validate({"options": options, "recipe": recipe, "augmentation": augmentation})


def test_fresh_views_are_never_cached(backbone: Backbone, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    run(config(views=2, fresh=True), pictures(), backbone=backbone, cache=cache)
    shots = pictures().pictures
    # The test view of each picture is known from measuring; no augmented one is.
    assert extract_features(backbone, shots, cache=cache).from_cache == len(shots)
    augmented = extract_features(backbone, shots, augmentation=Augmentation(views=2), seed=1, cache=cache)
    assert augmented.from_cache == 0


def test_fresh_views_teach_something_else_than_fixed_ones(backbone: Backbone) -> None:
    learnt = [run(config(views=2, fresh=fresh), pictures(), backbone=backbone).model.learnt for fresh in (True, True, False)]
    assert all(torch.equal(value, learnt[1][name]) for name, value in learnt[0].items())
    assert not torch.equal(learnt[0]["contexts"], learnt[2]["contexts"])


def test_each_epoch_has_its_own_views(backbone: Backbone) -> None:
    method = build_method("zero-shot", {}, backbone, CLASSES)
    labels = torch.tensor(pictures().labels)
    feed = LiveFeed(method, backbone, pictures().pictures, labels, Augmentation(views=1000, fresh=True), 1)
    rows: list[dict[int, torch.Tensor]] = []
    for epoch in (0, 1):
        with torch.no_grad():
            batch = next(iter(feed.batches(epoch, 18, 0)))
        order = torch.argsort(batch.labels, stable=True)
        rows.append({place: batch.image_features[row] for place, row in enumerate(order.tolist())})
    assert not any(torch.equal(rows[0][place], rows[1][place]) for place in rows[0])


def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(backbone: Backbone, tmp_path: Path) -> None:
    asked = config(views=3, fresh=True)
    whole = run(asked, pictures(), backbone=backbone, out=tmp_path / "whole")

    def stop_once(stage: str, done: int, total: int, detail: str) -> None:
        if stage == "training" and done == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRun, match="--resume"):
        run(asked, pictures(), backbone=backbone, out=tmp_path / "cut", on_progress=stop_once)
    resumed = run(asked, pictures(), backbone=backbone, out=tmp_path / "cut", resume=True)
    assert all(torch.equal(value, resumed.model.learnt[name]) for name, value in whole.model.learnt.items())


def test_a_checkpoint_goes_on_with_its_own_feed_alone(backbone: Backbone, tmp_path: Path) -> None:
    shots = pictures()
    features, labels = extract_features(backbone, shots.pictures).features, torch.tensor(shots.labels)
    recipe = Recipe(epochs=3, rate=0.05, batch_size=6, warmup_epochs=0)

    def stop(report: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def method() -> Any:
        return build_method("mocoop", dict(config().options), backbone, CLASSES)

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(InterruptedRun):
        train(method(), recipe, CachedFeed(features, labels, 1), checkpoint_path=path, on_step=stop)
    others = [CachedFeed(features, labels, 2), LiveFeed(method(), backbone, shots.pictures, labels, Augmentation(), 1)]
    for feed in others:
        with pytest.raises(CheckpointError, match="another feed"):
            train(method(), recipe, feed, checkpoint_path=path)
    train(method(), recipe, CachedFeed(features, labels, 1), checkpoint_path=path)


def test_cached_features_are_refused_where_the_image_tower_is_tuned(tmp_path: Path) -> None:
    write_clip(tmp_path, "quick_gelu")
    backbone = load_backbone(str(tmp_path), device="cpu")
    options = {**config().options, "visual_layer_norms": True}
    method = build_method("mocoop", options, backbone, CLASSES)
    shots = pictures()
    features = extract_features(backbone, shots.pictures).features
    with pytest.raises(ConfigError, match="tunes the image tower"):
        train(method, Recipe(epochs=2), CachedFeed(features, torch.tensor(shots.labels), 1))


def test_fresh_views_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="give views=1 or more"):
        Augmentation(views=0, fresh=True)
