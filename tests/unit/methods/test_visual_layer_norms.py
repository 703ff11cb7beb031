"""Tuning the image tower's layer norms, as the published mixture does: whole runs with a small random vision transformer."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from promptmix.backbones.base import Backbone
from promptmix.backbones.configs import BackboneConfig
from promptmix.backbones.registry import bundled_folder, load_backbone
from promptmix.backbones.text_tower import TextTower
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.backbones.weights import save_folder
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.data.transforms import Augmentation
from promptmix.errors import ConfigError, InterruptedRun
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.inference.predictor import Predictor, add_classes
from promptmix.methods.base import Recipe
from promptmix.methods.registry import build_method
from promptmix.model_folder import read_model
from promptmix.training.feeds import LiveFeed
from promptmix.training.fit import RunConfig
from promptmix.training.loop import train
from promptmix.training.run import Outcome, run

CLASSES = ("anchor", "cat", "skull")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp("backbone")
    raw = json.loads((bundled_folder() / "config.json").read_text())
    raw = {key: value for key, value in raw.items() if not key.startswith("format")}
    raw["vision"] = {
        "kind": "vision_transformer", "image_size": 64, "patch_size": 16, "width": 32, "layers": 2, "heads": 2, "mlp_width": 64,
        "activation": "quick_gelu", "layer_norm_epsilon": 1e-5,
    }  # fmt: skip
    config = BackboneConfig.model_validate_json(json.dumps(raw))
    assert config.vision.kind == "vision_transformer"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text, vision = TextTower(config.text, config.embedding_width), VisionTransformer(config.vision, config.embedding_width)
        for parameter in vision.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    towers: dict[str, torch.nn.Module] = {"text": text, "vision": vision}
    tokenizer = (bundled_folder() / "tokenizer.json").read_text(encoding="utf-8")
    save_folder(folder, config, towers, torch.tensor(3.0), tokenizer)
    return load_backbone(str(folder), device="cpu")


def pictures(seed: int) -> LabelledPictures:
    drawn = draw_set(CLASSES, ("photo", "neon"), 2, seed)
    labels = [CLASSES.index(one.class_name) for one in drawn]
    return LabelledPictures(pictures=[one.image for one in drawn], labels=labels, class_names=CLASSES, description="drawn")


def released(**options: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "options": {"preset": "as_released", **options},
            "recipe": {"epochs": 3, "batch_size": 4, "rate": 0.5, "warmup_epochs": 0},
            "seed": 3,
        }
    )


@pytest.fixture(scope="module")
def whole(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("runs") / "whole"
    return run(released(), pictures(1), pictures(2), backbone=backbone, out=out), out


def test_the_norms_are_learnt_and_the_backbone_is_left_alone(whole: tuple[Outcome, Path], backbone: Backbone) -> None:
    assert isinstance(backbone.vision, VisionTransformer)
    learnt = {name: value for name, value in whole[0].model.learnt.items() if name.startswith("visual_norms.")}
    assert len(learnt) == 2 * 2 * 2  # two blocks, two norms each, weight and bias
    mine = dict(backbone.vision.named_parameters())
    for name, value in learnt.items():
        original = mine[name.removeprefix("visual_norms.").replace("/", ".")]
        assert not torch.equal(value, original), name
        assert not original.requires_grad
        assert original.grad is None


def test_a_saved_model_predicts_with_its_own_tower(whole: tuple[Outcome, Path], backbone: Backbone) -> None:
    outcome, out = whole
    test = pictures(2)
    predictor = Predictor.from_folder(out / "model", backbone=backbone.name, device="cpu")
    assert predictor.backbone.fingerprint != backbone.fingerprint  # so that no cached feature of the other tower is used
    said = predictor.predict(test.pictures).predictions
    right = [one.class_name == CLASSES[label] for one, label in zip(said, test.labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(outcome.result.metrics["accuracy"])
    rows = (out / "predictions.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [float(row.split(",")[3]) for row in rows] == pytest.approx([one.probability for one in said], abs=1e-6)


def test_a_saved_model_looks_with_the_norms_it_learnt(whole: tuple[Outcome, Path], backbone: Backbone) -> None:
    """Against a tower put together by hand."""
    model, test = read_model(whole[1] / "model"), pictures(2)
    tower = copy.deepcopy(backbone.vision)
    assert isinstance(tower, VisionTransformer)
    weights = tower.state_dict()
    for name, value in model.learnt.items():
        if name.startswith("visual_norms."):
            weights[name.removeprefix("visual_norms.").replace("/", ".")] = value
    tower.load_state_dict(weights)
    by_hand = extract_features(dataclasses.replace(backbone, vision=tower, fingerprint="by hand"), test.pictures).features[:, 0]
    logits = Predictor(model, backbone=backbone).logits(test.pictures)
    torch.testing.assert_close(logits, model.classifier.logits(by_hand), rtol=0, atol=1e-5)
    untouched = extract_features(backbone, test.pictures).features[:, 0]
    assert not torch.allclose(logits, model.classifier.logits(untouched), rtol=0, atol=1e-3)


def test_a_cache_of_features_is_never_asked_for_the_other_tower(
    whole: tuple[Outcome, Path], backbone: Backbone, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "features")
    for _ in range(2):
        again = run(released(), pictures(1), pictures(2), backbone=backbone, cache=cache)
        assert again.result.metrics == whole[0].result.metrics
        plain = run(RunConfig(method="zero-shot"), pictures(1), pictures(2), backbone=backbone, cache=cache)
        assert plain.result.metrics == whole[0].result.zero_shot
    logits = [
        Predictor(whole[0].model, backbone=backbone, cache=one).logits(pictures(2).pictures) for one in (cache, cache, None)
    ]
    assert torch.equal(logits[0], logits[1])
    torch.testing.assert_close(logits[0], logits[2])


def test_classes_are_added_to_a_model_with_a_tower_of_its_own(whole: tuple[Outcome, Path], backbone: Backbone) -> None:
    model = read_model(whole[1])
    added = add_classes(model, ["heart"], backbone)
    before, after = (Predictor(one, backbone=backbone).logits(pictures(2).pictures) for one in (model, added))
    assert after.shape[1] == 4
    torch.testing.assert_close(after[:, :3], before)


def test_the_norms_are_tuned_at_a_tenth_of_the_rate_by_the_gradient_of_the_loss(backbone: Backbone) -> None:
    shots = pictures(1)
    methods = [build_method("mocoop", {"preset": "as_released"}, backbone, CLASSES, seed=3) for _ in range(2)]
    labels = torch.tensor(shots.labels)
    feeds = [LiveFeed(one, backbone, shots.pictures, labels, Augmentation(), 3) for one in methods]
    recipe = Recipe(epochs=1, rate=0.5, batch_size=len(shots.labels), warmup_epochs=0, momentum=0.0, weight_decay=0.0)
    before = methods[0].learnt_state()
    train(methods[0], recipe, feeds[0])
    methods[1].training_step(next(iter(feeds[1].batches(0, recipe.batch_size, 0)))).loss.backward()
    after = methods[0].learnt_state()
    for name, parameter in methods[1].named_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 0, name
        rate = 0.05 if name.startswith("visual_norms.") else 0.5
        torch.testing.assert_close(after[name], before[name] - rate * parameter.grad, msg=name)


def test_names_without_pictures_are_used_and_noted(whole: tuple[Outcome, Path], backbone: Backbone) -> None:
    more = run(released(), pictures(1), pictures(2), more_class_names=("heart", "gear"), backbone=backbone)
    assert any("names of classes without pictures" in note for note in more.result.notes)
    assert not any("without pictures" in note for note in whole[0].result.notes)
    assert not torch.equal(more.model.learnt["contexts"], whole[0].model.learnt["contexts"])


def test_a_tower_without_such_norms_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"visual_layer_norms needs a vision transformer.* set visual_layer_norms=false"):
        build_method("mocoop", {"preset": "as_released"}, load_backbone("bundled", device="cpu"), CLASSES)


def test_zero_shot_is_measured_with_the_untouched_tower(whole: tuple[Outcome, Path], backbone: Backbone) -> None:
    plain = run(RunConfig(method="zero-shot"), pictures(1), pictures(2), backbone=backbone).result
    assert whole[0].result.zero_shot == plain.metrics


def test_a_resumed_run_is_the_uninterrupted_one(whole: tuple[Outcome, Path], backbone: Backbone, tmp_path: Path) -> None:
    def stop_once(stage: str, done: int, total: int, detail: str) -> None:
        if stage == "training" and done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRun):
        run(released(), pictures(1), pictures(2), backbone=backbone, out=tmp_path / "cut", on_progress=stop_once)
    resumed = run(released(), pictures(1), pictures(2), backbone=backbone, out=tmp_path / "cut", resume=True)
    for name, value in whole[0].model.learnt.items():
        assert torch.equal(value, resumed.model.learnt[name]), name
    assert resumed.result.metrics == whole[0].result.metrics
    assert (tmp_path / "cut" / "log.jsonl").read_text() == (whole[1] / "log.jsonl").read_text()


@pytest.mark.parametrize("option", [{"router_detach": True}, {"visual_layer_norms": False}])
def test_the_options_of_the_tower_change_the_outcome(
    option: dict[str, bool], whole: tuple[Outcome, Path], backbone: Backbone
) -> None:
    other = run(released(**option), pictures(1), pictures(2), backbone=backbone).model
    assert not torch.equal(other.learnt["contexts"], whole[0].model.learnt["contexts"])
