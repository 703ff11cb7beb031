"""Methods by name. To add one: write its file, add its row."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from promptmix.backbones.base import Backbone
from promptmix.errors import ConfigError, did_you_mean
from promptmix.methods.base import Method

__all__ = ["METHODS", "build_method", "method_class"]

METHODS: dict[str, str] = {
    "zero-shot": "promptmix.methods.zero_shot:ZeroShot",
    "ensemble": "promptmix.methods.zero_shot:Ensemble",
    "linear-probe": "promptmix.methods.linear_probe:LinearProbe",
    "tip-adapter": "promptmix.methods.tip_adapter:TipAdapter",
    "tip-adapter-f": "promptmix.methods.tip_adapter:TipAdapterF",
    "coop": "promptmix.methods.coop:CoOp",
    "cocoop": "promptmix.methods.cocoop:CoCoOp",
    "kgcoop": "promptmix.methods.kgcoop:KgCoOp",
    "prograd": "promptmix.methods.prograd:ProGrad",
    "lasp": "promptmix.methods.lasp:Lasp",
    "maple": "promptmix.methods.maple:MaPLe",
    "promptsrc": "promptmix.methods.promptsrc:PromptSRC",
    "clip-lora": "promptmix.methods.clip_lora:ClipLora",
    "mocoop": "promptmix.methods.mocoop:MixtureOfPrompts",
    "promptmix": "promptmix.methods.promptmix:PromptMix",
}


def method_class(name: str) -> type[Method]:
    """The class of a method by its name; underscores are as good as hyphens.

    Raises:
        ConfigError: no such method; the message has the nearest name.
    """
    known = name.strip().lower().replace("_", "-")
    if known not in METHODS:
        raise ConfigError(f"unknown method {name!r}{did_you_mean(known, METHODS)}")
    module, _, attribute = METHODS[known].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found


def build_method(
    name: str,
    options: Mapping[str, Any],
    backbone: Backbone,
    class_names: Sequence[str],
    seed: int = 0,
    more_class_names: Sequence[str] = (),
) -> Method:
    """A method, untrained, from its name and plain options, on the device of its backbone.

    Raises:
        ConfigError: the name or an option is wrong.
    """
    kind = method_class(name)
    # Random starts are drawn on the CPU, so that they are the same everywhere; what is learnt belongs beside the towers.
    return kind(kind.parse_options(options), backbone, class_names, seed, more_class_names).to(backbone.device)
