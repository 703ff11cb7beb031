"""Taking times on a noisy machine: contestants take turns, and medians are compared."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["in_own_process", "machine", "matrix_product_rate", "take_turns", "today"]

ROOT = Path(__file__).resolve().parent.parent


def in_own_process(module: str, arguments: Mapping[str, Any]) -> Any:
    """What ``python -m module`` answers to ``arguments``, both as JSON, so that the memory it takes is its own."""
    command = [sys.executable, "-m", module, json.dumps(arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return json.loads(done.stdout)


def take_turns(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, after one call each to warm up. Each round calls everyone once, so that a slow spell hits all."""
    for call in contestants.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def matrix_product_rate(
    size: int = 2048, repeats: int = 4, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Callable[[], float]:
    """A contestant that multiplies two square matrices ``repeats`` times, and so measures what the machine can do.

    The rate in FLOP/s is ``repeats * 2 * size**3`` over the seconds it takes.
    """
    left, right = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(left)

    def multiply() -> float:
        for _ in range(repeats):
            torch.mm(left, right, out=result)
        if left.is_cuda:
            torch.cuda.synchronize(left.device)
        return repeats * 2.0 * size**3

    return multiply


def machine() -> dict[str, str | int]:
    """What the figures were taken on."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def today() -> str:
    """The date of a measurement."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def median(values: list[float]) -> float:
    """The middle of the values."""
    return statistics.median(values)
