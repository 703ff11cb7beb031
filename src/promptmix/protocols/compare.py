"""Which method suits a person's own pictures: a few contenders, three seeds, and a recommendation that says how sure it is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptmix.errors import listed
from promptmix.evaluation.results import BenchResult
from promptmix.reporting.aggregate import PairedDifference, Spread, paired_difference, spread
from promptmix.reporting.bench_runs import ZERO_SHOT

__all__ = ["CONTENDERS", "HOLD_OUT", "Recommendation", "recommend"]

CONTENDERS = ("zero-shot", "linear-probe", "tip-adapter", "coop", "kgcoop", "mocoop", "promptmix")
HOLD_OUT = 0.3  # of each class, where a person's pictures have no test part


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The contender to take for one data set and number of shots.

    Zero-shot is always among those that are compared, because every run measures it beside its own.

    Attributes:
        contender: that with the highest mean accuracy over the seeds; of equal ones zero-shot, else the quickest to train.
        accuracy: on the test pictures, one value a seed; shares.
        seconds: of training, mean of the runs.
        num_ranked: contenders that were compared, all of them on the same seeds.
        not_ranked: contenders that lack some of these seeds, each with the seeds that it lacks.
        not_counted: seeds that were left out because too few contenders have a result for them.
        runner_up: the next best; None where there is one contender only.
        lead: of the contender over the runner-up, seed by seed.
        over_zero_shot: of the contender over zero-shot, seed by seed; None where it is zero-shot, or where that is not known.
        tests_vary: whether every seed was measured on other pictures, so that the intervals cover the choice of these too.
    """

    dataset: str
    shots: int | None
    contender: str
    accuracy: Spread
    seconds: float
    num_ranked: int
    not_ranked: dict[str, tuple[int, ...]]
    not_counted: tuple[int, ...]
    runner_up: str | None
    runner_up_seconds: float
    lead: PairedDifference
    over_zero_shot: PairedDifference | None
    tests_vary: bool

    @property
    def within_noise(self) -> bool:
        """Whether these seeds cannot tell the two apart: the lead is 0, its 95 % interval holds 0, or it has none."""
        return _is_noise(self.lead)

    def text(self) -> str:
        """The recommendation in words: what to take, how sure that is, and what the numbers do not say."""
        shots = "" if self.shots is None else f", {self.shots} shot{'s' if self.shots > 1 else ''}"
        said = f"{self.dataset}{shots}: take {self.contender}, {_percent(self.accuracy)}, {_cost(self.contender, self.seconds)}"
        return ". ".join([f"{said}; {self._beside_the_next()}", *self._beside_zero_shot(), *self._caveats()])

    def _beside_the_next(self) -> str:
        if self.runner_up is None:
            return "there is nothing to compare it with"
        said = f"{_points(self.lead)} above {self.runner_up}"
        said = f"nothing beats it; {said}" if self.contender == ZERO_SHOT else said
        if not self.within_noise:
            return f"{said}: more than noise"
        return f"{said}: within noise, so {self.runner_up} ({_cost(self.runner_up, self.runner_up_seconds)}) may be as good"

    def _beside_zero_shot(self) -> list[str]:
        """How the contender stands to zero-shot, where that is not its runner-up."""
        if self.over_zero_shot is None or self.runner_up == ZERO_SHOT:
            return []
        noise = ": within noise, so it may be no better than no training" if _is_noise(self.over_zero_shot) else ""
        return [f"It is {_points(self.over_zero_shot)} above {ZERO_SHOT}{noise}"]

    def _caveats(self) -> list[str]:
        caveats = []
        if self.accuracy.count == 1:
            caveats.append("One seed says nothing of the noise: give more with --seeds")
        elif self.tests_vary:
            caveats.append(
                f"Intervals cover which pictures {self.accuracy.count} seeds draw as shots and hold out, no new pictures"
            )
        else:
            caveats.append(f"Intervals cover which shots {self.accuracy.count} seeds draw, not which test pictures there are")
        if self.num_ranked > 1:
            caveats.append(f"Accuracy and lead are those of the best of {self.num_ranked} contenders, which flatters it a little")
        if self.not_ranked:
            lacking = (f"{name} (no result for {_seeds(seeds)})" for name, seeds in self.not_ranked.items())
            caveats.append(f"Not ranked: {listed(lacking)}")
        if self.not_counted:
            caveats.append(f"Not counted: {_seeds(self.not_counted)}, for which too few contenders have a result")
        return caveats


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
    accuracies: dict[str, dict[int, float]] = {}
    zero_shot: dict[int, float] = {}
    seconds: dict[str, list[float]] = {}
    for one in results:
        measured = one.measures[part]
        assert measured is not None
        accuracies.setdefault(one.contender, {})[one.seed] = measured["accuracy"]
        seconds.setdefault(one.contender, []).append(one.seconds["training"])
        if part in one.zero_shot:
            zero_shot[one.seed] = one.zero_shot[part]["accuracy"]
    if zero_shot:
        accuracies[ZERO_SHOT] = zero_shot | accuracies.get(ZERO_SHOT, {})
        seconds.setdefault(ZERO_SHOT, [0.0])
    seeds = _seeds_to_rank_on(accuracies)
    ranked = {name: {seed: found[seed] for seed in seeds} for name, found in accuracies.items() if found.keys() >= set(seeds)}
    mean_seconds = {name: statistics.fmean(values) for name, values in seconds.items()}

    def place(name: str) -> tuple[float, bool, float]:
        # Means of the same shares in another order are equal but for rounding.
        return -round(statistics.fmean(ranked[name].values()), 12), name != ZERO_SHOT, mean_seconds[name]

    best, *others = sorted(ranked, key=place)
    second = others[0] if others else None
    return Recommendation(
        dataset=results[0].dataset,
        shots=shots,
        contender=best,
        accuracy=spread(list(ranked[best].values())),
        seconds=mean_seconds[best],
        num_ranked=len(ranked),
        not_ranked={
            name: tuple(seed for seed in seeds if seed not in found) for name, found in accuracies.items() if name not in ranked
        },
        not_counted=tuple(sorted({seed for found in accuracies.values() for seed in found} - set(seeds))),
        runner_up=second,
        runner_up_seconds=0.0 if second is None else mean_seconds[second],
        lead=paired_difference(ranked[best], {} if second is None else ranked[second]),
        over_zero_shot=paired_difference(ranked[best], ranked[ZERO_SHOT]) if ZERO_SHOT in ranked and best != ZERO_SHOT else None,
        tests_vary=len({one.descriptions.get(part) for one in results}) > 1,
    )


def _seeds_to_rank_on(accuracies: Mapping[str, Mapping[int, float]]) -> tuple[int, ...]:
    """The seeds with which the most results can be ranked: those that a contender has, taken with all contenders that have them too.

    Means over different seeds are means over different tasks, so that a contender that lacks one of these seeds cannot be ranked.
    Where most contenders lack a seed, it is rather that seed that does not count.
    """
    sets = [frozenset(found) for found in accuracies.values()]
    chosen = max(sets, key=lambda seeds: (len(seeds) * sum(other >= seeds for other in sets), len(seeds)))
    return tuple(sorted(chosen))


def _is_noise(lead: PairedDifference) -> bool:
    interval = None if lead.difference is None else lead.difference.interval
    return interval is None or interval[0] <= 0


def _points(lead: PairedDifference) -> str:
    """A lead in points, with what its seeds say of it."""
    assert lead.difference is not None
    points = f"{100 * lead.difference.mean:.1f} points"
    if lead.difference.interval is not None:
        low, high = (100 * value for value in lead.difference.interval)
        return f"{points} (95 % interval {low:.1f} to {high:.1f} over {lead.difference.count} seeds)"
    return points if lead.difference.count == 1 else f"{points} (the same for all {lead.difference.count} seeds)"


def _cost(contender: str, seconds: float) -> str:
    return "no training" if contender == ZERO_SHOT else f"trained in {seconds:.1f} s"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {listed(map(str, seeds))}"


def _percent(accuracy: Spread) -> str:
    mean = f"{100 * accuracy.mean:.1f} %"
    if accuracy.interval is None:
        return mean
    low, high = (100 * value for value in accuracy.interval)
    return f"{mean} (95 % interval {low:.1f} to {high:.1f})"
