"""What all plots share: figures that are written whole or not at all, colours and marks, sizes, text that fits, and checks.

Nothing needs a display. The same arguments give the same bytes, whatever a person's own settings of matplotlib are. Names are shortened
in their middle where they do not fit; characters that the font of the plots does not have are drawn as boxes.
"""

from __future__ import annotations

import contextlib
import functools
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Literal

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from promptmix.runtime import atomic_path

__all__ = [
    "COLOURS",
    "DOTS_PER_INCH",
    "LARGE",
    "LINE",
    "MARKS",
    "MIDDLE",
    "NAME_WIDTH",
    "RIGHT",
    "SMALL",
    "UNKNOWN",
    "WIDTH",
    "WRONG",
    "check_lengths",
    "check_shares",
    "drawable",
    "drawing",
    "finish",
    "fitted",
    "legend",
    "looks_of",
    "panel_axes",
    "text_width",
    "wrapped",
]

# Okabe and Ito's colours, which people with any colour vision can tell apart, and marks for those who see none. Where eight are not
# enough, Tol's muted colours follow.
COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442"),
    *("#882255", "#999933", "#332288", "#44AA99", "#CC6677", "#117733", "#AA4499", "#DDCC77", "#88CCEE"),
)
MARKS = "osD^vPX*"
RIGHT = "#0072B2"
WRONG = "#D55E00"
UNKNOWN = "#777777"

DOTS_PER_INCH = 120
SMALL = 8  # points, as the next two
MIDDLE = 9
LARGE = 10
LINE = 1.2 / 72  # inches a point: the height of a line of text
WIDTH = 7.5  # inches of a plot that need not be wider
NAME_WIDTH = 2.2  # inches for the name of a row


@contextlib.contextmanager
def drawing(path: Path, width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Iterator[Figure]:
    """A figure of so many inches, which is written when the block ends well.

    A person's own settings of matplotlib do not reach it, and a ``$`` in a name is no formula.
    """
    with atomic_path(path) as temporary, matplotlib.style.context(["default", {"text.parse_math": False}]):
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout=layout)
        FigureCanvasAgg(figure)
        yield figure
        # Without the name of the program the same data give the same bytes.
        figure.savefig(temporary, format="png", dpi="figure", metadata={"Software": None})


@contextlib.contextmanager
def panel_axes(
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
    above = lines * MIDDLE * LINE + 0.12
    page_width = max(columns * (left + width + right), 5.0)
    heading = wrapped(title, page_width)
    heading_height = (heading.count("\n") + 1) * LARGE * LINE + 0.2
    page_height = heading_height + rows * (above + height + below) + 0.05
    with drawing(path, page_width, page_height, layout=None) as figure:
        figure.suptitle(heading, fontsize=LARGE, y=1 - 0.1 / page_height, va="top")
        every = []
        for place, name in enumerate(names):
            row, column = divmod(place, columns)
            x = column * (left + width + right) + left
            y = page_height - heading_height - row * (above + height + below) - above - height
            axes = figure.add_axes((x / page_width, y / page_height, width / page_width, height / page_height))
            shown = name if lines > 1 else fitted(name, width, MIDDLE)
            axes.set_title(shown, fontsize=MIDDLE if lines == 1 else SMALL, pad=4)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
            every.append(axes)
        yield every


def finish(figure: Figure, axes: Axes, title: str) -> None:
    """What plots of accuracies share: a title, and lines from the ticks of the lower axis by which values can be read."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#cccccc", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.suptitle(wrapped(title, figure.get_figwidth()), fontsize=LARGE)


def legend(figure: Figure, axes: Axes) -> None:
    """A legend below the axes, with as many columns as there is room for."""
    _, labels = axes.get_legend_handles_labels()
    widest = max(text_width(label, MIDDLE) for label in labels)
    columns = max(1, min(len(labels), int(figure.get_figwidth() / (widest + 0.6))))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=MIDDLE)


def looks_of(*groups: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and mark of every name, in the order in which they come first; those with the same mark have another colour."""
    names = dict.fromkeys(name for group in groups for name in group)
    return {
        name: (COLOURS[number % len(COLOURS)], MARKS[(number + number // len(MARKS)) % len(MARKS)])
        for number, name in enumerate(names)
    }


def drawable(text: str) -> str:
    """The text on one line, with a box for each character that the font does not have."""
    return "".join(character if ord(character) in _characters() else "□" for character in " ".join(text.split()))


@functools.lru_cache(4096)  # the same names stand in every panel
def fitted(text: str, inches: float, points: float) -> str:
    """The text, or as much of it as fits: the middle goes, for often only the ends of names tell them apart."""
    text = drawable(text)
    if text_width(text, points) <= inches:
        return text
    for kept in range(min(len(text) - 1, 100), 0, -1):
        first = math.ceil(2 * kept / 3)
        shorter = f"{text[:first].rstrip()}…{text[len(text) - (kept - first) :].lstrip()}"
        if text_width(shorter, points) <= inches:
            return shorter
    return "…"


def wrapped(text: str, inches: float) -> str:
    """A title in lines that fit: letters of ``LARGE`` points are a twelfth of an inch wide, most of them less."""
    return textwrap.fill(drawable(text), int(12 * (inches - 0.3)), break_on_hyphens=False)


def text_width(text: str, points: float) -> float:
    """How wide one line of text is drawn."""
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(points, 72)
    font.set_text(text)
    return font.get_width_height()[0] / 64 / 72


@functools.cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def check_lengths(things: Mapping[str, Sized], length: int | None = None) -> None:
    """Raise unless nothing is empty and, where a length is given, all have it."""
    for name, thing in things.items():
        if len(thing) == 0 or length == 0:
            raise ValueError(f"{name}: there is nothing to draw")
        if length is not None and len(thing) != length:
            raise ValueError(f"{name}: {len(thing)} where {length} are needed, one for each")


def check_shares(name: str, values: Sequence[float]) -> None:
    """Raise unless all values are from 0 to 1, give or take a rounding."""
    for value in values:
        if not -1e-6 <= value <= 1 + 1e-6:
            raise ValueError(f"{name}: {value} is not a share from 0 to 1")
