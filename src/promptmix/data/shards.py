"""Pictures in tar files, read where they lie: with a label file beside each, or in folders of classes. Nothing is unpacked."""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from promptmix.data.images import (
    LARGEST_FILE,
    PICTURE_SUFFIXES,
    FileState,
    StoredPicture,
    UnusablePicture,
    file_state,
    refuse_changed,
)
from promptmix.data.listing import Columns, Listed, Listing, pick_column
from promptmix.data.records import PART_NAMES, class_key, natural_key, parts_among
from promptmix.data.table_rows import label_in
from promptmix.data.whole_tar import WholeTar
from promptmix.errors import DataError, listed

__all__ = ["TarPicture", "find_shards", "is_compressed_tar", "iter_shards", "list_shards"]

_logger = logging.getLogger(__name__)

_LABEL_KINDS = ("cls", "json", "txt")  # the first that a picture has is its label
_LARGEST_LABEL = 1_000_000  # bytes of a label file
_MOST_SHARDS = 100_000
_MOST_PICTURES = 10_000_000
_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst|lz4?|z))$", re.IGNORECASE)
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_PART_WORD = re.compile(r"(?:^|[^a-z])(" + "|".join(sorted(PART_NAMES, key=len, reverse=True)) + r")(?![a-z])")


@dataclass(frozen=True, kw_only=True)
class TarPicture(StoredPicture):
    """A picture in a tar file that is not compressed.

    Attributes:
        archive: the tar file.
        state: of the tar file when it was listed.
        offset, size: where its bytes begin, and how many they are.
    """

    name: str
    archive: Path
    state: FileState
    offset: int
    size: int

    def read(self) -> bytes:
        return _bytes_at(self.archive, self.state, self.offset, self.size, self.name)


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A file in a shard; ``path`` is its name in there."""

    shard: Path
    state: FileState
    path: PurePosixPath
    offset: int
    size: int


def is_compressed_tar(name: str) -> bool:
    """Whether a file is a compressed tar by its name."""
    return _COMPRESSED.search(name) is not None


def find_shards(source: str) -> list[Path]:
    """The tar files that are meant by a file, a pattern with ``{0000..0003}`` or ``*``, or a folder with tar files in it or in
    its train/, val/ and test/; empty where a folder has none.

    Raises:
        DataError: a file is missing, or nothing matches the pattern.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        # Of a folder of millions of pictures neither a list is made nor each of them asked for.
        with os.scandir(path) as entries:
            inside = [path, *(path / entry.name for entry in entries if entry.name.casefold() in PART_NAMES and entry.is_dir())]
        found: list[Path] = []
        for folder in inside:
            with os.scandir(folder) as entries:
                found += (
                    folder / entry.name
                    for entry in entries
                    if entry.name.lower().endswith(".tar") and not entry.name.startswith(".") and entry.is_file()
                )
        return sorted(found, key=lambda one: natural_key(str(one)))
    if path.is_file():
        return [path]
    shards: list[Path] = []
    for pattern in _without_braces(str(path)):
        matches = (
            [Path(one) for one in sorted(glob.glob(pattern), key=natural_key)] if glob.has_magic(pattern) else [Path(pattern)]
        )
        shards += (one for one in matches if one not in shards)
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        of = f" (1 of {len(missing)} missing of {len(shards)})" if len(shards) > 1 else ""
        raise DataError(f"there is no file {missing[0]}{of}; check the path")
    if not shards:
        raise DataError(f"no file matches {source!r}; check the pattern")
    return shards


def list_shards(
    shards: Sequence[Path], columns: Columns | None = None, *, labelled: bool = True, known: Sequence[str] = ()
) -> Listing:
    """The pictures in tar files, with their labels and parts.

    Either files of one name belong together, such as ``0001.jpg`` with ``0001.cls`` (a name or a number), ``0001.json`` or
    ``0001.txt``; or pictures lie in folders of classes, which may lie in train/, val/ and test/. Where names of tar files say
    different parts, such as ``pets-train-0001.tar``, these are the parts. Members that are no plain files or whose names lead
    out of the archive are passed over.

    Args:
        labelled: False: labels and parts are not looked at, and need not be there.
        known: labels that are classes, so that a folder of this name is never taken for one around all classes.

    Raises:
        DataError: a file is no tar, is compressed or damaged, or a picture has no label or two files.
    """
    root = _root(shards)
    members: dict[tuple[Path, PurePosixPath], _Member] = {}
    for shard in shards:
        for member in _members(shard):
            members[shard, member.path] = member  # of two members of one name the later one counts, as when unpacked
            if len(members) > _MOST_PICTURES:
                raise DataError(f"{shard.parent} holds tar files with more than {_MOST_PICTURES:,} members; give fewer at a time")
    pictures = [member for member in members.values() if member.path.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        raise DataError(f"{_all(shards)} no picture (jpg, png, webp, ...)")
    stored = {id(member): _stored(member, root) for member in pictures}
    if not labelled:
        return Listing(root=root, pictures=[_unlabelled(stored[id(member)]) for member in pictures])
    label_files: dict[tuple[Path, str], dict[str, _Member]] = {}
    for member in members.values():
        key, kind = _key(member.path)
        if kind in _LABEL_KINDS:
            label_files.setdefault((member.shard, key), {})[kind] = member
    by_key: dict[tuple[Path, str], list[_Member]] = {}
    for member in pictures:
        by_key.setdefault((member.shard, _key(member.path)[0]), []).append(member)
    if label_files.keys() & by_key.keys():
        found = [
            Listed(picture=picture, label=label, part=None, where=picture.name)
            for member, label in _with_label_files(by_key, label_files, columns or Columns())
            for picture in [stored[id(member)]]
        ]
    else:
        found = [
            Listed(picture=stored[id(member)], label=label, part=part, where=stored[id(member)].name)
            for member, label, part in _in_class_folders(pictures, shards, {class_key(name) for name in known})
        ]
    return Listing(root=root, pictures=_with_parts_of_shards(found, root))


def iter_shards(shards: Sequence[Path]) -> Iterator[StoredPicture]:
    """The pictures in tar files in the order in which they lie there, without labels; only one of them is in memory.

    A tar file that is damaged or compressed, and a member that is too large, is itself one that cannot be read; what comes before
    and after it is not lost. Of two members of one name both are given.
    """
    root = _root(shards)
    for shard in shards:
        try:
            for member in _members(shard):
                if member.path.suffix.lower() in PICTURE_SUFFIXES:
                    try:
                        picture: StoredPicture = _stored(member, root)
                    except DataError as problem:
                        picture = UnusablePicture(name=_name_of(member, root), reason=str(problem))
                    yield picture
        except DataError as problem:
            yield UnusablePicture(name=shard.relative_to(root).as_posix(), reason=str(problem))


def _root(shards: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([shard.parent for shard in shards]))


def _all(shards: Sequence[Path]) -> str:
    return f"{shards[0]} holds" if len(shards) == 1 else f"{shards[0]} and {len(shards) - 1} more hold"


def _without_braces(pattern: str) -> list[str]:
    """The patterns that one with ``{0000..0003}`` stands for; numbers are as wide as the first."""
    patterns = [pattern]
    while found := _BRACES.search(patterns[0]):
        first, last = int(found[1]), int(found[2])
        if last < first or (last - first + 1) * len(patterns) > _MOST_SHARDS:
            raise DataError(f"{found[0]} in {pattern!r} must count up, over at most {_MOST_SHARDS:,} files")
        numbers = [str(number).zfill(len(found[1])) for number in range(first, last + 1)]
        patterns = [_BRACES.sub(number, one, count=1) for one in patterns for number in numbers]
    return patterns


def _members(shard: Path) -> Iterator[_Member]:
    """The plain files in a tar file."""
    passed_over = 0
    try:
        with shard.open("rb") as raw:
            state = file_state(raw.fileno())
            _refuse_compressed(shard, raw.read(6))
        with WholeTar.open(shard, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # else they are kept, a kilobyte each
                path = PurePosixPath(member.name)
                hidden = any(piece.startswith(".") or piece == "__MACOSX" for piece in path.parts if piece != "..")
                if member.isdir() or hidden:
                    continue
                if not member.isreg() or member.issparse() or path.is_absolute() or ".." in path.parts or "\\" in member.name:
                    passed_over += 1
                    continue
                yield _Member(shard=shard, state=state, path=path, offset=member.offset_data, size=member.size)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as problem:
        if isinstance(problem, DataError):
            raise
        raise DataError(
            f"{shard} is no tar file, or is cut off or damaged ({problem}); fetch it again or make it anew"
        ) from problem
    except OSError as problem:
        raise DataError(f"{shard} cannot be read: {problem.strerror or problem}") from problem
    if passed_over:
        _logger.warning("%s: %d members are links, devices or lead out of the archive; left out", shard, passed_over)


def _refuse_compressed(shard: Path, start: bytes) -> None:
    how = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
    if how is not None or is_compressed_tar(shard.name):
        raise DataError(
            f"{shard} is compressed{f' ({how})' if how else ''}, so its pictures cannot be read where they lie; uncompress it to a plain .tar, or promptmix data unpack it"
        )


def _stored(member: _Member, root: Path) -> TarPicture:
    name = _name_of(member, root)
    if member.size > LARGEST_FILE:
        raise DataError(f"{name} has {member.size:,} bytes, more than {LARGEST_FILE:,}; is it a picture?")
    return TarPicture(name=name, archive=member.shard, state=member.state, offset=member.offset, size=member.size)


def _name_of(member: _Member, root: Path) -> str:
    return f"{member.shard.relative_to(root).as_posix()}/{member.path}"


def _unlabelled(picture: TarPicture) -> Listed:
    return Listed(picture=picture, label=None, part=None, where=picture.name)


def _key(path: PurePosixPath) -> tuple[str, str]:
    """What files of one sample share, and the kind of this one: all before and after the first dot of the file's name."""
    stem, _, kind = path.name.partition(".")
    return (path.parent / stem).as_posix(), kind.casefold()


def _with_label_files(
    by_key: dict[tuple[Path, str], list[_Member]], label_files: dict[tuple[Path, str], dict[str, _Member]], columns: Columns
) -> Iterator[tuple[_Member, str | int | None]]:
    for (shard, key), pictures in by_key.items():
        # Of 1.jpg and 1.mask.png the picture is the one with the plain name.
        plain = [member for member in pictures if "." not in _key(member.path)[1]] or pictures
        if len(plain) > 1:
            raise DataError(f"{shard}: {plain[0].path} and {plain[1].path} share one label file; keep one picture of each name")
        labels = label_files.get((shard, key))
        if labels is None:
            raise DataError(f"{shard}: {plain[0].path} has no label file ({key}.cls, .json or .txt), but others have")
        yield plain[0], _label_of(labels, columns)


def _label_of(files: dict[str, _Member], columns: Columns) -> str | int | None:
    # A label column can only be a field of JSON.
    order = ("json",) if columns.label is not None else _LABEL_KINDS
    kind = next((kind for kind in order if kind in files), None)
    if kind is None:
        one = next(iter(files.values()))
        raise DataError(f"{one.shard}: {one.path} has no .json beside it that could hold {columns.label!r}")
    member = files[kind]
    where = f"{member.shard.name}/{member.path}"
    if member.size > _LARGEST_LABEL:
        raise DataError(f"{where} has {member.size:,} bytes, more than {_LARGEST_LABEL:,}; is it a label?")
    try:
        text = _bytes_at(member.shard, member.state, member.offset, member.size, where).decode("utf-8-sig")
        if kind != "json":
            return label_in(text, where)
        fields = json.loads(text)
    except (ValueError, RecursionError) as problem:
        if isinstance(problem, DataError):
            raise
        raise DataError(f"{where} is no {'JSON' if kind == 'json' else 'UTF-8 text'}: {problem}") from problem
    if not isinstance(fields, dict):
        raise DataError(f"{where} is no JSON object with a label in it")
    column = pick_column("label", columns.label, list(fields), where)
    if column is None:
        raise DataError(f"{where} has no label that is known by its name ({', '.join(fields)}); say which with --label-column")
    return label_in(fields[column], where)


def _in_class_folders(
    pictures: Sequence[_Member], shards: Sequence[Path], known: set[str]
) -> Iterator[tuple[_Member, str, str | None]]:
    """Pictures with class and part by the folders they lie in, below folders that all have in common."""
    folders = [member.path.parts[:-1] for member in pictures]
    depth = 0
    while all(len(parts) > depth + 1 for parts in folders):
        names = {parts[depth] for parts in folders}
        if len(names) > 1 or class_key(next(iter(names))) in known or next(iter(names)).casefold() in PART_NAMES:
            break
        depth += 1
    archive = listed(map(str, shards), most=1)
    inside: dict[str, set[str]] = {}
    for parts in folders:
        if len(parts) > depth:
            inside.setdefault(parts[depth], set()).update(parts[depth + 1 : depth + 2])
    part_of = parts_among(inside, archive)
    for member, parts in zip(pictures, folders, strict=True):
        if len(parts) <= depth:
            raise DataError(
                f"{_all(shards)} pictures without labels, such as {member.path}; put them into folders of classes, or a label file such as {member.path.stem}.cls beside each"
            )
        if not part_of:
            yield member, parts[depth], None
        elif parts[depth] in part_of:
            if len(parts) == depth + 1:
                raise DataError(f"{archive}: {member.path} is in no folder of a class; put it into one or leave it out")
            yield member, parts[depth + 1], part_of[parts[depth]]


def _with_parts_of_shards(pictures: list[Listed], root: Path) -> list[Listed]:
    """Parts by the names of tar files, where they say different ones.

    Raises:
        DataError: then another says none.
    """
    if any(one.part is not None for one in pictures):
        return pictures
    part_of: dict[Path, str | None] = {}
    for one in pictures:
        assert isinstance(one.picture, TarPicture)
        shard = one.picture.archive
        if shard not in part_of:
            found = _PART_WORD.search(shard.relative_to(root).as_posix().casefold())
            part_of[shard] = None if found is None else PART_NAMES[found[1]]
    if len(set(part_of.values()) - {None}) < 2:
        return pictures
    nameless = next((shard for shard, part in part_of.items() if part is None), None)
    if nameless is not None:
        other = next(shard for shard, part in part_of.items() if part is not None)
        raise DataError(
            f"{nameless} is in no part, but others are by their names, such as {other.name}; put train, val or test into its name, or give a pattern that leaves it out"
        )
    return [
        Listed(picture=one.picture, label=one.label, part=part_of[one.picture.archive], where=one.where)
        for one in pictures
        if isinstance(one.picture, TarPicture)
    ]


def _bytes_at(archive: Path, state: FileState, offset: int, size: int, name: str) -> bytes:
    try:
        with archive.open("rb") as file:
            refuse_changed(name, archive, state, file_state(file.fileno()))
            file.seek(offset)
            content = file.read(size)
    except OSError as problem:
        raise DataError(f"{name} cannot be read: {archive}: {problem.strerror}") from problem
    if len(content) < size:
        raise DataError(f"{name} is cut off: {archive} ends {size - len(content):,} bytes too early; it was not copied whole")
    return content
