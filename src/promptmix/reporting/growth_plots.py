"""Plots of how time and memory grow with the size of a task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptmix.reporting.drawing import COLOURS, LINE, MARKS, SMALL, check_lengths, fitted, panel_axes

__all__ = ["GrowthPanel", "growth_curves"]


@dataclass(frozen=True, kw_only=True)
class GrowthPanel:
    """What one panel of :func:`growth_curves` shows.

    Attributes:
        place, value: what stands below the panel and beside it.
        curves: for each name its places and its values, all above 0.
    """

    title: str
    place: str
    value: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]


def growth_curves(path: Path, panels: Sequence[GrowthPanel], title: str) -> None:
    """How something grows with something else: a panel each, on logarithmic axes, where a power law is a straight line.

    Raises:
        ValueError: there is no panel, one has no curve, a curve has no point, lengths differ, or a number is not above 0.
    """
    check_lengths({"panels": panels})
    for panel in panels:
        check_lengths({f"panel {panel.title!r}": panel.curves})
        for name, (places, values) in panel.curves.items():
            check_lengths({f"places of {name!r}": places, f"values of {name!r}": values}, len(places))
            if min(*places, *values) <= 0:
                raise ValueError(f"{name}: a number is not above 0, so it has no place on a logarithmic axis")
    most = max(len(panel.curves) for panel in panels)
    below = 0.55 + most * SMALL * LINE * 1.15  # the legend stands below its panel

    with panel_axes(path, [panel.title for panel in panels], 3.3, 2.4, title, left=0.75, right=0.2, below=below) as every:
        for axes, panel in zip(every, panels, strict=True):
            for number, (name, (places, values)) in enumerate(panel.curves.items()):
                axes.plot(
                    places,
                    values,
                    color=COLOURS[number % len(COLOURS)],
                    marker=MARKS[number % len(MARKS)],
                    linewidth=1.2,
                    markersize=4.5,
                    markeredgecolor="black",
                    markeredgewidth=0.4,
                    label=fitted(name, 3.2, SMALL),
                )
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
                ticks = _logarithmic_ticks(*limits)
                axis.set_ticks(ticks, [f"{tick:,g}" for tick in ticks], fontsize=SMALL)
                axis.set_ticks([], minor=True)
            axes.grid(color="#cccccc", linewidth=0.6)
            axes.set_xlabel(panel.place, fontsize=SMALL)
            axes.set_ylabel(panel.value, fontsize=SMALL)
            axes.legend(
                loc="upper left",
                bbox_to_anchor=(-0.02, -0.42 / 2.4),
                frameon=False,
                fontsize=SMALL,
                labelspacing=0.15,
                borderaxespad=0,
            )


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from ``low`` to ``high``; some of their multiples too where there would be few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    span = math.log10(high / low)
    multiples = (1.0,) if span >= 2.5 else (1.0, 2.0, 5.0) if span >= 0.7 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    return [tick for decade in decades for multiple in multiples if low <= (tick := multiple * 10.0**decade) <= high]
