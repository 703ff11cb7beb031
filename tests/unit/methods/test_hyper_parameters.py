"""No option is idle: each one, changed alone, changes what is learnt or said. A new option without a case here fails."""

from __future__ import annotations

import itertools
import typing
from typing import Any, Literal

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
MIXTURE: dict[str, tuple[Any, dict[str, Any]]] = {
    "bank": ("styles", {}),
    "groups": ((("a {}.",), ("many {}.",), ("the {}.",)), {}),
    "regroup": (2, {"bank": "styles"}),
    "top_k": (1, {}),
    # Names as different as these are told apart at once by prompts that start from words: at the full temperature there is
    # hardly any text loss.
    "text_weight": (1.0, {"text_temperature": 1.0}),
    "router_weight": (3.0, {}),
    "text_temperature": (1.0, {}),
    "text_direction": ("prompts", {"text_temperature": 1.0}),
    "text_classes": ("all", {"text_temperature": 1.0}),
    "router_target": ("class_agnostic", {}),
    "router_bonus": (0.0, {"top_k": 2}),
    "sampled_classes": (2, {}),
    "mixture": ("renormalised", {"mixture": "mean_logits"}),
    "correction": (False, {}),
    "period": (False, {}),
    "image_side": ("linear", {"image_side": "none"}),
    "image_rate": (3.0, {"image_side": "linear"}),
    "consistency_weight": (0.0, {"image_side": "linear"}),
    "added_classes": ("prototypes", {}),
}
CASES: dict[str, dict[str, tuple[Any, dict[str, Any]]]] = {
    "zero-shot": {"template": ("a drawing of the {}.", {})},
    "ensemble": {"bank": ("styles", {}), "templates": (("a {}.",), {})},
    "linear-probe": {
        "strengths": ((1e-3,), {}),
        "max_iterations": (1, {"strengths": (100.0,)}),
        "start": ("text", {}),
        "template": ("a drawing of the {}.", {"start": "text"}),
    },
    # Texts tell nothing of the features below, so the range that alpha is chosen from would be all that mattered.
    "tip-adapter": {
        "template": ("a drawing of the {}.", {}),
        "alpha": (0.5, {}),
        "beta": ((0.1, 0.4), {"alpha": 3.0}),
        "candidates": (2, {}),
    },
    "tip-adapter-f": {
        "template": ("a drawing of the {}.", {"alpha": 1.0}),
        "alpha": (0.5, {"beta": 2.0}),
        "beta": (7.0, {"alpha": 1.0}),
        "candidates": (2, {"alpha": 1.0}),
    },
    "coop": {
        "context_tokens": (3, {}),
        "words": ("a photo of", {}),
        "class_name_position": ("middle", {}),
        "class_specific": (True, {}),
    },
    "kgcoop": {
        "context_tokens": (3, {"words": None}),
        "words": ("a photo of", {}),
        "template": ("a drawing of the {}.", {}),
        # The words start it from the very prompt that it is held near.
        "weight": (1.0, {"template": "a drawing of the {}."}),
    },
    "prograd": {
        "context_tokens": (6, {}),
        "words": ("many", {}),
        # From a start in words zero-shot classification has nothing to say against these few steps.
        "template": ("a drawing of the {}.", {"words": None, "context_tokens": 4}),
        "projection": (0.0, {"words": None, "context_tokens": 4}),
        "temperature": (5.0, {"words": None, "context_tokens": 4}),
    },
    "lasp": {
        "context_tokens": (3, {"words": None}),
        "words": ("a photo of", {}),
        "bank": ("styles", {"text_temperature": 1.0}),
        "templates": (("a {}.",), {"text_temperature": 1.0}),
        "text_weight": (1.0, {"text_temperature": 1.0}),
        "text_direction": ("prompts", {"text_temperature": 1.0}),
        "text_temperature": (1.0, {}),
        "text_classes": ("all", {"text_temperature": 1.0}),
        "noise_deviation": (0.5, {"text_temperature": 1.0}),
        "noise_probability": (0.0, {"text_temperature": 1.0, "noise_deviation": 0.5}),
    },
    "maple": {},
    "promptsrc": {},
    "clip-lora": {
        "template": ("a drawing of the {}.", {"towers": "text"}),
        "projections": (("q", "v"), {"towers": "text"}),
        "rank": (3, {"towers": "text"}),
        "alpha": (4.0, {"towers": "text"}),
        "dropout": (0.0, {"towers": "text"}),
    },
    "cocoop": {"context_tokens": (3, {"words": None}), "words": ("a photo of", {}), "reduction": (4, {})},
    "mocoop": MIXTURE,
    "promptmix": {
        **MIXTURE,
        "whitening": (None, {}),
        "centring": (False, {}),
        "scale": (1.0, {}),
        "memory_weight": (0.0, {}),
        "memory_sharpness": (1.0, {}),
    },
}
# These need an image tower in the loop: tests/unit/methods/test_visual_layer_norms.py, test_clip_lora.py, test_deep_prompts.py.
IN_THE_TOWER = {
    "lasp": {"visual_layer_norms"},
    "mocoop": {"visual_layer_norms", "router_detach"},
    "clip-lora": {"towers"},
    **{name: set(method_class(name).config_class.model_fields) for name in ("maple", "promptsrc")},
}

RECIPE: dict[str, tuple[Any, dict[str, Any]]] = {
    "epochs": (2, {}),
    "rate": (0.01, {}),
    "batch_size": (12, {}),
    "warmup_epochs": (0, {}),
    "warmup_rate": (1e-2, {}),
    "momentum": (0.0, {}),
    "weight_decay": (0.1, {}),
    "clip": (0.001, {}),
    "averaging": ("second_half", {}),
    "averaging_mean": (3.0, {"averaging": "gaussian"}),
    "averaging_deviation": (10.0, {"averaging": "gaussian", "averaging_mean": 2.0}),
    "optimizer": ("adamw", {}),
    "epsilon": (1.0, {"optimizer": "adamw"}),
    "schedule": ("step", {}),
    "final_rate": (0.05, {"schedule": "step"}),
    "steps": (5, {"schedule": "step"}),
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


def outcome(backbone: Backbone, name: str, options: dict[str, Any], recipe: dict[str, Any]) -> list[Tensor]:
    """What is said after a few steps: logits, and the features of added classes."""
    generator = torch_generator(0, "hyper-parameters")
    labels = torch.arange(24) % 4
    centres = torch.randn(4, 128, generator=generator)
    features = functional.normalize(centres[labels] + torch.randn(24, 128, generator=generator), dim=-1)
    method = build_method(name, options, backbone, CLASSES, 1, MORE)
    if method.learns == "by gradient":
        whole = {"epochs": 3, "rate": 0.05, "batch_size": 8, "warmup_epochs": 1, **recipe}
        method.start_from(features[:, None], labels)
        train(method, Recipe.model_validate(whole), CachedFeed(features[:, None], labels, 1))
    elif method.learns == "in closed form":
        method.fit_features(features[:, None], labels, 1)
    knows_no_others = name in ("linear-probe", "cocoop") or options.get("class_specific")
    added = [] if knows_no_others else [method.encode_classes(MORE)]
    return [method.classifier().logits(features), *added]


def differ(first: list[Tensor], second: list[Tensor]) -> bool:
    """By more than sums in another order would. Logits always have the same shape, features only where the experts are as many."""
    return any(
        one.shape == other.shape and not torch.allclose(one, other, rtol=1e-4, atol=1e-3)
        for one, other in zip(first, second, strict=False)
    )


def words_of(kind: Any) -> list[str]:
    """The words an option may be, where it may be one of some words."""
    if typing.get_origin(kind) is Literal:
        return list(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return []  # a list of words
    return [word for part in typing.get_args(kind) for word in words_of(part)]


def worded_options() -> list[tuple[str, str]]:
    """Every option of every method that is one of two words or more."""
    fields = [(name, option, field) for name in METHODS for option, field in method_class(name).config_class.model_fields.items()]
    return [
        (name, option) for name, option, field in fields if len(words_of(field.annotation)) > 1 and option in CASES.get(name, {})
    ]


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


@pytest.mark.parametrize(("name", "option"), worded_options())
def test_every_word_means_something_else(name: str, option: str, backbone: Backbone) -> None:
    both = CASES[name][option][1]
    words = words_of(method_class(name).config_class.model_fields[option].annotation)
    outcomes = [outcome(backbone, name, {**both, option: word}, {}) for word in words]
    for one, other in itertools.combinations(range(len(words)), 2):
        assert differ(outcomes[one], outcomes[other]), (words[one], words[other])


@pytest.mark.parametrize("option", RECIPE)
def test_the_recipe_changes_the_outcome(option: str, backbone: Backbone) -> None:
    value, both = RECIPE[option]
    assert differ(outcome(backbone, "coop", {}, both), outcome(backbone, "coop", {}, {**both, option: value}))
