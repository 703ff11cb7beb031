"""Backbones by name: the bundled one, a folder, an archive, or a name on the Hugging Face hub."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from promptmix.backbones.base import Backbone
from promptmix.backbones.card import licence_of
from promptmix.backbones.hub import cached_folder, fetch_from_hub
from promptmix.backbones.weights import load_files
from promptmix.errors import BackboneError
from promptmix.hub_access import is_hub_name, split_hub_name
from promptmix.runtime import choose_device, choose_precision

__all__ = ["BUNDLED", "bundled_folder", "find_backbone", "known_licence", "load_backbone"]

BUNDLED = "bundled"


def bundled_folder() -> Path:
    """Where the small backbone that ships with the package lies."""
    return Path(str(importlib.resources.files("promptmix.backbones") / "bundled"))


def find_backbone(name: str) -> tuple[Path, str]:
    """The folder or archive that a name stands for, and the name under which it is found again.

    Raises:
        BackboneError: there is no such backbone.
    """
    if name == BUNDLED:
        return bundled_folder(), name
    place = Path(name).expanduser()
    if place.exists():
        return place, name
    # A name below a folder that is here is a slip of the pen, not a name on the hub.
    if is_hub_name(name) and not place.parent.is_dir():
        return fetch_from_hub(name)
    raise BackboneError(
        f"there is no folder {name!r}; a backbone is 'bundled', a folder with a CLIP or SigLIP, one of OpenAI's .pt archives, or"
        " owner/name[@revision] on the Hugging Face hub"
    )


def known_licence(name: str) -> str | None:
    """The licence that the card of a backbone names, where the card is on this machine; the network is not asked."""
    if name == BUNDLED:
        return licence_of(bundled_folder())
    place = Path(name).expanduser()
    if place.exists():
        return licence_of(place)
    found = split_hub_name(name)
    folder = None if found is None else cached_folder(found[0], found[1] or "main")
    return None if folder is None else licence_of(folder)


def load_backbone(
    name: str = BUNDLED, *, with_text: bool = True, with_vision: bool = True, device: str = "auto", precision: str = "auto"
) -> Backbone:
    """Load a backbone, frozen.

    Args:
        name: ``"bundled"``; a folder in the format of transformers (CLIP, SigLIP), of open_clip or our own; one of OpenAI's ``.pt``
            archives; or ``owner/name`` or ``owner/name@revision`` on the Hugging Face hub, which is downloaded where the hub's cache
            on this machine does not have it.
        with_text, with_vision: leave out the tower that is not needed.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``, whatever the files are in; see :func:`~promptmix.runtime.choose_precision`.

    Raises:
        BackboneError: there is no such backbone, or its files are incomplete or surprising.
        ConfigError: this machine has no such device, or there is no such precision.
    """
    chosen = choose_device(device)
    dtype = choose_precision(precision, chosen)
    place, full_name = find_backbone(name)
    return load_files(place, full_name, with_text=with_text, with_vision=with_vision).to(chosen).in_precision(dtype)
