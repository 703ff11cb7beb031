"""One plot of each kind, of numbers that are made up, and what can be read on a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from promptmix.data.pictograms import draw
from promptmix.reporting import growth_plots, plots, protocol_plots
from promptmix.reporting.aggregate import Spread, spread

Drawn = list[tuple[Figure, list[str]]]


def grid(path: Path, probability: float = 0.9) -> None:
    plots.picture_grid(
        path,
        [draw("anchor", "photo", 1), draw("cloud", "neon", 2), draw("skull", "stamp", 3)],
        ["anchor", "cloud", None],
        ["anchor", "skull", "skull"],
        [probability, 0.4, 0.3],
        "three pictures",
    )


def bars(path: Path, share: float = 0.5) -> None:
    measures = {"base": [spread([share, 0.6]), spread([0.7])], "new": [None, spread([0.2])]}
    plots.method_bars(path, ["zero-shot", "linear probe"], measures, "two methods")


def heat_map(path: Path, weight: float = 0.25) -> None:
    plots.router_heat_map(path, np.array([[weight, 1 - weight], [0.5, 0.5]]), ["chalk", "neon"], ["a {}.", "many {}."], "weights")


def by_group(path: Path, share: float = 0.5) -> None:
    plots.accuracy_by_group(path, ["chalk", "neon"], {"CoOp": [share, 0.1], "probe": [0.9, 0.8]}, "by style")


def curves(path: Path, share: float = 0.5) -> None:
    pets: dict[str, dict[int | None, Spread]] = {
        "zero-shot": {None: spread([0.4, 0.4])},
        "CoOp": {1: spread([share, 0.6]), 4: spread([0.7, 0.8]), 16: spread([0.9])},
    }
    protocol_plots.few_shot_curves(path, {"pets": pets, "food": {"KgCoOp": {2: spread([0.3, 0.4])}, **pets}}, "by shots")


def growth(path: Path, seconds: float = 0.5) -> None:
    steps = growth_plots.GrowthPanel(
        title="seconds by classes",
        place="classes",
        value="seconds",
        curves={"small": ([10, 100], [0.1, seconds]), "large": ([1], [2])},
    )
    memory = growth_plots.GrowthPanel(
        title="memory by experts", place="experts", value="MB", curves={"small": ([1, 2, 4], [10, 20, 41])}
    )
    growth_plots.growth_curves(path, [steps, memory], "growth")


def scatter(path: Path, share: float = 0.5) -> None:
    points = {"CoOp": (spread([share, 0.6]), spread([0.4])), "zero-shot": (spread([0.4]), spread([0.6]))}
    protocol_plots.base_new_scatter(path, {"pets": points}, "base and new")


def changes(path: Path, share: float = 0.5) -> None:
    protocol_plots.class_changes(
        path, {"cat": (0.5, 0.6), "dog": (share, 0.4), "fox": (0.1, 0.1)}, "zero-shot", "CoOp", "by class"
    )


def reliability(path: Path, share: float = 0.5) -> None:
    bins = [(0, 0.0, 0.0), (3, 0.5, share), (5, 0.9, 1.0)]
    protocol_plots.reliability_diagrams(path, {"CoOp": bins, "KgCoOp": bins[::-1]}, {"CoOp": 0.1, "KgCoOp": 0.25}, "calibration")


def overflow(figure: Figure) -> list[str]:
    """Texts that are not wholly on the figure, which would be cut off."""
    page = figure.bbox
    names = []
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if not text.get_visible() or not text.get_text():
            continue
        box = text.get_window_extent()
        if box.x0 < page.x0 - 1 or box.x1 > page.x1 + 1 or box.y0 < page.y0 - 1 or box.y1 > page.y1 + 1:
            names.append(text.get_text())
    return names
