"""What checking pictures and class names can find, as data: for a table, for JSON, for an exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["LEVELS", "Finding", "Item", "Level"]

Level = Literal["error", "serious", "warning", "note"]
"""``error``: training would stop, or could not work; ``serious``: its numbers could not be trusted; ``warning``: worth mending;
``note``: nothing is wrong, but good to know."""

LEVELS: tuple[Level, ...] = ("error", "serious", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One case of a finding: the pictures and the classes it is about, whichever there are, and what is special about it.

    Attributes:
        pictures: paths, or names of pictures in archives and tables; several are one case together, such as copies.
    """

    pictures: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Cases of one kind.

    Attributes:
        kind: a short name for programs, such as ``unreadable``.
        what: what the cases are, in a few words.
        advice: what to do about them, in a few words; empty where nothing needs to be done.
        items: every case.
    """

    kind: str
    level: Level
    what: str
    advice: str = ""
    items: tuple[Item, ...]
