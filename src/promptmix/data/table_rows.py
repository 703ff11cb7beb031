"""What rows of every kind of table become: pictures that were found, their labels and parts."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from promptmix.data.classes import number_in
from promptmix.data.images import StoredPicture, UnusablePicture
from promptmix.data.listing import Columns, Listed, Listing, named_part, pick_column
from promptmix.errors import DataError, listed

__all__ = ["ADDRESS", "MOST_ROWS", "FoundFiles", "choose_columns", "label_in", "listing_of", "no_rows", "picture_in"]

MOST_ROWS = 10_000_000
ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]+://|data:)", re.IGNORECASE)
_NO_LABEL = frozenset({"", "nan"})  # as gaps are written by other programs; "none" and "null" are classes to some people


def picture_in(cell: object, folder: Path, where: str) -> Path | StoredPicture:
    """The picture that a cell names, or one that cannot be read where it can name none."""
    try:
        return _path_in(cell, folder, where)
    except DataError as problem:
        return UnusablePicture(name=where, reason=str(problem))


def no_rows(path: Path) -> DataError:
    """The error of a table without rows."""
    return DataError(f"{path} has no rows; it should hold a picture and a label in each")


def choose_columns(columns: Columns, there: Sequence[str], path: Path, labelled: bool) -> tuple[str, str | None, str | None]:
    """The columns of pictures, labels and parts among those that are ``there``; the last two may be None.

    Raises:
        DataError: none is known by its name.
        ConfigError: there is no column of a given name.
    """
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


def listing_of(
    path: Path,
    rows: Sequence[tuple[str, Path | StoredPicture, object, object]],
    files: FoundFiles,
    class_names: tuple[str, ...] | None = None,
) -> Listing:
    """The listing of a table's rows, each with where it stands, its picture, label and part.

    Raises:
        DataError: a file is missing, or a label or part cannot be one.
    """
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
    if ADDRESS.match(name):
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


class FoundFiles:
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
