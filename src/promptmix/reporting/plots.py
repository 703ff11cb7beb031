"""Plots as PNG files: what people would rather look at than read. No display, no global state; written whole or not at all."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from promptmix.reporting.aggregate import Spread
from promptmix.runtime import atomic_path

__all__ = ["accuracy_by_group", "method_bars", "picture_grid", "router_heat_map"]

# Okabe and Ito's colours, which people with any colour vision can tell apart, and marks for those who see none.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
_MARKS = "osD^vPX*"
_RIGHT, _WRONG = "#0072B2", "#D55E00"


def picture_grid(
    path: Path,
    pictures: Sequence[Image.Image],
    truths: Sequence[str | None],
    predictions: Sequence[str],
    probabilities: Sequence[float],
    title: str,
    columns: int = 8,
) -> None:
    """Pictures with what was said of each, and what it is where that was wrong.

    Args:
        truths: class names; None where the class is not known.
        probabilities: of the predictions, 0 to 1.
    """
    _check_lengths(pictures=pictures, truths=truths, predictions=predictions, probabilities=probabilities)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(max(1.65 * columns, 6.0), 2.05 * rows + 0.7), layout="constrained")
    for place, (picture, truth, said, probability) in enumerate(zip(pictures, truths, predictions, probabilities, strict=True)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(np.asarray(picture.convert("RGB")), interpolation="nearest" if max(picture.size) <= 128 else "antialiased")
        axes.set_xticks([])
        axes.set_yticks([])
        right = truth is None or truth == said
        colour = _RIGHT if right else _WRONG
        mark = "" if truth is None else "✓ " if right else "✗ "
        label = f"{mark}{_shortened(said, 20)}\n{100 * probability:.0f} %"
        axes.set_xlabel(label if right else f"{label}, is {_shortened(str(truth), 14)}", fontsize=8, color=colour)
        for edge in axes.spines.values():
            edge.set_color(colour)
            edge.set_linewidth(1.0 if right else 3.0)
            edge.set_linestyle("-" if right else "--")
    known = [truth == said for truth, said in zip(truths, predictions, strict=True) if truth is not None]
    score = f"\n{sum(known)} of {len(known)} right" if known else ""
    figure.suptitle(_wrapped(title, figure) + score, fontsize=10)
    _write(figure, path)


def method_bars(path: Path, names: Sequence[str], measures: Mapping[str, Sequence[Spread | None]], title: str) -> None:
    """Bars of several measures for each method, in per cent; lines at their ends are one standard deviation either way.

    Args:
        measures: for each measure a value a method, a share from 0 to 1; None where there is none.
    """
    for name, values in measures.items():
        _check_lengths(names=names, **{name: values})
    figure = Figure(figsize=(max(7.0, 1.5 * len(names)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.84 / len(measures)
    for number, (measure, values) in enumerate(measures.items()):
        places = np.arange(len(names)) + (number - (len(measures) - 1) / 2) * width
        shares = [0.0 if value is None else 100 * value.mean for value in values]
        deviations = [0.0 if value is None or value.deviation is None else 100 * value.deviation for value in values]
        axes.bar(places, shares, 0.94 * width, label=measure, color=_COLOURS[number % len(_COLOURS)])
        axes.errorbar(places, shares, yerr=deviations, fmt="none", ecolor="black", elinewidth=1, capsize=2)
        for place, value, share, deviation in zip(places, values, shares, deviations, strict=True):
            text = "n/a" if value is None else f"{share:.1f}"
            axes.text(place, share + deviation + 1, text, ha="center", va="bottom", fontsize=8)
    axes.set_xticks(np.arange(len(names)), [textwrap.fill(name, 16) for name in names], fontsize=9)
    axes.set_ylabel("accuracy in %")
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    _bare(axes)
    axes.legend(loc="upper left", ncols=len(measures), frameon=False, fontsize=9)
    repeated = any(value is not None and value.deviation is not None for values in measures.values() for value in values)
    axes.set_title(_wrapped(title + (", lines: one standard deviation" if repeated else ""), figure), fontsize=10)
    _write(figure, path)


def router_heat_map(
    path: Path,
    weights: Float[np.ndarray, "row expert"],
    row_names: Sequence[str],
    expert_names: Sequence[str],
    title: str,
    row_label: str = "style",
) -> None:
    """Mean weight that the router gives each expert on the pictures of each row."""
    _check_lengths(weights=weights, row_names=row_names)
    _check_lengths(columns_of_weights=weights[0], expert_names=expert_names)
    figure = Figure(
        figsize=(max(6.0, 0.75 * len(expert_names) + 2.5), max(3.4, 0.5 * len(row_names) + 2.6)), layout="constrained"
    )
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="cividis", vmin=0, vmax=max(float(weights.max()), 1e-9), aspect="auto")
    for (row, column), weight in np.ndenumerate(weights):
        dark = weight < 0.6 * float(weights.max())
        axes.text(column, row, f"{weight:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(
        range(len(expert_names)),
        [_shortened(name, 34) for name in expert_names],
        rotation=35,
        ha="right",
        rotation_mode="anchor",
        fontsize=8,
    )
    axes.set_yticks(range(len(row_names)), [_shortened(name, 30) for name in row_names], fontsize=9)
    axes.set_ylabel(row_label)
    axes.set_xlabel("expert, by the template it started from")
    figure.colorbar(image, ax=axes, label="mean router weight")
    axes.set_title(_wrapped(title, figure), fontsize=10)
    _write(figure, path)


def accuracy_by_group(
    path: Path, group_names: Sequence[str], accuracies: Mapping[str, Sequence[float]], title: str, group_label: str = "style"
) -> None:
    """Accuracy of several methods on each group of pictures: a row a group, a mark a method.

    Args:
        accuracies: for each method a share from 0 to 1 for each group.
    """
    for name, values in accuracies.items():
        _check_lengths(group_names=group_names, **{name: values})
    figure = Figure(figsize=(7.5, max(3.0, 0.55 * len(group_names) + 1.9)), layout="constrained")
    axes = figure.add_subplot()
    # Marks of one row stand a little above each other, so that equal values hide nothing.
    offsets = np.linspace(-0.28, 0.28, len(accuracies)) if len(accuracies) > 1 else np.zeros(1)
    rows = np.arange(len(group_names))
    for row in range(len(group_names)):
        axes.axhspan(row - 0.42, row + 0.42, color="#eeeeee", zorder=0)
    for number, (name, values) in enumerate(accuracies.items()):
        axes.plot(
            100 * np.asarray(values, dtype=float),
            rows + offsets[number],
            _MARKS[number % len(_MARKS)],
            color=_COLOURS[number % len(_COLOURS)],
            markersize=6,
            label=name,
        )
    axes.set_yticks(rows, [_shortened(name, 30) for name in group_names], fontsize=9)
    axes.set_ylim(len(group_names) - 0.4, -0.6)
    axes.set_ylabel(group_label)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("accuracy in %")
    _bare(axes)
    figure.legend(loc="outside lower center", ncols=min(3, len(accuracies)), frameon=False, fontsize=9)
    axes.set_title(_wrapped(title, figure), fontsize=10)
    _write(figure, path)


def _check_lengths(**sequences: Sequence[object] | np.ndarray) -> None:
    lengths = {name: len(sequence) for name, sequence in sequences.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"these must have one length, and not 0: {lengths}")


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _wrapped(text: str, figure: Figure) -> str:
    """A title that fits: about 13 letters of 10 points an inch."""
    return textwrap.fill(text, int(12 * figure.get_figwidth()))


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _write(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        # Without the name of the program the same data give the same bytes.
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
