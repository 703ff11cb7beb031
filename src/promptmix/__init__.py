"""Adapt a frozen vision-language model to your own image classes with a mixture of learnt prompts.

Importing this package starts nothing and is quick: a public name loads its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptmix.backbones.registry import load_backbone
    from promptmix.errors import (
        BackboneError,
        CheckpointError,
        ConfigError,
        DataError,
        HubError,
        InterruptedRun,
        NotFittedError,
        OutOfMemoryError,
        PromptMixError,
    )
    from promptmix.estimator import PromptClassifier

__all__ = [
    "BackboneError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "HubError",
    "InterruptedRun",
    "NotFittedError",
    "OutOfMemoryError",
    "PromptClassifier",
    "PromptMixError",
    "__version__",
    "load_backbone",
]

__version__ = "0.1.0"

_PUBLIC_NAMES: dict[str, str] = {
    "PromptClassifier": "promptmix.estimator:PromptClassifier",
    "load_backbone": "promptmix.backbones.registry:load_backbone",
    "BackboneError": "promptmix.errors:BackboneError",
    "CheckpointError": "promptmix.errors:CheckpointError",
    "ConfigError": "promptmix.errors:ConfigError",
    "DataError": "promptmix.errors:DataError",
    "HubError": "promptmix.errors:HubError",
    "InterruptedRun": "promptmix.errors:InterruptedRun",
    "NotFittedError": "promptmix.errors:NotFittedError",
    "OutOfMemoryError": "promptmix.errors:OutOfMemoryError",
    "PromptMixError": "promptmix.errors:PromptMixError",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC_NAMES[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    # Kept, so that the next use does not come here again.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
