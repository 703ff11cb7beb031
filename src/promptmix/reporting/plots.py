"""Plots of one model or a demo, as PNG files: what people would rather look at than read.

Arguments that do not fit together are a ValueError; a file that cannot be written is a DataError.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from promptmix.data.images import open_picture
from promptmix.reporting.aggregate import Spread
from promptmix.reporting.drawing import (
    COLOURS,
    DOTS_PER_INCH,
    LARGE,
    LINE,
    MIDDLE,
    NAME_WIDTH,
    RIGHT,
    SMALL,
    UNKNOWN,
    WIDTH,
    WRONG,
    check_lengths,
    check_shares,
    drawable,
    drawing,
    finish,
    fitted,
    legend,
    looks_of,
    text_width,
    wrapped,
)
from promptmix.reporting.tables import share_with_spread

__all__ = ["accuracy_by_group", "method_bars", "picture_grid", "router_heat_map"]


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
    check_lengths(
        {"pictures": pictures, "truths": truths, "predictions": predictions, "probabilities": probabilities}, len(pictures)
    )
    check_shares("probabilities", probabilities)
    if columns < 1:
        raise ValueError(f"a grid of {columns} columns holds no picture; ask for 1 or more")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    known = [truth == said for truth, said in zip(truths, predictions, strict=True) if truth is not None]

    tile_width, gap = 1.6, 0.14  # inches, as all that follows
    middle_shape = statistics.median(picture.height / picture.width for picture in pictures)
    tile_height = tile_width * min(max(middle_shape, 0.5), 1.5)
    caption_height = (3 if not all(known) else 2) * SMALL * LINE + 0.1
    width = max(columns * (tile_width + gap) + gap, 5.0)
    heading = wrapped(title, width) + (f"\n{sum(known)} of {len(known)} right" if known else "")
    heading_height = (heading.count("\n") + 1) * LARGE * LINE + 2 * gap
    height = heading_height + rows * (tile_height + caption_height + gap)
    margin = (width - columns * (tile_width + gap) + gap) / 2

    with drawing(path, width, height, layout=None) as figure:
        figure.suptitle(heading, fontsize=LARGE, y=1 - gap / height, va="top")
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
            shown.thumbnail((2 * DOTS_PER_INCH * tile_width, 2 * DOTS_PER_INCH * tile_height))
            axes.imshow(np.asarray(shown), interpolation="nearest" if max(shown.size) <= 128 else "antialiased")
            axes.set_xticks([])
            axes.set_yticks([])
            name = functools.partial(fitted, inches=tile_width, points=SMALL)
            if truth is None:
                caption, colour, edge_width = f"{name(said)}\n{_per_cent(probability)}", UNKNOWN, 1.0
            elif truth == said:
                caption, colour, edge_width = f"{name(f'✓ {said}')}\n{_per_cent(probability)}", RIGHT, 1.0
            else:
                caption = f"{name(f'✗ {said}')}\n{_per_cent(probability)}, but is\n{name(truth)}"
                colour, edge_width = WRONG, 4.0
            axes.set_xlabel(caption, fontsize=SMALL)
            axes.spines[:].set_color(colour)
            axes.spines[:].set_linewidth(edge_width)


def method_bars(path: Path, names: Sequence[str], measures: Mapping[str, Sequence[Spread | None]], title: str) -> None:
    """Bars of several measures for each method, in per cent; lines at their ends are one standard deviation either way.

    Args:
        measures: for each measure a value a method, a share from 0 to 1; None where there is none, which is shown as "n/a".

    Raises:
        ValueError: there is no method or no measure, lengths differ, or a mean is not a share.
    """
    check_lengths({"names": names, "measures": measures})
    for measure, values in measures.items():
        check_lengths({f"values of {measure!r}": values}, len(names))
        check_shares(measure, [value.mean for value in values if value is not None])
    every = [value for values in measures.values() for value in values if value is not None]
    repeated = any(value.deviation is not None for value in every)
    thickness = 0.8 / len(measures)  # of 1, the distance between methods
    height = len(names) * (0.19 * len(measures) + 0.16)

    with drawing(path, WIDTH, height + 1.6) as figure:
        axes = figure.add_subplot()
        farthest = 1.0
        for number, (measure, values) in enumerate(measures.items()):
            places = np.arange(len(names)) + (number - (len(measures) - 1) / 2) * thickness
            shares = [0.0 if value is None else 100 * value.mean for value in values]
            colour = COLOURS[number % len(COLOURS)]
            axes.barh(places, shares, 0.94 * thickness, color=colour, label=fitted(measure, NAME_WIDTH, MIDDLE))
            for place, value in zip(places, values, strict=True):
                if value is None:
                    axes.text(1, place, "n/a", va="center", fontsize=SMALL, color="#555555")
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
                axes.text(100 * end + 1, place, share_with_spread(value), va="center", fontsize=SMALL)
        axes.set_yticks(range(len(names)), [fitted(name, NAME_WIDTH, MIDDLE) for name in names], fontsize=MIDDLE)
        axes.set_ylim(len(names) - 0.5, -0.5)
        # Room for the number beside the longest bar.
        axes.set_xlim(0, 100 * farthest + (20 if repeated else 9))
        axes.set_xticks(range(0, 101, 20))
        axes.tick_params(axis="x", labelsize=MIDDLE)
        axes.set_xlabel("accuracy in %" + ("; lines: one standard deviation either way" if repeated else ""), fontsize=MIDDLE)
        finish(figure, axes, title)
        legend(figure, axes)


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
    check_lengths({"row_names": row_names}, weights.shape[0])
    check_lengths({"expert_names": expert_names}, weights.shape[1])
    check_shares("weights", weights.ravel().tolist())
    # Templates are long, so they are written aslant: what they need below the axes depends on the longest of them.
    experts = [fitted(name, 2.6, SMALL) for name in expert_names]
    experts_height = 0.6 * max(text_width(name, SMALL) for name in experts) + 0.4
    rows_height = max(0.42 * len(row_names), 1.3)  # not lower than the name of the colour bar is long

    with drawing(path, max(6.0, 0.62 * len(expert_names) + 3.2), rows_height + experts_height + 0.7) as figure:
        axes = figure.add_subplot()
        most = float(weights.max())
        image = axes.imshow(weights, cmap="cividis", vmin=0, vmax=most or 1.0, aspect="auto")
        for (row, column), weight in np.ndenumerate(weights):
            colour = "white" if weight < 0.5 * most or most == 0 else "black"
            axes.text(column, row, f"{weight:.2f}", ha="center", va="center", fontsize=SMALL, color=colour)
        axes.set_xticks(range(len(experts)), experts, rotation=35, ha="right", rotation_mode="anchor", fontsize=SMALL)
        axes.set_yticks(range(len(row_names)), [fitted(name, NAME_WIDTH, MIDDLE) for name in row_names], fontsize=MIDDLE)
        axes.set_ylabel(drawable(row_label), fontsize=MIDDLE)
        axes.set_xlabel("expert, by the template it started from", fontsize=MIDDLE)
        colours = figure.colorbar(image, ax=axes, aspect=max(rows_height / 0.18, 4), pad=0.02)
        colours.set_label("mean router weight", fontsize=SMALL)
        colours.ax.tick_params(labelsize=SMALL)
        figure.suptitle(wrapped(title, figure.get_figwidth()), fontsize=LARGE)


def accuracy_by_group(
    path: Path,
    group_names: Sequence[str],
    accuracies: Mapping[str, Sequence[float]],
    title: str,
    group_label: str = "style",
    order: Sequence[str] = (),
) -> None:
    """Accuracy of several methods on each group of pictures: a row a group, a mark a method.

    Args:
        accuracies: for each method a share from 0 to 1 for each group.
        order: methods in the order of their colours and marks, so that they look the same in all plots that are given it.

    Raises:
        ValueError: there is no group or no method, lengths differ, or an accuracy is not a share.
    """
    check_lengths({"group_names": group_names, "accuracies": accuracies})
    for method, values in accuracies.items():
        check_lengths({f"accuracies of {method!r}": values}, len(group_names))
        check_shares(method, values)
    looks = looks_of(order, accuracies)
    # Marks of one row stand below each other, a mark's height apart, so that equal values hide nothing.
    row_height = 0.1 * len(accuracies) + 0.12
    rows = np.arange(len(group_names))

    with drawing(path, WIDTH, row_height * len(group_names) + 1.8) as figure:
        axes = figure.add_subplot()
        for row in range(len(group_names)):
            axes.axhspan(row - 0.47, row + 0.47, color="#f0f0f0", zorder=0)
        for number, (method, values) in enumerate(accuracies.items()):
            colour, mark = looks[method]
            axes.plot(
                100 * np.asarray(values, dtype=float),
                rows + (number - (len(accuracies) - 1) / 2) * 0.1 / row_height,
                mark,
                color=colour,
                markeredgecolor="black",
                markeredgewidth=0.4,
                markersize=6,
                clip_on=False,
                label=fitted(method, NAME_WIDTH, MIDDLE),
            )
        axes.set_yticks(rows, [fitted(name, NAME_WIDTH, MIDDLE) for name in group_names], fontsize=MIDDLE)
        axes.set_ylim(len(group_names) - 0.5, -0.5)
        axes.set_ylabel(drawable(group_label), fontsize=MIDDLE)
        axes.set_xlim(0, 101)
        axes.set_xticks(range(0, 101, 10))
        axes.tick_params(axis="x", labelsize=MIDDLE)
        axes.set_xlabel("accuracy in %", fontsize=MIDDLE)
        finish(figure, axes, title)
        legend(figure, axes)


def _per_cent(probability: float) -> str:
    return f"{100 * probability:.0f} %"
