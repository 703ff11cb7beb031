"""The tables of a protocol: what its readers expect first, then differences, other metrics and costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from promptmix.evaluation.results import BenchResult
from promptmix.reporting.aggregate import PairedDifference, Spread, average_over_sets, harmonic_means, paired_difference, spread
from promptmix.reporting.bench_runs import (
    HARMONIC,
    Measure,
    ProtocolRuns,
    and_so_on,
    average_of,
    metric_of,
    part_notes,
    run_notes,
)
from promptmix.reporting.published import PUBLISHED_BASE_TO_NEW, PUBLISHED_FEW_SHOT, is_benchmark
from promptmix.reporting.tables import (
    Cell,
    Table,
    number_with_spread,
    points_with_interval,
    share_with_interval,
    share_with_spread,
)

__all__ = ["LONG_HEADER", "failed_table", "long_rows", "published_tables", "setting", "tables_of"]

_SHARES = (
    "Accuracy in %: mean ± standard deviation over the seeds [95 % interval of the mean by Student's t]; where all seeds give the same,"
    " the mean alone."
)
_SHARES_SHORT = "Accuracy in %: mean ± standard deviation over the seeds; where all give the same, the mean alone."
_SECONDS = (
    "Seconds: mean ± standard deviation over the seeds; those in all include making features, unless these were in the cache, and"
    " measuring, but not what all runs share: the features of test pictures by the untouched image tower."
)
_ONE_SEED = "One seed: there is no deviation and no interval."
_AVERAGES = "Every data set counts the same; averaged for each seed first, so deviation and interval are those of the averages."
_HARMONIC = "H: harmonic mean of base and new accuracy of each run; joint: all pictures among all names."


def tables_of(runs: ProtocolRuns, short: bool = False) -> list[Table]:
    """All tables of a protocol: accuracies data set by data set, their averages, then other metrics and costs.

    Args:
        short: accuracies without their intervals, for narrow places.
    """
    makers: dict[str, Callable[[ProtocolRuns, str, bool], list[Table]]] = {
        "few-shot": _few_shot,
        "base-to-new": _base_to_new,
        "cross-dataset": _transfer,
        "domain": _transfer,
        "compare": _compare,
    }
    tables = [table for dataset in runs.datasets for table in makers[runs.protocol](runs, dataset, short)]
    if len(runs.datasets) > 1 and runs.protocol == "few-shot":
        tables.append(_few_shot_average(runs, short))
    if len(runs.datasets) > 1 and runs.protocol == "base-to-new":
        tables += [_base_to_new_average(runs, shots, short) for shots in runs.shots()]
    for dataset in runs.datasets:
        shots = runs.shots(dataset)[-1]
        tables += [_quality(runs, dataset, shots), _costs(runs, dataset, shots)]
    return tables


def published_tables(runs: ProtocolRuns) -> list[Table]:
    """What papers report for a protocol, where one of the data sets is of the field's eleven."""
    if not any(is_benchmark(dataset) for dataset in runs.datasets):
        return []
    above = ("Published, averages of 11 data sets on ViT-B/16, not measured here; arXiv: the paper that describes the method.",)
    if runs.protocol == "base-to-new":
        return [
            Table(
                title="Published: base to new, 16 shots",
                above=above,
                header=("method", "base", "new", "H of the averages", "arXiv"),
                rows=tuple(
                    _row(one.method, *(f"{share:.2f}" for share in (one.base, one.new, one.harmonic_mean)), one.arxiv)
                    for one in PUBLISHED_BASE_TO_NEW
                ),
            )
        ]
    if runs.protocol == "few-shot":
        columns = list(PUBLISHED_FEW_SHOT[0].by_shots)
        return [
            Table(
                title="Published: few-shot accuracy",
                above=above,
                header=("method", *(_shots(shots) for shots in columns), "arXiv"),
                rows=tuple(
                    _row(one.method, *(f"{one.by_shots[shots]:.1f}" for shots in columns), one.arxiv)
                    for one in PUBLISHED_FEW_SHOT
                ),
            )
        ]
    return []


def failed_table(failed: Mapping[str, str]) -> list[Table]:
    """The runs that failed, where there are any."""
    if not failed:
        return []
    count = f"{len(failed)} run{'s' if len(failed) > 1 else ''}"
    return [
        Table(
            title="Runs that failed",
            above=(f"{count} failed and {'are' if len(failed) > 1 else 'is'} in no mean above.",),
            header=("run", "why"),
            rows=tuple(_row(name, why) for name, why in failed.items()),
            align="ll",
        )
    ]


def _few_shot(runs: ProtocolRuns, dataset: str, short: bool) -> list[Table]:
    """Contender by shots, and the same as differences to the baseline."""
    measure, columns = metric_of("test"), runs.shots(dataset)
    header = ("contender", *(_shots(shots) for shots in columns))
    rows = [
        (
            Cell(contender),
            *(
                _noted(_share(runs, dataset, contender, shots, measure, short), *_notes_of_runs(runs, dataset, contender, shots))
                for shots in columns
            ),
        )
        for contender in runs.contenders
    ]
    differences = [
        (
            Cell(contender),
            *(
                Cell(f"{cells[0].text} {cells[1].text}".strip(), cells[0].notes)
                for shots in columns
                for cells in [_difference(runs.difference(dataset, contender, shots, measure))]
            ),
        )
        for contender in runs.contenders
        if contender != runs.baseline
    ]
    above = _measured_on(runs, dataset, columns)
    return [
        Table(
            title=f"Few-shot accuracy on {dataset}",
            above=(above, *_reading(runs, dataset, short)),
            header=header,
            rows=tuple(rows),
            main=True,
        ),
        Table(
            title=f"Few-shot accuracy on {dataset}: difference to {runs.baseline}",
            above=(above, f"{_points_reading(runs)} Behind it: in how many pairs the contender is better."),
            header=header,
            rows=tuple(differences),
        ),
    ]


def _few_shot_average(runs: ProtocolRuns, short: bool) -> Table:
    measure, columns = metric_of("test"), runs.shots()
    rows = [
        (
            Cell(contender),
            *(
                _noted(
                    _average(runs, {one: runs.values(one, contender, shots, measure) for one in runs.datasets}, short),
                    *_notes_over_sets(runs, contender, shots, measure.parts),
                )
                for shots in columns
            ),
        )
        for contender in runs.contenders
    ]
    return Table(
        title=f"Few-shot accuracy, average of {len(runs.datasets)} data sets",
        above=(_measured_on_all(runs, columns), *_reading(runs, None, short), _AVERAGES),
        header=("contender", *(_shots(shots) for shots in columns)),
        rows=tuple(rows),
        main=True,
    )


def _base_to_new(runs: ProtocolRuns, dataset: str, short: bool) -> list[Table]:
    tables = []
    for shots in runs.shots(dataset):
        rows = []
        for contender in runs.contenders:
            measures = (metric_of("base"), metric_of("new"), HARMONIC, metric_of("joint"))
            rows.append(
                (
                    Cell(contender, _notes_of_runs(runs, dataset, contender, shots)),
                    *(_share(runs, dataset, contender, shots, measure, short) for measure in measures),
                    *_difference_cells(runs, dataset, contender, shots, HARMONIC),
                )
            )
        tables.append(
            Table(
                title=f"Base to new on {dataset}, {setting(runs, dataset, shots)}",
                above=(_measured_on(runs, dataset, [shots]), *_reading(runs, dataset, short), _HARMONIC, _points_reading(runs)),
                header=("contender", "base", "new", "H", "joint", f"H less that of {runs.baseline}", "better in"),
                rows=tuple(rows),
                main=True,
            )
        )
    return tables


def _base_to_new_average(runs: ProtocolRuns, shots: int | None, short: bool) -> Table:
    rows = []
    for contender in runs.contenders:
        base, new, joint = (
            {dataset: runs.values(dataset, contender, shots, metric_of(part)) for dataset in runs.datasets}
            for part in ("base", "new", "joint")
        )
        harmonic = harmonic_means(base, new)
        averaged = {dataset: runs.values(dataset, contender, shots, HARMONIC) for dataset in runs.datasets}
        pairs = {dataset: runs.pairs(dataset, contender, shots, HARMONIC) for dataset in runs.datasets}
        ours, theirs = (average_over_sets({dataset: pair[side] for dataset, pair in pairs.items()}) for side in (0, 1))
        better = [paired_difference(*pair) for pair in pairs.values()]
        cells = (
            (Cell("-"), Cell("-"))
            if contender == runs.baseline
            else (
                _difference(paired_difference(ours, theirs))[0],
                Cell(f"{sum(one.num_better for one in better)} of {sum(_num_pairs(one) for one in better)}"),
            )
        )
        rows.append(
            (
                Cell(contender, _notes_over_sets(runs, contender, shots, ())),
                _noted(_average(runs, base, short), *_part_notes_over_sets(runs, contender, shots, ("base",))),
                _noted(_average(runs, new, short), *_part_notes_over_sets(runs, contender, shots, ("new",))),
                Cell("n/a" if harmonic is None else f"{100 * harmonic.of_averages:.1f}"),
                _average(runs, averaged, short),
                _noted(_average(runs, joint, short), *_part_notes_over_sets(runs, contender, shots, ("joint",))),
                *cells,
            )
        )
    return Table(
        title=f"Base to new, average of {len(runs.datasets)} data sets, {setting(runs, None, shots)}",
        above=(
            _measured_on_all(runs, [shots]),
            *_reading(runs, None, short),
            _AVERAGES,
            "H of the averages: harmonic mean of the average base and the average new accuracy, as most papers give it; average of"
            " the H: harmonic mean of each run, then averaged. Joint: all pictures among all names.",
            f"{_points_reading(runs)} The difference is that of the average of the H; better in: runs, over all data sets.",
        ),
        header=(
            "contender",
            "base",
            "new",
            "H of the averages",
            "average of the H",
            "joint",
            f"average of the H less that of {runs.baseline}",
            "better in",
        ),
        rows=tuple(rows),
        main=True,
    )


def _transfer(runs: ProtocolRuns, dataset: str, short: bool) -> list[Table]:
    """Source, targets and their average, for protocols that learn from one data set and are measured on others."""
    targets = runs.targets(dataset)
    average = average_of(targets)
    kind = "Cross-dataset transfer" if runs.protocol == "cross-dataset" else "Domain generalization"
    tables = []
    for shots in runs.shots(dataset):
        rows = [
            (
                Cell(contender, _notes_of_runs(runs, dataset, contender, shots)),
                *(_share(runs, dataset, contender, shots, metric_of(part), True) for part in runs.parts(dataset)),
                _share(runs, dataset, contender, shots, average, short),
                *_difference_cells(runs, dataset, contender, shots, average),
            )
            for contender in runs.contenders
        ]
        names = [f"source: {part}" if part not in targets else part for part in runs.parts(dataset)]
        tables.append(
            Table(
                title=f"{kind} from {dataset}, {setting(runs, dataset, shots)}",
                above=(_measured_on(runs, dataset, [shots]), *_reading(runs, dataset, short), _points_reading(runs)),
                header=("contender", *names, "average of the targets", f"average less that of {runs.baseline}", "better in"),
                rows=tuple(rows),
                main=True,
            )
        )
    return tables


def _compare(runs: ProtocolRuns, dataset: str, short: bool) -> list[Table]:
    measure = metric_of("test")
    return [
        Table(
            title=f"Comparison on {dataset}, {setting(runs, dataset, shots)}",
            above=(_measured_on(runs, dataset, [shots]), *_reading(runs, dataset, short), _points_reading(runs), _SECONDS),
            header=(
                "contender",
                "accuracy",
                f"less that of {runs.baseline}",
                "better in",
                "seconds in all",
                "trained parameters",
            ),
            rows=tuple(
                (
                    Cell(contender, _notes_of_runs(runs, dataset, contender, shots)),
                    _share(runs, dataset, contender, shots, measure, short),
                    *_difference_cells(runs, dataset, contender, shots, measure),
                    _seconds(runs.runs(dataset, contender, shots), "all"),
                    _whole(run.num_trained_parameters for run in runs.runs(dataset, contender, shots)),
                )
                for contender in runs.contenders
            ),
            main=True,
        )
        for shots in runs.shots(dataset)
    ]


def _quality(runs: ProtocolRuns, dataset: str, shots: int | None) -> Table:
    """Metrics beside the field's, of every part."""
    rows = []
    for contender in runs.contenders:
        there = runs.runs(dataset, contender, shots)
        for part in runs.parts(dataset):
            likelihood = runs.values(dataset, contender, shots, metric_of(part, "negative_log_likelihood"))
            rows.append(
                (
                    Cell(contender, _notes_of_runs(runs, dataset, contender, shots)),
                    Cell(part),
                    _share(runs, dataset, contender, shots, metric_of(part), False),
                    _share(runs, dataset, contender, shots, metric_of(part, "accuracy_per_class_mean"), True),
                    _share(runs, dataset, contender, shots, metric_of(part, "expected_calibration_error"), True),
                    Cell(_written(likelihood, lambda value: number_with_spread(value, 3), there)),
                )
            )
    return Table(
        title=f"Other metrics on {dataset}, {setting(runs, dataset, shots)}",
        above=(
            _measured_on(runs, dataset, [shots]),
            *_reading(runs, dataset, False),
            "Mean per class: accuracy of each class, averaged; calibration error: expected, over 15 equal bins of the top"
            " probability, in points; likelihood: mean negative logarithm of the right class's probability.",
            *_elsewhere(runs, dataset),
        ),
        header=("contender", "part", "accuracy", "mean per class", "calibration error", "negative log-likelihood"),
        rows=tuple(rows),
    )


def _costs(runs: ProtocolRuns, dataset: str, shots: int | None) -> Table:
    rows = []
    for contender in runs.contenders:
        there = runs.runs(dataset, contender, shots)
        memory = max((run.peak_memory_bytes for run in there), default=0)
        rows.append(
            (
                Cell(contender, _notes_of_runs(runs, dataset, contender, shots)),
                _seconds(there, "training"),
                _seconds(there, "all"),
                Cell(f"{memory / 2**20:,.0f}" if memory else "n/a" if there else "-"),
                _whole(run.num_trained_parameters for run in there),
                _whole(run.text_encodings_per_step for run in there),
            )
        )
    return Table(
        title=f"Costs on {dataset}, {setting(runs, dataset, shots)}",
        above=(
            _measured_on(runs, dataset, [shots]),
            f"{_SECONDS} Peak memory: of the whole process, the largest of the seeds, in MiB.",
            *_elsewhere(runs, dataset),
        ),
        header=("contender", "seconds training", "seconds in all", "peak memory", "trained parameters", "text encodings a step"),
        rows=tuple(rows),
    )


LONG_HEADER = (
    "protocol",
    "run_id",
    "dataset",
    "contender",
    "shots",
    "seed",
    "part",
    "accuracy",
    "zero_shot_accuracy",
    "below_zero_shot",
    "harmonic_mean",
    "accuracy_per_class_mean",
    "expected_calibration_error",
    "negative_log_likelihood",
    "num_pictures",
    "num_classes",
    "description",
    "refusal",
    "notes",
    "num_trained_parameters",
    "text_encodings_per_step",
    "seconds_features",
    "seconds_training",
    "seconds_evaluation",
    "seconds_all",
    "peak_memory_bytes",
    "split_hash",
    "backbone_name",
    "backbone_fingerprint",
)


def long_rows(sections: Iterable[ProtocolRuns]) -> list[tuple[object, ...]]:
    """One row a run and part below :data:`LONG_HEADER`, at full precision; ``harmonic_mean`` is that of the run's base and new."""
    rows = []
    for run in (run for runs in sections for run in runs.results):
        for part, metrics in run.measures.items():
            zero_shot = run.zero_shot.get(part, {})
            measured = metrics or {}
            values: dict[str, object] = {
                **run.model_dump(include=set(LONG_HEADER) - {"notes"}),
                **{name: measured[name] for name in LONG_HEADER if name in measured},
                **{f"seconds_{phase}": seconds for phase, seconds in run.seconds.items()},
                "part": part,
                "zero_shot_accuracy": zero_shot.get("accuracy"),
                "below_zero_shot": measured["accuracy"] < zero_shot["accuracy"] if measured and zero_shot else None,
                "harmonic_mean": HARMONIC.of(run.measures),
                "description": run.descriptions.get(part),
                "refusal": run.refusals.get(part),
                "notes": "; ".join(run.notes),
            }
            rows.append(tuple(values.get(name) for name in LONG_HEADER))
    return rows


def setting(runs: ProtocolRuns, dataset: str | None, *shots: int | None) -> str:
    """What was learnt from, in words: ``1, 2 and 4 shots``, ``all pictures``; ``no shots`` where nothing was learnt on a data set."""
    datasets = runs.datasets if dataset is None else [dataset]
    if all(runs.learnt_nothing(one, contender) for one in datasets for contender in runs.contenders):
        return "no shots"
    return _shots(*shots)


def _shots(*shots: int | None) -> str:
    numbers = [count for count in shots if count is not None]
    pieces = [f"{and_so_on(numbers)} shot{'s' if numbers != [1] else ''}"] if numbers else []
    return " and ".join([*pieces, *(["all pictures"] if None in shots else [])])


def _share(runs: ProtocolRuns, dataset: str, contender: str, shots: int | None, measure: Measure, short: bool) -> Cell:
    """A share in per cent. The accuracy of a part is marked with what is wrong there; whatever else is made of it stands beside it."""
    there = runs.runs(dataset, contender, shots)
    text = _written(runs.values(dataset, contender, shots, measure), share_with_spread if short else share_with_interval, there)
    marked = measure.metric == "accuracy" and len(measure.parts) == 1
    return Cell(text, part_notes(there, measure.parts) if marked else ())


def _average(runs: ProtocolRuns, values: dict[str, dict[int, float]], short: bool) -> Cell:
    """The average over data sets, of the seeds that all of them have."""
    averaged = average_over_sets(values)
    without = [dataset for dataset, by_seed in values.items() if not by_seed]
    if without:
        return Cell("n/a", (f"not measured on {and_so_on(without)}",))
    if not averaged:
        return Cell("n/a", ("no seed is there for all data sets",))
    return Cell((share_with_spread if short else share_with_interval)(spread(list(averaged.values()))))


def _written(values: dict[int, float], write: Callable[[Spread], str], there: Sequence[object]) -> str:
    """The values of all seeds as one; "n/a" where what is ``there`` has none, a dash where nothing is."""
    return write(spread(list(values.values()))) if values else "n/a" if there else "-"


def _row(*texts: str) -> tuple[Cell, ...]:
    return tuple(Cell(text) for text in texts)


def _noted(cell: Cell, *notes: str) -> Cell:
    return Cell(cell.text, tuple(dict.fromkeys((*cell.notes, *notes))))


def _difference_cells(runs: ProtocolRuns, dataset: str, contender: str, shots: int | None, measure: Measure) -> tuple[Cell, Cell]:
    """The difference to the baseline, and how many pairs are better."""
    if contender == runs.baseline:
        return Cell("-"), Cell("-")
    return _difference(runs.difference(dataset, contender, shots, measure))


def _difference(found: PairedDifference) -> tuple[Cell, Cell]:
    alone = (f"{found.num_alone} run{'s' if found.num_alone > 1 else ''} without a pair left out",) if found.num_alone else ()
    if found.difference is None:
        return Cell("n/a", alone), Cell("n/a")
    return Cell(points_with_interval(found.difference), alone), Cell(f"{found.num_better} of {found.difference.count}")


def _num_pairs(found: PairedDifference) -> int:
    return 0 if found.difference is None else found.difference.count


def _seconds(there: Sequence[BenchResult], phase: str) -> Cell:
    values = [run.seconds[phase] for run in there if phase in run.seconds]
    if not values:
        return Cell("n/a" if there else "-")
    return Cell(number_with_spread(spread(values), 1 if statistics.fmean(values) < 100 else 0))


def _whole(numbers: Iterable[int]) -> Cell:
    found = sorted(set(numbers))
    return Cell(" to ".join(f"{number:,}" for number in dict.fromkeys([found[0], found[-1]])) if found else "-")


def _notes_of_runs(runs: ProtocolRuns, dataset: str, contender: str, shots: int | None) -> tuple[str, ...]:
    """What stands beside all numbers of some runs: seeds that are missing, and the runs' own notes."""
    missing = runs.missing(dataset, contender, shots)
    return (*([] if missing is None else [missing]), *run_notes(runs.runs(dataset, contender, shots)))


def _notes_over_sets(runs: ProtocolRuns, contender: str, shots: int | None, parts: Sequence[str]) -> tuple[str, ...]:
    """The same over all data sets, with what is wrong with some parts; what does not hold for all has its data sets beside it."""
    return _with_sets(
        runs,
        lambda dataset: (
            *_notes_of_runs(runs, dataset, contender, shots),
            *part_notes(runs.runs(dataset, contender, shots), parts),
        ),
    )


def _part_notes_over_sets(runs: ProtocolRuns, contender: str, shots: int | None, parts: Sequence[str]) -> tuple[str, ...]:
    return _with_sets(runs, lambda dataset: part_notes(runs.runs(dataset, contender, shots), parts))


def _with_sets(runs: ProtocolRuns, notes_of: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    found: dict[str, list[str]] = {}
    for dataset in runs.datasets:
        for note in notes_of(dataset):
            found.setdefault(note, []).append(dataset)
    return tuple(
        note if len(datasets) == len(runs.datasets) else f"{note} ({and_so_on(datasets)})" for note, datasets in found.items()
    )


def _measured_on(runs: ProtocolRuns, dataset: str, shots: Sequence[int | None]) -> str:
    """On what the numbers of a data set were measured."""
    results = [run for run in runs.results if run.dataset == dataset]
    parts = [_part(results, part, only=len(runs.parts(dataset)) == 1) for part in runs.parts(dataset)]
    return f"Measured on {dataset}: {'; '.join(parts)}. {_learnt(runs, [dataset], shots)}"


def _measured_on_all(runs: ProtocolRuns, shots: Sequence[int | None]) -> str:
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
    pictures, classes = (_whole(one[name] for one in every).text for name in ("num_pictures", "num_classes"))
    return f"{pictures} pictures of {classes} classes"


def _learnt(runs: ProtocolRuns, datasets: Sequence[str], shots: Sequence[int | None]) -> str:
    seeds = sorted({seed for dataset in datasets for seed in runs.seeds(dataset)})
    learnt = setting(runs, datasets[0] if len(datasets) == 1 else None, *shots)
    first = runs.results[0]
    return (
        f"Learnt from {learnt}{'' if learnt in ('no shots', 'all pictures') else ' of each class'}; seed{'s' if len(seeds) > 1 else ''} {and_so_on(seeds)}."
        f" Backbone: {first.backbone_name} (fingerprint {first.backbone_fingerprint})."
    )


def _reading(runs: ProtocolRuns, dataset: str | None, short: bool) -> tuple[str, ...]:
    """How to read the accuracies."""
    seeds = max(len(runs.seeds(one)) for one in (runs.datasets if dataset is None else [dataset]))
    return ((_SHARES_SHORT if short else _SHARES),) if seeds > 1 else ("Accuracy in %.", _ONE_SEED)


def _elsewhere(runs: ProtocolRuns, dataset: str) -> tuple[str, ...]:
    """Where the numbers of fewer shots are, for tables that have those of most shots only."""
    return ("Other numbers of shots are in results.csv.",) if len(runs.shots(dataset)) > 1 else ()


def _points_reading(runs: ProtocolRuns) -> str:
    return (
        f"Differences in points, paired with {runs.baseline} by seed on the same pictures: mean ± standard deviation"
        " [95 % interval]."
    )
