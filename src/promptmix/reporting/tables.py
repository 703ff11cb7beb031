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


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under each other, the first to the left and the others to the right, as wide as a terminal shows them."""
    _check(header, rows)
    lines = [list(header), *map(list, rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            _padded(cell, width, column > 0) for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as Markdown; a ``|`` in a cell is escaped."""
    _check(header, rows)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (header, *rows)]
    lines.insert(1, "|---" + "|---:" * (len(header) - 1) + "|")
    return "\n".join(lines)


def _check(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"row {list(row)} has {len(row)} cells where the header has {len(header)}")


def _width(text: str) -> int:
    """Columns of a terminal: two for wide characters, none for combining ones."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def _padded(text: str, width: int, to_the_right: bool) -> str:
    gap = " " * (width - _width(text))
    return gap + text if to_the_right else text + gap
