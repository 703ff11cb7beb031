"""A split is a file: class order, and for each part the relative path (or name), label and content hash of every picture.

{"format": "promptmix-split", "version": 1, "class_names": ["cat", "dog"],
 "parts": {"train": [["cat/1.jpg", 0, "5f70bf18a0860070"], ...], "test": [...]}, "split_hash": "..."}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from promptmix.data.images import PictureSource, StoredPicture, content_key
from promptmix.data.records import PARTS, PictureSet, Record
from promptmix.errors import DataError, did_you_mean
from promptmix.runtime import short_hash, write_json

__all__ = ["in_part", "is_split_file", "read_split", "split_hash", "write_split"]

_Row = tuple[str, int, str]  # relative path, label, first 16 hex digits of the sha256 of the file


class _SplitFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["promptmix-split"] = "promptmix-split"
    version: Literal[1] = 1
    class_names: tuple[str, ...]
    parts: dict[Literal["train", "val", "test"], list[_Row]]
    split_hash: str


def write_split(path: Path, parts: Mapping[str, PictureSet]) -> str:
    """Write the split file and return its hash.

    Raises:
        DataError: a part is not called train, val or test, parts differ in root or classes, a picture lies outside the root,
            is in two parts or cannot be read, or the file cannot be written.
    """
    class_names, rows = _described(parts)
    hashed = _hash(class_names, rows)
    contents = {
        "format": "promptmix-split",
        "version": 1,
        "class_names": class_names,
        "parts": rows,
        "split_hash": hashed,
    }
    write_json(path, contents)
    return hashed


def split_hash(parts: Mapping[str, PictureSet]) -> str:
    """Sixteen hex digits that are equal for equal splits: same classes in the same order, same files in each part.

    Neither the root nor the order of the pictures matters.

    Raises:
        DataError: as :func:`write_split`.
    """
    return _hash(*_described(parts))


def is_split_file(path: Path) -> bool:
    """Whether a file says of itself that it is a split; of whatever version, and whether or not it could be used."""
    try:
        with path.open("rb") as file:
            # Pictures, which anybody may name by mistake, are told without reading all of them.
            content = file.read() if file.read(1) == b"{" else b""
        return dict(json.loads(b"{" + content)).get("format") == "promptmix-split"
    except (OSError, ValueError, RecursionError):
        return False


def in_part(path: Path, part: str, pictures: Iterable[PictureSource]) -> list[PictureSource]:
    """Those of some pictures that are in a part of a split, by their content, wherever they lie now. One that cannot be read is in none.

    Raises:
        DataError: the file is missing, damaged or edited.
    """
    there = {row[2] for name, rows in _stored(path).parts.items() if name == part for row in rows}

    def is_there(picture: PictureSource) -> bool:
        try:
            return _file_hash(picture) in there
        except DataError:
            return False

    return [picture for picture in pictures if is_there(picture)]


def read_split(path: Path, root: Path, stored: Iterable[StoredPicture] = ()) -> dict[str, PictureSet]:
    """The parts of a split file, their pictures below ``root``; every picture is read and compared with its hash.

    Args:
        stored: the pictures that lie inside other files, as their source lists them; the split knows them by their names, and
            they keep this order.

    Raises:
        DataError: the file is missing, damaged or edited, a path leads out of ``root``, or a picture is missing or changed.
    """
    split = _stored(path)
    rows: dict[str, list[_Row]] = {name: split.parts[name] for name in PARTS if name in split.parts}
    pictures: dict[str, Path | StoredPicture] = {picture.name: picture for picture in stored}
    # In the order in which they lie in their files: jumping from one row group of a table to another unpacks each again and again.
    places = {name: place for place, name in enumerate(pictures)}
    rows = {name: sorted(part_rows, key=lambda row: places.get(row[0], -1)) for name, part_rows in rows.items()}
    for part_rows in rows.values():
        for relative, _, expected in part_rows:
            picture = pictures.get(relative, root / relative)
            if isinstance(picture, Path) and not picture.is_file():
                raise DataError(f"{picture}, named in {path}, is missing; is {root} the right folder?")
            if _file_hash(picture) != expected:
                raise DataError(f"{picture} is not the picture that {path} was made with; restore it or make a new split")
    return {
        name: PictureSet(
            root=root,
            class_names=split.class_names,
            records=tuple(
                Record(picture=pictures.get(relative, root / relative), label=label) for relative, label, _ in part_rows
            ),
        )
        for name, part_rows in rows.items()
    }


def _stored(path: Path) -> _SplitFile:
    """What a split file says, as it was written."""
    try:
        text = path.read_bytes()
    except OSError as problem:
        raise DataError(f"split file {path} cannot be read: {problem.strerror}; check the path") from problem
    try:
        split = _SplitFile.model_validate_json(text)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{path} is not a split file of version 1: {where}: {first['msg']}; make it anew") from problem
    rows: dict[str, list[_Row]] = {name: split.parts[name] for name in PARTS if name in split.parts}
    _check_rows(rows, path)
    if _hash(split.class_names, rows) != split.split_hash:
        raise DataError(f"{path} was changed after it was written: its split_hash does not fit; make it anew")
    return split


def _file_hash(picture: PictureSource) -> str:
    return content_key(picture).removeprefix("file:")[:16]


def _hash(class_names: Sequence[str], rows: Mapping[str, Sequence[_Row]]) -> str:
    pieces: list[str] = ["classes", *class_names]
    for name in PARTS:
        if name in rows:
            pieces += ["part", name, *(str(item) for row in sorted(rows[name]) for item in row)]
    return short_hash(*pieces)


def _described(parts: Mapping[str, PictureSet]) -> tuple[tuple[str, ...], dict[str, list[_Row]]]:
    for name in parts:
        if name not in PARTS:
            raise DataError(f"a split has no part {name!r}{did_you_mean(name, PARTS)}")
    if not parts:
        raise DataError(f"a split needs at least one part of {', '.join(PARTS)}")
    first = next(iter(parts.values()))
    rows: dict[str, list[_Row]] = {}
    for name in PARTS:
        if name not in parts:
            continue
        part = parts[name]
        if part.root != first.root or part.class_names != first.class_names:
            raise DataError(f"part {name!r} of the split has another root or other classes than the first; all must share them")
        rows[name] = [(_relative(record.picture, part.root), record.label, _file_hash(record.picture)) for record in part.records]
    _check_rows(rows, first.root)
    return first.class_names, rows


def _relative(picture: Path | StoredPicture, root: Path) -> str:
    try:
        relative = picture.relative_to(root).as_posix() if isinstance(picture, Path) else picture.name
    except ValueError as problem:
        raise DataError(f"{picture} does not lie in {root}; a split names its pictures relative to one folder") from problem
    try:
        relative.encode()
    except UnicodeEncodeError as problem:
        raise DataError(f"the name {str(picture)!r} is not valid UTF-8 and cannot go into a split; rename the file") from problem
    return relative


def _check_rows(rows: Mapping[str, Sequence[_Row]], source: Path) -> None:
    """Refuse paths that leave the root, and a picture that is listed twice: what is trained on must not be tested on."""
    part_of: dict[str, str] = {}
    for name, part_rows in rows.items():
        for relative, _, _ in part_rows:
            climbs = ".." in re.split(r"[/\\]", relative)
            if climbs or relative.startswith(("/", "\\")) or PurePath(relative).drive:
                raise DataError(f"{source}: picture path {relative!r} leads out of the folder; use relative ones without '..'")
            if relative in part_of:
                raise DataError(f"{source}: picture {relative!r} is listed twice ({part_of[relative]} and {name}); list it once")
            part_of[relative] = name
