"""Runs of protocols as tables and plots ask for them: those of one data set, contender and number of shots, and what is wrong there."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptmix.errors import CheckpointError, ConfigError, DataError, did_you_mean, listed
from promptmix.evaluation.metrics import Metrics, harmonic_mean
from promptmix.evaluation.results import BenchResult
from promptmix.reporting.aggregate import PairedDifference, paired_difference

__all__ = [
    "HARMONIC",
    "PROTOCOLS",
    "ZERO_SHOT",
    "Measure",
    "ProtocolRuns",
    "and_so_on",
    "average_of",
    "metric_of",
    "part_notes",
    "run_notes",
    "sections",
]

PROTOCOLS = ("few-shot", "base-to-new", "cross-dataset", "domain", "compare")
ZERO_SHOT = "zero-shot"

_BELOW = "below zero-shot on the same pictures"
_METRICS = frozenset(Metrics.model_fields)

Measures = Mapping[str, Mapping[str, Any] | None]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a run: a metric of one part, or what ``combine`` makes of that of several."""

    parts: tuple[str, ...]
    metric: str = "accuracy"
    combine: Callable[[Sequence[float]], float] = statistics.fmean

    def of(self, measures: Measures) -> float | None:
        """The number; None where a part was not measured."""
        metrics = [measures.get(part) for part in self.parts]
        found = [float(one[self.metric]) for one in metrics if one is not None]
        return self.combine(found) if len(found) == len(self.parts) else None

    def measured_on(self, measures: Measures) -> list[tuple[int, list[str]]]:
        """How many pictures of which classes it is measured on; where this differs, two numbers are no pair."""
        return [(one["num_pictures"], list(one["per_class"])) for part in self.parts if (one := measures.get(part)) is not None]


def metric_of(part: str, metric: str = "accuracy") -> Measure:
    """A metric of one part."""
    return Measure(parts=(part,), metric=metric)


def average_of(parts: Iterable[str]) -> Measure:
    """The average accuracy of several parts, each of which counts the same."""
    return Measure(parts=tuple(parts))


HARMONIC = Measure(parts=("base", "new"), combine=lambda shares: harmonic_mean(*shares))


class ProtocolRuns:
    """The finished runs of one protocol.

    A run that learnt nothing (no shots, no parameters) stands beside those of every number of shots.

    Attributes:
        datasets, contenders: in the order of their first run; zero-shot before all others.
        baseline: the contender that all others are compared with; for zero-shot the numbers that every run measured beside its own
            are used where it has no run.
    """

    def __init__(self, protocol: str, results: Sequence[BenchResult], baseline: str, failed: Mapping[str, str]) -> None:
        self.protocol = protocol
        self.results = tuple(results)
        self.baseline = baseline
        self.datasets = list(dict.fromkeys(result.dataset for result in results))
        self.contenders = sorted(dict.fromkeys(result.contender for result in results), key=lambda name: name != ZERO_SHOT)
        self._failed = failed
        self._runs: dict[tuple[str, str, int | None], dict[int, BenchResult]] = {}
        for result in sorted(results, key=lambda result: result.seed):
            there = self._runs.setdefault((result.dataset, result.contender, result.shots), {})
            if result.seed in there:
                raise DataError(
                    f"runs {there[result.seed].run_id} and {result.run_id} are both {result.contender} on {result.dataset} with"
                    f" {_shots(result.shots)} and seed {result.seed}; keep one of them"
                )
            there[result.seed] = result

    def shots(self, dataset: str | None = None) -> list[int | None]:
        """All numbers of shots (of a data set), rising; None, for all pictures, last, and alone where nothing was learnt."""
        found = {run.shots for run in self.results if dataset in (None, run.dataset) and not _learnt_nothing(run)}
        return sorted(found, key=lambda shots: (shots is None, shots or 0)) or [None]

    def seeds(self, dataset: str) -> list[int]:
        """All seeds that any contender has on a data set."""
        return sorted({run.seed for run in self.results if run.dataset == dataset})

    def parts(self, dataset: str) -> list[str]:
        """The parts that were measured or refused, in the order of the protocol, the source of a transfer first."""
        found = list(dict.fromkeys(part for run in self.results if run.dataset == dataset for part in run.measures))
        first = ("base", "new", "joint", "source", dataset)
        return sorted(found, key=lambda part: first.index(part) if part in first else len(first))

    def targets(self, dataset: str) -> list[str]:
        """The parts of a transfer that nothing was learnt from."""
        return [part for part in self.parts(dataset) if part not in ("source", dataset)]

    def main_part(self, dataset: str) -> str:
        """The part with all classes that were learnt or named."""
        parts = self.parts(dataset)
        return "joint" if "joint" in parts else parts[0]

    def runs(self, dataset: str, contender: str, shots: int | None) -> list[BenchResult]:
        """One run a seed, by seed; those that learnt nothing are the same for all shots."""
        there = self._runs.get((dataset, contender, shots)) or self._runs.get((dataset, contender, None), {})
        return [run for run in there.values() if run.shots == shots or _learnt_nothing(run)]

    def learnt_nothing(self, dataset: str, contender: str) -> bool:
        """Whether a contender learns nothing, so that its runs are the same for all numbers of shots."""
        return any(_learnt_nothing(run) for run in self._runs.get((dataset, contender, None), {}).values())

    def values(self, dataset: str, contender: str, shots: int | None, measure: Measure) -> dict[int, float]:
        """A number a seed, without the seeds where it was not measured."""
        found = {run.seed: measure.of(run.measures) for run in self.runs(dataset, contender, shots)}
        return {seed: value for seed, value in found.items() if value is not None}

    def difference(self, dataset: str, contender: str, shots: int | None, measure: Measure) -> PairedDifference:
        """How much higher a contender is than the baseline, over the seeds that both have, on the same pictures and classes."""
        ours, theirs = self.pairs(dataset, contender, shots, measure)
        return paired_difference(ours, theirs)

    def pairs(
        self, dataset: str, contender: str, shots: int | None, measure: Measure
    ) -> tuple[dict[int, float], dict[int, float]]:
        """Values of a contender and of the baseline, by seed; what was measured on other pictures or classes is left out."""
        ours = self.values(dataset, contender, shots, measure)
        baseline = {run.seed: run.measures for run in self.runs(dataset, self.baseline, shots)}
        theirs: dict[int, float] = {}
        for run in self.runs(dataset, contender, shots):
            measures: Measures | None = baseline.pop(run.seed, None)
            if measures is None and self.baseline == ZERO_SHOT:
                measures = run.zero_shot
            value = None if measures is None else measure.of(measures)
            if measures is not None and value is not None and measure.measured_on(measures) == measure.measured_on(run.measures):
                theirs[run.seed] = value
        alone = {seed: measure.of(measures) for seed, measures in baseline.items()}
        return ours, theirs | {seed: value for seed, value in alone.items() if value is not None}

    def missing(self, dataset: str, contender: str, shots: int | None) -> str | None:
        """Which seeds a contender lacks that others have, and why, where that is known."""
        runs = self.runs(dataset, contender, shots)
        there = {run.seed for run in runs}
        lacking = [seed for seed in self.seeds(dataset) if seed not in there]
        failures = {seed: reason for seed in lacking if (reason := self._failure(dataset, contender, shots, seed)) is not None}
        missing = [seed for seed in lacking if seed not in failures]
        pieces = [f"{_seeds(missing)} missing"] if missing else []
        for reason in dict.fromkeys(failures.values()):
            pieces.append(f"{_seeds([seed for seed in failures if failures[seed] == reason])} failed: {reason}")
        if not pieces:
            return None
        return "; ".join(pieces) if not runs else f"{_seeds(sorted(there))} only; {'; '.join(pieces)}"

    def _failure(self, dataset: str, contender: str, shots: int | None, seed: int) -> str | None:
        """Why a run failed, found by the name it must have, by those of its siblings."""
        siblings = [run for run in self.results if run.dataset == dataset and run.contender == contender]
        for run in siblings:
            beginning = re.sub(r"(--\d+-shots?)?--seed-\d+$", "", run.run_id)
            count = "" if run.shots is None or shots is None else f"--{shots}-shot{'s' if shots > 1 else ''}"
            reason = self._failed.get(f"{beginning}{count}--seed-{seed}")
            if reason is not None:
                return reason
        return None

    def best(self, dataset: str, shots: int | None, measure: Measure) -> str | None:
        """The contender with the highest mean among those that learnt something and lack no seed; None where there is none."""
        means = {
            contender: statistics.fmean(values.values())
            for contender in self.contenders
            if (values := self.values(dataset, contender, shots, measure))
            and not self.learnt_nothing(dataset, contender)
            and len(values) == len(self.seeds(dataset))
        }
        return max(means, key=lambda contender: means[contender]) if means else None


def run_notes(runs: Sequence[BenchResult]) -> tuple[str, ...]:
    """The notes of some runs; what does not hold for all of them has its seeds beside it.

    That a run is below zero-shot stands beside the number that is, by :func:`part_notes`, and not a second time here.
    """
    seeds: dict[str, list[int]] = {}
    for run in runs:
        for note in dict.fromkeys(run.notes):
            if not note.startswith(_BELOW):
                seeds.setdefault(note, []).append(run.seed)
    return tuple(note if len(found) == len(runs) else f"{note} ({_seeds(found)})" for note, found in seeds.items())


def part_notes(runs: Sequence[BenchResult], parts: Sequence[str]) -> tuple[str, ...]:
    """What is wrong with some parts: where they were refused, and where a run is below zero-shot on the same pictures."""
    refused: dict[str, list[int]] = {}
    below = []
    for run in runs:
        for part in parts:
            if run.measures.get(part) is None:
                refused.setdefault(run.refusals.get(part, f"{part} was not measured"), []).append(run.seed)
        shares = [(run.measures.get(part), run.zero_shot.get(part)) for part in parts]
        if any(ours is not None and zero is not None and ours["accuracy"] < zero["accuracy"] for ours, zero in shares):
            below.append(run.seed)
    notes = [reason if len(found) >= len(runs) else f"{reason} ({_seeds(found)})" for reason, found in refused.items()]
    if below:
        where = "" if len(runs) == 1 else ", every seed" if len(below) == len(runs) else f", {_seeds(below)}"
        notes.append(f"{_BELOW}{where}")
    return tuple(notes)


def sections(results: Sequence[BenchResult], baseline: str, failed: Mapping[str, str]) -> list[ProtocolRuns]:
    """The runs by protocol, in the order of :data:`PROTOCOLS`.

    Raises:
        DataError: there is no result, one is of an unknown protocol, or two are of the same run.
        CheckpointError: a result lacks some of its metrics.
        ConfigError: the results are of several backbones, or no run is of the baseline.
    """
    if not results:
        why = f": all {len(failed)} runs failed, the first with {next(iter(failed.values()))!r}" if failed else ""
        raise DataError(f"there is no result to report{why}; run `promptmix bench few-shot` or another protocol first")
    for result in results:
        if result.protocol not in PROTOCOLS:
            raise DataError(f"run {result.run_id} is of protocol {result.protocol!r}{did_you_mean(result.protocol, PROTOCOLS)}")
        for part, metrics in (*result.measures.items(), *result.zero_shot.items()):
            lacking = _METRICS - metrics.keys() if metrics is not None else ()
            if lacking:
                raise CheckpointError(
                    f"the result of run {result.run_id} has no {listed(sorted(lacking))} for {part!r}; remove it and run the"
                    " protocol again"
                )
    backbones = dict.fromkeys((result.backbone_name, result.backbone_fingerprint) for result in results)
    if len(backbones) > 1:
        names = listed(f"{name} ({fingerprint})" for name, fingerprint in backbones)
        raise ConfigError(f"the results are of {len(backbones)} backbones: {names}; report those of one backbone at a time")
    contenders = dict.fromkeys(result.contender for result in results)
    if baseline != ZERO_SHOT and baseline not in contenders:
        raise ConfigError(
            f"no run is of the baseline {baseline!r}{did_you_mean(baseline, dict.fromkeys([ZERO_SHOT, *contenders]))}"
        )
    return [
        ProtocolRuns(protocol, runs, baseline, failed)
        for protocol in PROTOCOLS
        if (runs := [result for result in results if result.protocol == protocol])
    ]


def and_so_on(things: Iterable[object]) -> str:
    """A list as people write it: ``1, 2 and 3``."""
    names = [str(thing) for thing in things]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _learnt_nothing(run: BenchResult) -> bool:
    return run.shots is None and run.num_trained_parameters == 0


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {and_so_on(seeds)}"


def _shots(shots: int | None) -> str:
    return "all pictures or none" if shots is None else f"{shots} shot{'s' if shots > 1 else ''}"
