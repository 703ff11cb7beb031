"""A large table lies in a file that nobody sees and nobody has to remove."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from promptmix.errors import DataError
from promptmix.features import table
from promptmix.features.table import new_table

SHAPE = (100, 3, 16)


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(table, "_MOST_IN_MEMORY", 100 * 3 * 16 * 4 - 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path


def filled(made: np.ndarray) -> np.ndarray:
    made[:] = np.arange(made.size).reshape(made.shape)
    return made


def test_up_to_the_limit_it_is_in_memory(small_limit: Path) -> None:
    assert not isinstance(new_table((99, 3, 16), small_limit), np.memmap)
    assert not isinstance(new_table((0, 3, 16), small_limit), np.memmap)


@pytest.mark.parametrize("can_reserve", [True, False])
def test_above_it_is_in_a_file_without_a_name(small_limit: Path, can_reserve: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_reserve:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    made = filled(new_table(SHAPE, small_limit / "cache"))
    assert isinstance(made, np.memmap)
    assert (made.shape, made.dtype) == (SHAPE, np.float32)
    assert float(made.sum()) == sum(range(4800))
    if os.name == "posix":
        assert list((small_limit / "cache").iterdir()) == []


def test_without_a_folder_or_where_it_cannot_be_written_it_is_among_the_temporary_files(small_limit: Path) -> None:
    (small_limit / "file").write_text("in the way")
    for folder in (None, small_limit / "file" / "cache"):
        assert isinstance(filled(new_table(SHAPE, folder)), np.memmap)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is taken in another way")
def test_a_full_disk_is_told_before_the_work(small_limit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="no disk space left") as caught:
        new_table(SHAPE, small_limit / "cache")
    assert "\n" not in str(caught.value)
