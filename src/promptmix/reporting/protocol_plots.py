"""Plots of the runs of a protocol, as PNG files: curves over shots, base against new classes, changes by class, calibration.

Arguments that do not fit together are a ValueError; a file that cannot be written is a DataError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from promptmix.evaluation.metrics import harmonic_mean
from promptmix.reporting.aggregate import Spread
from promptmix.reporting.drawing import (
    COLOURS,
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
    panel_axes,
    text_width,
)

__all__ = ["base_new_scatter", "class_changes", "few_shot_curves", "reliability_diagrams"]


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
    check_lengths({"panels": panels})
    for name, curves in panels.items():
        check_lengths({f"panel {name!r}": curves})
        for contender, curve in curves.items():
            check_lengths({f"curve {contender!r}": curve})
            check_shares(contender, [value.mean for value in curve.values()])
    looks = looks_of(order, *panels.values())
    repeated = any(
        value.deviation is not None for curves in panels.values() for curve in curves.values() for value in curve.values()
    )
    label_width = min(NAME_WIDTH, max(text_width(f"{drawable(name)} 100.0", SMALL) for name in looks) + 0.05)
    gap = SMALL * LINE  # between the middles of labels
    height = max(2.6, gap * (max(len(curves) for curves in panels.values()) + 1))

    with panel_axes(path, list(panels), 3.3, height, title, left=0.6, right=0.35 + label_width, below=0.5) as every:
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
            axes.set_xticks(np.log2(counts), [str(count) for count in counts], fontsize=MIDDLE)
            axes.set_xlim(left, right)
            axes.tick_params(axis="y", labelsize=MIDDLE)
            axes.set_xlabel("shots of each class", fontsize=MIDDLE)
            axes.set_ylabel("accuracy in %" + ("; bands: ± one deviation" if repeated else ""), fontsize=MIDDLE)
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
                    fitted(name, label_width - text_width(share, SMALL), SMALL) + share,
                    xy=ends[name],
                    xytext=(1 + 0.28 / 3.3, at / height),
                    textcoords="axes fraction",
                    va="center",
                    fontsize=SMALL,
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
    check_lengths({"panels": panels})
    for name, points in panels.items():
        check_lengths({f"panel {name!r}": points})
        check_shares(name, [value.mean for pair in points.values() for value in pair])
    looks = looks_of(order, *panels.values())
    legend_width = min(NAME_WIDTH + 0.3, max(text_width(f"{drawable(name)}  100.0", SMALL) for name in looks) + 0.4)
    height = max(3.3, SMALL * LINE * 1.15 * (max(len(points) for points in panels.values()) + 2))

    with panel_axes(path, list(panels), 3.3, height, title, left=0.6, right=0.15 + legend_width, below=0.5) as every:
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
                    label=f"{harmonic[name]:.1f}  {fitted(name, legend_width - 0.7, SMALL)}",
                )
            axes.margins(0.08)
            _harmonic_lines(axes)
            axes.tick_params(labelsize=MIDDLE)
            axes.set_xlabel("base accuracy in %", fontsize=MIDDLE)
            axes.set_ylabel("new accuracy in %", fontsize=MIDDLE)
            axes.legend(
                loc="upper left",
                bbox_to_anchor=(1.01, 1.02),
                frameon=False,
                fontsize=SMALL,
                title="H  contender",
                title_fontsize=SMALL,
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
    check_lengths({"accuracies": accuracies})
    for name, pair in accuracies.items():
        check_shares(name, pair)
    ranked = sorted(accuracies, key=lambda name: accuracies[name][0] - accuracies[name][1])
    shown: list[str | None] = [*ranked]
    if len(ranked) > most:
        shown = [*ranked[: most // 2], None, *ranked[len(ranked) - most // 2 :]]
    row = 0.19  # inches

    with drawing(path, WIDTH, row * len(shown) + 1.7) as figure:
        axes = figure.add_subplot()
        for place, class_name in enumerate(shown):
            if class_name is None:
                left_out = f"{len(ranked) - 2 * (most // 2)} classes between these are not shown"
                axes.text(50, place, left_out, ha="center", va="center", fontsize=SMALL, color="#555555", style="italic")
                continue
            first, last = (100 * share for share in accuracies[class_name])
            colour = UNKNOWN if first == last else RIGHT if last > first else WRONG
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
            axes.text(103, place, f"{round(last - first, 1) + 0.0:+.1f}", va="center", fontsize=SMALL, color="black", ha="left")
        # For the legend alone.
        axes.plot([], [], "o", color="white", markeredgecolor="black", markersize=5, label=fitted(before, NAME_WIDTH, MIDDLE))
        for colour, what in ((RIGHT, "higher"), (WRONG, "lower")):
            label = f"{what} with {fitted(after, NAME_WIDTH, MIDDLE)}"
            axes.plot([], [], "o-", color=colour, markeredgecolor="black", markeredgewidth=0.4, markersize=6, label=label)
        named = [(place, fitted(name, NAME_WIDTH, SMALL)) for place, name in enumerate(shown) if name is not None]
        axes.set_yticks([place for place, _ in named], [name for _, name in named], fontsize=SMALL)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(-1, 112)
        axes.set_xticks(range(0, 101, 20))
        axes.tick_params(axis="x", labelsize=MIDDLE)
        axes.set_xlabel("accuracy in %; numbers: change in points", fontsize=MIDDLE)
        finish(figure, axes, title)
        legend(figure, axes)


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
    check_lengths({"calibration": calibration})
    for name, bins in calibration.items():
        check_lengths({f"pictures of {name!r}": [one for one in bins if one[0] > 0]})
        check_shares(name, [*(share for one in bins for share in one[1:]), errors[name]])
    names = [f"{fitted(name, 1.75, SMALL)}\nerror {100 * errors[name]:.1f}" for name in calibration]

    with panel_axes(path, names, 1.5, 1.5, title, left=0.55, right=0.2, below=0.5, lines=2, most=5) as every:
        for axes, bins in zip(every, calibration.values(), strict=True):
            total = sum(count for count, _, _ in bins)
            edges = np.linspace(0, 100, len(bins) + 1)
            axes.bar(edges[:-1], [100 * count / total for count, _, _ in bins], 100 / len(bins), align="edge", color="#cccccc")
            axes.plot([0, 100], [0, 100], color="black", linewidth=0.8, linestyle="--")
            confidences, accuracies = zip(*((100 * one[1], 100 * one[2]) for one in bins if one[0] > 0), strict=True)
            sizes = [6 + 80 * count / total for count, _, _ in bins if count > 0]  # square points; few pictures are a small mark
            axes.plot(confidences, accuracies, color=COLOURS[0], linewidth=0.9)
            axes.scatter(confidences, accuracies, s=sizes, color=COLOURS[0], clip_on=False, zorder=3)
            axes.set_xlim(0, 100)
            axes.set_ylim(0, 100)
            axes.set_xticks([0, 50, 100])
            axes.set_yticks([0, 50, 100])
            axes.tick_params(labelsize=SMALL)
            axes.set_xlabel("top probability in %", fontsize=SMALL)
            axes.set_ylabel("accuracy in %", fontsize=SMALL)


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
            f"{level:g}", start, (3, -2), textcoords="offset points", va="top", fontsize=SMALL, color="#777777", zorder=0
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
