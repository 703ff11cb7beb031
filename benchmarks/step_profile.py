"""Where the time of a training step goes: matrix products, attention, and everything else, by torch's profiler in one thread."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.mixture_step import MixtureStep

__all__ = ["profile_step"]

_PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"})
_ATTENTION = "scaled_dot_product"


def profile_step(step: MixtureStep, steps: int = 4, most: int = 8) -> dict[str, Any]:
    """Shares of the operations' own time on the device, and the dearest ``most`` that are neither product nor attention.

    On a CPU in one thread, so that the times of the operations add up to the step's; ``seconds`` are of a step without the profiler.
    """
    on_gpu = step.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step.step(step.loss)
        started = time.perf_counter()
        for _ in range(steps):
            step.step(step.loss)
        seconds = (time.perf_counter() - started) / steps
        with profile(activities=activities) as profiler:
            for _ in range(steps):
                step.step(step.loss)
    finally:
        torch.set_num_threads(threads)
    # Operations alone: the kernels that they start on a GPU are listed too, with the same time once more.
    events = [event for event in profiler.key_averages() if event.device_type == torch._C._autograd.DeviceType.CPU]
    own = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count / steps)
        for event in events
    }
    whole = sum(microseconds for microseconds, _ in own.values())
    kinds = {"matrix products": 0.0, "attention": 0.0, "all else": 0.0}
    others = []
    for name, (microseconds, calls) in own.items():
        kind = "matrix products" if name in _PRODUCTS else "attention" if _ATTENTION in name else "all else"
        kinds[kind] += microseconds / whole
        if kind == "all else":
            others.append({"name": name, "share": microseconds / whole, "calls": calls})
    others.sort(key=lambda one: -one["share"])
    return {"seconds": seconds, "shares": kinds, "others": others[:most]}
