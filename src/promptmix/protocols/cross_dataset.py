"""Cross-dataset transfer: learnt from all classes of one data set, measured on the classes of others, known by name alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from promptmix.errors import ConfigError
from promptmix.protocols.base import Part, PlannedRun, runs_of
from promptmix.protocols.contenders import Contender
from promptmix.protocols.datasets import PICTOGRAMS, DataSource

__all__ = ["default_targets", "plan_runs"]


def default_targets(source: str) -> tuple[str, ...]:
    """What is measured on besides a source, where nobody says; nothing for a person's own pictures."""
    if source == PICTOGRAMS:
        return (f"{PICTOGRAMS}:others",)
    if source == "imagenet":
        return (
            "caltech101",
            "oxford-pets",
            "stanford-cars",
            "oxford-flowers",
            "food101",
            "fgvc-aircraft",
            "sun397",
            "dtd",
            "eurosat",
            "ucf101",
        )
    return ()


def plan_runs(
    sources: Mapping[str, DataSource], contenders: Mapping[str, Contender], shots: Sequence[int], seeds: Sequence[int]
) -> list[PlannedRun]:
    """Every contender learns from the first data set and is measured on that and on all others.

    What was learnt travels as it is: templates, groups and router are those of the data set that was learnt from.

    Raises:
        ConfigError: there is one data set only.
    """
    if len(sources) < 2:
        raise ConfigError("cross-dataset learns from the first --data and measures on the others; give two or more")
    return runs_of(next(iter(sources)), contenders, shots, seeds, [Part(name=name, data=name) for name in sources])
