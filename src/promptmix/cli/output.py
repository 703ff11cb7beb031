"""What the verbs share: progress bars on stderr, only on a terminal, and numbers as people read them."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

__all__ = ["percent", "progress"]


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, int, int | None, str], None]]:
    """A callback for (stage, done, total, detail), total None where it is not known; it draws nothing off a terminal, nor where only errors are wanted."""
    quiet = not logging.getLogger("promptmix").isEnabledFor(logging.WARNING)
    if quiet or not sys.stderr.isatty():
        yield lambda stage, done, total, detail: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def update(stage: str, done: int, total: int | None, detail: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, detail="")
            bars.update(tasks[stage], completed=done, total=total, detail=detail)

        yield update


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.1f} %"
