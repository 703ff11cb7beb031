"""Parquet files as tables of pictures, and the cells of Arrow's columns; pyarrow is imported when one is read."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptmix.data.images import FileState, StoredPicture, file_bytes, file_state, refuse_changed
from promptmix.data.listing import Columns, Listing
from promptmix.data.table_rows import ADDRESS, MOST_ROWS, FoundFiles, choose_columns, listing_of, no_rows, picture_in
from promptmix.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "ParquetPicture",
    "class_names_in",
    "iter_parquet",
    "list_parquet",
    "one_line",
    "plain_values",
    "pyarrow_or_refuse",
    "stored_bytes",
]

_LARGEST_GROUP = 2**31  # bytes of a row group's pictures, which are unpacked together
_MOST_AT_ONCE = 2**28  # bytes that a few rows may be unpacked to, before it is seen how many they are
_MOST_ROWS_AT_ONCE = 1000
_MOST_TEXT = 2**30  # characters of all cells of a column of labels, parts or paths
_MOST_KEPT = 2**28  # bytes of row groups that are kept unpacked


def list_parquet(path: Path, columns: Columns, labelled: bool) -> Listing:
    """A Parquet file's pictures: see :func:`promptmix.data.tables.list_table`."""
    pyarrow_or_refuse(path)
    import pyarrow
    from pyarrow import parquet

    state = file_state(path)  # before it is read: what is written meanwhile is noticed
    try:
        with parquet.ParquetFile(path) as file:
            schema, groups = file.schema_arrow, file.metadata
            if groups.num_rows > MOST_ROWS:
                raise DataError(f"{path} has more than {MOST_ROWS:,} rows; split it")
            image, label, part = choose_columns(columns, schema.names, path, labelled)
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
    files = FoundFiles(path.parent)
    rows: list[tuple[str, Path | StoredPicture, object, object]] = []
    for number, stored in enumerate(_parquet_pictures(path, state, image, sizes)):
        where = f"{path.name} row {number}"
        picture = files.find(cells[image][number], where) if is_text else stored
        rows.append((where, picture, cells[label][number] if label else None, cells[part][number] if part else None))
    if not rows:
        raise no_rows(path)
    return listing_of(path, rows, files, class_names_in(schema, label) if label else None)


def iter_parquet(path: Path, columns: Columns) -> Iterator[Path | StoredPicture]:
    """The same row by row, without labels: see :func:`promptmix.data.tables.iter_table`."""
    pyarrow_or_refuse(path)
    import pyarrow
    from pyarrow import parquet

    state = file_state(path)
    try:
        with parquet.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            image, _, _ = choose_columns(columns, schema.names, path, False)
            if not metadata.num_rows:
                raise no_rows(path)
            if not _is_text(schema.field(image).type):
                _refuse_other_types(path, image, schema.field(image).type)
                yield from _parquet_pictures(path, state, image, [group.num_rows for group in groups])
                return
            number = 0
            for batch in file.iter_batches(_rows_at_once(groups, image), columns=[image]):
                for cell in plain_values([batch.column(0)], image, path):
                    yield picture_in(cell, path.parent, f"{path.name} row {number}")
                    number += 1
    except (pyarrow.ArrowException, OSError) as problem:
        raise DataError(f"{path} is no Parquet file that can be read: {one_line(problem)}") from problem


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
    if content is None and isinstance(path, str) and path and not ADDRESS.match(path):
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
