"""Tables for terminals and for pages."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from promptmix.reporting.aggregate import Spread

__all__ = ["markdown_table", "share_with_spread", "text_table"]


def share_with_spread(value: Spread) -> str:
    """Shares in per cent with one decimal: ``56.5 ± 0.8``; one value alone has no deviation: ``56.5``."""
    mean = f"{100 * value.mean:.1f}"
    return mean if value.deviation is None else f"{mean} ± {100 * value.deviation:.1f}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """Columns under each other, as wide as a terminal shows them; a line break or another control character becomes a space.

    Args:
        align: "l" (to the left) or "r" (to the right) for each column; without it the first goes to the left, the others to the right.

    Raises:
        ValueError: a row has not as many cells as the header, or ``align`` not as many letters.
    """
    _check(header, rows)
    align = align or "l" + "r" * (len(header) - 1)
    if len(align) != len(header) or not set(align) <= {"l", "r"}:
        raise ValueError(f"align {align!r} must be 'l' or 'r' for each of {len(header)} columns")
    lines = [[_on_one_line(cell) for cell in line] for line in (header, *rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(_padded(cell, width, side) for cell, width, side in zip(line, widths, align, strict=True)).rstrip()
        for line in lines
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as Markdown; a ``|`` in a cell is escaped, and so is the ``\\`` that escapes.

    Raises:
        ValueError: a row has not as many cells as the header.
    """
    _check(header, rows)
    lines = [
        "| " + " | ".join(_on_one_line(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in line) + " |"
        for line in (header, *rows)
    ]
    lines.insert(1, "|---" + "|---:" * (len(header) - 1) + "|")
    return "\n".join(lines)


def _check(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if len(header) == 0:
        raise ValueError("a table needs a column")
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"row {list(row)} has {len(row)} cells where the header has {len(header)}")


def _on_one_line(cell: str) -> str:
    return "".join(" " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character for character in cell)


def _width(text: str) -> int:
    """Columns of a terminal: two for wide characters, none for marks upon others and for what only joins or formats."""
    seen = [character for character in text if unicodedata.category(character) not in ("Mn", "Me", "Cf")]
    return len(seen) + sum(unicodedata.east_asian_width(character) in "WF" for character in seen)


def _padded(text: str, width: int, side: str) -> str:
    gap = " " * (width - _width(text))
    return gap + text if side == "r" else text + gap
