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
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
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
from promptmix.evaluation.metrics import harmonic_mean
from promptmix.reporting.aggregate import Spread
from promptmix.reporting.tables import share_with_spread
from promptmix.runtime import atomic_path

__all__ = [
    "GrowthPanel",
    "accuracy_by_group",
    "base_new_scatter",
    "class_changes",
    "few_shot_curves",
    "growth_curves",
    "method_bars",
    "picture_grid",
    "reliability_diagrams",
    "router_heat_map",
]

# Okabe and Ito's colours, which people with any colour vision can tell apart, and marks for those who see none. Where eight are not
# enough, Tol's muted colours follow.
_COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442"),
    *("#882255", "#999933", "#332288", "#44AA99", "#CC6677", "#117733", "#AA4499", "#DDCC77", "#88CCEE"),
)
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
        order: as for :func:`few_shot_curves`.

    Raises:
        ValueError: there is no group or no method, lengths differ, or an accuracy is not a share.
    """
    _check_lengths({"group_names": group_names, "accuracies": accuracies})
    for method, values in accuracies.items():
        _check_lengths({f"accuracies of {method!r}": values}, len(group_names))
        _check_shares(method, values)
    looks = _looks(order, accuracies)
    # Marks of one row stand below each other, a mark's height apart, so that equal values hide nothing.
    row_height = 0.1 * len(accuracies) + 0.12
    rows = np.arange(len(group_names))

    with _drawing(path, _WIDTH, row_height * len(group_names) + 1.8) as figure:
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


def few_shot_curves(
    path: Path, panels: Mapping[str, Mapping[str, Mapping[int | None, Spread]]], title: str, order: Sequence[str] = ()
) -> None:
    """Accuracy over the number of shots, a panel a data set, a curve a contender; bands are one standard deviation either way.

    Args:
        panels: for each data set and contender its accuracy by shots; None for shots: it learns nothing, and is a level line.
        order: contenders in the order of their colours and marks, so that they look the same in all plots that are given it.

    Raises:
        ValueError: there is no data set, one has no contender, a contender has no accuracy, or a mean is not a share.
    """
    _check_lengths({"panels": panels})
    for name, curves in panels.items():
        _check_lengths({f"panel {name!r}": curves})
        for contender, curve in curves.items():
            _check_lengths({f"curve {contender!r}": curve})
            _check_shares(contender, [value.mean for value in curve.values()])
    looks = _looks(order, *panels.values())
    repeated = any(
        value.deviation is not None for curves in panels.values() for curve in curves.values() for value in curve.values()
    )
    label_width = min(_NAME_WIDTH, max(_inches(f"{_drawable(name)} 100.0", _SMALL) for name in looks) + 0.05)
    gap = _SMALL * _LINE  # between the middles of labels
    height = max(2.6, gap * (max(len(curves) for curves in panels.values()) + 1))

    with _panels(path, list(panels), 3.3, height, title, left=0.6, right=0.35 + label_width, below=0.5) as every:
        for axes, curves in zip(every, panels.values(), strict=True):
            counts = sorted({count for curve in curves.values() for count in curve if count is not None}) or [1]
            left, right = np.log2(counts[0]) - 0.15, np.log2(counts[-1]) + 0.15
            # Many bands upon each other would hide what is below them.
            alpha = 0.15 if len(curves) <= 5 else 0.06
            ends = {}
            for name, curve in curves.items():
                colour, mark = looks[name]
                level = curve.get(None)
                known = [(np.log2(count), curve[count]) for count in counts if count in curve]
                drawn = known if level is None else [(left, level), (right, level)]
                places = np.array([place for place, _ in drawn])
                means = 100 * np.array([value.mean for _, value in drawn])
                deviations = 100 * np.array([value.deviation or 0.0 for _, value in drawn])
                axes.plot(
                    places,
                    means,
                    color=colour,
                    linestyle="-" if level is None else "--",
                    linewidth=1.2,
                    marker=mark if level is None else None,
                    markersize=4.5,
                    markeredgecolor="black",
                    markeredgewidth=0.4,
                )
                if len(drawn) == 1 and deviations[0] > 0:  # one number of shots alone has no band
                    axes.errorbar(places, means, yerr=deviations, fmt="none", ecolor=colour, elinewidth=1, capsize=2)
                axes.fill_between(places, means - deviations, means + deviations, color=colour, alpha=alpha, linewidth=0)
                ends[name] = (float(places[-1]), float(means[-1]))
            axes.set_xticks(np.log2(counts), [str(count) for count in counts], fontsize=_MIDDLE)
            axes.set_xlim(left, right)
            axes.tick_params(axis="y", labelsize=_MIDDLE)
            axes.set_xlabel("shots of each class", fontsize=_MIDDLE)
            axes.set_ylabel("accuracy in %" + ("; bands: ± one deviation" if repeated else ""), fontsize=_MIDDLE)
            axes.grid(color="#cccccc", linewidth=0.6)
            # A name stands beside the end of its curve, and is moved only as far as the other names need.
            bottom, top = axes.get_ylim()
            axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= top])
            unit = (top - bottom) / height  # per cent an inch
            order = sorted(ends, key=lambda name: ends[name][1])
            wanted = [(ends[name][1] - bottom) / unit for name in order]
            for name, at in zip(order, _apart(wanted, gap, gap / 2, height - gap / 2), strict=True):
                share = f" {ends[name][1]:.1f}"
                axes.annotate(
                    _fitted(name, label_width - _inches(share, _SMALL), _SMALL) + share,
                    xy=ends[name],
                    xytext=(1 + 0.28 / 3.3, at / height),
                    textcoords="axes fraction",
                    va="center",
                    fontsize=_SMALL,
                    arrowprops={
                        "arrowstyle": "-",
                        "color": looks[name][0],
                        "linewidth": 0.8,
                        "shrinkA": 1,
                        "shrinkB": 3,
                        "relpos": (0, 0.5),
                    },
                    annotation_clip=False,
                )


def base_new_scatter(
    path: Path, panels: Mapping[str, Mapping[str, tuple[Spread, Spread]]], title: str, order: Sequence[str] = ()
) -> None:
    """Accuracy on new classes over that on base classes, a panel a data set, with lines of equal harmonic mean.

    Args:
        panels: for each data set and contender its base and its new accuracy; crosses are one standard deviation either way.
        order: as for :func:`few_shot_curves`.

    Raises:
        ValueError: there is no data set, one has no contender, or a mean is not a share.
    """
    _check_lengths({"panels": panels})
    for name, points in panels.items():
        _check_lengths({f"panel {name!r}": points})
        _check_shares(name, [value.mean for pair in points.values() for value in pair])
    looks = _looks(order, *panels.values())
    legend_width = min(_NAME_WIDTH + 0.3, max(_inches(f"{_drawable(name)}  100.0", _SMALL) for name in looks) + 0.4)
    height = max(3.3, _SMALL * _LINE * 1.15 * (max(len(points) for points in panels.values()) + 2))

    with _panels(path, list(panels), 3.3, height, title, left=0.6, right=0.15 + legend_width, below=0.5) as every:
        for axes, points in zip(every, panels.values(), strict=True):
            harmonic = {name: 100 * harmonic_mean(base.mean, new.mean) for name, (base, new) in points.items()}
            for name in sorted(points, key=lambda name: -harmonic[name]):
                base, new = points[name]
                colour, mark = looks[name]
                axes.errorbar(
                    100 * base.mean,
                    100 * new.mean,
                    xerr=None if base.deviation is None else 100 * base.deviation,
                    yerr=None if new.deviation is None else 100 * new.deviation,
                    fmt=mark,
                    color=colour,
                    ecolor=colour,
                    elinewidth=0.7,
                    markersize=6,
                    markeredgecolor="black",
                    markeredgewidth=0.4,
                    label=f"{harmonic[name]:.1f}  {_fitted(name, legend_width - 0.7, _SMALL)}",
                )
            axes.margins(0.08)
            _harmonic_lines(axes)
            axes.tick_params(labelsize=_MIDDLE)
            axes.set_xlabel("base accuracy in %", fontsize=_MIDDLE)
            axes.set_ylabel("new accuracy in %", fontsize=_MIDDLE)
            axes.legend(
                loc="upper left",
                bbox_to_anchor=(1.01, 1.02),
                frameon=False,
                fontsize=_SMALL,
                title="H  contender",
                title_fontsize=_SMALL,
                alignment="left",
                labelspacing=0.25,
                borderaxespad=0,
                handletextpad=0.3,
            )


def class_changes(
    path: Path, accuracies: Mapping[str, tuple[float, float]], before: str, after: str, title: str, most: int = 40
) -> None:
    """Accuracy of each class with two contenders, the largest gain on top; of many classes the largest gains and losses.

    Args:
        accuracies: for each class that of ``before`` and that of ``after``, shares from 0 to 1.
        most: how many classes are shown, half of them from either end.

    Raises:
        ValueError: there is no class, or an accuracy is not a share.
    """
    _check_lengths({"accuracies": accuracies})
    for name, pair in accuracies.items():
        _check_shares(name, pair)
    ranked = sorted(accuracies, key=lambda name: accuracies[name][0] - accuracies[name][1])
    shown: list[str | None] = [*ranked]
    if len(ranked) > most:
        shown = [*ranked[: most // 2], None, *ranked[len(ranked) - most // 2 :]]
    row = 0.19  # inches

    with _drawing(path, _WIDTH, row * len(shown) + 1.7) as figure:
        axes = figure.add_subplot()
        for place, class_name in enumerate(shown):
            if class_name is None:
                left_out = f"{len(ranked) - 2 * (most // 2)} classes between these are not shown"
                axes.text(50, place, left_out, ha="center", va="center", fontsize=_SMALL, color="#555555", style="italic")
                continue
            first, last = (100 * share for share in accuracies[class_name])
            colour = _UNKNOWN if first == last else _RIGHT if last > first else _WRONG
            axes.plot([first, last], [place, place], color=colour, linewidth=2, zorder=1)
            axes.plot(first, place, "o", color="white", markeredgecolor="black", markersize=5, zorder=2, clip_on=False)
            axes.plot(
                last,
                place,
                "o",
                color=colour,
                markeredgecolor="black",
                markeredgewidth=0.4,
                markersize=6,
                zorder=3,
                clip_on=False,
            )
            axes.text(103, place, f"{round(last - first, 1) + 0.0:+.1f}", va="center", fontsize=_SMALL, color="black", ha="left")
        # For the legend alone.
        axes.plot([], [], "o", color="white", markeredgecolor="black", markersize=5, label=_fitted(before, _NAME_WIDTH, _MIDDLE))
        for colour, what in ((_RIGHT, "higher"), (_WRONG, "lower")):
            label = f"{what} with {_fitted(after, _NAME_WIDTH, _MIDDLE)}"
            axes.plot([], [], "o-", color=colour, markeredgecolor="black", markeredgewidth=0.4, markersize=6, label=label)
        named = [(place, _fitted(name, _NAME_WIDTH, _SMALL)) for place, name in enumerate(shown) if name is not None]
        axes.set_yticks([place for place, _ in named], [name for _, name in named], fontsize=_SMALL)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(-1, 112)
        axes.set_xticks(range(0, 101, 20))
        axes.tick_params(axis="x", labelsize=_MIDDLE)
        axes.set_xlabel("accuracy in %; numbers: change in points", fontsize=_MIDDLE)
        _finish(figure, axes, title)
        _legend(figure, axes)


def reliability_diagrams(
    path: Path,
    calibration: Mapping[str, Sequence[tuple[int, float, float]]],
    errors: Mapping[str, float],
    title: str,
) -> None:
    """How right each contender is over how sure it is, a panel a contender: on the diagonal it is as right as it says.

    Args:
        calibration: for each contender its bins: pictures, mean top probability and accuracy of each.
        errors: expected calibration error of each, 0 to 1.

    Raises:
        ValueError: there is no contender, one has no picture or no error, or a number is not a share.
    """
    _check_lengths({"calibration": calibration})
    for name, bins in calibration.items():
        _check_lengths({f"pictures of {name!r}": [one for one in bins if one[0] > 0]})
        _check_shares(name, [*(share for one in bins for share in one[1:]), errors[name]])
    names = [f"{_fitted(name, 1.75, _SMALL)}\nerror {100 * errors[name]:.1f}" for name in calibration]

    with _panels(path, names, 1.5, 1.5, title, left=0.55, right=0.2, below=0.5, lines=2, most=5) as every:
        for axes, bins in zip(every, calibration.values(), strict=True):
            total = sum(count for count, _, _ in bins)
            edges = np.linspace(0, 100, len(bins) + 1)
            axes.bar(edges[:-1], [100 * count / total for count, _, _ in bins], 100 / len(bins), align="edge", color="#cccccc")
            axes.plot([0, 100], [0, 100], color="black", linewidth=0.8, linestyle="--")
            confidences, accuracies = zip(*((100 * one[1], 100 * one[2]) for one in bins if one[0] > 0), strict=True)
            sizes = [6 + 80 * count / total for count, _, _ in bins if count > 0]  # square points; few pictures are a small mark
            axes.plot(confidences, accuracies, color=_COLOURS[0], linewidth=0.9)
            axes.scatter(confidences, accuracies, s=sizes, color=_COLOURS[0], clip_on=False, zorder=3)
            axes.set_xlim(0, 100)
            axes.set_ylim(0, 100)
            axes.set_xticks([0, 50, 100])
            axes.set_yticks([0, 50, 100])
            axes.tick_params(labelsize=_SMALL)
            axes.set_xlabel("top probability in %", fontsize=_SMALL)
            axes.set_ylabel("accuracy in %", fontsize=_SMALL)


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
    _check_lengths({"panels": panels})
    for panel in panels:
        _check_lengths({f"panel {panel.title!r}": panel.curves})
        for name, (places, values) in panel.curves.items():
            _check_lengths({f"places of {name!r}": places, f"values of {name!r}": values}, len(places))
            if min(*places, *values) <= 0:
                raise ValueError(f"{name}: a number is not above 0, so it has no place on a logarithmic axis")
    most = max(len(panel.curves) for panel in panels)
    below = 0.55 + most * _SMALL * _LINE * 1.15  # the legend stands below its panel

    with _panels(path, [panel.title for panel in panels], 3.3, 2.4, title, left=0.75, right=0.2, below=below) as every:
        for axes, panel in zip(every, panels, strict=True):
            for number, (name, (places, values)) in enumerate(panel.curves.items()):
                axes.plot(
                    places,
                    values,
                    color=_COLOURS[number % len(_COLOURS)],
                    marker=_MARKS[number % len(_MARKS)],
                    linewidth=1.2,
                    markersize=4.5,
                    markeredgecolor="black",
                    markeredgewidth=0.4,
                    label=_fitted(name, 3.2, _SMALL),
                )
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
                ticks = _logarithmic_ticks(*limits)
                axis.set_ticks(ticks, [f"{tick:,g}" for tick in ticks], fontsize=_SMALL)
                axis.set_ticks([], minor=True)
            axes.grid(color="#cccccc", linewidth=0.6)
            axes.set_xlabel(panel.place, fontsize=_SMALL)
            axes.set_ylabel(panel.value, fontsize=_SMALL)
            axes.legend(
                loc="upper left",
                bbox_to_anchor=(-0.02, -0.42 / 2.4),
                frameon=False,
                fontsize=_SMALL,
                labelspacing=0.15,
                borderaxespad=0,
            )


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from ``low`` to ``high``; some of their multiples too where there would be few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    span = math.log10(high / low)
    multiples = (1.0,) if span >= 2.5 else (1.0, 2.0, 5.0) if span >= 0.7 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    return [tick for decade in decades for multiple in multiples if low <= (tick := multiple * 10.0**decade) <= high]


@contextlib.contextmanager
def _panels(
    path: Path,
    names: Sequence[str],
    width: float,
    height: float,
    title: str,
    *,
    left: float,
    right: float,
    below: float,
    lines: int = 1,
    most: int = 2,
) -> Iterator[list[Axes]]:
    """Axes of so many inches beside and below each other, ``most`` in a row, each under its name, with room on three sides."""
    columns = min(len(names), most)
    rows = -(-len(names) // columns)
    above = lines * _MIDDLE * _LINE + 0.12
    page_width = max(columns * (left + width + right), 5.0)
    heading = _wrapped(title, page_width)
    heading_height = (heading.count("\n") + 1) * _LARGE * _LINE + 0.2
    page_height = heading_height + rows * (above + height + below) + 0.05
    with _drawing(path, page_width, page_height, layout=None) as figure:
        figure.suptitle(heading, fontsize=_LARGE, y=1 - 0.1 / page_height, va="top")
        every = []
        for place, name in enumerate(names):
            row, column = divmod(place, columns)
            x = column * (left + width + right) + left
            y = page_height - heading_height - row * (above + height + below) - above - height
            axes = figure.add_axes((x / page_width, y / page_height, width / page_width, height / page_height))
            shown = name if lines > 1 else _fitted(name, width, _MIDDLE)
            axes.set_title(shown, fontsize=_MIDDLE if lines == 1 else _SMALL, pad=4)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
            every.append(axes)
        yield every


def _harmonic_lines(axes: Axes) -> None:
    """Grey lines along which the harmonic mean of both accuracies is the same, each with its value at its upper end."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_xticks([tick for tick in axes.get_xticks() if left <= tick <= right])
    axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= top])
    corners = [200 * harmonic_mean(x / 200, y / 200) for x, y in ((left, bottom), (right, top))]
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50) if (corners[1] - corners[0]) / step <= 8)
    for level in np.arange(math.ceil(max(corners[0], step) / step), corners[1] / step) * step:
        base = np.linspace(max(left, 0.501 * level), right, 300)
        new = level * base / (2 * base - level)
        inside = (new >= bottom) & (new <= top)
        if inside.sum() < 12:
            continue
        axes.plot(base[inside], new[inside], color="#bbbbbb", linewidth=0.7, zorder=0)
        # Above the line where it comes in from the left, beside it where it comes in from above.
        start = (base[inside][0], new[inside][0])
        axes.annotate(
            f"{level:g}", start, (3, -2), textcoords="offset points", va="top", fontsize=_SMALL, color="#777777", zorder=0
        )


def _apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least ``gap`` apart, as near to the wanted ones (which rise) as can be, between ``low`` and ``high``."""
    blocks: list[tuple[float, int]] = []  # mean place and number of those that touch, each less its number times the gap
    for number, place in enumerate(wanted):
        mean, count = place - number * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, others = blocks.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        blocks.append((mean, count))
    places = [mean for mean, count in blocks for _ in range(count)]
    last = high - (len(wanted) - 1) * gap
    return [min(max(place, low), max(last, low)) + number * gap for number, place in enumerate(places)]


def _looks(*groups: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and mark of every name, in the order in which they come first; those with the same mark have another colour."""
    names = dict.fromkeys(name for group in groups for name in group)
    return {
        name: (_COLOURS[number % len(_COLOURS)], _MARKS[(number + number // len(_MARKS)) % len(_MARKS)])
        for number, name in enumerate(names)
    }


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
    return textwrap.fill(_drawable(text), int(12 * (inches - 0.3)), break_on_hyphens=False)


def _inches(text: str, points: float) -> float:
    """How wide one line of text is drawn."""
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(points, 72)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / 72


@functools.cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _check_lengths(things: Mapping[str, Sized], length: int | None = None) -> None:
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
