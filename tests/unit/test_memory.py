"""Amounts of memory, as people write them and as the system tells them."""

from __future__ import annotations

import mmap

import pytest
import torch

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
