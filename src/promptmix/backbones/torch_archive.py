"""Tensors of a file written by ``torch.save`` or ``torch.jit.save``, read without unpickling and without running anything.

Such a file is a zip archive: ``data.pkl`` tells names, shapes and places, ``data/N`` hold the numbers. ``data.pkl`` is a program for
Python's unpickler, which can call whatever it names. Here its few opcodes that tables of weights consist of are interpreted by a
small stack machine that builds plain values and tensors, and that can call nothing.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptmix.errors import BackboneError

__all__ = ["is_torchscript", "read_torch_archive"]

_LARGEST_PROGRAM = 16 << 20  # bytes of data.pkl; that of the largest CLIP is below one megabyte
_DEEPEST = 64  # modules inside modules
_MOST_DIMENSIONS = 64  # as torch itself has it
# Of all numbers that are read or copied, as times the file's size: its entries may overlap, and many tensors may turn over the same numbers.
_MOST_TIMES = 4
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Global(NamedTuple):
    """The name of a class or function; it is never imported."""

    module: str
    name: str


class _Mark:
    """Where on the stack a list of arguments begins."""


@dataclass
class _Object:
    """What the program would have made by calling something: only its attributes matter here."""

    attributes: dict[Any, Any] = field(default_factory=dict)


def read_torch_archive(path: Path, allowed: Callable[[str, str], bool] | None = None) -> dict[str, Tensor]:
    """The tensors by dotted name; of a checkpoint with a ``state_dict`` inside, those of the ``state_dict``.

    Args:
        allowed: whether a program may name this function or class, by module and name; None: any, because none is ever called.

    Raises:
        BackboneError: the file is no such archive, is damaged, or says what no table of weights says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(names) != 1:
                raise BackboneError(f"{path} is no archive of weights: it should hold one data.pkl, not {len(names)}")
            program = archive.getinfo(names[0])
            if program.file_size > _LARGEST_PROGRAM:
                raise BackboneError(f"{path}: data.pkl has {program.file_size} bytes, more than any table of weights")
            root = names[0].removesuffix("data.pkl")
            _check_byte_order(archive, root, path)
            tensors: dict[str, Tensor] = {}
            _collect(_Machine(archive, root, path, allowed).run(_content(archive, names[0], path)), "", tensors, 0, path, set())
    # The library has errors of all these kinds for archives that no torch has written.
    except (zipfile.BadZipFile, OSError, EOFError, struct.error, NotImplementedError, ValueError) as problem:
        raise BackboneError(
            f"{path} is no zip archive of weights, or is damaged ({problem}); files from before torch 1.6 must be saved again"
        ) from problem
    if not tensors:
        raise BackboneError(f"{path} holds no tensor")
    return tensors


def is_torchscript(path: Path) -> bool:
    """Whether the archive was written by ``torch.jit.save``: those hold code beside their weights."""
    with zipfile.ZipFile(path) as archive:
        return any(name.count("/") >= 1 and name.split("/")[1] in ("code", "constants.pkl") for name in archive.namelist())


def _check_byte_order(archive: zipfile.ZipFile, root: str, path: Path) -> None:
    if f"{root}byteorder" in archive.namelist() and _content(archive, f"{root}byteorder", path) != b"little":
        raise BackboneError(f"{path} was written on a machine of the other byte order; save it again on a usual one")


def _content(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """An entry's bytes. Torch compresses and encrypts nothing, so what is neither is as large as it says."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise BackboneError(f"{path}: {name} is compressed or encrypted, which torch never does")
    return archive.read(entry)


class _Machine:
    """Runs the opcodes of one ``data.pkl``."""

    def __init__(
        self, archive: zipfile.ZipFile, root: str, path: Path, allowed: Callable[[str, str], bool] | None = None
    ) -> None:
        self._archive, self._root, self._path, self._allowed = archive, root, path, allowed
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, Tensor] = {}
        self._bytes_left = _MOST_TIMES * path.stat().st_size

    def run(self, program: bytes) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(program):
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeError, RecursionError) as problem:
            raise BackboneError(f"{self._path} is damaged: data.pkl cannot be followed ({str(problem)[:200]})") from problem
        raise BackboneError(f"{self._path} is damaged: data.pkl has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_Mark)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                stack.append(tuple(self._to_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = self._to_mark()
                stack[-1].extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._put(stack[-1], [key, value])
            case "SETITEMS":
                items = self._to_mark()
                self._put(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                module, _, qualified = argument.partition(" ")
                stack.append(self._named(module, qualified))
            case "STACK_GLOBAL":
                qualified, module = stack.pop(), stack.pop()
                stack.append(self._named(module, qualified))
            case "NEWOBJ":
                del stack[-2:]
                stack.append(_Object())
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(self._called(called, arguments))
            case "BUILD":
                state = stack.pop()
                # A dictionary's own attributes, such as an OrderedDict's _metadata, are no weights.
                if isinstance(stack[-1], _Object) and isinstance(state, dict):
                    stack[-1].attributes.update(state)
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case _:
                raise BackboneError(f"{self._path}: data.pkl uses {name}, which no table of weights needs")

    def _named(self, module: Any, name: Any) -> _Global:
        # What a program puts together may be so deep that writing it down, or hashing it, never ends.
        if not isinstance(module, str) or not isinstance(name, str):
            raise BackboneError(f"{self._path}: data.pkl names a function by what is no text")
        if self._allowed is not None and not self._allowed(module, name):
            raise BackboneError(
                f"{self._path}: data.pkl names {module[:80]}.{name[:80]}, which no table of weights needs; nothing of it was run"
            )
        return _Global(module, name)

    def _put(self, target: Any, flat: list[Any]) -> None:
        """Keys and values into a dictionary; what goes into an object, such as an optimizer's table of its state, is no weight."""
        if not isinstance(target, _Object):
            target.update(self._items(flat))

    def _to_mark(self) -> list[Any]:
        place = len(self._stack) - 1 - self._stack[::-1].index(_Mark)
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items

    def _items(self, flat: list[Any]) -> dict[str | int, Any]:
        """Keys and values by turns, as a dictionary. Other keys would have to be hashed, however deep they are."""
        keys = flat[::2]
        if not all(isinstance(key, str | int) for key in keys):
            raise BackboneError(f"{self._path}: data.pkl has a key that is neither a name nor a number")
        return dict(zip(keys, flat[1::2], strict=True))

    def _called(self, called: Any, arguments: tuple[Any, ...]) -> Any:
        if not isinstance(called, _Global):
            raise BackboneError(f"{self._path}: data.pkl calls what is no function")
        if called == ("torch._utils", "_rebuild_tensor_v2"):
            storage, offset, size, stride, *_ = arguments
            return self._tensor(storage, offset, size, stride)
        if called == ("torch._utils", "_rebuild_parameter"):
            return arguments[0]
        if called == ("collections", "OrderedDict"):
            return {}
        return _Object()

    def _storage(self, key: Any) -> Tensor:
        """The numbers of one storage: ``("storage", kind, name, device, count)``."""
        what, kind, name, _, count = key
        if what != "storage" or not isinstance(kind, _Global) or kind.name not in _STORAGES:
            raise BackboneError(f"{self._path}: data.pkl names a storage of an unknown kind")
        if not isinstance(name, str) or not isinstance(count, int):
            raise BackboneError(f"{self._path}: data.pkl names a storage by what is no text and no number")
        if name not in self._storages:
            entry = self._archive.getinfo(f"{self._root}data/{name}")
            dtype = _STORAGES[kind.name]
            if entry.file_size != count * dtype.itemsize:
                raise BackboneError(f"{self._path}: {entry.filename} has {entry.file_size} bytes instead of {count} x {dtype}")
            self._take(entry.file_size)
            numbers = bytearray(_content(self._archive, entry.filename, self._path))
            self._storages[name] = torch.frombuffer(numbers, dtype=dtype) if numbers else torch.empty(0, dtype=dtype)
        return self._storages[name]

    def _take(self, number: int) -> None:
        self._bytes_left -= number
        if self._bytes_left < 0:
            raise BackboneError(f"{self._path} holds more numbers than its size has room for; no table of weights does")

    def _tensor(self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        numbers: tuple[Any, ...] = (offset, *size, *stride)
        if len(size) > _MOST_DIMENSIONS or not all(isinstance(one, int) and one.bit_length() < 63 for one in numbers):
            raise BackboneError(f"{self._path} is damaged: a tensor has no shape that torch could have written")
        count = math.prod(size)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if count else 0
        if min((offset, *size, *stride), default=0) < 0 or count > storage.numel() or last >= max(1, storage.numel()):
            raise BackboneError(f"{self._path} is damaged: a tensor of shape {tuple(size)} does not fit its storage")
        tensor = storage.as_strided(size, stride, offset)
        if not tensor.is_contiguous():
            self._take(count * storage.element_size())
        return tensor.contiguous()


def _collect(value: Any, prefix: str, tensors: dict[str, Tensor], depth: int, path: Path, visited: set[int]) -> None:
    """Tensors by their dotted names; what several modules share has the name of the first."""
    if depth > _DEEPEST:
        raise BackboneError(f"{path}: modules lie more than {_DEEPEST} deep in each other")
    if id(value) in visited:
        return
    visited.add(id(value))
    attributes = value.attributes if isinstance(value, _Object) else value if isinstance(value, dict) else {}
    if depth == 0 and isinstance(attributes.get("state_dict"), dict):
        attributes = attributes["state_dict"]
    for name, part in attributes.items():
        if isinstance(part, Tensor):
            tensors[f"{prefix}{name}"] = part
        elif isinstance(part, _Object | dict):
            _collect(part, f"{prefix}{name}.", tensors, depth + 1, path, visited)
