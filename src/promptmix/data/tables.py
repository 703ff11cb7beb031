"""Tables that list pictures: CSV, TSV, JSON lines and Parquet. Paths count from the table; pictures in Parquet stay in it."""

from __future__ import annotations

import csv
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptmix.data.classes import number_in
from promptmix.data.images import FileState, StoredPicture, UnusablePicture, file_bytes, file_state, refuse_changed
from promptmix.data.listing import Columns, Listed, Listing, named_part, pick_column
from promptmix.errors import ConfigError, DataError, listed

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "TABLE_SUFFIXES",
    "ParquetPicture",
    "class_names_in",
    "iter_table",
    "label_in",
    "list_table",
    "one_line",
    "plain_values",
    "pyarrow_or_refuse",
    "stored_bytes",
]

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})

_LONGEST_LINE = 1_000_000  # characters; a row is a path, a label and a few words
_MOST_ROWS = 10_000_000
_LARGEST_GROUP = 2**31  # bytes of a row group's pictures, which are unpacked together
_MOST_AT_ONCE = 2**28  # bytes that a few rows may be unpacked to, before it is seen how many they are
_MOST_ROWS_AT_ONCE = 1000
_MOST_TEXT = 2**30  # characters of all cells of a column of labels, parts or paths
_MOST_KEPT = 2**28  # bytes of row groups that are kept unpacked
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]+://|data:)", re.IGNORECASE)
_NO_LABEL = frozenset({"", "nan"})  # as gaps are written by other programs; "none" and "null" are classes to some people


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
        return _list_parquet(path, columns, labelled)
    rows = list(_text_rows(path))
    if not rows:
        raise _no_rows(path)
    there = list(dict.fromkeys(name for _, row in rows for name in row))
    image, label, part = _columns(columns, there, path, labelled)
    files = _Files(path.parent)
    return _listing(
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
        yield from _iter_parquet(path, columns)
        return
    image = None
    for line, row in _text_rows(path):
        image = image or _columns(columns, list(row), path, False)[0]
        yield _picture_in(row.get(image), path.parent, f"{path.name} line {line}")
    if image is None:
        raise _no_rows(path)


def _picture_in(cell: object, folder: Path, where: str) -> Path | StoredPicture:
    try:
        return _path_in(cell, folder, where)
    except DataError as problem:
        return UnusablePicture(name=where, reason=str(problem))


def _file(path: Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the path")
    return path


def _no_rows(path: Path) -> DataError:
    return DataError(f"{path} has no rows; it should hold a picture and a label in each")


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
        number = number_in(text)
        if number is None:
            return None if text.casefold() in _NO_LABEL else text
        _refuse_negative(number, where)
        return text.partition(".")[0]
    if value is None or value != value:
        return None
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        raise DataError(f"{where}: label {str(value)[:80]!r} is neither a name nor a whole number")
    number = int(value)
    _refuse_negative(number, where)
    if class_names is None:
        return number
    if number >= len(class_names):
        raise DataError(f"{where}: label {number} has no name; the names that are there go from 0 to {len(class_names) - 1}")
    return class_names[number]


def _refuse_negative(number: int, where: str) -> None:
    if number < 0:
        shown = str(number)[:80]
        raise DataError(f"{where}: label {shown} is no number of a class, which start at 0; leave pictures without a class out")


def _in_full(path: Path) -> Path:
    return path.parent.resolve() / path.name


def _path_in(cell: object, folder: Path, where: str) -> Path:
    """The file that a cell of a table in a folder names, whether it is there or not.

    Raises:
        DataError: it names none.
    """
    if not isinstance(cell, str) or not cell.strip():
        raise DataError(f"{where} has no picture; fill the cell or leave the row out")
    name = cell.strip()
    if _URL.match(name):
        raise DataError(f"{where}: {name[:200]} is an address; pictures are not fetched, so download them and name the files")
    if "\0" in name:
        raise DataError(f"{where}: {name[:200]!r} is not the path of a file")
    path = _inside(folder, name)
    if "\\" in name and not path.is_file():  # a table made on Windows
        path = _inside(folder, name.replace("\\", "/"))
    return path


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    return _in_full(path) if ".." in path.parts else path


class _Files:
    """The picture files that a table names, by paths from where it lies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._missing: list[tuple[str, Path]] = []
        self._found: set[Path] = set()

    def find(self, cell: object, where: str) -> Path:
        """The file that a cell names. Files that are missing are noted, to be told of together."""
        path = _path_in(cell, self._folder, where)
        if not path.is_file():
            self._missing.append((where, path))
        self._found.add(path.parent)
        return path

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
        state: of the file when it was listed.
    """

    name: str
    file: Path
    state: FileState
    column: str
    group: int
    row: int

    def read(self) -> bytes:
        refuse_changed(self.name, self.file, self.state, file_state(self.file))
        values = _unpacked(os.getpid()).group(self)
        return stored_bytes(values[self.row], self.name, self.file.parent)


class _TooLarge(DataError):
    """A row group that is never unpacked."""


class _Unpacked:
    """Row groups that were read last. The pictures of a group are unpacked together, so they are kept for their neighbours: as
    many groups as have room, and always the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # one group is read at a time
        self._groups: OrderedDict[tuple[Path, FileState, str, int], pyarrow.ChunkedArray] = OrderedDict()
        self._refused: dict[tuple[Path, FileState, str, int], str] = {}  # else each picture would take as long to refuse

    def group(self, picture: ParquetPicture) -> pyarrow.ChunkedArray:
        """The column of the row group that a picture lies in."""
        key = (picture.file, picture.state, picture.column, picture.group)
        with self._lock:
            if key in self._refused:
                raise _TooLarge(self._refused[key])
            if key not in self._groups:
                try:
                    values = _parquet_group(picture.file, picture.column, picture.group)
                except _TooLarge as problem:
                    self._refused[key] = str(problem)
                    raise
                refuse_changed(picture.name, picture.file, picture.state, file_state(picture.file))
                self._groups[key] = values
            self._groups.move_to_end(key)
            while len(self._groups) > 1 and sum(one.get_total_buffer_size() for one in self._groups.values()) > _MOST_KEPT:
                self._groups.popitem(last=False)
            return self._groups[key]


@lru_cache(maxsize=1)
def _unpacked(process: int) -> _Unpacked:
    """A process has its own: a forked one may be born while its parent holds the lock."""
    return _Unpacked()


def _parquet_group(file: Path, column: str, group: int) -> pyarrow.ChunkedArray:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as opened:
            # Few rows at a time: a value that many rows share is stored once, so they may be larger than the file by any factor.
            chunks: list[pyarrow.Array] = []
            size = 0
            for batch in opened.iter_batches(_rows_at_once([opened.metadata.row_group(group)], column), [group], [column]):
                size += batch.nbytes
                _refuse_large_group(file, group, size)
                chunks.append(batch.column(0))
            return pyarrow.chunked_array(chunks, opened.schema_arrow.field(column).type)
    except (pyarrow.ArrowException, OSError, IndexError, KeyError) as problem:
        raise DataError(f"{file} cannot be read: {one_line(problem)}") from problem


def _rows_at_once(groups: Sequence[Any], column: str) -> int:
    """How many rows of a column may be unpacked together: each value is at most as large as all that its row group stores."""
    largest = max((_stored_size(group, column) for group in groups), default=0)
    return max(1, min(_MOST_ROWS_AT_ONCE, _MOST_AT_ONCE // max(1, largest)))


def _stored_size(group: Any, column: str) -> int:
    """Bytes of a column in a row group, of which a value that many rows share counts once."""
    chunks = (group.column(place) for place in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)


def stored_bytes(cell: pyarrow.Scalar, name: str, folder: Path) -> bytes:
    """The bytes of a cell that holds them, as ``{bytes, path}`` or alone; of a cell with a path alone those of that file.

    Raises:
        DataError: the cell is empty, or the path is an address, is not UTF-8 or cannot be read.
    """
    try:
        value = cell.as_py()
    except UnicodeDecodeError as problem:
        raise DataError(f"{name}: the path of its file is not UTF-8; write it anew") from problem
    fields = value if isinstance(value, dict) else {"bytes": value}
    content, path = fields.get("bytes"), fields.get("path")
    if isinstance(content, bytes):
        return content
    if content is None and isinstance(path, str) and path and not _URL.match(path):
        try:
            return file_bytes(folder / path)
        except DataError as problem:
            raise DataError(f"{name}: its file cannot be read; is it elsewhere? {problem}") from problem
    raise DataError(f"{name} holds no picture; fill the cell or leave the row out")


def plain_values(arrays: Iterable[pyarrow.Array], column: str, source: object) -> list[Any]:
    """The cells of a column, given a few rows at a time.

    Raises:
        DataError: they hold no UTF-8 text, or more than a column of labels or paths ever does.
    """
    cells: list[Any] = []
    size = 0
    try:
        for array in arrays:
            for start in range(0, len(array), _MOST_ROWS_AT_ONCE):
                some = array.slice(start, _MOST_ROWS_AT_ONCE).to_pylist()
                size += sum(len(cell) for cell in some if isinstance(cell, str | bytes | list | dict))
                if size > _MOST_TEXT:
                    raise DataError(
                        f"{source}: column {column!r} holds more than {_MOST_TEXT:,} characters; is it the right one?"
                    )
                cells += some
    except UnicodeDecodeError as problem:
        raise DataError(f"{source}: column {column!r} holds text that is not UTF-8; write it anew") from problem
    return cells


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

    state = file_state(path)  # before it is read: what is written meanwhile is noticed
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
            row_groups = [groups.row_group(number) for number in range(groups.num_row_groups)]
            sizes = [group.num_rows for group in row_groups]
            cells = {
                name: plain_values(
                    (batch.column(0) for batch in file.iter_batches(_rows_at_once(row_groups, name), columns=[name])), name, path
                )
                for name in wanted
            }
    except (pyarrow.ArrowException, OSError) as problem:
        raise DataError(f"{path} is no Parquet file that can be read: {one_line(problem)}") from problem
    files = _Files(path.parent)
    rows: list[tuple[str, Path | StoredPicture, object, object]] = []
    for number, stored in enumerate(_parquet_pictures(path, state, image, sizes)):
        where = f"{path.name} row {number}"
        picture = files.find(cells[image][number], where) if is_text else stored
        rows.append((where, picture, cells[label][number] if label else None, cells[part][number] if part else None))
    if not rows:
        raise _no_rows(path)
    return _listing(path, rows, files, class_names_in(schema, label) if label else None)


def _iter_parquet(path: Path, columns: Columns) -> Iterator[Path | StoredPicture]:
    pyarrow_or_refuse(path)
    import pyarrow
    from pyarrow import parquet

    state = file_state(path)
    try:
        with parquet.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            image, _, _ = _columns(columns, schema.names, path, False)
            if not metadata.num_rows:
                raise _no_rows(path)
            if not _is_text(schema.field(image).type):
                _refuse_other_types(path, image, schema.field(image).type)
                yield from _parquet_pictures(path, state, image, [group.num_rows for group in groups])
                return
            number = 0
            for batch in file.iter_batches(_rows_at_once(groups, image), columns=[image]):
                for cell in plain_values([batch.column(0)], image, path):
                    yield _picture_in(cell, path.parent, f"{path.name} row {number}")
                    number += 1
    except (pyarrow.ArrowException, OSError) as problem:
        raise DataError(f"{path} is no Parquet file that can be read: {one_line(problem)}") from problem


def _parquet_pictures(path: Path, state: FileState, column: str, sizes: Sequence[int]) -> Iterator[ParquetPicture]:
    """The rows of row groups of these sizes."""
    places = ((group, row) for group, size in enumerate(sizes) for row in range(size))
    for number, (group, row) in enumerate(places):
        yield ParquetPicture(name=f"{path.name}/{number}", file=path, state=state, column=column, group=group, row=row)


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
        _refuse_large_group(path, number, _stored_size(metadata.row_group(number), column))


def _refuse_large_group(path: Path, number: int, size: int) -> None:
    if size > _LARGEST_GROUP:
        raise _TooLarge(
            f"{path}: row group {number} holds {size:,} bytes of pictures or more, which are read together; write it anew with 100 rows a group"
        )


def one_line(problem: Exception) -> str:
    """What another library's error says, on one line."""
    return " ".join(str(problem).split())[:300] or type(problem).__name__
