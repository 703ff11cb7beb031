"""Numbers of several seeds and data sets as one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from promptmix.evaluation.metrics import harmonic_mean

__all__ = [
    "HarmonicMeans",
    "PairedDifference",
    "Spread",
    "average_over_sets",
    "harmonic_means",
    "paired_difference",
    "pooled_calibration",
    "spread",
]


Key = TypeVar("Key", bound=Hashable)

_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of ``count`` values.

    One value has no deviation, nor have equal ones: what learns nothing gives the same for every seed, and says nothing of how it
    would vary.
    """

    mean: float
    deviation: float | None
    count: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean by Student's t with n - 1 degrees of freedom; None where there is no deviation.

        It is not cut at 0 or 1 where the values are shares.
        """
        if self.deviation is None:
            return None
        # Loading it takes a while, and only a report needs it.
        from scipy.special import stdtrit  # type: ignore[import-untyped]

        half = float(stdtrit(self.count - 1, 0.975)) * self.deviation / math.sqrt(self.count)
        return self.mean - half, self.mean + half


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """How much higher one thing is than another over pairs of the same data set, shots and seed.

    Attributes:
        difference: of the pairs; its ``count`` is their number. None where nothing has a pair.
        num_better: pairs with a difference above 0.
        num_alone: values of either side that have no pair; they are left out.
    """

    difference: Spread | None
    num_better: int
    num_alone: int


@dataclass(frozen=True, kw_only=True)
class HarmonicMeans:
    """The two ways to give one harmonic mean of base and new accuracy for several data sets.

    Attributes:
        of_averages: H of the average base and the average new accuracy, as most papers give it; one number, without a deviation.
        averaged: the H of every run, averaged over the data sets; one value a seed.
    """

    of_averages: float
    averaged: Spread


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of one number a seed.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    if len(values) == 0:
        raise ValueError("no value: a mean needs one finite value or more")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{list(values)}: a mean needs finite values only")
    # Differences of equal shares are equal but for rounding.
    varies = max(values) - min(values) > _ROUNDING
    deviation = statistics.stdev(values) if varies else None
    return Spread(mean=statistics.fmean(values), deviation=deviation, count=len(values))


def paired_difference(ours: Mapping[Key, float], baseline: Mapping[Key, float]) -> PairedDifference:
    """``ours`` less ``baseline`` over the keys that both have; a key says what makes two values a pair, such as their seed."""
    differences = [value - baseline[key] for key, value in ours.items() if key in baseline]
    return PairedDifference(
        difference=spread(differences) if differences else None,
        num_better=sum(difference > 0 for difference in differences),
        num_alone=len(ours.keys() ^ baseline.keys()),
    )


def average_over_sets(values: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """For each seed that every data set has, the mean over the data sets.

    Args:
        values: by data set, then by seed.
    """
    if not values:
        return {}
    seeds = set.intersection(*(set(by_seed) for by_seed in values.values()))
    return {seed: statistics.fmean(by_seed[seed] for by_seed in values.values()) for seed in sorted(seeds)}


def harmonic_means(base: Mapping[str, Mapping[int, float]], new: Mapping[str, Mapping[int, float]]) -> HarmonicMeans | None:
    """Both harmonic means over the seeds for which every data set has a base and a new accuracy; None where there is no such seed.

    Args:
        base, new: accuracies by data set, then by seed.
    """
    pairs = {
        name: {seed: (share, new[name][seed]) for seed, share in by_seed.items() if seed in new.get(name, {})}
        for name, by_seed in base.items()
    }
    averaged = average_over_sets(
        {name: {seed: harmonic_mean(*pair) for seed, pair in row.items()} for name, row in pairs.items()}
    )
    if not averaged:
        return None
    base_mean, new_mean = (
        statistics.fmean(
            average_over_sets({name: {seed: pair[side] for seed, pair in row.items()} for name, row in pairs.items()}).values()
        )
        for side in (0, 1)
    )
    return HarmonicMeans(of_averages=harmonic_mean(base_mean, new_mean), averaged=spread(list(averaged.values())))


def pooled_calibration(runs: Sequence[Sequence[Sequence[float]]]) -> list[tuple[int, float, float]]:
    """The bins of several runs as those of all their pictures together: pictures, mean top probability and accuracy of each bin.

    Args:
        runs: for each run its bins as :class:`~promptmix.evaluation.metrics.Metrics` has them.
    """
    pooled = []
    for bins in zip(*runs, strict=True):
        count = sum(int(one[0]) for one in bins)
        confidence, accuracy = (sum(one[0] * one[place] for one in bins) / max(count, 1) for place in (1, 2))
        pooled.append((count, confidence, accuracy))
    return pooled
