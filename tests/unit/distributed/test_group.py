"""Who is taken for lost, what passes for a failure of the others, and how much memory it takes to talk."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.many_ranks import on_ranks
from torch import Tensor
from torch.distributed import FileStore

from promptmix.distributed.group import collective, gather_json, group_of_ranks, lost_ranks, num_ranks_here, rank
from promptmix.errors import LostRankError

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"


@pytest.fixture
def ended() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@linux_only
@pytest.mark.parametrize("elsewhere", ["another container", "another machine", ""])
def test_a_process_number_of_elsewhere_says_nothing_here(
    elsewhere: str, ended: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines and containers may share a name, not their processes."""
    with monkeypatch.context() as there:
        there.setattr(os, "getpid", lambda: ended)
        if elsewhere == "another container":
            there.setattr(os, "readlink", lambda path: "pid:[1]")
        if elsewhere == "another machine":
            read = Path.read_text
            is_boot = "/proc/sys/kernel/random/boot_id".__eq__
            there.setattr(Path, "read_text", lambda path, **more: "other\n" if is_boot(str(path)) else read(path, **more))
        group = group_of_ranks(FileStore(str(tmp_path / "store"), 1), 0, 1)
        group.__enter__()
    try:
        lost = lost_ranks()
        assert num_ranks_here() == 1
    finally:
        group.__exit__(None, None, None)
    assert (lost is None) == bool(elsewhere)
    assert lost is None or "rank 0 of 1 ended without a word" in str(lost)


@pytest.mark.parametrize("kind", [RuntimeError, torch.OutOfMemoryError])
def test_memory_that_runs_out_is_no_lost_rank(kind: Callable[[str], Exception]) -> None:
    with pytest.raises(RuntimeError, match="can't allocate"), collective():
        raise kind(ALLOCATOR)


def test_what_else_fails_together_is_a_lost_rank() -> None:
    with pytest.raises(LostRankError, match="no longer answers"), collective():
        raise RuntimeError("Connection closed by peer")


def memory_of_talking() -> dict[str, Tensor]:
    said = "word" * 2**18
    tracemalloc.start()
    heard = gather_json(said + str(rank()))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_ranks_here() == 2 and lost_ranks() is None
    assert [text[-5:] for text in heard] == ["word0", "word1"]
    return {"bytes for one": torch.tensor(most / len(said))}


def test_long_words_are_not_taken_apart(tmp_path: Path) -> None:
    """What has been heard is there twice at the most, and so is what was said; not eight times, as a list of its bytes is."""
    for told in on_ranks(memory_of_talking, 2, tmp_path / "ranks", spawned=True):
        assert told["bytes for one"] < 7, told
