"""The recipes of the set ``field`` against one table of the numbers that were published with the methods."""

from __future__ import annotations

from typing import Any

import pytest

from promptmix.methods.registry import METHODS, method_class
from promptmix.protocols.contenders import read_contenders

FEW_SHOT, BASE_TO_NEW, CROSS, DOMAIN = PROTOCOLS = ("few-shot", "base-to-new", "cross-dataset", "domain")
TRANSFER = (CROSS, DOMAIN)
ELEVEN = (
    "imagenet",
    "caltech101",
    "oxford-pets",
    "stanford-cars",
    "oxford-flowers",
    "food101",
    "fgvc-aircraft",
    "sun397",
    "dtd",
    "eurosat",
    "ucf101",
)
LATE = ("stanford-cars", "oxford-flowers", "fgvc-aircraft", "dtd", "eurosat")  # for PromptSRC the last epochs count most
SHOTS = (1, 2, 4, 8, 16)
OURS = ("zero-shot", "ensemble", "linear-probe", "promptmix")  # no recipe was published with these, or nothing is learnt

SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "schedule": "epoch", "warmup_epochs": 1, "warmup_rate": 1e-5}
ADAMW = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "step"}
STANDARD = {**SGD, "averaging": "none", "steps": None}
COOP = {**STANDARD, "rate": 0.002, "batch_size": 32}
WITH_NORMS = {**STANDARD, "rate": 0.032, "batch_size": 32, "epochs": 50, "warmup_epochs": 5, "clip": 1.0}
MAPLE = {**STANDARD, "batch_size": 4}
PROMPTSRC = {**SGD, "steps": None, "rate": 0.0025, "batch_size": 4, "averaging": "gaussian"}
EPOCHS_BY_SHOTS = {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}


def published(protocol: str, method: str, data: str, shots: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Recipe and options of a method, as its authors trained it."""
    transfer = protocol in TRANSFER
    coop_epochs = 50 if transfer or data == "imagenet" else EPOCHS_BY_SHOTS[shots]
    mean, deviation = {
        FEW_SHOT: (45.0, 5.0) if data in LATE else (30.0, 30.0),
        BASE_TO_NEW: (15.0, 1.0),
        CROSS: (6.0, 10.0),
        DOMAIN: (6.0, 10.0),
    }[protocol]
    depth = 3 if transfer else 9
    table: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "coop": (
            {**COOP, "epochs": coop_epochs},
            {"words": None, "context_tokens": 16} if protocol == FEW_SHOT else {"words": "a photo of a"},
        ),
        "cocoop": ({**STANDARD, "rate": 0.002, "batch_size": 1, "epochs": 10}, {"words": "a photo of a"}),
        "kgcoop": ({**STANDARD, "rate": 0.002, "batch_size": 128, "epochs": 100}, {"words": "a photo of a", "weight": 8.0}),
        "prograd": (
            {**COOP, "epochs": coop_epochs},
            {"context_tokens": 16 if protocol == FEW_SHOT else 4, "projection": 1.0, "temperature": 1.0},
        ),
        "lasp": (WITH_NORMS, {"words": "a photo of a", "text_weight": 10.0, "text_classes": "train", "visual_layer_norms": True}),
        "mocoop-as-released": (
            WITH_NORMS,
            {"top_k": 2, "text_weight": 5.0, "router_weight": 1.0, "text_temperature": 1.0, "visual_layer_norms": True},
        ),
        "mocoop": (WITH_NORMS, {"top_k": 2, "text_weight": 5.0, "router_weight": 1.0, "visual_layer_norms": False}),
        "maple": (
            {**MAPLE, "rate": 0.0026 if transfer else 0.0035, "epochs": 2 if transfer else 5},
            {"context_tokens": 2, "depth": depth},
        ),
        "promptsrc": (
            {
                **PROMPTSRC,
                "epochs": 50 if protocol == FEW_SHOT else 20,
                "averaging_mean": mean,
                "averaging_deviation": deviation,
            },
            {
                "text_tokens": 4,
                "vision_tokens": 4,
                "text_depth": depth,
                "vision_depth": depth,
                "text_weight": 25.0,
                "image_weight": 10.0,
                "bank": "promptsrc",
            },
        ),
        "tip-adapter": ({}, {}),
        "tip-adapter-f": ({**ADAMW, "rate": 0.001, "epsilon": 1e-4, "batch_size": 256, "epochs": 20}, {}),
        "clip-lora": (
            {**ADAMW, "rate": 2e-4, "final_rate": 1e-6, "batch_size": 32, "steps": 500 * shots},
            {"rank": 2, "alpha": 1.0, "dropout": 0.25, "template": "a photo of a {}.", "towers": "both"},
        ),
    }
    return table[method]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_recipes_and_options_are_those_that_were_published(protocol: str) -> None:
    contenders = [one for one in read_contenders("field", protocol, None) if one.label not in OURS]
    assert {one.method for one in contenders} == METHODS.keys() - set(OURS)
    for one in contenders:
        kind = method_class(one.method)
        assert one.by_data.keys() <= set(ELEVEN)
        for data in ELEVEN:
            for shots in SHOTS:
                wanted_recipe, wanted_options = published(protocol, one.label, data, shots)
                recipe = kind.recipe_for(shots, one.recipe_for(data)).model_dump()
                options = kind.parse_options(one.options_for(data, None)).model_dump()
                where = (one.label, data, shots)
                assert {name: recipe[name] for name in wanted_recipe} == wanted_recipe, where
                assert {name: options[name] for name in wanted_options} == wanted_options, where


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_learns_by_gradient_sees_a_new_view_at_every_step(protocol: str) -> None:
    for one in read_contenders("field", protocol, None):
        if one.learns == "by gradient" and one.method not in ("promptmix", "tip-adapter-f"):
            assert one.augmentation.fresh, one.label
            assert one.augmentation.views >= 1000, one.label
        elif one.method.startswith("tip-adapter"):
            assert (one.augmentation.views, one.augmentation.fresh) == (10, False)
