"""Backbones by name: the bundled one, or a folder."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from promptmix.backbones.base import Backbone
from promptmix.backbones.weights import load_folder
from promptmix.errors import BackboneError
from promptmix.runtime import choose_device

__all__ = ["BUNDLED", "bundled_folder", "load_backbone"]

BUNDLED = "bundled"


def bundled_folder() -> Path:
    """Where the small backbone that ships with the package lies."""
    return Path(str(importlib.resources.files("promptmix.backbones") / "bundled"))


def load_backbone(name: str = BUNDLED, *, with_text: bool = True, with_vision: bool = True, device: str = "auto") -> Backbone:
    """Load a backbone, frozen, in float32.

    Args:
        name: ``"bundled"``, or a folder in the transformers CLIP format or our own.
        with_text, with_vision: leave out the tower that is not needed.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        BackboneError: there is no such backbone, or its files are incomplete or surprising.
        ConfigError: this machine has no such device.
    """
    chosen = choose_device(device)
    folder = bundled_folder() if name == BUNDLED else Path(name)
    if not folder.is_dir():
        raise BackboneError(
            f"there is no folder {name!r}; a backbone is 'bundled' or a folder with a CLIP (config.json, model.safetensors,"
            " tokenizer.json), names on a hub are not looked up"
        )
    return load_folder(folder, name, with_text=with_text, with_vision=with_vision).to(chosen)
