"""Where the features of many pictures are held: in memory, or in a file without a name where they would fill it."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float32

from promptmix.errors import DataError
from promptmix.runtime import writing

__all__ = ["new_table"]

_MOST_IN_MEMORY = 2**30  # bytes
_BLOCK = bytes(2**20)


def new_table(shape: tuple[int, int, int], folder: Path | None = None) -> Float32[np.ndarray, "picture view embedding"]:
    """A table to be filled. One above 1 GiB lies in a temporary file, which is gone with the table, however the process ends.

    Args:
        folder: where the file goes; the system's temporary folder where it is None or cannot be written.

    Raises:
        DataError: there is no room for the file.
    """
    size = 4 * math.prod(shape)
    if size <= _MOST_IN_MEMORY:
        return np.empty(shape, np.float32)
    if folder is not None:
        try:
            return _in_file(shape, size, folder)
        except DataError:
            pass  # a cache that cannot be written never fails a run
    return _in_file(shape, size, Path(tempfile.gettempdir()))


def _in_file(shape: tuple[int, int, int], size: int, folder: Path) -> Float32[np.ndarray, "picture view embedding"]:
    with writing(folder / "features"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix="features-", suffix=".tmp") as file:
            _reserve(file, size)
            return np.memmap(file, np.float32, "r+", shape=shape)


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the room now: where the disk is full, writing to the mapping later would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for first in range(0, size, len(_BLOCK)):
        file.write(_BLOCK[: size - first])
    file.flush()
