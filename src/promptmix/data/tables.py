"""Tables that list pictures: CSV, TSV, JSON lines and Parquet. Paths count from the table; pictures in Parquet stay in it."""

from __future__ import annotations

import csv
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptmix.data.images import StoredPicture
from promptmix.data.listing import Columns, Listed, Listing, named_part, pick_column
from promptmix.errors import ConfigError, DataError, listed

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "TABLE_SUFFIXES",
    "ParquetPicture",
    "class_names_in",
    "label_in",
    "list_table",
    "one_line",
    "pyarrow_or_refuse",
    "stored_bytes",
]

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})

_LONGEST_LINE = 1_000_000  # characters; a row is a path, a label and a few words
_MOST_ROWS = 10_000_000
_LARGEST_GROUP = 2**31  # bytes of a row group's pictures, which are unpacked together
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]+://|data:)", re.IGNORECASE)
_NOT_A_NUMBER = frozenset({"", "na", "nan", "null", "none", "n/a"})


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
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path")
    columns = columns or Columns()
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _list_parquet(path, columns, labelled)
    rows = list(_json_rows(path) if kind in (".jsonl", ".ndjson") else _csv_rows(path, "\t" if kind == ".tsv" else None))
    if not rows:
        raise DataError(f"{path} has no rows; it should hold a picture and a label in each")
    there = list(dict.fromkeys(name for _, row in rows for name in row))
    image, label, part = _columns(columns, there, path, labelled)
    files = _Files(path.parent)
    return _listing(
        path,
        [
            (
                f"{path.name} line {line}",
                files.find(row.get(image), f"{path} line {line}"),
                row.get(label or ""),
                row.get(part or ""),
            )
            for line, row in rows
        ],
        files,
    )


def _columns(columns: Columns, there: Sequence[str], path: Path, labelled: bool) -> tuple[str, str | None, str | None]:
    has = f"its columns are {listed(there)}"
    image = pick_column("image", columns.image, there, path)
    if image is None:
        raise DataError(f"{path} has no column of pictures that is known by its name ({has}); say which with --image-column")
    if not labelled:
        return image, None, None
    label = pick_column("label", columns.label, [name for name in there if name != image], path)
    if label is None:
        raise DataError(f"{path} has no column of labels that is known by its name ({has}); say which with --label-column")
    return image, label, pick_column("part", None, [name for name in there if name not in (image, label)], path)


def _listing(
    path: Path,
    rows: Sequence[tuple[str, Path | StoredPicture, object, object]],
    files: _Files,
    class_names: tuple[str, ...] | None = None,
) -> Listing:
    files.refuse_missing(path)
    root = files.root()
    pictures = [
        Listed(
            picture=picture if isinstance(picture, StoredPicture) or picture.is_relative_to(root) else _in_full(picture),
            label=label_in(label, where, class_names),
            part=None if part is None or not str(part).strip() else named_part(str(part), where),
            where=where,
        )
        for where, picture, label, part in rows
    ]
    return Listing(root=root, pictures=pictures, class_names=class_names)


def label_in(value: object, where: str, class_names: Sequence[str] | None = None) -> str | int | None:
    """The label that a cell holds: a name, a number, or None where it is empty. A number of known classes becomes a name.

    Raises:
        DataError: the cell holds something that is no label.
    """
    if isinstance(value, str):
        text = value.strip()
        whole = re.fullmatch(r"(-?[0-9]{1,9})\.0*", text)  # what became of a column of numbers with gaps
        return whole[1] if whole else (None if text.casefold() in _NOT_A_NUMBER else text)
    if value is None or value != value:
        return None
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        raise DataError(f"{where}: label {str(value)[:80]!r} is neither a name nor a whole number")
    number = int(value)
    if number < 0:
        raise DataError(f"{where}: label {number} is no number of a class, which start at 0; leave pictures without a class out")
    if class_names is None:
        return number
    if number >= len(class_names):
        raise DataError(f"{where}: label {number} has no name; the names that are there go from 0 to {len(class_names) - 1}")
    return class_names[number]


def _in_full(path: Path) -> Path:
    return path.parent.resolve() / path.name


class _Files:
    """The picture files that a table names, by paths from where it lies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._missing: list[tuple[str, Path]] = []
        self._found: set[Path] = set()

    def find(self, cell: object, where: str) -> Path:
        """The file that a cell names. Files that are missing are noted, to be told of together."""
        if not isinstance(cell, str) or not cell.strip():
            raise DataError(f"{where} has no picture; fill the cell or leave the row out")
        name = cell.strip()
        if _URL.match(name):
            raise DataError(f"{where}: {name[:200]} is an address; pictures are not fetched, so download them and name the files")
        path = self._inside(name)
        if not path.is_file() and "\\" in name:  # a table made on Windows
            path = self._inside(name.replace("\\", "/"))
        try:
            if not path.is_file():
                self._missing.append((where, path))
        except ValueError:
            self._missing.append((where, path))
        self._found.add(path.parent)
        return path

    def _inside(self, name: str) -> Path:
        path = self._folder / name
        return _in_full(path) if ".." in path.parts else path

    def refuse_missing(self, table: Path) -> None:
        """Raise for the first file that is not there."""
        if self._missing:
            where, path = self._missing[0]
            more = f" (and {len(self._missing) - 1} more)" if len(self._missing) > 1 else ""
            raise DataError(f"{where}: there is no picture {path}{more}; paths count from the folder of {table.name}")

    def root(self) -> Path:
        """The folder of the table where it holds all pictures, else the deepest one that does, in full."""
        if all(folder.is_relative_to(self._folder) for folder in self._found):
            return self._folder
        return Path(os.path.commonpath([folder.resolve() for folder in (self._folder, *self._found)]))


# ------------------------------------------------------------------------------------------------------------------- text


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
            if number >= _MOST_ROWS:
                raise DataError(f"{path} has more than {_MOST_ROWS:,} rows; split it")
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
        if number > _MOST_ROWS:
            raise DataError(f"{path} has more than {_MOST_ROWS:,} rows; split it")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise DataError(f"{path} line {number} is not JSON: {problem}; every line should be one object") from problem
        if not isinstance(row, dict):
            raise DataError(f'{path} line {number} is no JSON object such as {{"path": "a.jpg", "label": "cat"}}')
        yield number, row


# ---------------------------------------------------------------------------------------------------------------- Parquet


def pyarrow_or_refuse(path: object) -> None:
    """Raise where pyarrow is missing.

    Raises:
        ConfigError: it is; the message says how to install it.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as problem:
        raise ConfigError(f'reading {path} needs a package that is missing; pip install "promptmix[data]"') from problem


@dataclass(frozen=True, kw_only=True)
class ParquetPicture(StoredPicture):
    """A picture in a row of a Parquet file.

    Attributes:
        file: the Parquet file.
        column: holds bytes, or ``{bytes, path}`` as Hugging Face writes it.
        group, row: the row group, and the row in it.
    """

    name: str
    file: Path
    column: str
    group: int
    row: int

    def read(self) -> bytes:
        # The pictures of a group are unpacked together, so they are kept for the neighbours. A process that was forked must not
        # share the file that its parent opened.
        with _reading(os.getpid()):
            values = _parquet_group(self.file, self.column, self.group, os.getpid())
        if self.row >= len(values):
            raise DataError(f"{self.name}: {self.file} has changed since it was listed; start again")
        return stored_bytes(values[self.row].as_py(), self.name, self.file.parent)


@lru_cache(maxsize=1)
def _reading(process: int) -> threading.Lock:
    """One group is read at a time. The lock is a process's own: a forked one may be born while its parent holds it."""
    return threading.Lock()


@lru_cache(maxsize=2)
def _parquet_group(file: Path, column: str, group: int, process: int) -> pyarrow.ChunkedArray:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            return opened.read_row_group(group, columns=[column]).column(column)
    except (pyarrow.ArrowException, OSError, IndexError, KeyError) as problem:
        raise DataError(f"{file} cannot be read: {one_line(problem)}") from problem


def stored_bytes(value: object, name: str, folder: Path) -> bytes:
    """The bytes of a cell that holds them, as ``{bytes, path}`` or alone; of a cell with a path alone those of that file.

    Raises:
        DataError: the cell is empty, or the path is an address or cannot be read.
    """
    fields = value if isinstance(value, dict) else {"bytes": value}
    content, path = fields.get("bytes"), fields.get("path")
    if isinstance(content, bytes):
        return content
    if content is None and isinstance(path, str) and path and not _URL.match(path):
        try:
            return (folder / path).read_bytes()
        except (OSError, ValueError) as problem:
            raise DataError(f"{name}: its file {folder / path} cannot be read; is it elsewhere?") from problem
    raise DataError(f"{name} holds no picture; fill the cell or leave the row out")


def class_names_in(schema: pyarrow.Schema, label: str) -> tuple[str, ...] | None:
    """The names that Hugging Face's own notes in a file give to the numbers of a label column; None without such notes."""
    try:
        notes = schema.metadata or {}
        names = json.loads(notes[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _list_parquet(path: Path, columns: Columns, labelled: bool) -> Listing:
    pyarrow_or_refuse(path)
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema, groups = file.schema_arrow, file.metadata
            if groups.num_rows > _MOST_ROWS:
                raise DataError(f"{path} has more than {_MOST_ROWS:,} rows; split it")
            image, label, part = _columns(columns, schema.names, path, labelled)
            is_text = _is_text(schema.field(image).type)
            if not is_text:
                _refuse_other_types(path, image, schema.field(image).type)
                _refuse_large_groups(path, image, groups)
            wanted = [name for name in (image if is_text else None, label, part) if name is not None]
            cells: Mapping[str, list[object]] = file.read(columns=wanted).to_pydict() if wanted else {}
            sizes = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
    except (pyarrow.ArrowException, OSError) as problem:
        raise DataError(f"{path} is no Parquet file that can be read: {one_line(problem)}") from problem
    files = _Files(path.parent)
    places = [(group, row) for group, size in enumerate(sizes) for row in range(size)]
    rows: list[tuple[str, Path | StoredPicture, object, object]] = []
    for number, (group, row) in enumerate(places):
        where = f"{path.name} row {number}"
        picture: Path | StoredPicture = (
            files.find(cells[image][number], where)
            if is_text
            else ParquetPicture(name=f"{path.name}/{number}", file=path, column=image, group=group, row=row)
        )
        rows.append((where, picture, cells[label][number] if label else None, cells[part][number] if part else None))
    if not rows:
        raise DataError(f"{path} has no rows; it should hold a picture and a label in each")
    return _listing(path, rows, files, class_names_in(schema, label) if label else None)


def _is_text(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return bool(
        types.is_string(kind) or types.is_large_string(kind) or (types.is_dictionary(kind) and types.is_string(kind.value_type))
    )


def _refuse_other_types(path: Path, column: str, kind: pyarrow.DataType) -> None:
    from pyarrow import types

    inner = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (types.is_binary(inner) or types.is_large_binary(inner) or types.is_null(inner)):
        raise DataError(
            f"{path}: column {column!r} holds {str(kind)[:80]}, not pictures; it should hold paths or the bytes of picture files"
        )


def _refuse_large_groups(path: Path, column: str, metadata: Any) -> None:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = (group.column(place) for place in range(group.num_columns))
        size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)
        if size > _LARGEST_GROUP:
            raise DataError(
                f"{path}: row group {number} holds {size:,} bytes of pictures, which are read together; write it anew with 100 rows a group"
            )


def one_line(problem: Exception) -> str:
    """What another library's error says, on one line."""
    return " ".join(str(problem).split())[:300] or type(problem).__name__
