"""What all that comes from or goes to the Hugging Face hub shares: how a name is spelled, and when the network may be asked."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator

__all__ = ["SECONDS_TO_ANSWER", "first_line", "is_commit", "is_hub_name", "quiet_off_a_terminal", "split_hub_name"]

SECONDS_TO_ANSWER = 10.0
"""How long the hub may take for its first answer; the library would wait for half a minute where there is no network."""
_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")


def is_hub_name(name: str) -> bool:
    """Whether a name has the form ``owner/name`` or ``owner/name@revision``."""
    return _NAME.fullmatch(name) is not None


def split_hub_name(name: str) -> tuple[str, str | None] | None:
    """Repository and revision, if one is given; None for what is no name on the hub."""
    found = _NAME.fullmatch(name)
    return None if found is None else (found["repository"], found["revision"])


def is_commit(revision: str) -> bool:
    """Whether a revision is an exact commit, which means the same for ever."""
    return _COMMIT.fullmatch(revision) is not None


@contextlib.contextmanager
def quiet_off_a_terminal() -> Iterator[None]:
    """Progress bars of transfers only where somebody looks."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def first_line(problem: BaseException) -> str:
    """What an error of the hub's library says, short enough for a line."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:300]
