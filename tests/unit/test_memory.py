"""Amounts of memory, as people write them and as the system tells them."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from promptmix import memory
from promptmix.memory import free_memory_bytes, held_memory_bytes, in_words, is_out_of_memory, memory_bytes


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("8GB", 8 * 1000**3),
        ("8GiB", 8 * 1024**3),
        ("8 g", 8 * 1024**3),
        ("1.5kb", 1500),
        ("512", 512),
        (512, 512),
        ("2TB", 2 * 1000**4),
    ],
)
def test_amounts_are_read_as_people_write_them(amount: str | int, expected: int) -> None:
    assert memory_bytes(amount) == expected


@pytest.mark.parametrize("amount", ["", "much", "8 apples", "-1GB", "GB", "1e9", "8GBGB", "1.5"])
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="it must be an amount of memory such as 8GB"):
        memory_bytes(amount)


def test_sizes_are_told_in_a_unit_people_know() -> None:
    assert [in_words(size) for size in (3 * 2**29, 5 * 2**20, 235_517)] == ["1.5 GiB", "5 MiB", "230 KiB"]


def test_what_is_held_grows_with_what_is_taken_and_is_less_than_there_is() -> None:
    before = held_memory_bytes()
    taken = mmap.mmap(-1, 2**27)  # of the system itself: what was freed before is no part of it
    taken.write(b"1" * 2**27)
    assert held_memory_bytes() - before > 100 * 2**20
    taken.close()
    assert 0 < (free_memory_bytes() or 0) < 2**50


def test_errors_of_memory_are_told_from_others() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("own", "groups", "expected"),
    [
        # a container, which sees its own group at the top
        ("0::/", {"": (1000, 300, 100)}, 800),
        ("0::/", {"": (1000, 1200, 100)}, 0),
        ("9:name=systemd:/\n4:memory:/docker/abc\n0::/", {"memory": (1000, 300, 100)}, 800),
        # a job of a batch system on a machine without a limit, and one within another
        (
            "0::/system.slice/job_7/step_0",
            {"system.slice/job_7": (1000, 300, 100), "system.slice/job_7/step_0": (2000, 0, 0)},
            800,
        ),
        ("4:memory:/slurm/job_7\n0::/", {"memory": (2**63 - 4096, 500, 0), "memory/slurm/job_7": (1000, 300, 100)}, 800),
    ],
)
def test_what_is_free_is_free_in_all_groups_that_the_process_is_in(
    own: str, groups: dict[str, tuple[int, int, int]], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").write_text(own)
    for name, (limit, used, files) in groups.items():
        folder = tmp_path / "groups" / name
        folder.mkdir(parents=True, exist_ok=True)
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            if "memory" in name
            else ("memory.max", "memory.current", "")
        )
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 7\n{names[2]}inactive_file {files}\n{names[2]}active_file 9\n")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    assert free_memory_bytes() == expected


def test_without_a_limit_what_is_free_is_the_machine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").write_text("0::/user.slice\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300\n")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    assert (free_memory_bytes() or 0) > 2**20
