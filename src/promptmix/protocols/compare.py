"""Which method suits a person's own pictures: a few contenders, three seeds, and a recommendation that says how sure it is."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from promptmix.evaluation.results import BenchResult
from promptmix.reporting.aggregate import PairedDifference, Spread, paired_difference, spread

__all__ = ["CONTENDERS", "HOLD_OUT", "Recommendation", "recommend"]

CONTENDERS = ("zero-shot", "linear-probe", "tip-adapter", "coop", "kgcoop", "mocoop", "promptmix")
HOLD_OUT = 0.3  # of each class, where a person's pictures have no test part


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The contender to take for one data set and number of shots.

    Attributes:
        contender: that with the highest mean accuracy; of equal ones the quickest to train.
        accuracy: on the test pictures, one value a seed; shares.
        seconds: of training, mean of the runs.
        runner_up: the next best; None where there is one contender only.
        lead: of the contender over the runner-up, seed by seed.
    """

    dataset: str
    shots: int | None
    contender: str
    accuracy: Spread
    seconds: float
    runner_up: str | None
    runner_up_seconds: float
    lead: PairedDifference

    @property
    def within_noise(self) -> bool:
        """Whether these seeds cannot tell the two apart: the 95 % interval of the lead holds 0, or there is none."""
        interval = None if self.lead.difference is None else self.lead.difference.interval
        return interval is None or interval[0] <= 0

    def text(self) -> str:
        """The recommendation in words."""
        shots = "" if self.shots is None else f", {self.shots} shots"
        said = f"{self.dataset}{shots}: take {self.contender}, {_percent(self.accuracy)}, trained in {self.seconds:.1f} s"
        if self.runner_up is None or self.lead.difference is None:
            return f"{said}; there is nothing to compare it with"
        ahead = f"{100 * self.lead.difference.mean:.1f} points above {self.runner_up}"
        if self.lead.difference.interval is None:
            return f"{said}; {ahead}, but one seed says nothing of the noise: give more with --seeds"
        low, high = (100 * value for value in self.lead.difference.interval)
        ahead = f"{ahead} (95 % interval {low:.1f} to {high:.1f} over {self.lead.difference.count} seeds)"
        if self.within_noise:
            return (
                f"{said}; {ahead}: within noise, so {self.runner_up} (trained in {self.runner_up_seconds:.1f} s) may be as good"
            )
        return f"{said}; {ahead}: more than noise"


def recommend(results: Sequence[BenchResult], part: str = "test") -> list[Recommendation]:
    """A recommendation for each data set and number of shots; contenders that learn nothing compete at every number."""
    found = []
    for dataset in dict.fromkeys(one.dataset for one in results):
        mine = [one for one in results if one.dataset == dataset and one.measures.get(part) is not None]
        counts: list[int | None] = list(dict.fromkeys(one.shots for one in mine if one.shots is not None))
        found += [
            _recommend_among([one for one in mine if one.shots in (None, shots)], shots, part)
            for shots in counts or [None]
            if mine
        ]
    return found


def _recommend_among(results: Sequence[BenchResult], shots: int | None, part: str) -> Recommendation:
    accuracies: dict[str, dict[Hashable, float]] = {}
    seconds: dict[str, list[float]] = {}
    for one in results:
        measured = one.measures[part]
        assert measured is not None
        accuracies.setdefault(one.contender, {})[one.seed] = measured["accuracy"]
        seconds.setdefault(one.contender, []).append(one.seconds["training"])
    mean_seconds = {name: statistics.fmean(values) for name, values in seconds.items()}
    order = sorted(accuracies, key=lambda name: (-statistics.fmean(accuracies[name].values()), mean_seconds[name]))
    best, second = order[0], order[1] if len(order) > 1 else None
    return Recommendation(
        dataset=results[0].dataset,
        shots=shots,
        contender=best,
        accuracy=spread(list(accuracies[best].values())),
        seconds=mean_seconds[best],
        runner_up=second,
        runner_up_seconds=0.0 if second is None else mean_seconds[second],
        lead=paired_difference(accuracies[best], {} if second is None else accuracies[second]),
    )


def _percent(accuracy: Spread) -> str:
    mean = f"{100 * accuracy.mean:.1f} %"
    if accuracy.interval is None:
        return mean
    low, high = (100 * value for value in accuracy.interval)
    return f"{mean} (95 % interval {low:.1f} to {high:.1f})"
