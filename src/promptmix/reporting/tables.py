"""Tables for terminals and for pages: text, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from promptmix.reporting.aggregate import Spread

__all__ = [
    "Cell",
    "Table",
    "as_latex",
    "as_markdown",
    "as_text",
    "csv_text",
    "latex_text",
    "markdown_table",
    "markdown_text",
    "number_with_spread",
    "points_with_interval",
    "share_with_interval",
    "share_with_spread",
    "text_table",
]


@dataclass(frozen=True)
class Cell:
    """What stands in a table, with the notes on it, each of which becomes a footnote."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with all that its reader needs.

    Attributes:
        above: sentences that stand above it: on what it was measured, and how to read it.
        main: whether a terminal shows it too, where room is short.
        align: as for :func:`text_table`; for Markdown and LaTeX too.
    """

    title: str
    above: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    main: bool = False
    align: str = ""

    def footnotes(self) -> dict[str, str]:
        """The sign of every note, in the order in which the notes appear: a, b, ..., z, aa, ab, ..."""
        notes = dict.fromkeys(note for row in self.rows for cell in row for note in cell.notes)
        return {note: _sign(number) for number, note in enumerate(notes)}

    def cells(self, mark: str = " ({})", written: Callable[[str], str] = str) -> list[list[str]]:
        """The texts of all rows as ``written`` writes them, each with the signs of its notes in place of the ``{}`` of ``mark``."""
        signs = self.footnotes()
        return [
            [
                written(cell.text) + (mark.format(",".join(signs[note] for note in cell.notes)) if cell.notes else "")
                for cell in row
            ]
            for row in self.rows
        ]


def as_text(table: Table) -> str:
    """A table with everything above and below it, for a terminal."""
    signs = table.footnotes()
    notes = [f"({sign}) {_on_one_line(note)}" for note, sign in signs.items()]
    marks = [[f" ({','.join(signs[note] for note in cell.notes)})" if cell.notes else "" for cell in row] for row in table.rows]
    # Signs stand below each other to the right of the numbers, so that these stay below each other too.
    widths = [max((len(mark) for mark in column), default=0) for column in zip(*marks, strict=True)] or [0] * len(table.header)
    header = [name + " " * (width if place else 0) for place, (name, width) in enumerate(zip(table.header, widths, strict=True))]
    rows = [
        [
            cell.text + (mark if place == 0 else mark.ljust(width))
            for place, (cell, mark, width) in enumerate(zip(row, own, widths, strict=True))
        ]
        for row, own in zip(table.rows, marks, strict=True)
    ]
    body = text_table(header, rows, table.align)
    above = [_on_one_line(line) for line in (table.title, *table.above)]
    return "\n".join([*above, "", body, *(["", *notes] if notes else [])])


def as_markdown(table: Table) -> str:
    """The same for a page of Markdown, below a heading of the third level."""
    notes = [f"({sign}) {markdown_text(note)}" for note, sign in table.footnotes().items()]
    above = [markdown_text(line) for line in table.above]
    body = markdown_table(table.header, table.cells(), table.align)
    return "\n\n".join([f"### {markdown_text(table.title)}", *above, body, *notes])


def as_latex(table: Table) -> str:
    """The same as a LaTeX ``table``, which needs no package; names beyond Latin letters need LuaLaTeX or XeLaTeX."""
    caption = " ".join(latex_text(line) for line in (f"{table.title}.", *table.above))
    body = _tabular([latex_text(cell) for cell in table.header], table.cells("\\textsuperscript{{{}}}", latex_text), table.align)
    notes = [f"\\par\\textsuperscript{{{sign}}} {latex_text(note)}" for note, sign in table.footnotes().items()]
    return "\n".join(
        ["\\begin{table}", f"\\caption{{{caption}}}", "\\centering\\scriptsize", body, *notes, "\\end{table}"],
    )


def share_with_spread(value: Spread) -> str:
    """Shares in per cent with one decimal: ``56.5 ± 0.8``; what does not vary has no deviation: ``56.5``."""
    mean = f"{100 * value.mean:.1f}"
    return mean if value.deviation is None else f"{mean} ± {100 * value.deviation:.1f}"


def share_with_interval(value: Spread) -> str:
    """The same with the 95 % interval of the mean: ``56.5 ± 0.8 [54.5, 58.5]``."""
    if value.interval is None:
        return share_with_spread(value)
    low, high = (f"{100 * end:.1f}" for end in value.interval)
    return f"{share_with_spread(value)} [{low}, {high}]"


def points_with_interval(value: Spread) -> str:
    """A difference of shares in points, always with its sign: ``+1.2 ± 0.3 [+0.4, +2.0]``."""
    mean = _points(value.mean)
    if value.interval is None or value.deviation is None:
        return mean
    low, high = (_points(end) for end in value.interval)
    return f"{mean} ± {100 * value.deviation:.1f} [{low}, {high}]"


def number_with_spread(value: Spread, digits: int = 1) -> str:
    """A number that is no share: ``1,203.4 ± 12.0``."""
    mean = f"{value.mean:,.{digits}f}"
    return mean if value.deviation is None else f"{mean} ± {value.deviation:,.{digits}f}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """Columns under each other, as wide as a terminal shows them; a line break or another control character becomes a space.

    Args:
        align: "l" (to the left) or "r" (to the right) for each column; without it the first goes to the left, the others to the right.

    Raises:
        ValueError: a row has not as many cells as the header, or ``align`` not as many letters.
    """
    align = _check(header, rows, align)
    lines = [[_on_one_line(cell) for cell in line] for line in (header, *rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(_padded(cell, width, side) for cell, width, side in zip(line, widths, align, strict=True)).rstrip()
        for line in lines
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """The same as Markdown; see :func:`markdown_text` for what is escaped.

    Raises:
        ValueError: as for :func:`text_table`.
    """
    align = _check(header, rows, align)
    lines = ["| " + " | ".join(markdown_text(cell) for cell in line) + " |" for line in (header, *rows)]
    lines.insert(1, "".join("|---:" if side == "r" else "|---" for side in align) + "|")
    return "\n".join(lines)


def markdown_text(text: str) -> str:
    """The text on one line, with a backslash before what Markdown would take for a column, for code, for emphasis or for HTML."""
    return re.sub(r"([\\|`*<])", r"\\\1", _on_one_line(text))


def latex_text(text: str) -> str:
    """The text on one line, as LaTeX prints it letter by letter."""
    escaped = "".join(_LATEX.get(character, character) for character in _on_one_line(text))
    # Two hyphens would become one dash. A hyphen before a number, and after nothing that it could join to it, is its sign.
    return re.sub(r"(?<!\w)(?<!{})-(?=\d)", "$-$", escaped.replace("--", "-{}-"))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Comma-separated values; numbers keep full precision, None is an empty field."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return written.getvalue()


_LATEX = {
    "\\": "\\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "{}$&#_%"},
    "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "±": "$\\pm$",
    # After the end of a row, [ and * would be read as an option of it; quotes and grave accents as ligatures or shorthands.
    **{sign: f"{{{sign}}}" for sign in "[]*`'"},
    '"': "\\symbol{34}",
}


def _tabular(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """A ``tabular`` of cells that are LaTeX already."""
    align = _check(header, rows, align)
    lines = [" & ".join(line) + " \\\\" for line in (header, *rows)]
    lines.insert(1, "\\hline")
    return "\n".join([f"\\begin{{tabular}}{{{align}}}", "\\hline", *lines, "\\hline", "\\end{tabular}"])


def _points(difference: float) -> str:
    return f"{round(100 * difference, 1) + 0.0:+.1f}"  # a sum with 0 is never -0


def _sign(number: int) -> str:
    return (_sign(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def _check(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """The side of every column, once header, rows and sides fit together."""
    if len(header) == 0:
        raise ValueError("a table needs a column")
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"row {list(row)} has {len(row)} cells where the header has {len(header)}")
    align = align or "l" + "r" * (len(header) - 1)
    if len(align) != len(header) or not set(align) <= {"l", "r"}:
        raise ValueError(f"align {align!r} must be 'l' or 'r' for each of {len(header)} columns")
    return align


def _on_one_line(cell: str) -> str:
    return "".join(" " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character for character in cell)


def _width(text: str) -> int:
    """Columns of a terminal: two for wide characters, none for marks upon others and for what only joins or formats."""
    seen = [character for character in text if unicodedata.category(character) not in ("Mn", "Me", "Cf")]
    return len(seen) + sum(unicodedata.east_asian_width(character) in "WF" for character in seen)


def _padded(text: str, width: int, side: str) -> str:
    gap = " " * (width - _width(text))
    return gap + text if side == "r" else text + gap
