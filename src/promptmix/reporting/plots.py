"""Plots as PNG files: what people would rather look at than read. No display; written whole or not at all.

The same arguments give the same bytes, whatever a person's own settings of matplotlib are. Names are shortened in their middle where
they do not fit; characters that the font of the plots does not have are drawn as boxes. Arguments that do not fit together are a
ValueError; a file that cannot be written is a DataError.
"""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib.style
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from PIL import Image

from promptmix.data.images import open_picture
from promptmix.reporting.aggregate import Spread
from promptmix.reporting.tables import share_with_spread
from promptmix.runtime import atomic_path

__all__ = ["accuracy_by_group", "method_bars", "picture_grid", "router_heat_map"]

# Okabe and Ito's colours, which people with any colour vision can tell apart, and marks for those who see none.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
_MARKS = "osD^vPX*"
_RIGHT, _WRONG, _UNKNOWN = "#0072B2", "#D55E00", "#777777"

_DOTS_PER_INCH = 120
_SMALL, _MIDDLE, _LARGE = 8, 9, 10  # points
_LINE = 1.2 / 72  # inches a point: the height of a line of text
_WIDTH = 7.5  # inches of a plot that need not be wider
_NAME_WIDTH = 2.2  # inches for the name of a row


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

    Raises:
        ValueError: there is no picture, lengths differ, or a probability is not one.
    """
    _check_lengths(
        {"pictures": pictures, "truths": truths, "predictions": predictions, "probabilities": probabilities}, len(pictures)
    )
    _check_shares("probabilities", probabilities)
    if columns < 1:
        raise ValueError(f"a grid of {columns} columns holds no picture; ask for 1 or more")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    known = [truth == said for truth, said in zip(truths, predictions, strict=True) if truth is not None]

    tile_width, gap = 1.6, 0.14  # inches, as all that follows
    middle_shape = statistics.median(picture.height / picture.width for picture in pictures)
    tile_height = tile_width * min(max(middle_shape, 0.5), 1.5)
    caption_height = (3 if not all(known) else 2) * _SMALL * _LINE + 0.1
    width = max(columns * (tile_width + gap) + gap, 5.0)
    heading = _wrapped(title, width) + (f"\n{sum(known)} of {len(known)} right" if known else "")
    heading_height = (heading.count("\n") + 1) * _LARGE * _LINE + 2 * gap
    height = heading_height + rows * (tile_height + caption_height + gap)
    margin = (width - columns * (tile_width + gap) + gap) / 2

    with _drawing(path, width, height, layout=None) as figure:
        figure.suptitle(heading, fontsize=_LARGE, y=1 - gap / height, va="top")
        for place, (picture, truth, said, probability) in enumerate(
            zip(pictures, truths, predictions, probabilities, strict=True)
        ):
            row, column = divmod(place, columns)
            left = margin + column * (tile_width + gap)
            bottom = height - heading_height - row * (tile_height + caption_height + gap) - tile_height
            axes = figure.add_axes((left / width, bottom / height, tile_width / width, tile_height / height))
            axes.set_anchor("S")
            # A photo has far more pixels than its tile; the pixels of a small picture stay what they are.
            shown = open_picture(picture)
            shown.thumbnail((2 * _DOTS_PER_INCH * tile_width, 2 * _DOTS_PER_INCH * tile_height))
            axes.imshow(np.asarray(shown), interpolation="nearest" if max(shown.size) <= 128 else "antialiased")
            axes.set_xticks([])
            axes.set_yticks([])
            name = functools.partial(_fitted, inches=tile_width, points=_SMALL)
            if truth is None:
                caption, colour, edge_width = f"{name(said)}\n{_per_cent(probability)}", _UNKNOWN, 1.0
            elif truth == said:
                caption, colour, edge_width = f"{name(f'✓ {said}')}\n{_per_cent(probability)}", _RIGHT, 1.0
            else:
                caption = f"{name(f'✗ {said}')}\n{_per_cent(probability)}, but is\n{name(truth)}"
                colour, edge_width = _WRONG, 4.0
            axes.set_xlabel(caption, fontsize=_SMALL)
            axes.spines[:].set_color(colour)
            axes.spines[:].set_linewidth(edge_width)


def method_bars(path: Path, names: Sequence[str], measures: Mapping[str, Sequence[Spread | None]], title: str) -> None:
    """Bars of several measures for each method, in per cent; lines at their ends are one standard deviation either way.

    Args:
        measures: for each measure a value a method, a share from 0 to 1; None where there is none, which is shown as "n/a".

    Raises:
        ValueError: there is no method or no measure, lengths differ, or a mean is not a share.
    """
    _check_lengths({"names": names, "measures": measures})
    for measure, values in measures.items():
        _check_lengths({f"values of {measure!r}": values}, len(names))
        _check_shares(measure, [value.mean for value in values if value is not None])
    every = [value for values in measures.values() for value in values if value is not None]
    repeated = any(value.deviation is not None for value in every)
    thickness = 0.8 / len(measures)  # of 1, the distance between methods
    height = len(names) * (0.19 * len(measures) + 0.16)

    with _drawing(path, _WIDTH, height + 1.6) as figure:
        axes = figure.add_subplot()
        farthest = 1.0
        for number, (measure, values) in enumerate(measures.items()):
            places = np.arange(len(names)) + (number - (len(measures) - 1) / 2) * thickness
            shares = [0.0 if value is None else 100 * value.mean for value in values]
            colour = _COLOURS[number % len(_COLOURS)]
            axes.barh(places, shares, 0.94 * thickness, color=colour, label=_fitted(measure, _NAME_WIDTH, _MIDDLE))
            for place, value in zip(places, values, strict=True):
                if value is None:
                    axes.text(1, place, "n/a", va="center", fontsize=_SMALL, color="#555555")
                    continue
                end = value.mean + (value.deviation or 0.0)
                farthest = max(farthest, end)
                if value.deviation is not None:
                    axes.errorbar(
                        100 * value.mean,
                        place,
                        xerr=100 * value.deviation,
                        fmt="none",
                        ecolor="black",
                        elinewidth=1,
                        capsize=2,
                    )
                axes.text(100 * end + 1, place, share_with_spread(value), va="center", fontsize=_SMALL)
        axes.set_yticks(range(len(names)), [_fitted(name, _NAME_WIDTH, _MIDDLE) for name in names], fontsize=_MIDDLE)
        axes.set_ylim(len(names) - 0.5, -0.5)
        # Room for the number beside the longest bar.
        axes.set_xlim(0, 100 * farthest + (20 if repeated else 9))
        axes.set_xticks(range(0, 101, 20))
        axes.tick_params(axis="x", labelsize=_MIDDLE)
        axes.set_xlabel("accuracy in %" + ("; lines: one standard deviation either way" if repeated else ""), fontsize=_MIDDLE)
        _finish(figure, axes, title)
        _legend(figure, axes)


def router_heat_map(
    path: Path,
    weights: Float[np.ndarray, "row expert"],
    row_names: Sequence[str],
    expert_names: Sequence[str],
    title: str,
    row_label: str = "style",
) -> None:
    """Mean weight that the router gives each expert on the pictures of each row.

    Args:
        weights: 0 to 1.

    Raises:
        ValueError: there is no row or no expert, the names do not match the weights, or a weight is not one.
    """
    _check_lengths({"row_names": row_names}, weights.shape[0])
    _check_lengths({"expert_names": expert_names}, weights.shape[1])
    _check_shares("weights", weights.ravel().tolist())
    # Templates are long, so they are written aslant: what they need below the axes depends on the longest of them.
    experts = [_fitted(name, 2.6, _SMALL) for name in expert_names]
    experts_height = 0.6 * max(_inches(name, _SMALL) for name in experts) + 0.4
    rows_height = max(0.42 * len(row_names), 1.3)  # not lower than the name of the colour bar is long

    with _drawing(path, max(6.0, 0.62 * len(expert_names) + 3.2), rows_height + experts_height + 0.7) as figure:
        axes = figure.add_subplot()
        most = float(weights.max())
        image = axes.imshow(weights, cmap="cividis", vmin=0, vmax=most or 1.0, aspect="auto")
        for (row, column), weight in np.ndenumerate(weights):
            colour = "white" if weight < 0.5 * most or most == 0 else "black"
            axes.text(column, row, f"{weight:.2f}", ha="center", va="center", fontsize=_SMALL, color=colour)
        axes.set_xticks(range(len(experts)), experts, rotation=35, ha="right", rotation_mode="anchor", fontsize=_SMALL)
        axes.set_yticks(range(len(row_names)), [_fitted(name, _NAME_WIDTH, _MIDDLE) for name in row_names], fontsize=_MIDDLE)
        axes.set_ylabel(_drawable(row_label), fontsize=_MIDDLE)
        axes.set_xlabel("expert, by the template it started from", fontsize=_MIDDLE)
        colours = figure.colorbar(image, ax=axes, aspect=max(rows_height / 0.18, 4), pad=0.02)
        colours.set_label("mean router weight", fontsize=_SMALL)
        colours.ax.tick_params(labelsize=_SMALL)
        figure.suptitle(_wrapped(title, figure.get_figwidth()), fontsize=_LARGE)


def accuracy_by_group(
    path: Path, group_names: Sequence[str], accuracies: Mapping[str, Sequence[float]], title: str, group_label: str = "style"
) -> None:
    """Accuracy of several methods on each group of pictures: a row a group, a mark a method.

    Args:
        accuracies: for each method a share from 0 to 1 for each group.

    Raises:
        ValueError: there is no group or no method, lengths differ, or an accuracy is not a share.
    """
    _check_lengths({"group_names": group_names, "accuracies": accuracies})
    for method, values in accuracies.items():
        _check_lengths({f"accuracies of {method!r}": values}, len(group_names))
        _check_shares(method, values)
    # Marks of one row stand below each other, a mark's height apart, so that equal values hide nothing.
    row_height = 0.1 * len(accuracies) + 0.12
    rows = np.arange(len(group_names))

    with _drawing(path, _WIDTH, row_height * len(group_names) + 1.8) as figure:
        axes = figure.add_subplot()
        for row in range(len(group_names)):
            axes.axhspan(row - 0.47, row + 0.47, color="#f0f0f0", zorder=0)
        for number, (method, values) in enumerate(accuracies.items()):
            turn, colour = divmod(number, len(_COLOURS))
            axes.plot(
                100 * np.asarray(values, dtype=float),
                rows + (number - (len(accuracies) - 1) / 2) * 0.1 / row_height,
                # Methods that share a colour have another mark.
                _MARKS[(number + turn) % len(_MARKS)],
                color=_COLOURS[colour],
                markeredgecolor="black",
                markeredgewidth=0.4,
                markersize=6,
                clip_on=False,
                label=_fitted(method, _NAME_WIDTH, _MIDDLE),
            )
        axes.set_yticks(rows, [_fitted(name, _NAME_WIDTH, _MIDDLE) for name in group_names], fontsize=_MIDDLE)
        axes.set_ylim(len(group_names) - 0.5, -0.5)
        axes.set_ylabel(_drawable(group_label), fontsize=_MIDDLE)
        axes.set_xlim(0, 101)
        axes.set_xticks(range(0, 101, 10))
        axes.tick_params(axis="x", labelsize=_MIDDLE)
        axes.set_xlabel("accuracy in %", fontsize=_MIDDLE)
        _finish(figure, axes, title)
        _legend(figure, axes)


@contextlib.contextmanager
def _drawing(path: Path, width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Iterator[Figure]:
    """A figure of so many inches, which is written when the block ends well.

    A person's own settings of matplotlib do not reach it, and a ``$`` in a name is no formula.
    """
    with atomic_path(path) as temporary, matplotlib.style.context(["default", {"text.parse_math": False}]):
        figure = Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, layout=layout)
        FigureCanvasAgg(figure)
        yield figure
        # Without the name of the program the same data give the same bytes.
        figure.savefig(temporary, format="png", dpi="figure", metadata={"Software": None})


def _finish(figure: Figure, axes: Axes, title: str) -> None:
    """What plots of accuracies share: a title, and lines from the ticks of the lower axis by which values can be read."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#cccccc", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.suptitle(_wrapped(title, figure.get_figwidth()), fontsize=_LARGE)


def _legend(figure: Figure, axes: Axes) -> None:
    """A legend below the axes, with as many columns as there is room for."""
    _, labels = axes.get_legend_handles_labels()
    widest = max(_inches(label, _MIDDLE) for label in labels)
    columns = max(1, min(len(labels), int(figure.get_figwidth() / (widest + 0.6))))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=_MIDDLE)


def _per_cent(probability: float) -> str:
    return f"{100 * probability:.0f} %"


def _drawable(text: str) -> str:
    """The text on one line, with a box for each character that the font does not have."""
    return "".join(character if ord(character) in _characters() else "□" for character in " ".join(text.split()))


def _fitted(text: str, inches: float, points: float) -> str:
    """The text, or as much of it as fits: the middle goes, for often only the ends of names tell them apart."""
    text = _drawable(text)
    if _inches(text, points) <= inches:
        return text
    for kept in range(min(len(text) - 1, 100), 0, -1):
        first = math.ceil(2 * kept / 3)
        shorter = f"{text[:first].rstrip()}…{text[len(text) - (kept - first) :].lstrip()}"
        if _inches(shorter, points) <= inches:
            return shorter
    return "…"


def _wrapped(text: str, inches: float) -> str:
    """A title in lines that fit: letters of ``_LARGE`` points are a twelfth of an inch wide, most of them less."""
    return textwrap.fill(_drawable(text), int(12 * (inches - 0.3)))


def _inches(text: str, points: float) -> float:
    """How wide one line of text is drawn."""
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(points, 72)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / 72


@functools.cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _check_lengths(things: Mapping[str, Sequence[object] | Mapping[str, object]], length: int | None = None) -> None:
    """Raise unless nothing is empty and, where a length is given, all have it."""
    for name, thing in things.items():
        if len(thing) == 0 or length == 0:
            raise ValueError(f"{name}: there is nothing to draw")
        if length is not None and len(thing) != length:
            raise ValueError(f"{name}: {len(thing)} where {length} are needed, one for each")


def _check_shares(name: str, values: Sequence[float]) -> None:
    """Raise unless all values are from 0 to 1, give or take a rounding."""
    for value in values:
        if not -1e-6 <= value <= 1 + 1e-6:
            raise ValueError(f"{name}: {value} is not a share from 0 to 1")
