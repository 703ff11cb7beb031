"""Precision of the towers: what is asked for is what calculates, features stay near float32's, and caches do not mix them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.errors import ConfigError
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.methods.registry import build_method
from promptmix.runtime import choose_precision
from promptmix.structs import Batch

CLASSES = ("anchor", "cat", "gear")
PICTURES = [one.image for one in draw_set(CLASSES, ("photo",), 4, 5)]


@pytest.fixture(scope="module")
def exact() -> Backbone:
    return load_backbone(device="cpu")


@pytest.fixture(scope="module")
def rounded() -> Backbone:
    return load_backbone(device="cpu", precision="bf16")


def dtypes(backbone: Backbone) -> set[torch.dtype]:
    return {value.dtype for tower in (backbone.vision, backbone.text) if tower is not None for value in tower.parameters()}


def test_the_towers_calculate_in_what_was_asked_for(exact: Backbone, rounded: Backbone) -> None:
    assert dtypes(exact) == {torch.float32}
    assert dtypes(rounded) == {torch.bfloat16}
    assert dtypes(load_backbone(device="cpu", precision="fp32")) == {torch.float32}


def test_half_precision_on_a_cpu_runs_in_float32(exact: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="promptmix"):
        half = load_backbone(device="cpu", precision="fp16")
    assert dtypes(half) == {torch.float32}
    assert "fp32" in caplog.text
    assert half.features_key == exact.features_key
    # On a GPU the image tower alone is in half precision: gradients go through the text tower.
    assert choose_precision("fp16", torch.device("cuda")) == torch.float16
    gpu_like = load_backbone(device="cpu").in_precision(torch.float16)
    assert gpu_like.vision is not None
    assert gpu_like.text is not None
    assert {value.dtype for value in gpu_like.vision.parameters()} == {torch.float16}
    assert {value.dtype for value in gpu_like.text.parameters()} == {torch.float32}


def test_an_unknown_precision_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown precision 'fp-16'; did you mean 'fp16'"):
        choose_precision("fp-16", torch.device("cpu"))


def test_features_are_near_those_of_float32_and_always_float32(exact: Backbone, rounded: Backbone) -> None:
    one, other = (extract_features(backbone, PICTURES).features[:, 0] for backbone in (exact, rounded))
    assert other.dtype == torch.float32
    cosines = functional.cosine_similarity(one, other)
    assert cosines.min() > 0.99
    assert not torch.equal(one, other)
    texts = [build_method("zero-shot", {}, backbone, CLASSES).classifier().class_features for backbone in (exact, rounded)]
    assert texts[1].dtype == torch.float32
    assert functional.cosine_similarity(texts[0], texts[1], dim=-1).min() > 0.99


def test_a_cache_keeps_precisions_apart(exact: Backbone, rounded: Backbone, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = FeatureCache(tmp_path_factory.mktemp("cache"))
    first = extract_features(exact, PICTURES, cache=cache)
    second = extract_features(rounded, PICTURES, cache=cache)
    assert (first.from_cache, second.from_cache) == (0, 0)
    assert extract_features(rounded, PICTURES, cache=cache).from_cache == len(PICTURES)
    assert rounded.fingerprint == exact.fingerprint  # a model is not bound to a precision
    assert rounded.features_key != exact.features_key


@pytest.mark.parametrize(
    ("name", "options"),
    [("mocoop", {"bank": "styles"}), ("coop", {}), ("coop", {"words": "a photo of a"}), ("coop", {"class_specific": True})],
)
def test_prompts_learn_in_float32_beside_a_rounded_tower(
    name: str, options: dict[str, Any], exact: Backbone, rounded: Backbone
) -> None:
    losses = []
    for backbone in (exact, rounded):
        method = build_method(name, options, backbone, CLASSES)
        assert {value.dtype for value in method.parameters()} == {torch.float32}
        features = extract_features(exact, PICTURES).features[:, 0]
        output = method.training_step(Batch(image_features=features, labels=torch.arange(12) // 4))
        output.loss.backward()
        gradients = [value.grad for value in method.parameters()]
        assert all(one is not None and one.dtype == torch.float32 and bool(one.isfinite().all()) for one in gradients)
        losses.append(float(output.loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("batch_size", [1, 3, 12])
def test_the_size_of_a_batch_changes_nothing_in_float32(batch_size: int, exact: Backbone) -> None:
    whole = extract_features(exact, PICTURES, batch_size=64).features
    torch.testing.assert_close(extract_features(exact, PICTURES, batch_size=batch_size).features, whole, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_gives_the_features_of_the_cpu(precision: str, exact: Backbone) -> None:
    backbone = load_backbone(device="cuda", precision=precision)
    one, other = (extract_features(each, PICTURES).features[:, 0] for each in (exact, backbone))
    assert functional.cosine_similarity(one, other).min() > (0.9999 if precision == "fp32" else 0.99)
