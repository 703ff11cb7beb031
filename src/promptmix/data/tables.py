"""Tables that list pictures: CSV, TSV, JSON lines and Parquet. Paths count from the table; pictures in Parquet stay in it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from promptmix.data.images import StoredPicture
from promptmix.data.listing import Columns, Listing
from promptmix.data.parquet import iter_parquet, list_parquet
from promptmix.data.table_rows import MOST_ROWS, FoundFiles, choose_columns, listing_of, no_rows, picture_in
from promptmix.errors import DataError

__all__ = ["TABLE_SUFFIXES", "iter_table", "list_table"]

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})

_LONGEST_LINE = 1_000_000  # characters; a row is a path, a label and a few words


def list_table(path: Path, columns: Columns | None = None, *, labelled: bool = True) -> Listing:
    """The pictures that a table lists, with their labels and parts.

    The suffix says what kind of table it is. A column called ``split`` or ``part`` says which part a row is of.

    Args:
        labelled: False: labels and parts are not looked at, and need not be there.

    Raises:
        DataError: the table is missing or damaged, has no column of pictures or labels, or a row has no picture, no label,
            another number of cells than the head, or the address of a picture that is not on this machine.
        ConfigError: there is no column of a given name, or a package is missing.
    """
    path = _file(path)
    columns = columns or Columns()
    kind = path.suffix.lower()
    if kind == ".parquet":
        return list_parquet(path, columns, labelled)
    rows = list(_text_rows(path))
    if not rows:
        raise no_rows(path)
    there = list(dict.fromkeys(name for _, row in rows for name in row))
    image, label, part = choose_columns(columns, there, path, labelled)
    files = FoundFiles(path.parent)
    return listing_of(
        path,
        [
            (
                f"{path.name} line {line}",
                files.find(row.get(image), f"{path} line {line}"),
                None if label is None else row.get(label),
                None if part is None else row.get(part),
            )
            for line, row in rows
        ],
        files,
    )


def iter_table(path: Path, columns: Columns | None = None) -> Iterator[Path | StoredPicture]:
    """The pictures of a table row by row, without labels; only a few rows are in memory. The first row says what columns there are.

    A row whose cell can name no picture gives one that cannot be read; whether a file is there is seen when it is read.

    Raises:
        DataError, ConfigError: as :func:`list_table`, once the row has come.
    """
    path = _file(path)
    columns = columns or Columns()
    if path.suffix.lower() == ".parquet":
        yield from iter_parquet(path, columns)
        return
    image = None
    for line, row in _text_rows(path):
        image = image or choose_columns(columns, list(row), path, False)[0]
        yield picture_in(row.get(image), path.parent, f"{path.name} line {line}")
    if image is None:
        raise no_rows(path)


def _file(path: Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path")
    return path


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text, with their ends. Each is limited: a file of one endless line must not fill the memory."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE + 1):
                number += 1
                if len(line) > _LONGEST_LINE:
                    raise DataError(
                        f"{path} line {number} has more than {_LONGEST_LINE:,} characters; is it a table of pictures?"
                    )
                yield line
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8 (in Excel: 'CSV UTF-8')") from problem
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}") from problem


def _text_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    kind = path.suffix.lower()
    return _json_rows(path) if kind in (".jsonl", ".ndjson") else _csv_rows(path, "\t" if kind == ".tsv" else None)


def _csv_rows(path: Path, delimiter: str | None) -> Iterator[tuple[int, dict[str, str]]]:
    lines = _lines(path)
    first = next(lines, "")
    if delimiter is None:  # where the comma is the decimal point, tables are written with semicolons
        delimiter = ";" if ";" in first and "," not in first else ","

    def again() -> Iterator[str]:
        yield first
        yield from lines

    reader = csv.reader(again(), delimiter=delimiter, strict=True)
    try:
        head = [name.strip() for name in next(reader, [])]
        names = [name for name in head if name]
        if not names:
            raise DataError(f"{path} has no head; its first line should name the columns, such as 'path,label'")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{path} has two columns {twice!r}; rename one")
        start = reader.line_num + 1
        for number, cells in enumerate(reader):
            if number >= MOST_ROWS:
                raise DataError(f"{path} has more than {MOST_ROWS:,} rows; split it")
            line, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(head):
                raise DataError(
                    f"{path} line {line} has {len(cells)} cells, the first line has {len(head)}; put a cell that holds {delimiter!r} into quotes"
                )
            yield line, {name: cell for name, cell in zip(head, cells, strict=True) if name}
    except csv.Error as problem:
        raise DataError(f"{path} line {reader.line_num} is no row of a table: {problem}") from problem


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), start=1):
        if number > MOST_ROWS:
            raise DataError(f"{path} has more than {MOST_ROWS:,} rows; split it")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise DataError(f"{path} line {number} is not JSON: {problem}; every line should be one object") from problem
        if not isinstance(row, dict):
            raise DataError(f'{path} line {number} is no JSON object such as {{"path": "a.jpg", "label": "cat"}}')
        yield number, row
