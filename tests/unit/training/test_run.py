"""Whole runs on a few drawn pictures: learning, resuming, saving, predicting, adding classes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from tests.backbone_files import write_clip

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.errors import CheckpointError, ConfigError, DataError, InterruptedRun
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.inference.predictor import Predictor, add_classes
from promptmix.methods.registry import METHODS, build_method
from promptmix.model_folder import read_model, write_classes
from promptmix.training import fit, loop
from promptmix.training.checkpoint import read_checkpoint, write_checkpoint
from promptmix.training.fit import RunConfig
from promptmix.training.run import run

CLASSES = ("anchor", "cat", "snowflake", "umbrella")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(device="cpu")


def pictures(per_cell: int, seed: int) -> LabelledPictures:
    drawn = draw_set(CLASSES, ("stamp", "cross-stitch"), per_cell, seed)
    labels = [CLASSES.index(one.class_name) for one in drawn]
    return LabelledPictures(pictures=[one.image for one in drawn], labels=labels, class_names=CLASSES, description="drawn")


def quick(method: str, **more: object) -> RunConfig:
    recipe = {"epochs": 6, "batch_size": 8} if method in ("coop", "clip-lora", "maple", "mocoop", "promptsrc") else {}
    # The bundled backbone has no vision transformer to change.
    options = {"towers": "text"} if method == "clip-lora" else {}
    return RunConfig.model_validate({"method": method, "options": options, "recipe": recipe, **more})


def test_a_rate_that_breaks_the_last_step_leaves_no_model(backbone: Backbone, tmp_path: Path) -> None:
    config = RunConfig.model_validate({"method": "tip-adapter-f", "recipe": {"rate": 100, "epochs": 1}})
    with pytest.raises(ConfigError, match="no longer finite after the last step; lower the rate"):
        run(config, pictures(8, 1), backbone=backbone, out=tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_saves_and_predicts_the_same(method: str, backbone: Backbone, tmp_path: Path) -> None:
    if method in ("maple", "promptsrc"):
        # They need a vision transformer; this one has random weights, so nothing is asked of what it learns.
        write_clip(tmp_path / "clip", "quick_gelu")
        backbone = load_backbone(str(tmp_path / "clip"), device="cpu")
    outcome = run(quick(method), pictures(4, 1), pictures(4, 2), backbone=backbone, out=tmp_path / "run")
    metrics = outcome.result.metrics
    assert metrics["num_pictures"] == 32
    assert metrics["accuracy"] > 0.3 or backbone.name != "bundled"
    test = pictures(4, 2)
    again = Predictor.from_folder(tmp_path / "run", device="cpu").predict(test.pictures)
    right = [one.class_name == CLASSES[label] for one, label in zip(again.predictions, test.labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(metrics["accuracy"])
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("method", ["coop", "mocoop"])
def test_learning_lowers_the_loss(method: str, backbone: Backbone, tmp_path: Path) -> None:
    recipe = {"epochs": 12, "batch_size": 8, "warmup_epochs": 1, "rate": 0.1}
    # Started from words: sixteen random vectors before a name drown it on a backbone as small as this one.
    options = {"preset": "base-to-new"} if method == "coop" else {}
    config = quick(method, options=options, recipe=recipe, augmentation={"views": 0})
    run(config, pictures(4, 1), backbone=backbone, out=tmp_path / "run")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 12
    assert losses[-1] < 0.8 * losses[0]


def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(backbone: Backbone, tmp_path: Path) -> None:
    config = quick("mocoop", recipe={"epochs": 6, "batch_size": 8, "averaging": "second_half"})
    whole = run(config, pictures(4, 1), backbone=backbone, out=tmp_path / "whole")

    def stop_once(stage: str, done: int, total: int, detail: str) -> None:
        if stage == "training" and done == 18:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRun, match="--resume"):
        run(config, pictures(4, 1), backbone=backbone, out=tmp_path / "cut", on_progress=stop_once)
    assert (tmp_path / "cut" / "checkpoint.safetensors").is_file()
    resumed = run(config, pictures(4, 1), backbone=backbone, out=tmp_path / "cut", resume=True)
    for name, value in whole.model.learnt.items():
        assert torch.equal(value, resumed.model.learnt[name]), name
    assert (tmp_path / "whole" / "log.jsonl").read_text() == (tmp_path / "cut" / "log.jsonl").read_text()
    with pytest.raises(CheckpointError, match="other options"):
        run(quick("mocoop", seed=2), pictures(4, 1), backbone=backbone, out=tmp_path / "cut", resume=True)


def test_a_run_is_not_overwritten(backbone: Backbone, tmp_path: Path) -> None:
    run(quick("zero-shot"), pictures(1, 1), backbone=backbone, out=tmp_path / "run")
    with pytest.raises(DataError, match="--overwrite"):
        run(quick("zero-shot"), pictures(1, 1), backbone=backbone, out=tmp_path / "run")
    run(quick("zero-shot"), pictures(1, 1), backbone=backbone, out=tmp_path / "run", overwrite=True)


def test_classes_are_added_by_name(backbone: Backbone, tmp_path: Path) -> None:
    run(quick("mocoop"), pictures(4, 1), backbone=backbone, out=tmp_path / "run")
    folder = tmp_path / "run" / "model"
    added = add_classes(read_model(folder), ["skull", "heart"], backbone)
    write_classes(folder, added)
    assert read_model(folder).class_names == (*CLASSES, "skull", "heart")
    drawn = draw_set(("skull", "heart"), ("photo",), 4, 5)
    predictions = Predictor.from_folder(folder, device="cpu").predict([one.image for one in drawn]).predictions
    right = [said.class_name == one.class_name for said, one in zip(predictions, drawn, strict=True)]
    assert sum(right) >= 6
    with pytest.raises(DataError, match="skull"):
        add_classes(added, ["Skull"], backbone)


def test_class_specific_contexts_refuse_new_classes(backbone: Backbone, tmp_path: Path) -> None:
    outcome = run(quick("coop", options={"class_specific": True}), pictures(2, 1), backbone=backbone)
    with pytest.raises(ConfigError, match="class-specific"):
        add_classes(outcome.model, ["skull"], backbone)


def test_damage_is_noticed(backbone: Backbone, tmp_path: Path) -> None:
    run(quick("mocoop"), pictures(1, 1), backbone=backbone, out=tmp_path / "run")
    path = tmp_path / "run" / "model" / "class_features.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="checksum"):
        read_model(tmp_path / "run")


def test_unknown_method_and_option_have_a_nearest_match(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mocoop'"):
        run(quick("mocop"), pictures(1, 1), backbone=backbone)
    with pytest.raises(ConfigError, match="did you mean 'top_k'"):
        run(quick("mocoop", options={"topk": 3}), pictures(1, 1), backbone=backbone)


def test_a_killed_run_goes_on_from_the_last_checkpoint(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(quick("mocoop"), pictures(4, 1), backbone=backbone)
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)

    class Killed(Exception):
        pass

    def kill(stage: str, done: int, total: int, detail: str) -> None:
        if stage == "training" and done == 15:
            raise Killed

    with pytest.raises(Killed):
        run(quick("mocoop"), pictures(4, 1), backbone=backbone, out=tmp_path / "run", on_progress=kill)
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
    steps: list[int] = []
    resumed = run(
        quick("mocoop"),
        pictures(4, 1),
        backbone=backbone,
        out=tmp_path / "run",
        resume=True,
        on_progress=lambda stage, done, total, detail: steps.append(done) if stage == "training" else None,
    )
    assert steps[0] == 15  # what was learnt before is not learnt again
    for name, value in whole.model.learnt.items():
        assert torch.equal(value, resumed.model.learnt[name]), name


def test_a_resumed_run_tells_the_seconds_and_the_memory_of_all_its_legs(backbone: Backbone, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int, detail: str) -> None:
        if stage == "training" and done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRun):
        run(quick("coop"), pictures(4, 1), backbone=backbone, out=tmp_path / "run", on_progress=stop)
    path, key = tmp_path / "run" / "checkpoint.safetensors", json.loads((tmp_path / "run" / "run.json").read_text())["run_key"]
    long_ago = dataclasses.replace(read_checkpoint(path, key), seconds=5000.0, peak_memory_bytes=2**60)
    write_checkpoint(path, long_ago)
    result = run(quick("coop"), pictures(4, 1), backbone=backbone, out=tmp_path / "run", resume=True).result
    assert 5000 < result.seconds["training"] < 5500
    assert result.seconds["all"] > result.seconds["training"]
    assert result.peak_memory_bytes == 2**60


def test_a_tuned_tower_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", "quick_gelu")
    backbone, cache = load_backbone(str(tmp_path / "clip"), device="cpu"), FeatureCache(tmp_path / "features")
    config = quick("clip-lora", options={"towers": "vision"}, recipe={"steps": 2, "batch_size": 8})
    run(config, pictures(1, 1), pictures(1, 2), backbone=backbone, cache=cache)
    fit._accuracy(config, pictures(1, 1), pictures(1, 2), backbone, cache, (), fit.no_progress)
    assert [path.name for path in (tmp_path / "features").glob("*.sqlite")] == [f"features-v2-{backbone.features_key}.sqlite"]


def test_what_is_learnt_does_not_depend_on_what_was_predicted_before(backbone: Backbone, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "features")
    training, test = pictures(2, 1), pictures(2, 2)
    for picture in (*training.pictures, *test.pictures):
        extract_features(backbone, [picture], cache=cache)
    config = quick("coop", augmentation={"views": 1})
    cold, warm = (run(config, training, test, backbone=backbone, cache=each) for each in (None, cache))
    assert all(torch.equal(value, warm.model.learnt[name]) for name, value in cold.model.learnt.items())
    assert cold.result.metrics == warm.result.metrics
    assert cold.result.zero_shot == warm.result.zero_shot


def test_a_finished_run_is_not_shown_for_other_test_pictures(backbone: Backbone, tmp_path: Path) -> None:
    run(quick("zero-shot"), pictures(2, 1), pictures(2, 2), backbone=backbone, out=tmp_path / "run")
    run(quick("zero-shot"), pictures(2, 1), pictures(2, 2), backbone=backbone, out=tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match="other options, pictures"):
        run(quick("zero-shot"), pictures(2, 1), pictures(2, 3), backbone=backbone, out=tmp_path / "run", resume=True)


def test_an_edited_bank_is_another_run(backbone: Backbone, tmp_path: Path) -> None:
    bank = tmp_path / "bank.yaml"
    bank.write_text("groups: [['a photo of a {}.'], ['many {}.']]")
    config = quick("ensemble", options={"bank": str(bank)})
    run(config, pictures(2, 1), backbone=backbone, out=tmp_path / "run")
    bank.write_text("groups: [['a photo of a {}.'], ['one {}.']]")
    with pytest.raises(CheckpointError, match="other options"):
        run(config, pictures(2, 1), backbone=backbone, out=tmp_path / "run", resume=True)


def test_a_mistake_in_the_new_run_does_not_cost_the_old_one(backbone: Backbone, tmp_path: Path) -> None:
    run(quick("zero-shot"), pictures(2, 1), backbone=backbone, out=tmp_path / "run")
    before = (tmp_path / "run" / "result.json").read_bytes()
    test = pictures(2, 2)
    missing = LabelledPictures(
        pictures=[*test.pictures[:-1], tmp_path / "gone.png"], labels=test.labels, class_names=CLASSES, description="drawn"
    )
    with pytest.raises(DataError, match=r"gone\.png"):
        run(quick("zero-shot"), pictures(2, 1), missing, backbone=backbone, out=tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    assert read_model(tmp_path / "run").class_names == CLASSES


def test_hard_prompts_answer_for_added_classes_alone(backbone: Backbone) -> None:
    config = quick("mocoop", options={"added_classes": "prototypes"})
    model = run(config, pictures(4, 1), backbone=backbone).model
    method = build_method(model.method, model.options, backbone, CLASSES)
    method.load_learnt_state(model.learnt)
    features = method.encode_classes([CLASSES[2], "skull", CLASSES[0]])
    learnt = model.classifier.class_features
    torch.testing.assert_close(features[:, 0], learnt[:, 2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features[:, 2], learnt[:, 0], rtol=1e-5, atol=1e-5)
    untrained = build_method(model.method, model.options, backbone, CLASSES)
    torch.testing.assert_close(features[:, 1], untrained.encode_classes(["skull"])[:, 0])
