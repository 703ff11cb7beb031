"""The errors people meet, and the exit code each one becomes on the command line.

A message is one line for a person: the value, what is allowed, the nearest match, what to do next.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "BackboneError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "HubError",
    "InterruptedRun",
    "LostRankError",
    "NotFittedError",
    "OutOfMemoryError",
    "PromptMixError",
    "UnreadablePictureError",
    "did_you_mean",
    "listed",
    "printable",
]

_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class PromptMixError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class ConfigError(PromptMixError, ValueError):
    """An option, a recipe or an argument that cannot be used as it stands."""

    exit_code = 3


class DataError(PromptMixError, ValueError):
    """Pictures, labels or class names that are missing or cannot be used."""

    exit_code = 4


class UnreadablePictureError(DataError):
    """A picture that cannot be read, where none is left out.

    Args:
        reason: which picture it is, and what is wrong with it.
        advice: what to do next.
    """

    def __init__(self, reason: str, advice: str = "pass --skip-bad to leave such pictures out") -> None:
        super().__init__(reason, advice)
        self.reason = reason

    def __str__(self) -> str:
        return "; ".join(self.args)


class BackboneError(PromptMixError):
    """A backbone that is missing, incomplete or not of a known kind."""

    exit_code = 5


class CheckpointError(PromptMixError):
    """A model folder or a checkpoint that is damaged, foreign or of another backbone."""

    exit_code = 5


class HubError(PromptMixError):
    """A repository on the Hugging Face hub that cannot be read or written."""

    exit_code = 5


class NotFittedError(PromptMixError, AttributeError):
    """A classifier was asked to predict before ``fit`` or ``from_pretrained``."""


class OutOfMemoryError(PromptMixError):
    """The device had no memory left."""

    exit_code = 6


class LostRankError(PromptMixError):
    """Another of the processes that train together is gone, so that this one cannot go on."""

    exit_code = 7


class InterruptedRun(PromptMixError):
    """The person stopped a run; what it had learnt was written first."""

    exit_code = 130


def did_you_mean(value: str, allowed: Iterable[str]) -> str:
    """A hint such as ``"; did you mean 'coop'? Allowed: coop, mocoop"``, for the end of an error message; of more than a hundred
    choices the first of them and how many more there are."""
    choices = list(allowed)
    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} Allowed: {listed(choices, most=100)}"


def listed(names: Iterable[str], most: int = 10) -> str:
    """Names with commas between them; of a long list the first few and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def printable(path: object) -> str:
    """A path as text that any file can hold and any terminal can show: bytes of a file's name that are not UTF-8, and signs that
    break a line or steer a terminal, are written out."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
