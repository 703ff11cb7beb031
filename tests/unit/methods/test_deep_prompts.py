"""MaPLe and PromptSRC: whole runs with live pictures, formulas against loops, every option, and what is refused."""

from __future__ import annotations

import dataclasses
import json
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
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.data.transforms import Augmentation
from promptmix.errors import ConfigError, InterruptedRun
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.inference.predictor import Predictor, add_classes
from promptmix.methods.base import Method, Recipe
from promptmix.methods.maple import MaPLe
from promptmix.methods.promptsrc import PromptSRC
from promptmix.methods.registry import build_method, method_class
from promptmix.model_folder import read_model, write_model
from promptmix.prompts.encoder import PackedPrompts
from promptmix.structs import Batch, StepOutput
from promptmix.training.feeds import LiveFeed
from promptmix.training.fit import RunConfig
from promptmix.training.loop import train
from promptmix.training.run import Outcome, run

CLASSES = ("anchor", "cat", "skull")
NAMES = ("maple", "promptsrc")
BOTH = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """Three blocks of text of width 128, two of pictures of width 32."""
    folder = tmp_path_factory.mktemp("backbone")
    write_with_vision_transformer(folder)
    return load_backbone(str(folder), device="cpu")


@pytest.fixture(scope="module")
def deeper(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """Three blocks of text, five of pictures."""
    folder = tmp_path_factory.mktemp("deeper")
    write_with_vision_transformer(folder, layers=5)
    return load_backbone(str(folder), device="cpu")


def pictures(seed: int) -> LabelledPictures:
    drawn = draw_set(CLASSES, ("photo", "neon"), 2, seed)
    labels = [CLASSES.index(one.class_name) for one in drawn]
    return LabelledPictures(pictures=[one.image for one in drawn], labels=labels, class_names=CLASSES, description="drawn")


def pixels() -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(one.convert("RGB")) for one in pictures(1).pictures]))


def step(method: Method, backbone: Backbone) -> StepOutput:
    """One step on all pictures, with the graph of both towers."""
    features, frozen = method.encode_training_pixels(pixels(), 0), backbone.encode_pixels(pixels())
    return method.training_step(Batch(image_features=features, labels=torch.tensor(pictures(1).labels), frozen_features=frozen))


def far_from_the_start(method: Method) -> Method:
    """With prompts that are not small any more, so that each of them counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return method


def whole_config(name: str) -> RunConfig:
    recipe = {"epochs": 3, "batch_size": 4, "rate": 0.1, "warmup_epochs": 0, "averaging_mean": 2.0}
    return RunConfig.model_validate({"method": name, "recipe": recipe, "seed": 3})


@pytest.fixture(scope="module", params=NAMES)
def whole(request: pytest.FixtureRequest, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("runs") / "whole"
    return run(whole_config(request.param), pictures(1), pictures(2), backbone=backbone, out=out), out


def test_a_saved_model_predicts_what_the_run_measured(whole: tuple[Outcome, Path], backbone: Backbone) -> None:
    (outcome, out), test = whole, pictures(2)
    predictor = Predictor.from_folder(out / "model", backbone=backbone.name, device="cpu")
    assert predictor.backbone.text is None
    said = predictor.predict(test.pictures).predictions
    right = [one.class_name == CLASSES[label] for one, label in zip(said, test.labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(outcome.result.metrics["accuracy"])
    rows = (out / "predictions.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [float(row.split(",")[3]) for row in rows] == pytest.approx([one.probability for one in said], abs=1e-6)
    # The tower that was not touched sees something else, and it is the one that zero-shot is measured with.
    untouched = extract_features(backbone, test.pictures).features[:, 0]
    logits = Predictor(read_model(out), backbone=backbone).logits(test.pictures)
    assert not torch.allclose(logits, outcome.model.classifier.logits(untouched), rtol=0, atol=1e-2)
    zero_shot = run(RunConfig(method="zero-shot"), pictures(1), test, backbone=backbone).result
    assert outcome.result.zero_shot == zero_shot.metrics


def test_a_cache_of_features_is_never_asked_for_the_other_tower(
    whole: tuple[Outcome, Path], backbone: Backbone, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "features")
    for _ in range(2):
        again = run(whole_config(whole[0].model.method), pictures(1), pictures(2), backbone=backbone, cache=cache)
        assert again.result.metrics == whole[0].result.metrics
        assert again.result.zero_shot == whole[0].result.zero_shot
    predictors = [Predictor(whole[0].model, backbone=backbone, cache=one) for one in (cache, cache, None)]
    logits = [one.logits(pictures(2).pictures) for one in predictors]
    assert torch.equal(logits[0], logits[1])
    torch.testing.assert_close(logits[0], logits[2])


def test_classes_are_added_by_name(whole: tuple[Outcome, Path], backbone: Backbone, tmp_path: Path) -> None:
    model = read_model(whole[1])
    write_model(tmp_path / "more", add_classes(model, ["heart", "white_king"], backbone))
    added = read_model(tmp_path / "more")
    before, after = (Predictor(one, backbone=backbone).logits(pictures(2).pictures) for one in (model, added))
    torch.testing.assert_close(after[:, :3], before)
    # As a method that had known the names from the start would encode them with these prompts.
    everything = build_method(model.method, model.options, backbone, (*CLASSES, "heart", "white king"))
    everything.load_learnt_state(model.learnt)
    torch.testing.assert_close(added.classifier.class_features, everything.classifier().class_features, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_is_the_uninterrupted_one(whole: tuple[Outcome, Path], backbone: Backbone, tmp_path: Path) -> None:
    def stop_once(stage: str, done: int, total: int, detail: str) -> None:
        if stage == "training" and done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    config, out = whole_config(whole[0].model.method), tmp_path / "cut"
    with pytest.raises(InterruptedRun):
        run(config, pictures(1), pictures(2), backbone=backbone, out=out, on_progress=stop_once)
    resumed = run(config, pictures(1), pictures(2), backbone=backbone, out=out, resume=True)
    for name, value in whole[0].model.learnt.items():
        assert torch.equal(value, resumed.model.learnt[name]), name
    assert resumed.result.metrics == whole[0].result.metrics


@BOTH
def test_prompts_that_start_from_words_are_those_words(name: str, backbone: Backbone) -> None:
    shallow = {"maple": {"depth": 1}, "promptsrc": {"text_depth": 1}}[name]
    for words, tokens in (("a photo of a", 2), ("a photo of a", 4), ("a drawing of the", 1)):
        length = {"maple": "context_tokens", "promptsrc": "text_tokens"}[name]
        method = build_method(name, {**shallow, "words": words, length: tokens}, backbone, CLASSES)
        assert method.learnt_state()["context"].shape == (tokens, 128)
        hard = build_method("zero-shot", {"template": words + " {}."}, backbone, CLASSES)
        torch.testing.assert_close(method.encode_classes(CLASSES), hard.encode_classes(CLASSES), rtol=1e-4, atol=1e-5)


@BOTH
def test_words_that_are_too_few_are_refused(name: str, backbone: Backbone) -> None:
    length = {"maple": "context_tokens", "promptsrc": "text_tokens"}[name]
    with pytest.raises(ConfigError, match=r"words='a photo' has 2 tokens, too few for 5 context vectors.* words=null"):
        build_method(name, {"words": "a photo", length: 5}, backbone, CLASSES)
    free = build_method(name, {"words": None, length: 5}, backbone, CLASSES).learnt_state()["context"]
    assert free.shape == (5, 128)
    assert float(free.std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("depth", "tower", "deep", "maps"),
    [(1, "backbone", 0, 1), (2, "backbone", 1, 2), (3, "backbone", 2, 2), (9, "backbone", 2, 2), (4, "deeper", 3, 4), (9, "deeper", 4, 5)],
)  # fmt: skip
def test_maple_declares_what_the_towers_can_use(
    depth: int, tower: str, deep: int, maps: int, request: pytest.FixtureRequest
) -> None:
    chosen: Backbone = request.getfixturevalue(tower)
    method = build_method("maple", {"depth": depth}, chosen, CLASSES)
    shapes = {name: tuple(value.shape) for name, value in method.learnt_state().items()}
    expected = {"context": (2, 128), "projection_weight": (maps, 32, 128), "projection_bias": (maps, 32)}
    assert shapes == (expected | {"deep_contexts": (deep, 2, 128)} if deep else expected)
    step(method, chosen).loss.backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None
        for block, gradient in enumerate(parameter.grad):
            assert float(gradient.abs().max()) > 0, (name, block)


@pytest.mark.parametrize("tower", ["backbone", "deeper"])
def test_the_image_tower_of_maple_sees_linear_maps_of_the_contexts(tower: str, request: pytest.FixtureRequest) -> None:
    chosen: Backbone = request.getfixturevalue(tower)
    method = far_from_the_start(build_method("maple", {"depth": 4}, chosen, CLASSES))
    learnt = method.learnt_state()
    contexts = [learnt["context"], *learnt["deep_contexts"]]
    tables = []
    for block in range(len(learnt["projection_weight"])):
        linear = nn.Linear(128, 32)
        linear.load_state_dict({"weight": learnt["projection_weight"][block], "bias": learnt["projection_bias"][block]})
        tables.append(linear(contexts[block]).detach())
    assert len(tables) == {"backbone": 2, "deeper": 4}[tower]
    with torch.no_grad():
        by_hand = chosen.with_vision_prompts(tables).encode_pixels(pixels())
        torch.testing.assert_close(method.encode_training_pixels(pixels(), 0), by_hand, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(method.backbone.encode_pixels(pixels()), by_hand, rtol=1e-4, atol=1e-5)


def test_the_maps_of_maple_start_as_two_linear_layers(deeper: Backbone) -> None:
    method = build_method("maple", {}, deeper, CLASSES)
    weight, bias = method.learnt_state()["projection_weight"], method.learnt_state()["projection_bias"]
    assert all(torch.equal(weight[block], weight[1]) and torch.equal(bias[block], bias[1]) for block in range(2, 5))
    assert not torch.equal(weight[0], weight[1])
    for start in (weight[0], weight[1], bias[0], bias[1]):
        assert 0.8 * 128**-0.5 < float(start.abs().max()) <= 128**-0.5
    train_two_steps(method, deeper)
    assert not torch.equal(method.learnt_state()["projection_weight"][2], method.learnt_state()["projection_weight"][1])


def train_two_steps(method: Method, backbone: Backbone, recipe: dict[str, Any] | None = None) -> None:
    shots = pictures(1)
    feed = LiveFeed(method, backbone, shots.pictures, torch.tensor(shots.labels), Augmentation(), 3)
    train(method, Recipe(**{"epochs": 1, "rate": 0.1, "batch_size": 6, "warmup_epochs": 0, **(recipe or {})}), feed)


def test_the_loss_of_promptsrc_is_its_formula(backbone: Backbone) -> None:
    templates = ["a photo of a {}.", "the {}", "a drawing of many {}."]
    options = {"text_weight": 3.0, "image_weight": 2.0, "logits_weight": 0.5, "templates": templates}
    method = far_from_the_start(build_method("promptsrc", options, backbone, CLASSES))
    output = step(method, backbone)
    tower, tokenizer = backbone.require_text()
    frozen_texts = []
    for name in CLASSES:
        total = torch.zeros(128)
        for template in templates:
            tokens = [tokenizer.start_token, *tokenizer.encode(template.replace("{}", name)), tokenizer.end_token]
            embeddings = tower.token_embedding(torch.tensor(tokens))[None]
            total += tower.encode_padded(embeddings, torch.tensor([len(tokens) - 1]))[0]
        frozen_texts.append(total / total.norm())
    texts, seen, frozen = (
        method.encode_classes(CLASSES)[0],
        method.backbone.encode_pixels(pixels()),
        backbone.encode_pixels(pixels()),
    )
    scale, labels = backbone.logit_scale, pictures(1).labels
    classification = image = divergence = torch.zeros(())
    for place, label in enumerate(labels):
        ours = (scale * torch.stack([seen[place] @ text for text in texts])).softmax(dim=0)
        theirs = (scale * torch.stack([frozen[place] @ text for text in frozen_texts])).softmax(dim=0)
        classification = classification - ours[label].log() / len(labels)
        image = image + (seen[place] - frozen[place]).abs().mean() / len(labels)
        divergence = divergence + (theirs * (theirs / ours).log()).sum() / (len(labels) * len(CLASSES))
    text = sum((ours - theirs).abs().mean() for ours, theirs in zip(texts, frozen_texts, strict=True)) / len(CLASSES)
    expected = {"classification": classification, "text": 3 * text, "image": 2 * image, "logits": 0.5 * divergence}
    assert output.terms.keys() == expected.keys()
    for name, term in expected.items():
        torch.testing.assert_close(output.terms[name].detach(), term, rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(output.loss.detach(), sum(expected.values()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "terms", "needs"),
    [
        ({}, {"classification", "text", "image", "logits"}, True),
        ({"image_weight": 0.0}, {"classification", "text", "logits"}, True),
        ({"logits_weight": 0.0}, {"classification", "text", "image"}, True),
        ({"logits_weight": 0.0, "image_weight": 0.0}, {"classification", "text"}, False),
        ({"logits_weight": 0.0, "image_weight": 0.0, "text_weight": 0.0}, {"classification"}, False),
    ],
)
def test_frozen_features_are_asked_for_where_they_count(
    options: dict[str, Any], terms: set[str], needs: bool, backbone: Backbone
) -> None:
    method = build_method("promptsrc", options, backbone, CLASSES)
    assert step(method, backbone).terms.keys() == terms
    assert method.needs_frozen_features == needs
    batch = Batch(image_features=method.encode_training_pixels(pixels(), 0), labels=torch.tensor(pictures(1).labels))
    if needs:
        with pytest.raises(ValueError, match="the batch has none"):
            method.training_step(batch)
    else:
        assert method.training_step(batch).terms.keys() == terms


def test_nothing_pulls_at_the_frozen_side(backbone: Backbone) -> None:
    method = build_method("promptsrc", {}, backbone, CLASSES)
    assert isinstance(method, PromptSRC)
    assert not method._frozen_text_features.requires_grad
    step(method, backbone).loss.backward()
    for tower in (backbone.text, backbone.vision):
        assert tower is not None
        assert all(parameter.grad is None for parameter in tower.parameters())


def test_the_frozen_features_of_many_templates_are_made_before_the_prompts_have_a_graph(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, encode = list[bool](), PackedPrompts.encode

    def watched(prompts: PackedPrompts, *contexts: Any) -> Tensor:
        graphs.append(torch.is_grad_enabled())
        return encode(prompts, *contexts)

    monkeypatch.setattr(PackedPrompts, "encode", watched)
    step(build_method("promptsrc", {}, backbone, CLASSES), backbone)
    assert graphs == [False, True]


def test_the_templates_of_promptsrc_are_saved_and_no_bank_is_asked_again(backbone: Backbone, tmp_path: Path) -> None:
    bank = tmp_path / "mine.yaml"
    bank.write_text("groups: ['a {}.', 'the {}.']\n", encoding="utf-8")
    method = build_method("promptsrc", {"bank": str(bank)}, backbone, CLASSES)
    written = json.loads(json.dumps(method.saved_options()))
    bank.unlink()
    again = build_method("promptsrc", written, backbone, CLASSES)
    assert isinstance(method, PromptSRC) and isinstance(again, PromptSRC)
    assert torch.equal(again._frozen_text_features, method._frozen_text_features)
    published = build_method("promptsrc", {}, backbone, CLASSES).saved_options()["templates"]
    assert len(published) == len(set(published)) == 60


def test_another_bank_is_another_run() -> None:
    first, second = (PromptSRC.parse_options({"bank": bank}).stands_for() for bank in ("promptsrc", "general"))
    assert first != second
    assert "a photo of a {}." in first


@BOTH
def test_the_recipe_is_the_published_one(name: str) -> None:
    published = {
        "maple": Recipe(rate=0.0035, batch_size=4, epochs=5),
        "promptsrc": Recipe(
            rate=0.0025, batch_size=4, epochs=20, averaging="gaussian", averaging_mean=15.0, averaging_deviation=1.0
        ),
    }
    for shots in (1, 16, None):
        assert method_class(name).recipe_for(shots, {}) == published[name]


@BOTH
def test_what_a_step_costs(name: str, backbone: Backbone) -> None:
    method = build_method(name, {}, backbone, CLASSES)
    assert method.tunes_image_tower
    assert method.text_encodings_per_step == 3
    expected = {"maple": 3 * 2 * 128 + 2 * (128 * 32 + 32), "promptsrc": 3 * 4 * 128 + 2 * 4 * 32}
    assert method.num_learnt_parameters == expected[name]


# For each option: another value, and options that have to be set on both sides for it to matter.
CASES: dict[str, dict[str, tuple[Any, dict[str, Any]]]] = {
    "maple": {"context_tokens": (3, {}), "words": ("a drawing of the", {}), "depth": (1, {})},
    "promptsrc": {
        "text_tokens": (3, {}),
        "vision_tokens": (2, {}),
        "words": ("a drawing of the", {}),
        "text_depth": (2, {}),
        "vision_depth": (1, {}),
        "text_weight": (1.0, {}),
        "image_weight": (1.0, {}),
        "logits_weight": (30.0, {}),
        "bank": ("styles", {}),
        "templates": (("a {}.",), {}),
    },
}


def outcome(name: str, options: dict[str, Any], backbone: Backbone) -> Tensor:
    method = build_method(name, options, backbone, CLASSES, 3)
    train_two_steps(method, backbone)
    with torch.no_grad():
        return method.classifier().logits(method.backbone.encode_pixels(pixels()))


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, cases in CASES.items() for option in cases])
def test_an_option_changes_the_outcome(name: str, option: str, backbone: Backbone) -> None:
    value, both = CASES[name][option]
    default = outcome(name, both, backbone)
    assert torch.equal(default, outcome(name, both, backbone))
    assert not torch.allclose(default, outcome(name, {**both, option: value}, backbone), rtol=1e-4, atol=1e-3)


@BOTH
def test_every_option_has_a_case(name: str) -> None:
    assert CASES[name].keys() == method_class(name).config_class.model_fields.keys()


@BOTH
@pytest.mark.parametrize("options", [{"words": ""}, {"words": "   "}])
def test_words_that_are_none_are_refused(name: str, options: dict[str, Any], backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match=r"has 0 tokens"):
        build_method(name, options, backbone, CLASSES)


@pytest.fixture(scope="module", params=["siglip", "siglip2"])
def siglip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backbone]:
    pytest.importorskip("transformers", reason="the transformers library is for development only")
    folder = tmp_path_factory.mktemp(request.param)
    write_siglip(folder, request.param)
    return load_backbone(str(folder), device="cpu")


@BOTH
def test_towers_that_are_not_clip_s_transformers_are_refused(name: str, siglip: Backbone) -> None:
    for other in (siglip, load_backbone("bundled", device="cpu")):
        with pytest.raises(ConfigError, match=rf"method {name} .*vision transformer.* use coop or mocoop") as refused:
            build_method(name, {}, other, CLASSES)
        assert "\n" not in str(refused.value)
        assert other.name in str(refused.value)


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused(name: str, dtype: torch.dtype, backbone: Backbone) -> None:
    half = load_backbone(backbone.name, device="cpu").in_precision(dtype)
    with pytest.raises(ConfigError, match=rf"method {name} .* needs --precision fp32"):
        build_method(name, {}, half, CLASSES)


def test_half_precision_is_enough_to_predict(whole: tuple[Outcome, Path], backbone: Backbone) -> None:
    shown = pictures(2).pictures
    logits = Predictor(whole[0].model, backbone=backbone).logits(shown)
    half = Predictor.from_folder(whole[1], backbone=backbone.name, device="cpu", precision="bf16").logits(shown)
    torch.testing.assert_close(half, logits, rtol=0, atol=0.5)


def test_a_text_tower_alone_is_no_backbone_for_maple(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="method maple"):
        MaPLe(MaPLe.parse_options({}), dataclasses.replace(backbone, vision=None), CLASSES)


def test_features_stay_of_length_one(backbone: Backbone) -> None:
    for name in NAMES:
        method = far_from_the_start(build_method(name, {}, backbone, CLASSES))
        lengths = [method.encode_classes(CLASSES)[0].norm(dim=-1), method.backbone.encode_pixels(pixels()).norm(dim=-1)]
        for length in lengths:
            torch.testing.assert_close(length, torch.ones_like(length))
        assert functional.cosine_similarity(*method.encode_classes(CLASSES)[0, :2], dim=0) < 1
