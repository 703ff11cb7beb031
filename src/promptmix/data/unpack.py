"""Archives of pictures to folders, whoever made the archives: nothing is written outside, no links are made, sizes have limits."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import lzma
import os
import re
import secrets
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from promptmix.data.images import PICTURE_SUFFIXES
from promptmix.data.records import PART_NAMES
from promptmix.data.whole_tar import WholeTar
from promptmix.errors import ConfigError, DataError, printable
from promptmix.runtime import writing

__all__ = ["ARCHIVE_SUFFIXES", "Unpacked", "unpack"]

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")

_MOST_FILES = 2_000_000
_MOST_GIGABYTES = 1_000_000
_MOST_AT_ONCE = 256 << 20  # bytes that a reader of archives may ask for; the index of a zip with all these files is smaller
_COPIED_AT_ONCE = 1 << 20
_MOST_BEHIND = 64  # times as much is looked at behind the end of a tar, which is filled up to a whole block
_LARGEST_TABLE = 100_000_000  # bytes of a table of names
_COMPRESSIONS = {b"\x1f\x8b": gzip, b"BZh": bz2, b"\xfd7zXZ\x00": lzma}
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RecursionError, NotImplementedError)
_LEFT_BEHIND = frozenset({"__MACOSX"})  # what archives from macOS hold beside the files


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """What came out.

    Attributes:
        files, size: how many files, and how many bytes they have together.
        unnamed: members that the table of names has no row for; they were left out.
        sources: the folders, below the one that was written, that hold class folders or a train and a test folder; that of most
            pictures first.
    """

    files: int
    size: int
    unnamed: tuple[str, ...]
    sources: tuple[Path, ...]


def unpack(
    archives: Sequence[Path],
    out: Path,
    *,
    names: Path | None = None,
    max_gigabytes: float = 20.0,
    on_progress: Callable[[int, int, str], None] = lambda done, total, detail: None,
) -> Unpacked:
    """Unpack tar (also gz, bz2, xz) and zip archives into a new folder, whole or not at all.

    One archive goes into the folder itself, several into a folder each, called as the archive. A folder that holds all of an
    archive, and in it more folders, is left away: ``photos/cat/1.jpg`` becomes ``cat/1.jpg``. Links in an archive to
    another of its files become copies of it.

    Args:
        archives: files, or folders of which every archive directly in them is meant.
        out: the folder to write; where it is there already, it must be empty.
        names: CSV table for pictures that lie without class folders: the first column is a file's name without its ending, the
            column ``name`` its class. Each picture goes into the folder of its class.
        max_gigabytes: the most that may come out, in 10^9 bytes, all archives together.
        on_progress: called for each archive with the number done and of all, and its name.

    Raises:
        DataError: an archive or the table is missing, damaged, too large, or holds a name that leads out, a link that leads out, a
            device, a file twice or a password; or ``out`` cannot be written or is not empty.
        ConfigError: ``max_gigabytes`` is not above 0, or more than a million.
    """
    if not 0 < max_gigabytes <= _MOST_GIGABYTES:
        raise ConfigError(f"--max-gigabytes {max_gigabytes} must be above 0, and at most {_MOST_GIGABYTES:,}")
    files = _archive_files(archives)
    classes = None if names is None else _read_names(names)
    out = Path(out).expanduser()
    with writing(out):
        if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
            raise DataError(f"{out} is there already; nothing is overwritten: choose another --out, or remove it first")
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
        staging.mkdir()
        try:
            writer = _Writer(limit=int(max_gigabytes * 1e9), max_gigabytes=max_gigabytes, classes=classes)
            for number, archive in enumerate(files):
                on_progress(number, len(files), archive.name)
                target = staging / (_stem(archive) if len(files) > 1 else "all")
                if target.exists():
                    raise DataError(f"two archives are called {_stem(archive)!r}; unpack them one by one")
                target.mkdir()
                with _told(archive):
                    _unpack_one(archive, target, writer)
                _without_only_folder(target)
            on_progress(len(files), len(files), "")
            if writer.files == 0:
                raise DataError(f"there are no files to unpack in {', '.join(str(archive) for archive in files[:3])}")
            (staging if len(files) > 1 else staging / "all").replace(out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return Unpacked(files=writer.files, size=writer.size, unnamed=tuple(writer.unnamed), sources=_sources_below(out))


# -------------------------------------------------------------------------------------------------------- what is given


def _archive_files(archives: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for given in archives:
        archive = Path(given).expanduser()
        if archive.is_dir():
            inside = sorted(path for path in archive.iterdir() if path.is_file() and path.name.lower().endswith(ARCHIVE_SUFFIXES))
            if not inside:
                raise DataError(f"folder {archive} holds no archive ({', '.join(ARCHIVE_SUFFIXES)})")
            files += inside
        elif archive.is_file():
            files.append(archive)
        else:
            raise DataError(f"there is no archive {archive}; check the path")
    return files


def _stem(archive: Path) -> str:
    suffixes = [suffix for suffix in ARCHIVE_SUFFIXES if archive.name.lower().endswith(suffix)]
    stem = archive.name[: -len(max(suffixes, key=len))] if suffixes else archive.name
    return stem.lstrip(".") or "archive"


def _read_names(path: Path) -> dict[str, str]:
    """The class of each file's name without ending."""
    try:
        if path.stat().st_size > _LARGEST_TABLE:
            raise DataError(f"{path} has more than {_LARGEST_TABLE:,} bytes; is it the table of names?")
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except OSError as problem:
        raise DataError(f"table of names {path} cannot be read: {problem.strerror}; check the path") from problem
    except (UnicodeDecodeError, csv.Error) as problem:
        raise DataError(f"table of names {path} is not CSV in UTF-8: {' '.join(str(problem).split())}") from problem
    header = [cell.strip() for cell in rows[0]] if rows else []
    if "name" not in header[1:]:
        there = ", ".join(header[:8]) or "nothing"
        raise DataError(f"table {path} needs a column 'name' after a first one with the names of files; its header is: {there}")
    column = header.index("name", 1)
    classes: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) <= column or not row[0].strip() or not row[column].strip():
            raise DataError(f"{path}, row {number}: the name of a file or that of its class is missing")
        stem, name = row[0].strip(), row[column].strip()
        if name.startswith(".") or re.search(r"[/\\\x00-\x1f]", name):
            raise DataError(
                f"{path}, row {number}: {name!r} cannot be the name of a folder; write it without / and control signs"
            )
        if classes.setdefault(stem, name) != name:
            raise DataError(f"{path}, row {number}: {stem!r} has two classes, {classes[stem]!r} and {name!r}")
    return classes


# ------------------------------------------------------------------------------------------------------------ unpacking


class _Writer:
    """Writes members of archives below a folder, and counts what they come to."""

    def __init__(self, *, limit: int, max_gigabytes: float, classes: dict[str, str] | None) -> None:
        self._limit, self._max_gigabytes, self._classes = limit, max_gigabytes, classes
        self._seen = 0
        self.files = 0
        self.size = 0
        self.unnamed: list[str] = []

    def place(self, name: str) -> PurePath | None:
        """Where a member goes, relative to its archive's folder; None for one that is left out."""
        self._seen += 1
        if self._seen > _MOST_FILES:
            raise DataError(f"there are more than {_MOST_FILES:,} files in it")
        relative = _checked(name)
        if not relative.parts or relative.parts[0] in _LEFT_BEHIND:
            return None
        if self._classes is None or relative.suffix.lower() not in PICTURE_SUFFIXES:
            return relative
        if relative.stem not in self._classes:
            self.unnamed.append(name)
            return None
        return PurePath(self._classes[relative.stem], relative.name)

    def expect(self, size: int) -> None:
        """Refuse a member before it is read, if it says itself that it is too large."""
        if self.size + size > self._limit:
            raise DataError(
                f"more than {self._max_gigabytes:g} GB would come out; give a larger --max-gigabytes if that is as it should be"
            )

    def write(self, read: Callable[[int], bytes], path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as problem:
            raise DataError(f"{path.parent.name!r} is the name of a file and of a folder at once") from problem
        try:
            with path.open("xb") as file:
                while chunk := read(_COPIED_AT_ONCE):
                    self.expect(len(chunk))
                    self.size += len(chunk)
                    file.write(chunk)
        except FileExistsError as problem:
            raise DataError(f"{path.name!r} is there twice") from problem
        self.files += 1


def _checked(name: str) -> PurePath:
    """A member's name as a relative path; the same rules on every system, whatever the archive was made on."""
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in parts:
        raise DataError(f"member {printable(repr(name))} leads out of the folder; the archive is not to be trusted")
    if re.search(r"[\x00-\x1f]", name):
        raise DataError(f"the name of member {name!r} holds control characters; the archive is not to be trusted")
    if max(map(len, map(os.fsencode, parts))) > 255:
        raise DataError(f"the name of member {printable(name)[:40]!r}... is too long")
    return PurePath(*(part for part in parts if part not in ("", ".")))


def _unpack_one(archive: Path, target: Path, writer: _Writer) -> None:
    with archive.open("rb") as raw:
        start = raw.read(6)
        raw.seek(0)
        if zipfile.is_zipfile(raw) and start.startswith(b"PK"):
            _unpack_zip(raw, target, writer)
            return
        raw.seek(0)
        compression = next((module for magic, module in _COMPRESSIONS.items() if start.startswith(magic)), None)
        with contextlib.ExitStack() as opened:
            plain: io.BufferedIOBase = raw if compression is None else opened.enter_context(compression.open(raw))
            try:
                tar = opened.enter_context(WholeTar.open(fileobj=_ModestReads(plain), mode="r:"))
            except tarfile.ReadError as problem:
                raise DataError(f"not a tar or zip archive, or damaged ({' '.join(str(problem).split())})") from problem
            _unpack_tar(tar, target, writer)
            # What compresses a tar keeps its checksum behind it, where tars are not read any more.
            if plain.tell() < tar.offset:
                plain.seek(tar.offset)
            for _ in range(_MOST_BEHIND):
                if not plain.read(_COPIED_AT_ONCE):
                    break


def _unpack_tar(tar: tarfile.TarFile, target: Path, writer: _Writer) -> None:
    for member in tar:
        place = writer.place(member.name)
        # Python's own judgement of a member, besides ours: devices, and links and names that lead out.
        tarfile.data_filter(member, str(target))
        if member.isdir() or place is None:
            continue
        writer.expect(member.size)
        try:
            # Of a link, the file in this archive that it leads to: none is ever made on the disk.
            content = tar.extractfile(member)
        except KeyError as problem:
            raise DataError(f"member {member.name!r} is a link to {member.linkname!r}, which is not in the archive") from problem
        except RecursionError as problem:
            raise DataError(
                f"member {member.name!r} is a link that leads to itself; pack the file it should lead to"
            ) from problem
        if content is None:
            raise DataError(f"member {member.name!r} is a link to a folder; replace it by the folder itself")
        with content:
            writer.write(content.read, target / place)


def _unpack_zip(raw: io.BufferedIOBase, target: Path, writer: _Writer) -> None:
    with zipfile.ZipFile(_ModestReads(raw)) as archive:
        for member in archive.infolist():
            place = writer.place(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"member {member.filename!r} is a link or a device; pack the files themselves")
            if member.flag_bits & 1:
                raise DataError(f"member {member.filename!r} needs a password; unpack the archive yourself")
            if member.is_dir() or place is None:
                continue
            writer.expect(member.file_size)
            with archive.open(member) as content:
                writer.write(content.read, target / place)


class _ModestReads(io.RawIOBase):
    """A file of which no one can read very much at once: a damaged header could otherwise fill the memory."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _MOST_AT_ONCE:
            start = self._file.tell()
            content = self._file.read(_MOST_AT_ONCE)
            if len(content) == _MOST_AT_ONCE:
                raise DataError(
                    f"a header at byte {start:,} claims to be very large; the archive is damaged or not to be trusted"
                )
            return content
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


@contextlib.contextmanager
def _told(archive: Path) -> Iterator[None]:
    """Whatever is wrong with an archive, told with its name."""
    try:
        yield
    except DataError as problem:
        raise DataError(f"{archive}: {problem}") from problem
    except tarfile.FilterError as problem:
        raise DataError(f"{archive}: {' '.join(str(problem).split())}; the archive is not to be trusted") from problem
    except _DAMAGE as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise DataError(f"{archive} is damaged or cut off ({reason}); fetch it again") from problem
    except OSError as problem:
        if isinstance(problem, gzip.BadGzipFile) or problem.errno is None:  # the readers of gz and bz2 have no error of their own
            raise DataError(f"{archive} is damaged ({' '.join(str(problem).split())}); fetch it again") from problem
        raise


# ------------------------------------------------------------------------------------------------------ what came of it


def _without_only_folder(target: Path) -> None:
    """Where all lies in one folder that holds folders, the contents of that folder move up."""
    inside = list(target.iterdir())
    if len(inside) != 1 or not inside[0].is_dir() or not any(path.is_dir() for path in inside[0].iterdir()):
        return
    inner = inside[0].replace(target.with_name(f"{target.name}.{secrets.token_hex(4)}"))
    target.rmdir()
    inner.replace(target)


def _sources_below(out: Path) -> tuple[Path, ...]:
    """The folders that pictures lie two floors below, or of train and test the folder they are in; that of most pictures first."""
    counts: Counter[Path] = Counter()
    for folder, _, files in os.walk(out):
        pictures = sum(PurePath(name).suffix.lower() in PICTURE_SUFFIXES for name in files)
        if pictures and Path(folder) != out:
            counts[Path(folder).parent] += pictures
    split = {source.parent for source in counts if source != out and source.name.casefold() == "train"}
    sources: Counter[Path] = Counter()
    for source, pictures in counts.items():
        is_part = source.parent in split and source.name.casefold() in PART_NAMES
        sources[source.parent if is_part else source] += pictures
    return tuple(sorted(sources, key=lambda source: (-sources[source], source)))
