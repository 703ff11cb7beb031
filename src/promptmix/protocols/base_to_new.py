"""Base to new: learnt from the first half of the classes, measured on these, on the other half, and on both together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from promptmix.errors import DataError
from promptmix.protocols.base import Part, PlannedRun, runs_of
from promptmix.protocols.contenders import Contender
from promptmix.protocols.datasets import DataSource

__all__ = ["plan_runs"]


def plan_runs(
    sources: Mapping[str, DataSource], contenders: Mapping[str, Contender], shots: Sequence[int], seeds: Sequence[int]
) -> list[PlannedRun]:
    """Every contender learns the base classes of every data set.

    It is measured on the pictures of base classes among the base names, on those of new classes among the new names, and on all
    among all names. Shots are drawn for all classes, and those of the base classes kept, as the field does.

    Raises:
        DataError: a data set has fewer than four classes, so that a half would have nothing to tell apart.
    """
    runs = []
    for name, source in sources.items():
        if len(source.class_names) < 4:
            raise DataError(f"{name} has {len(source.class_names)} classes; base-to-new needs two base and two new ones")
        parts = [
            Part(name="base", data=name, classes="base"),
            Part(name="new", data=name, classes="new"),
            Part(name="joint", data=name),
        ]
        runs += runs_of(name, contenders, shots, seeds, parts, classes="base")
    return runs
