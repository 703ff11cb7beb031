"""Domain generalization: learnt from pictures of one kind, measured on the same classes in pictures of other kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from promptmix.data.pictograms import UNSEEN_STYLES
from promptmix.data.records import class_key
from promptmix.errors import ConfigError, DataError, listed
from promptmix.protocols.base import Part, PlannedRun, runs_of
from promptmix.protocols.contenders import Contender
from promptmix.protocols.datasets import PICTOGRAMS, DataSource

__all__ = ["default_targets", "plan_runs"]


def default_targets(source: str) -> tuple[str, ...]:
    """What is measured on besides a source, where nobody says; nothing for a person's own pictures."""
    if source == f"{PICTOGRAMS}:seen":
        return tuple(f"{PICTOGRAMS}:{style}" for style in UNSEEN_STYLES)
    if source == "imagenet":
        return ("imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r")
    return ()


def plan_runs(
    sources: Mapping[str, DataSource], contenders: Mapping[str, Contender], shots: Sequence[int], seeds: Sequence[int]
) -> list[PlannedRun]:
    """Every contender learns from the first data set and is measured on that and on all others, each among its own classes.

    Raises:
        ConfigError: there is one data set only.
        DataError: another data set has a class that the first has not.
    """
    if len(sources) < 2:
        raise ConfigError("domain learns from the first --data and measures on the same classes in the others; give two or more")
    first, *others = sources
    learnt = {class_key(name) for name in sources[first].class_names}
    for name in others:
        unknown = [one for one in sources[name].class_names if class_key(one) not in learnt]
        if unknown:
            raise DataError(
                f"{name} has classes that {first} has not: {listed(unknown)}; domain measures the same classes, for others there is"
                " cross-dataset"
            )
    return runs_of(first, contenders, shots, seeds, [Part(name=name, data=name) for name in sources])
