"""Files of torch.save and torch.jit.save are read without running anything, and a bad one is one clear error."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from promptmix.backbones.torch_archive import read_torch_archive
from promptmix.errors import BackboneError


def problem_of(path: Path) -> str:
    with pytest.raises(BackboneError) as caught:
        read_torch_archive(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> None:
    """The archive again, each entry changed; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            changed = change(name, content)
            if changed is not None:
                archive.writestr(name, changed)


def write_program(path: Path, program: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)


def test_every_type_and_view_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    types = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8)
    state: dict[str, Any] = {str(kind): whole.to(kind) for kind in (*types, torch.uint8, torch.bool)}
    state |= {"turned": whole.T, "part": whole[1:3, ::2], "number": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    state |= {
        "shared": whole,
        "parameter": torch.nn.Parameter(whole + 1),
        "inner": {"deep": whole[2]},
        "note": "text",
        "list": [1],
    }
    torch.save(state, tmp_path / "state.pt")
    read = read_torch_archive(tmp_path / "state.pt")
    flat = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)} | {"inner.deep": whole[2]}
    assert read.keys() == flat.keys()
    for name, value in flat.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value), name
        assert read[name].is_contiguous()


def test_a_state_dict_of_modules_is_read_by_its_names(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "module.pt")
    read = read_torch_archive(tmp_path / "module.pt")
    assert read.keys() == module.state_dict().keys()
    assert all(torch.equal(read[name], value) for name, value in module.state_dict().items())


class Nasty:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_that_a_file_names_is_called(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "nasty": Nasty(tmp_path / "made")}, tmp_path / "nasty.pt")
    assert read_torch_archive(tmp_path / "nasty.pt").keys() == {"weight"}
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_a_program_that_builds_no_weights_is_refused(protocol: int, tmp_path: Path) -> None:
    write_program(tmp_path / "a.pt", pickle.dumps([Nasty(tmp_path / "made"), {"a": 1, "b": (1, 2.5)}], protocol=protocol))
    assert "a.pt" in problem_of(tmp_path / "a.pt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02]",
        b"\x80\x02R.",
        b"\x80\x02q\x00.",
        b"\x80\x02h\x07.",
        b"\x80\x02(t",
        b"\xff",
        b"\x80\x02}u.",
        b"\x80\x02K\x01K\x02a.",
        b"\x80\x02]K\x01Q.",
        b"\x80\x02NNs.",
        b"\x80\x02}X\xff\xff\xff\x7fab.",
    ],
)
def test_a_damaged_program_is_one_error(program: bytes, tmp_path: Path) -> None:
    write_program(tmp_path / "a.pt", program)
    assert "a.pt" in problem_of(tmp_path / "a.pt")


def test_modules_that_hold_themselves_or_each_other_are_looked_at_once(tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    write_program(tmp_path / "a.pt", pickle.dumps(loop, protocol=2))
    assert "no tensor" in problem_of(tmp_path / "a.pt")
    # 2^60 ways lead to the last of these.
    many: dict[str, Any] = {}
    for _ in range(60):
        many = {"one": many, "other": many}
    write_program(tmp_path / "b.pt", pickle.dumps(many, protocol=2))
    assert "no tensor" in problem_of(tmp_path / "b.pt")
    for _ in range(10):
        many = {"one": many}
    write_program(tmp_path / "c.pt", pickle.dumps(many, protocol=2))
    assert "deep" in problem_of(tmp_path / "c.pt")


def test_a_key_that_is_no_name_is_refused(tmp_path: Path) -> None:
    # A tuple 200,000 deep: hashing it would overflow the stack of the interpreter itself.
    write_program(tmp_path / "a.pt", b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.")
    assert "neither a name nor a number" in problem_of(tmp_path / "a.pt")


def doubled(times: int) -> bytes:
    """A tuple of two tuples of two tuples ...: short to write down here, and 2^times long as a text."""
    return b")" + b"".join(b"\x94h" + bytes([place]) + b"\x86" for place in range(times))


@pytest.mark.parametrize(
    "program",
    [
        doubled(20) + b"\x8c\x01a\x93.",
        b"\x8c\x01a" + doubled(20) + b"\x93.",
        b"(\x8c\x07storagectorch\nFloatStorage\n" + doubled(20) + b"\x8c\x03cpuK\x01tQ.",
        b"(\x8c\x07storagectorch\nFloatStorage\n\x8c\x010\x8c\x03cpu" + doubled(20) + b"tQ.",
    ],
    ids=["module", "function", "storage", "count"],
)
def test_what_would_take_for_ever_to_write_down_is_no_name(program: bytes, tmp_path: Path) -> None:
    write_program(tmp_path / "a.pt", b"\x80\x04" + program)
    with pytest.raises(BackboneError, match="what is no text"):
        read_torch_archive(tmp_path / "a.pt", allowed=lambda module, name: module == "torch")


def test_a_small_file_makes_no_large_table(tmp_path: Path) -> None:
    whole = torch.zeros(200, 500)
    torch.save({"turned": whole.T, "whole": whole, "again": whole}, tmp_path / "fine.pt")
    assert read_torch_archive(tmp_path / "fine.pt").keys() == {"turned", "whole", "again"}
    torch.save({str(number): whole.T for number in range(20)}, tmp_path / "many.pt")
    assert "more numbers than its size has room for" in problem_of(tmp_path / "many.pt")


def test_an_archive_that_no_torch_has_written_is_one_error(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(6)}, tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 99  # the version of the format that is needed
    (tmp_path / "a.pt").write_bytes(content)
    assert "is no zip archive of weights" in problem_of(tmp_path / "a.pt")


def test_a_shape_that_torch_could_not_have_is_refused(tmp_path: Path) -> None:
    storage = b"(\x8c\x07storagectorch\nFloatStorage\n\x8c\x010\x8c\x03cpuK\x01tQ"
    huge = b"\x8a\x0a" + b"\x00" * 9 + b"\x01"
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        program = b"\x80\x02}\x8c\x01actorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x01\x85" + huge + b"\x85tRs."
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", b"\x00" * 4)
    assert "no shape that torch could have written" in problem_of(tmp_path / "a.pt")


def test_a_tensor_must_fit_its_storage(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save({"weight": torch.ones(6)}, path)
    rewrite(path, lambda name, content: content[:-4] if name.endswith("data/0") else content)
    assert "20 bytes instead of 6" in problem_of(path)
    torch.save({"weight": torch.ones(6)}, path)
    # The shape (6,) as the program writes it, K is a byte: now (200,).
    rewrite(path, lambda name, content: content.replace(b"K\x06\x85", b"K\xc8\x85") if name.endswith("data.pkl") else content)
    assert "(200,) does not fit" in problem_of(path)


def test_numbers_that_are_missing_or_compressed_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save({"weight": torch.ones(1000)}, path)
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        rewrite(path, lambda name, content: content, compression)
        assert "compressed" in problem_of(path)
    torch.save({"weight": torch.ones(1000)}, path)
    rewrite(path, lambda name, content: None if name.endswith("data/0") else content)
    assert "damaged" in problem_of(path)


def test_what_is_no_archive_says_so(tmp_path: Path) -> None:
    for name, content in (("text.pt", b"not a zip"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        assert "no zip archive" in problem_of(tmp_path / name)
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert "before torch 1.6" in problem_of(tmp_path / "old.pt")
    torch.save({"note": "no tensor"}, tmp_path / "none.pt")
    assert "no tensor" in problem_of(tmp_path / "none.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "data.pkl" in problem_of(tmp_path / "other.zip")
    whole = (tmp_path / "none.pt").read_bytes()
    (tmp_path / "short.pt").write_bytes(whole[: len(whole) // 2])
    assert "short.pt" in problem_of(tmp_path / "short.pt")
    torch.save({"weight": torch.ones(2)}, tmp_path / "big.pt")
    rewrite(tmp_path / "big.pt", lambda name, content: b"big" if name.endswith("byteorder") else content)
    assert "byte order" in problem_of(tmp_path / "big.pt")
