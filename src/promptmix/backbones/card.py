"""What the model card beside a backbone's weights says."""

from __future__ import annotations

from pathlib import Path

import yaml

__all__ = ["licence_of"]

_LONGEST_CARD = 1 << 20  # bytes; what is after them is not looked at


def licence_of(place: Path) -> str | None:
    """The licence that the head of ``README.md`` names, as cards on the Hugging Face hub do; None where it names none.

    A card that cannot be read gives no licence: it is no part of what makes a backbone work.
    """
    card = (place if place.is_dir() else place.parent) / "README.md"
    try:
        with card.open(encoding="utf-8") as file:
            text = file.read(_LONGEST_CARD)
        head, separator, _ = text.removeprefix("---\n").partition("\n---")
        fields = yaml.safe_load(head) if separator and text.startswith("---\n") else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(fields, dict):
        return None
    # A licence of the author's own is called "other", and has a name.
    named = [fields.get(key) for key in ("license", "license_name", "license_link")]
    words = [" ".join(str(one).split()) for one in named if isinstance(one, str) and one]
    return ", ".join(words)[:200] or None
