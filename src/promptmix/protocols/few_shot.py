"""Few-shot classification: a few pictures of every class to learn from, measured on the test pictures of the same classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from promptmix.protocols.base import Part, PlannedRun, runs_of
from promptmix.protocols.contenders import Contender
from promptmix.protocols.datasets import DataSource

__all__ = ["plan_runs"]


def plan_runs(
    sources: Mapping[str, DataSource], contenders: Mapping[str, Contender], shots: Sequence[int], seeds: Sequence[int]
) -> list[PlannedRun]:
    """Every contender on every data set, with every number of shots and every seed."""
    return [run for name in sources for run in runs_of(name, contenders, shots, seeds, [Part(name="test", data=name)])]
