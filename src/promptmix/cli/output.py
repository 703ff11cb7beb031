"""What the verbs share: progress bars on stderr, only on a terminal, and numbers as people read them."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from promptmix.errors import ConfigError, did_you_mean
from promptmix.nn.calibration import Calibration

__all__ = [
    "percent",
    "progress",
    "refuse_missing_thresholds",
    "refuse_options_of_folders",
    "refuse_unknown_engine",
    "tell_shares",
]

_ENGINES = ("local", "ray")


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


def refuse_unknown_engine(name: str) -> None:
    """Raise unless work can be done by an engine of this name: in this process and its children, or on a Ray cluster.

    Raises:
        ConfigError: there is no such engine.
    """
    if name not in _ENGINES:
        raise ConfigError(f"unknown engine {name!r}{did_you_mean(name, _ENGINES)}")


def refuse_missing_thresholds(model: Path, calibration: Calibration | None) -> None:
    """Raise unless a model can say of each class by itself whether it is on a picture.

    Raises:
        ConfigError: it has no thresholds for that.
    """
    if calibration is None or calibration.multi_label is None:
        raise ConfigError(f"{model} has no thresholds for --multi-label; promptmix calibrate {model} fits some")


def refuse_options_of_folders(backbone: str | None, device: str, precision: str) -> None:
    """Raise where options are given that mean nothing to an exported model.

    Raises:
        ConfigError: one is.
    """
    fits = {"--backbone": backbone is None, "--device": device in ("auto", "cpu"), "--precision": precision == "auto"}
    for name, value in fits.items():
        if not value:
            raise ConfigError(
                f"{name} is for model folders; an exported model has its own backbone, in float32, and runs on the CPU"
            )


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.1f} %"


def tell_shares(shares: Mapping[str, float]) -> None:
    """What the rules of a calibration give on labelled pictures, a line a rule."""
    if "answer_coverage" in shares:
        right = f"{percent(shares['answer_precision'])} of these right" if "answer_precision" in shares else "none"
        print(f"answers: {percent(shares['answer_coverage'])} of the pictures, {right}")
    if "set_coverage" in shares:
        print(f"label sets: {percent(shares['set_coverage'])} hold the true class, {shares['set_size']:.2f} classes in a set")
    if "label_recall" in shares:
        right = (
            f"{percent(shares['label_precision'])} of the labels said are true"
            if "label_precision" in shares
            else "no label said"
        )
        print(f"several labels: {percent(shares['label_recall'])} of the true classes found, {right}")
