"""What the tables of a protocol are made of: cells, notes on them, what they were measured on, and how to read them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from promptmix.evaluation.results import BenchResult
from promptmix.reporting.aggregate import PairedDifference, Spread, average_over_sets, spread
from promptmix.reporting.bench_runs import Measure, ProtocolRuns, and_so_on, part_notes, run_notes
from promptmix.reporting.tables import Cell, number_with_spread, points_with_interval, share_with_interval, share_with_spread

__all__ = [
    "accuracy_reading",
    "average_cell",
    "difference_cells",
    "elsewhere",
    "measured_on",
    "measured_on_all",
    "noted",
    "notes_of_runs",
    "notes_over_sets",
    "num_pairs",
    "paired_cells",
    "part_notes_over_sets",
    "points_reading",
    "row_of",
    "seconds_cell",
    "setting",
    "share_cell",
    "shots_in_words",
    "whole_cell",
    "written",
]

_SHARES = (
    "Accuracy in %: mean ± standard deviation over the seeds [95 % interval of the mean by Student's t]; where all seeds give the same,"
    " the mean alone."
)
_SHARES_SHORT = "Accuracy in %: mean ± standard deviation over the seeds; where all give the same, the mean alone."
_ONE_SEED = "One seed: there is no deviation and no interval."


def setting(runs: ProtocolRuns, dataset: str | None, *shots: int | None) -> str:
    """What was learnt from, in words: ``1, 2 and 4 shots``, ``all pictures``; ``no shots`` where nothing was learnt on a data set."""
    datasets = runs.datasets if dataset is None else [dataset]
    if all(runs.learnt_nothing(one, contender) for one in datasets for contender in runs.contenders):
        return "no shots"
    return shots_in_words(*shots)


def shots_in_words(*shots: int | None) -> str:
    """Numbers of shots in words: ``1, 2 and 4 shots``; None stands for all pictures."""
    numbers = [count for count in shots if count is not None]
    pieces = [f"{and_so_on(numbers)} shot{'s' if numbers != [1] else ''}"] if numbers else []
    return " and ".join([*pieces, *(["all pictures"] if None in shots else [])])


def share_cell(runs: ProtocolRuns, dataset: str, contender: str, shots: int | None, measure: Measure, short: bool) -> Cell:
    """A share in per cent. The accuracy of a part is marked with what is wrong there; whatever else is made of it stands beside it."""
    there = runs.runs(dataset, contender, shots)
    text = written(runs.values(dataset, contender, shots, measure), share_with_spread if short else share_with_interval, there)
    marked = measure.metric == "accuracy" and len(measure.parts) == 1
    return Cell(text, part_notes(there, measure.parts) if marked else ())


def average_cell(runs: ProtocolRuns, values: dict[str, dict[int, float]], short: bool) -> Cell:
    """The average over data sets, of the seeds that all of them have."""
    averaged = average_over_sets(values)
    without = [dataset for dataset, by_seed in values.items() if not by_seed]
    if without:
        return Cell("n/a", (f"not measured on {and_so_on(without)}",))
    if not averaged:
        return Cell("n/a", ("no seed is there for all data sets",))
    return Cell((share_with_spread if short else share_with_interval)(spread(list(averaged.values()))))


def written(values: dict[int, float], write: Callable[[Spread], str], there: Sequence[object]) -> str:
    """The values of all seeds as one; "n/a" where what is ``there`` has none, a dash where nothing is."""
    return write(spread(list(values.values()))) if values else "n/a" if there else "-"


def row_of(*texts: str) -> tuple[Cell, ...]:
    """A row of texts without notes."""
    return tuple(Cell(text) for text in texts)


def noted(cell: Cell, *notes: str) -> Cell:
    """A cell with further notes, each of them once."""
    return Cell(cell.text, tuple(dict.fromkeys((*cell.notes, *notes))))


def difference_cells(runs: ProtocolRuns, dataset: str, contender: str, shots: int | None, measure: Measure) -> tuple[Cell, Cell]:
    """The difference to the baseline, and how many pairs are better."""
    if contender == runs.baseline:
        return Cell("-"), Cell("-")
    return paired_cells(runs.difference(dataset, contender, shots, measure))


def paired_cells(found: PairedDifference) -> tuple[Cell, Cell]:
    """A difference in points, and how many pairs are better."""
    alone = (f"{found.num_alone} run{'s' if found.num_alone > 1 else ''} without a pair left out",) if found.num_alone else ()
    if found.difference is None:
        return Cell("n/a", alone), Cell("n/a")
    return Cell(points_with_interval(found.difference), alone), Cell(f"{found.num_better} of {found.difference.count}")


def num_pairs(found: PairedDifference) -> int:
    """How many pairs a difference is the mean of."""
    return 0 if found.difference is None else found.difference.count


def seconds_cell(there: Sequence[BenchResult], phase: str) -> Cell:
    """The seconds of a phase of some runs; "n/a" where none has it, a dash where there is no run."""
    values = [run.seconds[phase] for run in there if phase in run.seconds]
    if not values:
        return Cell("n/a" if there else "-")
    return Cell(number_with_spread(spread(values), 1 if statistics.fmean(values) < 100 else 0))


def whole_cell(numbers: Iterable[int]) -> Cell:
    """Whole numbers, from the least to the most where they differ; a dash where there is none."""
    found = sorted(set(numbers))
    return Cell(" to ".join(f"{number:,}" for number in dict.fromkeys([found[0], found[-1]])) if found else "-")


def notes_of_runs(runs: ProtocolRuns, dataset: str, contender: str, shots: int | None) -> tuple[str, ...]:
    """What stands beside all numbers of some runs: seeds that are missing, and the runs' own notes."""
    missing = runs.missing(dataset, contender, shots)
    return (*([] if missing is None else [missing]), *run_notes(runs.runs(dataset, contender, shots)))


def notes_over_sets(runs: ProtocolRuns, contender: str, shots: int | None, parts: Sequence[str]) -> tuple[str, ...]:
    """The same over all data sets, with what is wrong with some parts; what does not hold for all has its data sets beside it."""
    return _with_sets(
        runs,
        lambda dataset: (
            *notes_of_runs(runs, dataset, contender, shots),
            *part_notes(runs.runs(dataset, contender, shots), parts),
        ),
    )


def part_notes_over_sets(runs: ProtocolRuns, contender: str, shots: int | None, parts: Sequence[str]) -> tuple[str, ...]:
    """What is wrong with some parts, over all data sets."""
    return _with_sets(runs, lambda dataset: part_notes(runs.runs(dataset, contender, shots), parts))


def _with_sets(runs: ProtocolRuns, notes_of: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    found: dict[str, list[str]] = {}
    for dataset in runs.datasets:
        for note in notes_of(dataset):
            found.setdefault(note, []).append(dataset)
    return tuple(
        note if len(datasets) == len(runs.datasets) else f"{note} ({and_so_on(datasets)})" for note, datasets in found.items()
    )


def measured_on(runs: ProtocolRuns, dataset: str, shots: Sequence[int | None]) -> str:
    """On what the numbers of a data set were measured."""
    results = [run for run in runs.results if run.dataset == dataset]
    parts = [_part(results, part, only=len(runs.parts(dataset)) == 1) for part in runs.parts(dataset)]
    return f"Measured on {dataset}: {'; '.join(parts)}. {_learnt(runs, [dataset], shots)}"


def measured_on_all(runs: ProtocolRuns, shots: Sequence[int | None]) -> str:
    """On what averages over all data sets were measured."""
    pieces = []
    for dataset in runs.datasets:
        results = [run for run in runs.results if run.dataset == dataset]
        pieces.append(f"{dataset} ({_pictures(results, runs.main_part(dataset))})")
    return f"Measured on {and_so_on(pieces)}. {_learnt(runs, runs.datasets, shots)}"


def _part(results: Sequence[BenchResult], part: str, only: bool) -> str:
    descriptions = list(dict.fromkeys(run.descriptions[part] for run in results if part in run.descriptions))
    # Where pictures are held out, they are others for every seed.
    what = descriptions[0] if len(descriptions) == 1 else "others for every seed" if descriptions else ""
    return ("" if only else f"{part}: ") + _pictures(results, part) + (f" ({what})" if what else "")


def _pictures(results: Sequence[BenchResult], part: str) -> str:
    """How many pictures of how many classes, in the own measures and those of zero-shot, which no method refuses."""
    every = [one for run in results for one in (run.measures.get(part), run.zero_shot.get(part)) if one is not None]
    pictures, classes = (whole_cell(one[name] for one in every).text for name in ("num_pictures", "num_classes"))
    return f"{pictures} pictures of {classes} classes"


def _learnt(runs: ProtocolRuns, datasets: Sequence[str], shots: Sequence[int | None]) -> str:
    seeds = sorted({seed for dataset in datasets for seed in runs.seeds(dataset)})
    learnt = setting(runs, datasets[0] if len(datasets) == 1 else None, *shots)
    first = runs.results[0]
    return (
        f"Learnt from {learnt}{'' if learnt in ('no shots', 'all pictures') else ' of each class'}; seed{'s' if len(seeds) > 1 else ''} {and_so_on(seeds)}."
        f" Backbone: {first.backbone_name} (fingerprint {first.backbone_fingerprint})."
    )


def accuracy_reading(runs: ProtocolRuns, dataset: str | None, short: bool) -> tuple[str, ...]:
    """How to read the accuracies."""
    seeds = max(len(runs.seeds(one)) for one in (runs.datasets if dataset is None else [dataset]))
    return ((_SHARES_SHORT if short else _SHARES),) if seeds > 1 else ("Accuracy in %.", _ONE_SEED)


def elsewhere(runs: ProtocolRuns, dataset: str) -> tuple[str, ...]:
    """Where the numbers of fewer shots are, for tables that have those of most shots only."""
    return ("Other numbers of shots are in results.csv.",) if len(runs.shots(dataset)) > 1 else ()


def points_reading(runs: ProtocolRuns) -> str:
    """How to read differences to the baseline."""
    return (
        f"Differences in points, paired with {runs.baseline} by seed on the same pictures: mean ± standard deviation"
        " [95 % interval]."
    )
