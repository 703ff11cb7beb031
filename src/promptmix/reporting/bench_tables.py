"""The tables of a protocol: what its readers expect first, then differences, other metrics and costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from promptmix.reporting.aggregate import average_over_sets, harmonic_means, paired_difference
from promptmix.reporting.bench_cells import (
    accuracy_reading,
    average_cell,
    difference_cells,
    elsewhere,
    measured_on,
    measured_on_all,
    noted,
    notes_of_runs,
    notes_over_sets,
    num_pairs,
    paired_cells,
    part_notes_over_sets,
    points_reading,
    row_of,
    seconds_cell,
    setting,
    share_cell,
    shots_in_words,
    whole_cell,
    written,
)
from promptmix.reporting.bench_runs import HARMONIC, ProtocolRuns, average_of, metric_of
from promptmix.reporting.tables import Cell, Table, number_with_spread

__all__ = ["failed_table", "tables_of"]

_SECONDS = (
    "Seconds: mean ± standard deviation over the seeds; those in all include making features, unless these were in the cache, and"
    " measuring, but not what all runs share: the features of test pictures by the untouched image tower."
)
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
            rows=tuple(row_of(name, why) for name, why in failed.items()),
            align="ll",
        )
    ]


def _few_shot(runs: ProtocolRuns, dataset: str, short: bool) -> list[Table]:
    """Contender by shots, and the same as differences to the baseline."""
    measure, columns = metric_of("test"), runs.shots(dataset)
    header = ("contender", *(shots_in_words(shots) for shots in columns))
    rows = [
        (
            Cell(contender),
            *(
                noted(
                    share_cell(runs, dataset, contender, shots, measure, short), *notes_of_runs(runs, dataset, contender, shots)
                )
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
                for cells in [paired_cells(runs.difference(dataset, contender, shots, measure))]
            ),
        )
        for contender in runs.contenders
        if contender != runs.baseline
    ]
    above = measured_on(runs, dataset, columns)
    return [
        Table(
            title=f"Few-shot accuracy on {dataset}",
            above=(above, *accuracy_reading(runs, dataset, short)),
            header=header,
            rows=tuple(rows),
            main=True,
        ),
        Table(
            title=f"Few-shot accuracy on {dataset}: difference to {runs.baseline}",
            above=(above, f"{points_reading(runs)} Behind it: in how many pairs the contender is better."),
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
                noted(
                    average_cell(runs, {one: runs.values(one, contender, shots, measure) for one in runs.datasets}, short),
                    *notes_over_sets(runs, contender, shots, measure.parts),
                )
                for shots in columns
            ),
        )
        for contender in runs.contenders
    ]
    return Table(
        title=f"Few-shot accuracy, average of {len(runs.datasets)} data sets",
        above=(measured_on_all(runs, columns), *accuracy_reading(runs, None, short), _AVERAGES),
        header=("contender", *(shots_in_words(shots) for shots in columns)),
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
                    Cell(contender, notes_of_runs(runs, dataset, contender, shots)),
                    *(share_cell(runs, dataset, contender, shots, measure, short) for measure in measures),
                    *difference_cells(runs, dataset, contender, shots, HARMONIC),
                )
            )
        tables.append(
            Table(
                title=f"Base to new on {dataset}, {setting(runs, dataset, shots)}",
                above=(
                    measured_on(runs, dataset, [shots]),
                    *accuracy_reading(runs, dataset, short),
                    _HARMONIC,
                    points_reading(runs),
                ),
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
                paired_cells(paired_difference(ours, theirs))[0],
                Cell(f"{sum(one.num_better for one in better)} of {sum(num_pairs(one) for one in better)}"),
            )
        )
        rows.append(
            (
                Cell(contender, notes_over_sets(runs, contender, shots, ())),
                noted(average_cell(runs, base, short), *part_notes_over_sets(runs, contender, shots, ("base",))),
                noted(average_cell(runs, new, short), *part_notes_over_sets(runs, contender, shots, ("new",))),
                Cell("n/a" if harmonic is None else f"{100 * harmonic.of_averages:.1f}"),
                average_cell(runs, averaged, short),
                noted(average_cell(runs, joint, short), *part_notes_over_sets(runs, contender, shots, ("joint",))),
                *cells,
            )
        )
    return Table(
        title=f"Base to new, average of {len(runs.datasets)} data sets, {setting(runs, None, shots)}",
        above=(
            measured_on_all(runs, [shots]),
            *accuracy_reading(runs, None, short),
            _AVERAGES,
            "H of the averages: harmonic mean of the average base and the average new accuracy, as most papers give it; average of"
            " the H: harmonic mean of each run, then averaged. Joint: all pictures among all names.",
            f"{points_reading(runs)} The difference is that of the average of the H; better in: runs, over all data sets.",
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
                Cell(contender, notes_of_runs(runs, dataset, contender, shots)),
                *(share_cell(runs, dataset, contender, shots, metric_of(part), True) for part in runs.parts(dataset)),
                share_cell(runs, dataset, contender, shots, average, short),
                *difference_cells(runs, dataset, contender, shots, average),
            )
            for contender in runs.contenders
        ]
        names = [f"source: {part}" if part not in targets else part for part in runs.parts(dataset)]
        tables.append(
            Table(
                title=f"{kind} from {dataset}, {setting(runs, dataset, shots)}",
                above=(measured_on(runs, dataset, [shots]), *accuracy_reading(runs, dataset, short), points_reading(runs)),
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
            above=(measured_on(runs, dataset, [shots]), *accuracy_reading(runs, dataset, short), points_reading(runs), _SECONDS),
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
                    Cell(contender, notes_of_runs(runs, dataset, contender, shots)),
                    share_cell(runs, dataset, contender, shots, measure, short),
                    *difference_cells(runs, dataset, contender, shots, measure),
                    seconds_cell(runs.runs(dataset, contender, shots), "all"),
                    whole_cell(run.num_trained_parameters for run in runs.runs(dataset, contender, shots)),
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
                    Cell(contender, notes_of_runs(runs, dataset, contender, shots)),
                    Cell(part),
                    share_cell(runs, dataset, contender, shots, metric_of(part), False),
                    share_cell(runs, dataset, contender, shots, metric_of(part, "accuracy_per_class_mean"), True),
                    share_cell(runs, dataset, contender, shots, metric_of(part, "expected_calibration_error"), True),
                    Cell(written(likelihood, lambda value: number_with_spread(value, 3), there)),
                )
            )
    return Table(
        title=f"Other metrics on {dataset}, {setting(runs, dataset, shots)}",
        above=(
            measured_on(runs, dataset, [shots]),
            *accuracy_reading(runs, dataset, False),
            "Mean per class: accuracy of each class, averaged; calibration error: expected, over 15 equal bins of the top"
            " probability, in points; likelihood: mean negative logarithm of the right class's probability.",
            *elsewhere(runs, dataset),
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
                Cell(contender, notes_of_runs(runs, dataset, contender, shots)),
                seconds_cell(there, "training"),
                seconds_cell(there, "all"),
                Cell(f"{memory / 2**20:,.0f}" if memory else "n/a" if there else "-"),
                whole_cell(run.num_trained_parameters for run in there),
                whole_cell(run.text_encodings_per_step for run in there),
            )
        )
    return Table(
        title=f"Costs on {dataset}, {setting(runs, dataset, shots)}",
        above=(
            measured_on(runs, dataset, [shots]),
            f"{_SECONDS} Peak memory: of the whole process, the largest of the seeds, in MiB.",
            *elsewhere(runs, dataset),
        ),
        header=("contender", "seconds training", "seconds in all", "peak memory", "trained parameters", "text encodings a step"),
        rows=tuple(rows),
    )
