"""Where and how things run: device, precision, generators derived from (seed, purpose), atomic file writes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import glob
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptmix.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    import numpy
    import torch

__all__ = [
    "atomic_path",
    "choose_device",
    "choose_precision",
    "derive_seed",
    "hand_back_freed_memory",
    "keep_freed_memory",
    "numpy_generator",
    "remove_leftovers",
    "short_hash",
    "tensors_checksum",
    "torch_generator",
    "write_json",
    "write_tensors",
    "write_text",
    "writing",
]

_logger = logging.getLogger(__name__)

_DEVICES = ("auto", "cpu", "cuda", "mps")
_PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_CANNOT_WRITE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
)


def choose_device(name: str = "auto") -> torch.device:
    """The torch device called ``auto`` (the best there is), ``cpu``, ``cuda`` or ``mps``.

    Raises:
        ConfigError: the name is unknown, or this machine has no such device.
    """
    import torch

    if name not in _DEVICES:
        raise ConfigError(f"unknown device {name!r}{did_you_mean(name, _DEVICES)}")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available[name]:
        raise ConfigError(f"this machine has no {name} device; use --device cpu or auto")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """What the frozen towers calculate in, whatever their files are in; what is learnt is always float32.

    ``auto`` is ``fp32``: the only one that gives the same answer for any size of batch. ``fp16`` on a CPU runs in fp32, because CPUs
    are slower in it.

    Raises:
        ConfigError: there is no such precision.
    """
    import torch

    if name not in _PRECISIONS:
        raise ConfigError(f"unknown precision {name!r}{did_you_mean(name, _PRECISIONS)}")
    if name == "fp16" and device.type == "cpu":
        _logger.warning("fp16 is slower than fp32 on a CPU; the towers run in fp32")
        return torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)


def derive_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose of a run, the same on every machine and in every process."""
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def torch_generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator that belongs to one purpose; drawing from it disturbs no other."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, purpose))


def numpy_generator(seed: int, purpose: str) -> numpy.random.Generator:
    """As :func:`torch_generator`, for numpy."""
    import numpy

    return numpy.random.default_rng(derive_seed(seed, purpose))


def short_hash(*parts: bytes | str) -> str:
    """Sixteen hex digits of sha256 over the parts, with their lengths, so that no two lists of parts run together."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]


def tensors_checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash of the names, types, shapes and bytes of tensors; safetensors files do not notice a flipped bit by themselves."""
    import torch

    parts: list[bytes | str] = []
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), tensor.reshape(-1).view(torch.uint8).numpy().tobytes()]
    return short_hash(*parts)


def keep_freed_memory(keep: bool = True) -> None:
    """Ask the C library to keep freed memory for the next use, or to hand large blocks back at once; until it is asked again.

    A training step allocates and frees the same large blocks over and over. glibc maps each of them anew, and a tenth of a step on a
    CPU, a quarter where text is encoded chunk by chunk, is spent on the system's clearing of their pages. What is kept has holes that
    nothing fits, and grows: :func:`hand_back_freed_memory` empties them. Other C libraries are left as they are.
    """
    library = _glibc()
    if library is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        library.mallopt(mmap_threshold, (32 if keep else 1) << 20)  # 32 MiB is the largest that is accepted
        library.mallopt(trim_threshold, 2**31 - 1 if keep else 2**20)


def hand_back_freed_memory() -> None:
    """Hand all freed memory back to the system now, the holes between what is in use as well, where the C library is glibc."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return library if hasattr(library, "gnu_get_libc_version") else None


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder, renamed to ``path`` when the block ends well and removed when it does not.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            # A temporary file is private; what it becomes has the rights of any other new file.
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path, older_than: float = 3600.0) -> None:
    """Remove what :func:`atomic_path` left beside ``path`` when a process was killed within it.

    Args:
        older_than: seconds; a younger one may be somebody's who is writing now.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):  # another process may be at it too
            if time.time() - leftover.stat().st_mtime > older_than:
                leftover.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block, failures to write ``path`` that a person can do something about are told as such.

    Raises:
        DataError: the disk is full, or ``path`` or its folder cannot be written.
    """
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"no disk space left to write {path}; free some, or choose another folder") from problem
        if problem.errno in _CANNOT_WRITE:
            raise DataError(f"cannot write {path}: {problem.strerror}; choose a folder that can be written") from problem
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; numbers keep full precision."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all; the tensors are contiguous and on the CPU."""
    from safetensors.torch import save

    # The library's own writing has temporary files of its own, which stay for ever when it is killed.
    content = save(dict(tensors), metadata=dict(metadata))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
