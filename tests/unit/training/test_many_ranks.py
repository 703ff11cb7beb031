"""Training on several ranks ends where training on one does, for every kind of step there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backbone_files import write_with_vision_transformer
from tests.many_ranks import on_ranks
from tests.parity.siglip_files import write_siglip
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.transforms import Augmentation
from promptmix.evaluation.evaluate import class_logits
from promptmix.methods.base import Recipe
from promptmix.methods.registry import build_method
from promptmix.prompts.soft_prompt import SoftPrompt
from promptmix.runtime import torch_generator
from promptmix.training.feeds import CachedFeed, Feed, LiveFeed
from promptmix.training.loop import train

CLASSES = ("anchor", "cat", "gear", "snowflake", "umbrella")
STEPS = 20

# Where its backbone is, the method, its options, and how it is trained.
VARIANTS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "coop": ("bundled", "coop", {"class_name_position": "middle"}, {}),
    "coop, class-specific": ("bundled", "coop", {"class_specific": True}, {"optimizer": "adamw"}),
    "coop, a tower without a mask": ("siglip", "coop", {"words": "a photo of a"}, {}),
    "mocoop": ("bundled", "mocoop", {}, {"clip": 1.0}),
    "mocoop, more classes": ("bundled", "mocoop", {"text_classes": "all", "bank": "styles"}, {}),
    "mocoop, sampled classes": ("bundled", "mocoop", {"sampled_classes": 3}, {}),
    "mocoop, layer norms": ("transformer", "mocoop", {"preset": "as_released"}, {"batch_size": 3}),
    "promptmix": ("bundled", "promptmix", {}, {"clip": 1.0}),
    "kgcoop": ("bundled", "kgcoop", {}, {}),
    "prograd": ("bundled", "prograd", {}, {}),
    "lasp": ("bundled", "lasp", {"noise_deviation": 0.05}, {}),
    "cocoop": ("bundled", "cocoop", {}, {"batch_size": 3}),
    "clip-lora": ("transformer", "clip-lora", {}, {"batch_size": 3, "optimizer": "adamw"}),
    "clip-lora, no dropout": ("transformer", "clip-lora", {"dropout": 0.0}, {"batch_size": 3}),
    "clip-lora, text tower": ("bundled", "clip-lora", {"towers": "text"}, {}),
    "maple": ("transformer", "maple", {}, {"batch_size": 1}),
    # Gently: its two means of absolute values have a kink, at which the last bit of a number decides where a step goes.
    "promptsrc": ("transformer", "promptsrc", {"text_weight": 0.5, "image_weight": 0.5}, {"batch_size": 3}),
    "tip-adapter-f": ("bundled", "tip-adapter-f", {"alpha": 1.0, "beta": 5.0}, {}),
    "coop, fresh views": ("bundled", "coop", {}, {"batch_size": 3, "rate": 0.01}),
}
FRESH = ("coop, fresh views",)


def learnt(folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The parameters of each variant at the start and after some steps, and what its classifier then says."""
    made: dict[str, Tensor] = {}
    for name in names:
        place, method_name, options, changes = VARIANTS[name]
        backbone = load_backbone(place if place == "bundled" else str(folder / place), device="cpu")
        method = build_method(method_name, options, backbone, CLASSES, 1, ("okapi",))
        features = torch.randn(12, 2, backbone.config.embedding_width, generator=torch_generator(0, "features"))
        features, labels = functional.normalize(features, dim=-1), torch.arange(12) % 5
        method.start_from(features, labels)
        feed: Feed = CachedFeed(features, labels, 1)
        if method.tunes_image_tower or name in FRESH:
            drawn = [one.image for one in draw_set(CLASSES, ("stamp", "neon"), 1, 1)]
            feed = LiveFeed(method, backbone, drawn, torch.arange(len(drawn)) % 5, Augmentation(views=2), 1)
        before = {key: value.detach().clone() for key, value in method.named_parameters()}
        recipe = Recipe.model_validate(
            {"rate": 0.002, "epsilon": 1e-3, "batch_size": 5, "steps": STEPS, "schedule": "step", **changes}
        )
        train(method, recipe, feed)
        made |= {f"{name}/moved/{key}": value.detach() - before[key] for key, value in method.named_parameters()}
        made |= {f"{name}/parameter/{key}": value for key, value in method.learnt_state().items()}
        with torch.no_grad():
            made[f"{name}/logits"] = class_logits(method.classifier(), features[:, 0], backbone.device) / 100
    return made | encoded_in_chunks()


def encoded_in_chunks() -> dict[str, Tensor]:
    """Features and gradients of prompts that are encoded one or two at a time, each chunk anew in the backward pass."""
    tower, tokenizer = load_backbone("bundled", device="cpu").require_text()
    contexts = (0.02 * torch.randn(3, tower.config.width, generator=torch_generator(0, "contexts"))).requires_grad_()
    prompts = SoftPrompt(tower, tokenizer, 3).lay_out(CLASSES, max_rows=2)
    assert prompts.num_rows == len(CLASSES)
    features = functional.normalize(prompts.encode(contexts), dim=-1)
    loss = (features @ features.T).square().sum()
    gradients = [torch.autograd.grad(loss * factor, contexts, retain_graph=True)[0] for factor in (1, 2)]
    return {"chunks/features": features, "chunks/gradient": gradients[0], "chunks/again": gradients[1]}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones")
    write_with_vision_transformer(folder / "transformer")
    write_siglip(folder / "siglip")
    return folder


@pytest.fixture(scope="module")
def on_two(backbones: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    return on_ranks(learnt, 2, tmp_path_factory.mktemp("two"), backbones, list(VARIANTS), spawned=True)


def assert_same(many: dict[str, Tensor], alone: dict[str, Tensor]) -> None:
    for key, value in alone.items():
        torch.testing.assert_close(many[key], value, rtol=0, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_learn_what_one_learns(name: str, backbones: Path, on_two: list[dict[str, Tensor]]) -> None:
    alone = learnt(backbones, [name])
    moved = [float(value.abs().max()) for key, value in alone.items() if "/moved/" in key]
    assert min(moved) > 1e-5 and max(moved) > 2e-4, moved
    for many in on_two:
        assert_same(many, alone)


def test_no_rank_is_a_hair_off_the_others(on_two: list[dict[str, Tensor]]) -> None:
    for key, value in on_two[0].items():
        assert torch.equal(value, on_two[1][key]), key


def test_uneven_and_empty_shares_change_nothing(backbones: Path, tmp_path: Path) -> None:
    """Five classes and three ranks; and a picture at a time, with which two of the ranks have nothing to do."""
    names = ["coop, class-specific", "prograd", "maple", "clip-lora"]
    alone = learnt(backbones, names)
    for many in on_ranks(learnt, 3, tmp_path / "ranks", backbones, names):
        assert_same(many, alone)
