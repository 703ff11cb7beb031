"""Which plots the runs of a protocol become, and what they show."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptmix.reporting import plots, protocol_plots
from promptmix.reporting.aggregate import Spread, average_over_sets, pooled_calibration, spread
from promptmix.reporting.bench_cells import setting
from promptmix.reporting.bench_runs import ZERO_SHOT, ProtocolRuns, and_so_on, metric_of

__all__ = ["draw_plots"]

_TEST = metric_of("test")


@dataclass(frozen=True, kw_only=True)
class _Plot:
    """A plot yet to be drawn: the name of its file without an ending, its title, and what draws it under that title."""

    name: str
    title: str
    draw: Callable[[Path, str], None]


def draw_plots(folder: Path, sections: Iterable[ProtocolRuns]) -> dict[str, str]:
    """Draw all that the results have; the titles by the names of the files, which begin with that of the protocol."""
    titles = {}
    for runs in sections:
        for plot in (*_of_protocol(runs), *_of_datasets(runs)):
            name = f"{runs.protocol}-{plot.name}.png"
            plot.draw(folder / name, plot.title)
            titles[name] = plot.title
    return titles


def _of_protocol(runs: ProtocolRuns) -> Iterator[_Plot]:
    """Plots with a panel for each data set."""
    if runs.protocol == "few-shot":
        curves = _curves(runs)
        if curves:
            yield _Plot(
                name="curves",
                title=f"Few-shot accuracy on test pictures ({_made_with(runs)})",
                draw=lambda path, title: protocol_plots.few_shot_curves(path, curves, title, runs.contenders),
            )
    if runs.protocol == "base-to-new":
        points = _base_and_new(runs)
        left_out = [name for name in runs.contenders if not any(name in panel for panel in points.values())]
        without = f"; without accuracy on new classes: {and_so_on(left_out)}" if left_out else ""
        if points:
            yield _Plot(
                name="scatter",
                title="Accuracy on test pictures of base and of new classes; crosses: ± one deviation; H: harmonic mean of the two, equal"
                f" along the grey lines{without} ({setting(runs, None, runs.shots()[-1])}, {_made_with(runs)})",
                draw=lambda path, title: protocol_plots.base_new_scatter(path, points, title, runs.contenders),
            )


def _of_datasets(runs: ProtocolRuns) -> Iterator[_Plot]:
    """Plots of one data set each, with the most shots."""
    for dataset, slug in zip(runs.datasets, _slugs(runs.datasets), strict=True):
        shots = runs.shots(dataset)[-1]
        made_with = f"{setting(runs, dataset, shots)}, {_made_with(runs)}"
        if runs.protocol in ("cross-dataset", "domain"):
            yield from _by_part(runs, dataset, slug, shots, made_with)
            continue
        part = runs.main_part(dataset)
        pictures = "all test pictures among all names" if part == "joint" else f"{part} pictures"
        if runs.protocol == "compare":
            yield _accuracy_bars(runs, dataset, slug, shots, made_with)
        yield from _changes_by_class(runs, dataset, slug, shots, f"{pictures} ({made_with})")
        yield from _reliability(runs, dataset, slug, shots, pictures, made_with)


def _curves(runs: ProtocolRuns) -> dict[str, dict[str, dict[int | None, Spread]]]:
    """By data set, contender and shots; the average over several data sets last. What learns from all pictures has no place."""
    counts = [count for count in runs.shots() if count is not None]
    panels: dict[str, dict[str, dict[int | None, Spread]]] = {}
    if not counts:
        return panels

    def add(panel: str, contender: str, shots: int | None, values: dict[int, float]) -> None:
        if values:
            panels.setdefault(panel, {}).setdefault(contender, {})[shots] = spread(list(values.values()))

    for contender in runs.contenders:
        for dataset in runs.datasets:
            nothing = runs.learnt_nothing(dataset, contender)
            for shots in [None] if nothing else counts:
                add(dataset, contender, shots, runs.values(dataset, contender, shots, _TEST))
    panels = {dataset: panels[dataset] for dataset in runs.datasets if dataset in panels}
    if len(runs.datasets) > 1:
        for contender in runs.contenders:
            nothing = all(runs.learnt_nothing(dataset, contender) for dataset in runs.datasets)
            for shots in [None] if nothing else counts:
                by_set = {dataset: runs.values(dataset, contender, shots, _TEST) for dataset in runs.datasets}
                add(_average_name(runs), contender, shots, average_over_sets(by_set))
    return panels


def _base_and_new(runs: ProtocolRuns) -> dict[str, dict[str, tuple[Spread, Spread]]]:
    """By data set and contender; the average over several data sets last."""
    panels: dict[str, dict[str, tuple[Spread, Spread]]] = {}

    def add(panel: str, contender: str, base: dict[int, float], new: dict[int, float]) -> None:
        if base and new:
            panels.setdefault(panel, {})[contender] = (spread(list(base.values())), spread(list(new.values())))

    for dataset in runs.datasets:
        shots = runs.shots(dataset)[-1]
        for contender in runs.contenders:
            add(dataset, contender, *(runs.values(dataset, contender, shots, metric_of(part)) for part in ("base", "new")))
    if len(runs.datasets) > 1:
        shots = runs.shots()[-1]
        for contender in runs.contenders:
            base, new = (
                average_over_sets({one: runs.values(one, contender, shots, metric_of(part)) for one in runs.datasets})
                for part in ("base", "new")
            )
            add(_average_name(runs), contender, base, new)
    return panels


def _by_part(runs: ProtocolRuns, dataset: str, slug: str, shots: int | None, made_with: str) -> Iterator[_Plot]:
    """Accuracy on source and targets, of the contenders that were measured on all of them."""
    parts = runs.parts(dataset)
    shares = {
        contender: [statistics.fmean(values.values()) for values in by_part]
        for contender in runs.contenders
        if all(by_part := [runs.values(dataset, contender, shots, metric_of(part)) for part in parts])
    }
    left_out = [contender for contender in runs.contenders if contender not in shares]
    without = f"; not measured on all of them: {and_so_on(left_out)}" if left_out else ""
    if shares:
        yield _Plot(
            name=f"parts-{slug}",
            title=f"Learnt from {dataset}, measured on test pictures of that and of others{without} ({made_with})",
            draw=lambda path, title: plots.accuracy_by_group(path, parts, shares, title, "measured on", runs.contenders),
        )


def _accuracy_bars(runs: ProtocolRuns, dataset: str, slug: str, shots: int | None, made_with: str) -> _Plot:
    every = [runs.values(dataset, contender, shots, _TEST) for contender in runs.contenders]
    bars = [spread(list(values.values())) if values else None for values in every]
    return _Plot(
        name=f"accuracy-{slug}",
        title=f"{dataset}: accuracy on test pictures ({made_with})",
        draw=lambda path, title: plots.method_bars(path, runs.contenders, {"accuracy": bars}, title),
    )


def _changes_by_class(runs: ProtocolRuns, dataset: str, slug: str, shots: int | None, measured_on: str) -> Iterator[_Plot]:
    """Accuracy of every class that has pictures, mean of the seeds, by zero-shot and by the best contender."""
    part = runs.main_part(dataset)
    best = runs.best(dataset, shots, metric_of(part))
    if best is None:
        return
    shares: dict[str, list[tuple[float, float]]] = {}
    for run in runs.runs(dataset, best, shots):
        zero_shot, ours = run.zero_shot.get(part), run.measures[part]
        if zero_shot is None or ours is None:
            continue
        for name, share in ours["per_class"].items():
            before = zero_shot["per_class"].get(name)
            if share is not None and before is not None:
                shares.setdefault(name, []).append((before, share))
    means = {
        name: (statistics.fmean(before for before, _ in pairs), statistics.fmean(after for _, after in pairs))
        for name, pairs in shares.items()
    }
    if means:
        yield _Plot(
            name=f"classes-{slug}",
            title=f"{dataset}: accuracy by class of zero-shot and of {best}, the best contender, {measured_on}",
            draw=lambda path, title: protocol_plots.class_changes(path, means, ZERO_SHOT, best, title),
        )


def _reliability(
    runs: ProtocolRuns, dataset: str, slug: str, shots: int | None, pictures: str, made_with: str
) -> Iterator[_Plot]:
    """By contender the bins of all seeds' pictures together, and the mean of the seeds' calibration errors."""
    part, bins, errors = runs.main_part(dataset), {}, {}
    for contender in runs.contenders:
        there = [metrics for run in runs.runs(dataset, contender, shots) if (metrics := run.measures.get(part)) is not None]
        if there:
            bins[contender] = pooled_calibration([metrics["calibration"] for metrics in there])
            errors[contender] = statistics.fmean(metrics["expected_calibration_error"] for metrics in there)
    if bins:
        yield _Plot(
            name=f"calibration-{slug}",
            title=f"{dataset}: calibration, {pictures}, all seeds together; grey: share of the pictures; error: expected"
            f" calibration error in points ({made_with})",
            draw=lambda path, title: protocol_plots.reliability_diagrams(path, bins, errors, title),
        )


def _average_name(runs: ProtocolRuns) -> str:
    return f"average of {len(runs.datasets)} data sets"


def _made_with(runs: ProtocolRuns) -> str:
    """Seeds and backbone, and which contenders lack some of the seeds, so that none is averaged over fewer without a word."""
    seeds = sorted({run.seed for run in runs.results})
    lacking = [
        contender
        for contender in runs.contenders
        if any(runs.missing(dataset, contender, shots) for dataset in runs.datasets for shots in runs.shots(dataset))
    ]
    fewer = f", for some numbers fewer: {and_so_on(lacking)}" if lacking else ""
    return f"{'mean of seeds' if len(seeds) > 1 else 'seed'} {and_so_on(seeds)}{fewer}, backbone {runs.results[0].backbone_name}"


def _slugs(names: Sequence[str]) -> list[str]:
    """Short names for files, all different, whatever a file system thinks of letters."""
    found: list[str] = []
    for name in names:
        slug = re.sub(r"[^\w.]+", "-", name.casefold())[:60].strip("-.") or "data"
        tries = [slug, *(f"{slug}-{number}" for number in range(2, len(names) + 1))]
        found.append(next(one for one in tries if one not in found))
    return found
