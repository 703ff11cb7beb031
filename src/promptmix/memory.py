"""How much memory there is, how much is in use, and whether it ran out."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["free_memory_bytes", "held_memory_bytes", "in_words", "is_out_of_memory", "memory_bytes"]

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
_UNITS = {"": 1, **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)}}
_UNITS |= {f"{letter}{end}": 1024**power for power, letter in enumerate("KMGT", start=1) for end in ("", "IB")} | {"B": 1}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
# Of the second and of the first version of control groups: where they lie, and the names of the limit, of what is used, of files in it.
_GROUP_FILES = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
_NO_LIMIT = 2**60  # what containers without a limit call theirs, in one way or the other


def memory_bytes(amount: str | int) -> int:
    """Bytes of an amount such as ``8GB`` (8 * 1000^3), ``8GiB`` or ``8G`` (8 * 1024^3), or a number of bytes.

    Raises:
        ValueError: this is no amount of memory.
    """
    found = _AMOUNT.fullmatch(str(amount))
    if found is None or found[2].upper() not in _UNITS or ("." in found[1] and not found[2]):
        raise ValueError("it must be an amount of memory such as 8GB, 500MB or 2GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def in_words(size: float) -> str:
    """A number of bytes as people read it: ``1.5 GiB``, ``230 KiB``."""
    unit, power = next(((unit, power) for unit, power in (("GiB", 30), ("MiB", 20)) if size >= 2**power), ("KiB", 10))
    return f"{size / 2**power:.3g} {unit}" if size < 1000 * 2**power else f"{size / 2**power:.0f} {unit}"


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an error says that there was no memory left. Torch's own has a name of its own on a GPU only; elsewhere its text tells."""
    told = isinstance(problem, RuntimeError) and any(words in str(problem).lower() for words in _OUT_OF_MEMORY)
    return isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError" or told


def free_memory_bytes(device: torch.device | None = None) -> int | None:
    """Memory that this process could still take, of a GPU or of the machine; None where the system does not tell.

    Of the machine no more than its container, or its job of a batch system, is allowed.
    """
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0]
    free = _number(Path("/proc/meminfo"), "MemAvailable:")
    of_the_machine = None if free is None else free * 1024
    allowed = _free_in_groups()
    return min((free for free in (of_the_machine, allowed) if free is not None), default=None)


def _free_in_groups() -> int | None:
    """What the control groups leave to this process, those of a container or of a job of a batch system; None where there is no limit."""
    try:
        own = _OWN_GROUPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    free: list[int] = []
    for line in own:
        _, controllers, path = line.split(":", 2)
        if controllers not in _GROUP_FILES:
            continue
        top, limit_name, used_name, files_name = _GROUP_FILES[controllers]
        group = PurePosixPath(path.lstrip("/"))
        # The groups around one have limits, too. In a container its path may be that of the outside, and then the top is its own.
        for folder in (_GROUPS / top / one for one in (group, *group.parents)):
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None and used is not None and limit < _NO_LIMIT:
                # Files that were read once count as used, and go when their room is wanted.
                free.append(max(0, limit - used + (_number(folder / "memory.stat", files_name) or 0)))
    return min(free, default=None)


def held_memory_bytes(device: torch.device | None = None) -> int:
    """Memory that this process holds now, on a GPU in tensors, else of the machine; 0 where the system does not tell."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated(device)
    return 1024 * (_number(Path("/proc/self/status"), "VmRSS:") or 0)


def _number(path: Path, name: str = "") -> int | None:
    """The number behind a name, on a line of its own, in one of the system's files; None where there is none."""
    try:
        text = path.read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(rf"^{re.escape(name)}\s*(\d+)", text, re.MULTILINE)
    return None if found is None else int(found[1])
