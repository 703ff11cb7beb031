"""CLIP-LoRA: whole runs with live pictures, towers that stay as they were, dropout that the step says, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.backbone_files import write_with_vision_transformer
from tests.parity.siglip_files import write_siglip
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.data.transforms import Augmentation
from promptmix.errors import ConfigError, InterruptedRun
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.inference.predictor import Predictor, add_classes
from promptmix.methods.clip_lora import ClipLora
from promptmix.methods.registry import build_method
from promptmix.model_folder import read_model
from promptmix.structs import Batch
from promptmix.training.feeds import LiveFeed
from promptmix.training.fit import RunConfig
from promptmix.training.loop import train
from promptmix.training.run import Outcome, run

CLASSES = ("anchor", "cat", "skull")
TOWERS = ("both", "vision", "text")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp("backbone")
    write_with_vision_transformer(folder)
    return load_backbone(str(folder), device="cpu")


def pictures(seed: int) -> LabelledPictures:
    drawn = draw_set(CLASSES, ("photo", "neon"), 2, seed)
    labels = [CLASSES.index(one.class_name) for one in drawn]
    return LabelledPictures(pictures=[one.image for one in drawn], labels=labels, class_names=CLASSES, description="drawn")


def pixels() -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(one.convert("RGB")) for one in pictures(1).pictures]))


def made(backbone: Backbone, seed: int = 3, **options: Any) -> ClipLora:
    """A method whose changes change something."""
    method = build_method("clip-lora", options, backbone, CLASSES, seed)
    assert isinstance(method, ClipLora)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if name.endswith("up"):
                parameter.normal_(0, 0.3, generator=generator)
    return method


def asked(**options: Any) -> RunConfig:
    recipe = {"steps": 7, "batch_size": 4, "rate": 0.02}
    return RunConfig.model_validate({"method": "clip-lora", "options": options, "recipe": recipe, "seed": 3})


@pytest.fixture(scope="module")
def whole(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("runs") / "whole"
    return run(asked(), pictures(1), pictures(2), backbone=backbone, out=out), out


def step(method: ClipLora, number: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients of one step, the feed's part of it too."""
    features = method.encode_training_pixels(pixels(), number)
    method.zero_grad()
    output = method.training_step(Batch(image_features=features, labels=torch.tensor(pictures(1).labels), number=number))
    method.backward(output)
    return output.logits.detach(), {name: one.grad.clone() for name, one in method.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("towers", TOWERS)
@pytest.mark.parametrize("options", [{}, {"rank": 5, "alpha": 3.0, "projections": ["v", "q"]}, {"projections": ["k"]}])
def test_merged_and_unmerged_towers_give_the_same_logits(towers: str, options: dict[str, Any], backbone: Backbone) -> None:
    method = made(backbone, towers=towers, **options).eval()
    logits, _ = step(method)
    with torch.no_grad():
        merged = method.classifier().logits(method.backbone.encode_pixels(pixels()))
    torch.testing.assert_close(merged, logits, rtol=1e-5, atol=1e-5)
    plain = build_method("zero-shot", {}, backbone, CLASSES).classifier().logits(backbone.encode_pixels(pixels()))
    assert not torch.allclose(plain, logits, atol=1e-3)


@pytest.mark.parametrize("towers", TOWERS)
def test_before_training_it_is_zero_shot(towers: str, backbone: Backbone) -> None:
    method = build_method("clip-lora", {"towers": towers}, backbone, CLASSES, 3)
    with torch.no_grad():
        features = backbone.encode_pixels(pixels())
        torch.testing.assert_close(method.backbone.encode_pixels(pixels()), features)
        plain = build_method("zero-shot", {}, backbone, CLASSES).classifier().logits(features)
        torch.testing.assert_close(method.classifier().logits(features), plain)


@pytest.mark.parametrize(("towers", "live", "texts"), [("both", True, 3), ("vision", True, 0), ("text", False, 3)])
def test_what_a_step_costs(towers: str, live: bool, texts: int, backbone: Backbone) -> None:
    method = build_method("clip-lora", {"towers": towers, "rank": 4, "projections": ["q", "v"]}, backbone, CLASSES)
    assert method.tunes_image_tower == live
    assert method.text_encodings_per_step == texts
    assert backbone.vision is not None
    sizes = {"vision": backbone.config.vision, "text": backbone.config.text}
    changed = [config for name, config in sizes.items() if towers in (name, "both")]
    expected = sum(int(config.layers) * 2 * 2 * 4 * int(config.width) for config in changed)
    assert method.num_learnt_parameters == expected


def test_dropout_belongs_to_the_step_and_to_training(backbone: Backbone) -> None:
    method = made(backbone, dropout=0.5)
    first, gradients = step(method, 4)
    again, gradients_again = step(method, 4)
    assert torch.equal(first, again)
    assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)
    assert not torch.allclose(first, step(method, 5)[0], atol=1e-4)
    assert not torch.allclose(first, step(made(backbone, seed=4, dropout=0.5), 4)[0], atol=1e-4)
    method.eval()
    assert torch.equal(step(method, 4)[0], step(method, 5)[0])
    assert not torch.allclose(first, step(method, 4)[0], atol=1e-4)


def test_each_tower_has_draws_of_its_own(backbone: Backbone) -> None:
    method = made(backbone)
    method.encode_training_pixels(pixels(), 2)
    method._class_features(2)
    assert method.vision is not None and method.text is not None
    assert method.vision.mask_seed != method.text.mask_seed


@pytest.mark.parametrize("towers", TOWERS)
def test_gradients_reach_the_changed_towers_alone(towers: str, backbone: Backbone) -> None:
    _, gradients = step(made(backbone, towers=towers))
    names = {f"{tower}.{matrix}" for tower in ("vision", "text") if towers in (tower, "both") for matrix in ("down", "up")}
    assert gradients.keys() == names
    for name, gradient in gradients.items():
        # The query of the last text block is asked for at the end tokens alone, and still has one.
        assert all(float(part.abs().max()) > 0 for part in gradient.flatten(0, 1)), name
    for tower in (backbone.vision, backbone.text):
        assert tower is not None
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in tower.parameters())


def test_every_choice_of_towers_and_projections_learns_something_else(backbone: Backbone) -> None:
    chosen: list[dict[str, Any]] = [{"towers": towers} for towers in TOWERS]
    chosen += [{"projections": list(projections)} for projections in ("q", "k", "v", "qv", "qkv"[:2])]
    logits = []
    for options in chosen:
        outcome = run(asked(**options), pictures(1), backbone=backbone).model
        logits.append(Predictor(outcome, backbone=backbone).logits(pictures(2).pictures))
    for place, one in enumerate(logits):
        assert not any(torch.allclose(one, other, rtol=0, atol=1e-4) for other in logits[:place]), chosen[place]


def test_a_run_saves_what_it_measured(whole: tuple[Outcome, Path], backbone: Backbone) -> None:
    outcome, out = whole
    test = pictures(2)
    predictor = Predictor.from_folder(out / "model", backbone=backbone.name, device="cpu")
    assert predictor.backbone.text is None
    assert predictor.backbone.fingerprint != backbone.fingerprint
    said = [one.class_name for one in predictor.predict(test.pictures).predictions]
    right = [one == CLASSES[label] for one, label in zip(said, test.labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(outcome.result.metrics["accuracy"])
    assert outcome.result.num_trained_parameters == sum(value.numel() for value in outcome.model.learnt.values())
    zero_shot = run(RunConfig(method="zero-shot"), pictures(1), test, backbone=backbone).result
    assert outcome.result.zero_shot == zero_shot.metrics


def test_the_fingerprint_names_the_change(backbone: Backbone) -> None:
    method = made(backbone)
    learnt, options = method.learnt_state(), method.saved_options()

    def fingerprint(**changed: Any) -> str:
        return ClipLora.tuned_backbone(backbone, {**options, **changed}, learnt).fingerprint

    prints = [fingerprint(), fingerprint(alpha=2.0), fingerprint(projections=["v", "k", "q"]), backbone.fingerprint]
    assert len(set(prints)) == 4
    assert fingerprint() == method.backbone.fingerprint
    learnt["vision.up"] += 1e-6
    assert fingerprint() not in prints
    learnt = {name: value for name, value in learnt.items() if name.startswith("text")}
    assert ClipLora.tuned_backbone(backbone, {**options, "towers": "text"}, learnt) is backbone


def test_a_cache_of_features_is_never_asked_for_the_other_tower(
    whole: tuple[Outcome, Path], backbone: Backbone, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path)
    for _ in range(2):
        again = run(asked(), pictures(1), pictures(2), backbone=backbone, cache=cache)
        assert again.result.metrics == whole[0].result.metrics
    logits = [Predictor(whole[0].model, backbone=backbone, cache=one).logits(pictures(2).pictures) for one in (cache, None)]
    torch.testing.assert_close(logits[0], logits[1])


def test_texts_alone_are_learnt_from_cached_features(backbone: Backbone, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    config = asked(towers="text").model_copy(update={"augmentation": Augmentation(views=2)})
    run(config, pictures(1), backbone=backbone, cache=cache)
    views = extract_features(backbone, pictures(1).pictures, augmentation=Augmentation(views=2), seed=3, cache=cache)
    assert views.from_cache == len(pictures(1).pictures)


def test_added_classes_are_encoded_by_the_tuned_text_tower(whole: tuple[Outcome, Path], backbone: Backbone) -> None:
    model = read_model(whole[1])
    added = add_classes(model, ["heart"], backbone)
    before, after = (Predictor(one, backbone=backbone).logits(pictures(2).pictures) for one in (model, added))
    torch.testing.assert_close(after[:, :3], before)
    frozen = build_method("zero-shot", {}, backbone, ("cat", "heart")).encode_classes(["heart"])
    assert not torch.allclose(added.classifier.class_features[:, 3:], frozen, atol=1e-4)


@pytest.mark.parametrize("towers", TOWERS)
@pytest.mark.parametrize("stop", [2, 3])
def test_a_resumed_run_is_the_uninterrupted_one(towers: str, stop: int, backbone: Backbone, tmp_path: Path) -> None:
    config, told = asked(towers=towers), list[tuple[int, int]]()

    def stop_once(stage: str, done: int, total: int, detail: str) -> None:
        if stage == "training":
            told.append((done, total))
            if done == stop:
                os.kill(os.getpid(), signal.SIGINT)

    uninterrupted = run(config, pictures(1), pictures(2), backbone=backbone, out=tmp_path / "whole")
    with pytest.raises(InterruptedRun):
        run(config, pictures(1), pictures(2), backbone=backbone, out=tmp_path / "cut", on_progress=stop_once)
    resumed = run(config, pictures(1), pictures(2), backbone=backbone, out=tmp_path / "cut", resume=True)
    assert told == [(done, 7) for done in range(1, stop + 1)]
    for name, value in uninterrupted.model.learnt.items():
        assert torch.equal(value, resumed.model.learnt[name]), name
    assert resumed.result.metrics == uninterrupted.result.metrics
    assert (tmp_path / "cut" / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()


def test_a_step_is_adamw_s(backbone: Backbone) -> None:
    shots = pictures(1)
    methods = [build_method("clip-lora", {}, backbone, CLASSES, 3) for _ in range(2)]
    feeds = [LiveFeed(one, backbone, shots.pictures, torch.tensor(shots.labels), Augmentation(), 3) for one in methods]
    recipe = ClipLora.recipe_for(1, {"steps": 1, "rate": 0.1, "batch_size": len(shots.labels)})
    train(methods[0], recipe, feeds[0])
    methods[1].training_step(next(iter(feeds[1].batches(0, recipe.batch_size, 0)))).loss.backward()
    torch.optim.AdamW(methods[1].parameters(), lr=0.1, weight_decay=0.01).step()
    for name, value in methods[0].learnt_state().items():
        torch.testing.assert_close(value, methods[1].learnt_state()[name], msg=name)


def test_the_recipe_is_the_published_one() -> None:
    recipe = ClipLora.default_recipe(4)
    assert (recipe.steps, recipe.batch_size, recipe.rate, recipe.final_rate) == (2000, 32, 2e-4, 1e-6)
    assert (recipe.optimizer, recipe.weight_decay, recipe.schedule, recipe.clip) == ("adamw", 1e-2, "step", None)
    assert ClipLora.default_recipe(None).steps == 8000


@pytest.fixture(scope="module", params=["siglip", "siglip2"])
def siglip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backbone]:
    pytest.importorskip("transformers", reason="the transformers library is for development only")
    folder = tmp_path_factory.mktemp(request.param)
    write_siglip(folder, request.param)
    return load_backbone(str(folder), device="cpu")


@pytest.mark.parametrize("towers", TOWERS)
def test_towers_of_siglip_are_changed_too(towers: str, siglip: Backbone) -> None:
    method = made(siglip, towers=towers).eval()
    shown = pixels()[:, :32, :32]
    features = method.encode_training_pixels(shown, 0)
    output = method.training_step(Batch(image_features=features, labels=torch.tensor(pictures(1).labels)))
    with torch.no_grad():
        merged = method.classifier().logits(method.backbone.encode_pixels(shown))
    torch.testing.assert_close(merged, output.logits.detach(), rtol=1e-5, atol=1e-5)
    output.loss.backward()
    assert all(parameter.grad is not None and float(parameter.grad.abs().max()) > 0 for parameter in method.parameters())


def test_a_backbone_without_a_vision_transformer_is_told_of_the_texts() -> None:
    bundled = load_backbone("bundled", device="cpu")
    for towers in ("both", "vision"):
        with pytest.raises(ConfigError, match=r"vision transformer.* bundled has none: set towers=text"):
            build_method("clip-lora", {"towers": towers}, bundled, CLASSES)
    assert build_method("clip-lora", {"towers": "text"}, bundled, CLASSES).learnt_state().keys() == {"text.down", "text.up"}


@pytest.mark.parametrize(("towers", "tower"), [("both", "image"), ("vision", "image"), ("text", "text")])
def test_half_precision_is_refused(towers: str, tower: str, backbone: Backbone) -> None:
    half = load_backbone(backbone.name, device="cpu", precision="bf16")
    with pytest.raises(ConfigError, match=f"trains the {tower} tower, which needs --precision fp32"):
        build_method("clip-lora", {"towers": towers}, half, CLASSES)


def test_a_saved_model_predicts_in_half_precision(whole: tuple[Outcome, Path], backbone: Backbone) -> None:
    half = load_backbone(backbone.name, device="cpu", precision="bf16", with_text=False)
    predictors = [Predictor(whole[0].model, backbone=one) for one in (backbone, half)]
    logits = [one.logits(pictures(2).pictures) for one in predictors]
    torch.testing.assert_close(logits[0], logits[1], rtol=0.1, atol=0.5)
    assert predictors[0].backbone.features_key != predictors[1].backbone.features_key


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"projections": []}, "at least 1"),
        ({"projections": ["q", "k", "q"]}, "named twice"),
        ({"projections": ["query"]}, "'q', 'k' or 'v'"),
        ({"rank": 0}, "rank is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"alpha": 0}, "alpha is 0"),
        ({"towers": "image"}, "towers is 'image'"),
        ({"template": "a photo"}, "exactly one {}"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], reason: str, backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match=reason):
        build_method("clip-lora", options, backbone, CLASSES)


def test_towers_share_their_weights_with_the_backbone(backbone: Backbone) -> None:
    method = made(backbone)
    assert backbone.vision is not None
    theirs = {id(parameter) for parameter in backbone.vision.parameters()}
    mine = method.backbone.vision
    assert mine is not None
    own = [name for name, parameter in mine.named_parameters() if id(parameter) not in theirs]
    assert own == [f"blocks.{block}.query_key_value.weight" for block in range(2)]
    assert dataclasses.replace(method.backbone, vision=None).fingerprint == method.backbone.fingerprint
