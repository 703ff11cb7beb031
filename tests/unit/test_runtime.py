"""Devices, seeds and generators, hashes, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from promptmix import runtime
from promptmix.errors import ConfigError, DataError
from promptmix.memory import held_memory_bytes
from promptmix.runtime import (
    atomic_path,
    choose_device,
    derive_seed,
    hand_back_freed_memory,
    keep_freed_memory,
    numpy_generator,
    short_hash,
    tensors_checksum,
    torch_generator,
    write_json,
    write_tensors,
    write_text,
)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Which accelerators this machine seems to have; a test may change it."""
    available = {"cuda": False, "mps": False}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: available["mps"])
    return available


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")]
)
def test_auto_takes_the_best_device(devices: dict[str, bool], cuda: bool, mps: bool, expected: str) -> None:
    devices.update(cuda=cuda, mps=mps)
    assert choose_device() == choose_device("auto") == torch.device(expected)


def test_a_named_device_is_taken(devices: dict[str, bool]) -> None:
    devices["cuda"] = True
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("cuda") == torch.device("cuda")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_this_machine_lacks(devices: dict[str, bool], name: str) -> None:
    with pytest.raises(ConfigError, match=f"no {name} device; use --device cpu or auto"):
        choose_device(name)


def test_an_unknown_device() -> None:
    with pytest.raises(ConfigError, match="unknown device 'cudo'; did you mean 'cuda'"):
        choose_device("cudo")


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert derive_seed(0, "shuffle") == 1254658822573317293
    assert derive_seed(1, "shuffle") == 6769541605922202589
    assert derive_seed(0, "noise") == 3971669226481448629


@given(seed=st.integers(), purpose=st.text(alphabet=st.characters(codec="utf-8")))
def test_every_seed_suits_both_generators(seed: int, purpose: str) -> None:
    assert 0 <= derive_seed(seed, purpose) < 2**63
    torch_generator(seed, purpose)
    numpy_generator(seed, purpose)


def test_generators_repeat_and_differ_by_seed_and_purpose() -> None:
    pairs = [(seed, purpose) for seed in (0, 1) for purpose in ("shuffle", "noise")]
    for draw in (
        lambda seed, purpose: tuple(torch.rand(4, generator=torch_generator(seed, purpose)).tolist()),
        lambda seed, purpose: tuple(numpy_generator(seed, purpose).random(4).tolist()),
    ):
        assert len({draw(*pair) for pair in pairs}) == len(pairs)
        assert [draw(*pair) for pair in pairs] == [draw(*pair) for pair in pairs]


def test_drawing_leaves_the_global_generators_alone() -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - looked at, not drawn from
    torch.rand(3, generator=torch_generator(0, "shuffle"))
    numpy_generator(0, "shuffle").random(3)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@pytest.mark.skipif(runtime._glibc() is None, reason="only glibc is asked what it does with freed memory")
def test_freed_memory_is_kept_until_it_is_handed_back() -> None:
    keep_freed_memory()
    hand_back_freed_memory()  # what earlier tests left
    before = held_memory_bytes()
    blocks = [torch.ones(2**18) for _ in range(200)]
    with_all = held_memory_bytes()
    assert with_all > before + 150 * 2**20
    last = blocks.pop()  # behind the others, so that the end of the heap alone frees nothing
    del blocks
    assert held_memory_bytes() > with_all - 20 * 2**20
    hand_back_freed_memory()
    assert held_memory_bytes() < with_all - 150 * 2**20
    assert bool((last == 1).all())


def test_a_hash_is_short_and_stable() -> None:
    assert short_hash("promptmix") == short_hash(b"promptmix") == "5220fa8eae05b0b8"


@given(
    left=st.lists(st.binary(max_size=4), max_size=4),
    right=st.lists(st.binary(max_size=4), max_size=4),
)
def test_two_lists_of_parts_never_run_together(left: list[bytes], right: list[bytes]) -> None:
    assert (short_hash(*left) == short_hash(*right)) == (left == right)


def test_parts_that_join_to_the_same_bytes_differ() -> None:
    assert len({short_hash("ab", "c"), short_hash("a", "bc"), short_hash("abc"), short_hash("abc", "")}) == 4


def test_a_checksum_sees_every_change_but_not_the_order_of_names() -> None:
    base = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor(1.5, dtype=torch.bfloat16)}
    flipped = base["a"].clone()
    flipped.view(torch.uint8)[1, 2] ^= 1
    changed = [
        base,
        {**base, "a": flipped},
        {**base, "a": base["a"].reshape(3, 2)},
        {**base, "a": base["a"].to(torch.float64)},
        {**base, "a": base["a"].view(torch.int32)},
        {"a": base["b"], "b": base["a"]},
        {"a": base["a"]},
        {},
    ]
    assert len({tensors_checksum(tensors) for tensors in changed}) == len(changed)
    assert tensors_checksum(dict(reversed(base.items()))) == tensors_checksum(base)


def test_a_checksum_is_of_the_values_not_of_how_they_lie_in_memory() -> None:
    table = torch.arange(12.0).reshape(3, 4)
    assert tensors_checksum({"t": table.T.contiguous().requires_grad_()}) == tensors_checksum({"t": table.T})


def test_a_file_appears_whole_with_ordinary_rights(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    before = os.umask(0o027)
    try:
        with atomic_path(path) as temporary:
            assert temporary.parent == path.parent
            temporary.write_text("half", encoding="utf-8")
            assert not path.exists()
            temporary.write_text("whole", encoding="utf-8")
    finally:
        after = os.umask(before)
    assert after == 0o027
    assert path.read_text(encoding="utf-8") == "whole"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(runtime.os, "fsync", full)
    with pytest.raises(DataError, match=r"no disk space left to write .*file\.txt; free some"):
        write_text(tmp_path / "file.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "file" / "result.json", tmp_path / "file" / "deeper" / "result.json"):
        with pytest.raises(DataError, match=r"cannot write .*result\.json: .*choose a folder that can be written"):
            write_json(path, {})


def test_a_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "result.json").mkdir()
    with pytest.raises(DataError, match=r"cannot write .*result\.json: Is a directory; choose a folder"):
        write_json(tmp_path / "result.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_tensors_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.arange(3)}, {"kind": "test"})
    assert torch.equal(load_file(path)["a"], torch.arange(3))
    before = path.read_bytes()
    save_file({"a": torch.arange(3)}, tmp_path / "theirs.safetensors", {"kind": "test"})
    assert (tmp_path / "theirs.safetensors").read_bytes() == before
    (tmp_path / "theirs.safetensors").unlink()
    shared = torch.arange(4)
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors(path, {"a": shared, "b": shared}, {})

    for number, told in ((errno.ENOSPC, "no disk space left"), (errno.EACCES, "cannot write .*Permission denied")):

        def fail(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "write_bytes", fail)
        with pytest.raises(DataError, match=told):
            write_tensors(path, {"a": torch.arange(4)}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_other_failures_of_the_disk_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(runtime.os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "file.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_text_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "café ☕\n")
    assert (tmp_path / "file.txt").read_bytes() == "café ☕\n".encode()


def test_json_keeps_numbers_letters_and_the_order_of_keys(tmp_path: Path) -> None:
    value = {"third": 1 / 3, "tiny": 5e-324, "name": "café ☕", "list": [1, None, True]}
    path = tmp_path / "result.json"
    write_json(path, value)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert list(json.loads(text)) == list(value)
    assert "café ☕" in text
    assert text.endswith("}\n")


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"new": {1, 2}})
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": 1}
