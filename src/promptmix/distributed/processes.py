"""Which processes can be seen from here, and whether one has ended."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["has_ended", "process_space"]


def process_space() -> str:
    """Names the machine, or the container on it, in which a process number stands for the same process as here.

    A machine's name is not enough: containers and freshly installed machines may all be called ``localhost``.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()  # not Linux, or a part of it that is kept from us


def has_ended(process: int) -> bool:
    """Whether the process of this number, which was there once, is gone; one that nobody has waited for yet has ended too."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"
    except ProcessLookupError:
        return True
    except OSError:
        return False
