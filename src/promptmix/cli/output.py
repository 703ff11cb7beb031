"""What the verbs share: progress bars on stderr, and only on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["percent", "progress"]


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str, int, int, str], None]]:
    """A callback for (stage, done, total, detail); it draws nothing when quiet or off a terminal."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda stage, done, total, detail: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def update(stage: str, done: int, total: int, detail: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, detail="")
            bars.update(tasks[stage], completed=done, total=total, detail=detail)

        yield update


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.1f} %"
