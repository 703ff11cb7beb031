"""Image features on disk, so that a picture is encoded once for all methods, seeds, shots and sweeps.

One SQLite file a backbone, rows keyed by the content of the picture and the name of the view. A cache may slow a run down or
speed it up, but never fails it: what is damaged counts as missing, and where nothing can be stored the run goes on without. A
vector from here is the one that would be calculated, bit for bit on the same machine with the same torch where pictures are encoded in
steady batches (``steady`` of :func:`~promptmix.features.extract.iter_features`), as they are to learn and to measure; else up to the
rounding of a tower in batches of another size, about 1e-7.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32

from promptmix.runtime import short_hash

__all__ = ["FeatureCache", "Key", "Vector", "default_cache_folder"]

_logger = logging.getLogger(__name__)

Key: TypeAlias = tuple[str, str]  # content key of the picture, name of the view
Vector: TypeAlias = Float32[np.ndarray, "embedding"]

_PREFIX = "features-v2-"  # another number whenever the table, or the way from file to pixels, changes
_BUSY_SECONDS = 60.0  # how long one process waits for another to finish writing
_TABLE = """
CREATE TABLE IF NOT EXISTS features (
    content TEXT NOT NULL, view TEXT NOT NULL, width INTEGER NOT NULL, vector BLOB NOT NULL, crc32 INTEGER NOT NULL,
    PRIMARY KEY (content, view)
)
"""
# The file is no database, is inconsistent, or is a database with other tables than ours.
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH})


def default_cache_folder() -> Path:
    """The folder named by PROMPTMIX_CACHE, else ``promptmix`` in XDG_CACHE_HOME or ``~/.cache``.

    Raises:
        RuntimeError: neither is set and this user has no home folder.
    """
    named = os.environ.get("PROMPTMIX_CACHE")
    if named:
        return Path(named).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "promptmix"


class FeatureCache:
    """Vectors on disk. Several threads and processes may read and write at the same time; no method raises.

    Attributes:
        folder: where the files are; None where this user has no folder for caches, and nothing is stored.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._warned = False
        self._readable = self._writable = True
        self.folder = folder
        if folder is None:
            try:
                self.folder = default_cache_folder()
            except RuntimeError as problem:
                self._readable = self._writable = False
                self._warn_once(problem)

    def get_many(self, fingerprint: str, keys: Iterable[Key]) -> dict[Key, Vector]:
        """The stored vectors of a backbone's pictures; a key that is not stored, or whose row is damaged, is left out."""
        path = self._path(fingerprint)
        if path is None or not self._readable:
            return {}
        keys = list(keys)
        for _ in range(2):  # once more after a damaged file was set aside
            identity = _identity(path)
            if identity is None:
                return {}
            try:
                with _connected(path) as connection:
                    return _read_rows(connection, keys)
            except sqlite3.Error as problem:
                if not _set_aside(path, identity, problem):
                    self._readable = False
                    self._warn_once(problem)
                    return {}
        return {}

    def put_many(self, fingerprint: str, vectors: Mapping[Key, Vector]) -> None:
        """Store vectors, all in one transaction; what was stored under a key before is replaced."""
        path = self._path(fingerprint)
        if path is None or not self._writable or not vectors:
            return
        rows = [_row(key, vector) for key, vector in vectors.items()]
        problem: Exception
        for _ in range(2):  # once more after a damaged file was set aside
            identity = _identity(path)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with _connected(path) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?, ?)", rows)
                    connection.execute("COMMIT")
                return
            except OSError as failure:
                problem = failure
                break
            except sqlite3.Error as failure:
                problem = failure
                if not _set_aside(path, identity, failure):
                    break
        self._writable = False
        self._warn_once(problem)

    def size(self) -> int:
        """Bytes on disk, those of files set aside included."""
        total = 0
        for path in self._files():
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total

    def clear(self) -> None:
        """Remove every file of the cache, and nothing else in its folder."""
        for path in self._files():
            try:
                path.unlink(missing_ok=True)
            except OSError as problem:
                _logger.warning("%s cannot be removed: %s", path, problem.strerror)

    def _path(self, fingerprint: str) -> Path | None:
        # A fingerprint is hex digits; anything else must not become a path.
        name = fingerprint if fingerprint.isascii() and fingerprint.isalnum() else short_hash(fingerprint)
        return None if self.folder is None else self.folder / f"{_PREFIX}{name}.sqlite"

    def _files(self) -> list[Path]:
        return [] if self.folder is None else sorted(self.folder.glob(f"{_PREFIX}*.sqlite*"))

    def _warn_once(self, problem: Exception) -> None:
        if not self._warned:
            self._warned = True
            where = self.folder or "no folder"
            _logger.warning(
                "going on without the feature cache (%s: %s); set PROMPTMIX_CACHE to a folder with room that can be written",
                where,
                problem,
            )


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for one piece of work; none outlives it, so nothing is shared with other threads or a forked process."""
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        _prepare(connection)
        yield connection
    finally:
        connection.close()


def _prepare(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(_TABLE)
            return
        except sqlite3.OperationalError as problem:
            # SQLite does not wait by itself where two processes make the same file a WAL file.
            if _code(problem) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _read_rows(connection: sqlite3.Connection, keys: Iterable[Key]) -> dict[Key, Vector]:
    found: dict[Key, Vector] = {}
    damaged: list[Key] = []
    connection.execute("BEGIN")
    for key in keys:
        row = connection.execute("SELECT width, vector, crc32 FROM features WHERE content = ? AND view = ?", key).fetchone()
        if row is None:
            continue
        width, stored, checksum = row
        # SQLite does not hold a column to its type, so a damaged row may have anything anywhere.
        whole = isinstance(stored, bytes) and len(stored) > 0 and len(stored) == 4 * width and _checksum(key, stored) == checksum
        if whole:
            found[key] = np.frombuffer(stored, dtype="<f4").astype(np.float32)
        else:
            damaged.append(key)
    connection.execute("COMMIT")
    if damaged:
        _logger.warning("%d damaged rows of the feature cache are encoded again", len(damaged))
        # Where they cannot be deleted they stay damaged, and are found to be so again.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.executemany("DELETE FROM features WHERE content = ? AND view = ?", damaged)
    return found


def _row(key: Key, vector: Vector) -> tuple[str, str, int, bytes, int]:
    stored = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return (*key, len(stored) // 4, stored, _checksum(key, stored))


def _checksum(key: Key, stored: bytes) -> int:
    """Of the vector and its key, so that a vector under another picture's key is damage too."""
    return zlib.crc32(stored, zlib.crc32("\n".join(key).encode()))


def _code(problem: sqlite3.Error) -> int:
    """SQLite's primary result code; -1 where the error is Python's own."""
    return getattr(problem, "sqlite_errorcode", -1) & 0xFF


def _identity(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _set_aside(path: Path, identity: int | None, problem: sqlite3.Error) -> bool:
    """Rename a damaged database to ``*.damaged-N`` and say so; False where the problem is not damage or renaming fails.

    ``identity`` is that of the file when it was opened: if another process has put a new file in its place since, that one
    is left alone.
    """
    if _code(problem) not in _DAMAGED:
        return False
    if _identity(path) != identity:
        return True
    number = 1
    while path.with_name(f"{path.name}.damaged-{number}").exists():
        number += 1
    aside = path.with_name(f"{path.name}.damaged-{number}")
    try:
        # The journal goes first: left behind, it would be taken for that of the new file.
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
    except OSError:
        return False
    _logger.warning("the feature cache %s is damaged (%s); it was renamed to %s and a new one begun", path, problem, aside.name)
    return True
