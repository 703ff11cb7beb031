"""No option is idle: each one, changed alone, changes what is learnt or said. A new option without a case here fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.methods.base import Recipe
from promptmix.methods.registry import METHODS, build_method, method_class
from promptmix.runtime import torch_generator
from promptmix.training.feeds import CachedFeed
from promptmix.training.loop import train

CLASSES = ("anchor", "cat", "snowflake", "umbrella")
MORE = ("skull", "heart")

# For each option: another value, and options that have to be set on both sides for it to matter.
CASES: dict[str, dict[str, tuple[Any, dict[str, Any]]]] = {
    "zero-shot": {"template": ("a drawing of the {}.", {})},
    "ensemble": {"bank": ("styles", {}), "templates": (("a {}.",), {})},
    "linear-probe": {"strengths": ((1e-3,), {}), "max_iterations": (1, {"strengths": (100.0,)})},
    "coop": {
        "context_tokens": (3, {}),
        "words": ("a photo of", {}),
        "class_name_position": ("middle", {}),
        "class_specific": (True, {}),
    },
    "mocoop": {
        "bank": ("styles", {}),
        "groups": ((("a {}.",), ("many {}.",), ("the {}.",)), {}),
        "regroup": (2, {"bank": "styles"}),
        "top_k": (1, {}),
        "text_weight": (1.0, {}),
        "router_weight": (3.0, {}),
        "text_temperature": (1.0, {}),
        "text_direction": ("prompts", {}),
        "text_classes": ("all", {}),
        "router_target": ("class_agnostic", {}),
        "router_bonus": (0.0, {}),
        "mixture": ("renormalised", {}),
        "correction": (False, {}),
        "period": (False, {}),
        "image_side": ("linear", {}),
        "image_rate": (1.0, {"image_side": "linear"}),
        "consistency_weight": (0.0, {"image_side": "linear"}),
        "added_classes": ("prototypes", {}),
    },
}
# These need an image tower in the loop: tests/unit/methods/test_visual_layer_norms.py.
IN_THE_TOWER = {"mocoop": {"visual_layer_norms", "router_detach"}}

RECIPE: dict[str, tuple[Any, dict[str, Any]]] = {
    "epochs": (2, {}),
    "rate": (0.01, {}),
    "batch_size": (12, {}),
    "warmup_epochs": (0, {}),
    "warmup_rate": (1e-2, {}),
    "momentum": (0.0, {}),
    "weight_decay": (0.1, {}),
    "clip": (0.1, {}),
    "averaging": ("second_half", {}),
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


def outcome(backbone: Backbone, name: str, options: dict[str, Any], recipe: dict[str, Any]) -> list[Tensor]:
    """What is learnt, what is said of other features, and the features of added classes, after a few steps."""
    generator = torch_generator(0, "hyper-parameters")
    labels = torch.arange(24) % 4
    centres = torch.randn(4, 128, generator=generator)
    features = functional.normalize(centres[labels] + torch.randn(24, 128, generator=generator), dim=-1)
    method = build_method(name, options, backbone, CLASSES, 1, MORE)
    if method.learns == "by gradient":
        whole = {"epochs": 3, "rate": 0.05, "batch_size": 8, "warmup_epochs": 1, **recipe}
        train(method, Recipe.model_validate(whole), CachedFeed(features[:, None], labels, 1))
    elif method.learns == "in closed form":
        method.fit_features(features, labels, 1)
    added = [] if name == "linear-probe" or options.get("class_specific") else [method.encode_classes(MORE)]
    return [*method.learnt_state().values(), method.classifier().logits(features), *added]


def differ(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) != len(second) or any(
        one.shape != other.shape or not torch.allclose(one, other, rtol=1e-6, atol=1e-7)
        for one, other in zip(first, second, strict=True)
    )


def test_every_option_has_a_case() -> None:
    assert CASES.keys() == METHODS.keys()
    for name, cases in CASES.items():
        assert set(method_class(name).config_class.model_fields) == cases.keys() | IN_THE_TOWER.get(name, set()), name
    assert set(Recipe.model_fields) == RECIPE.keys()


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, cases in CASES.items() for option in cases])
def test_an_option_changes_the_outcome(name: str, option: str, backbone: Backbone) -> None:
    value, both = CASES[name][option]
    default = outcome(backbone, name, both, {})
    assert not differ(default, outcome(backbone, name, both, {}))  # else everything would seem to matter
    assert differ(default, outcome(backbone, name, {**both, option: value}, {}))


@pytest.mark.parametrize("option", RECIPE)
def test_the_recipe_changes_the_outcome(option: str, backbone: Backbone) -> None:
    value, both = RECIPE[option]
    assert differ(outcome(backbone, "coop", {}, both), outcome(backbone, "coop", {}, {**both, option: value}))
