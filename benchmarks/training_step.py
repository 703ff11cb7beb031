"""A whole training step of the mixture at ViT-B/16 text size, ours against a textbook's and against the device's matrix products.

What a contestant's memory is, is measured in a process of its own. Where the textbook's step does not fit into the memory there is,
its time and its memory are computed from two smaller steps, by their growth with each sequence.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.measure import in_own_process, machine, matrix_product_rate, median, take_turns, today
from benchmarks.mixture_step import CONTESTANTS, VIT_B16, MixtureStep, Size, contestant
from benchmarks.step_profile import profile_step
from promptmix.evaluation.results import device_name, peak_device_memory_bytes, peak_memory_bytes, reset_peak_memory
from promptmix.memory import free_memory_bytes, held_memory_bytes
from promptmix.runtime import keep_freed_memory

__all__ = ["held_bytes", "measure_training_step", "take_alone", "take_by_turns", "training_step_section"]

CASES = (Size(experts=6, classes=10), Size(experts=20, classes=1000))
# The textbook's growth is taken between two numbers of classes with the first case's experts.
GROWTH_CLASSES = {"cpu": (10, 20), "cuda": (40, 80)}
_MOST_OF_MEMORY = 0.8
MOST_ROWS_BY_TURNS = 2000  # larger steps are taken alone, a few times each
_STEPS_ALONE = 2
MAX_BYTES = 8 * 10**9  # of ours, where its sequences are many: as with --max-memory 8GB


def measure_training_step(
    rounds: int = 5, cases: Sequence[Size] = CASES, names: Sequence[str] = tuple(CONTESTANTS)
) -> dict[str, Any]:
    """Every case on the best device there is: seconds, share of the floor and memory of each way to take the step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    growth = _textbook_growth(cases[0], GROWTH_CLASSES[device.type], device)
    return {
        "what": "a training step of the mixture: text encoding, classification, text and router supervision, backward, optimizer",
        "date": today(),
        "rounds": rounds,
        "machine": machine(),
        "device": device_name(device),
        "textbook_growth": growth,
        "cases": [_case(size, names, growth, rounds, device) for size in cases],
        "profile": profile_step(MixtureStep(cases[0], device)),
    }


def _textbook_growth(size: Size, classes: tuple[int, int], device: torch.device) -> dict[str, Any]:
    """Seconds and bytes of a small textbook step, and what each further sequence adds to both."""
    small, large = (dataclasses.replace(size, classes=number) for number in classes)
    of_small, of_large = (_alone(one, "textbook", device) for one in (small, large))
    further = large.rows - small.rows
    return {
        "rows": [small.rows, large.rows],
        "seconds": [min(of_small["seconds"]), min(of_large["seconds"])],
        "memory_bytes": [of_small["memory_bytes"], of_large["memory_bytes"]],
        "seconds_per_row": (min(of_large["seconds"]) - min(of_small["seconds"])) / further,
        "memory_bytes_per_row": _difference(of_large["memory_bytes"], of_small["memory_bytes"], further),
    }


def _difference(large: int | None, small: int | None, further: int) -> float | None:
    return None if large is None or small is None else (large - small) / further


def _case(size: Size, names: Sequence[str], growth: dict[str, Any], rounds: int, device: torch.device) -> dict[str, Any]:
    """All ways to take the step at one size."""
    further = size.rows - growth["rows"][0]
    per_row = growth["memory_bytes_per_row"]
    memory = None if per_row is None else round(growth["memory_bytes"][0] + further * per_row)
    free = free_memory_bytes(device)
    fits = memory is None or free is None or memory < _MOST_OF_MEMORY * free
    by_turns = size.rows <= MOST_ROWS_BY_TURNS and fits
    names = [name for name in names if not CONTESTANTS[name].compiled or (by_turns and _can_compile(device))]
    ways: dict[str, dict[str, Any]]
    if by_turns:
        ways = _by_turns(size, names, rounds, device)
        for name, way in ways.items():
            # What compiling takes would hide what the step takes, except on a GPU, whose tensors alone are counted.
            known = not CONTESTANTS[name].compiled or device.type == "cuda"
            alone = _alone(size, name, device) if known else {"memory_bytes": None, "process_bytes": None}
            way |= {key: alone[key] for key in ("memory_bytes", "process_bytes")}
    else:
        ways = {name: _alone(size, name, device) for name in names if not CONTESTANTS[name].textbook}
        seconds = growth["seconds"][0] + further * growth["seconds_per_row"]
        ways["textbook"] = {"computed": True, "seconds": [seconds], "memory_bytes": memory, "process_bytes": None}
    flops = next(way["flops"] for way in ways.values() if "flops" in way)
    for way in ways.values():
        way["median_seconds"] = median(way["seconds"])
        way["over_textbook"] = median(ways["textbook"]["seconds"]) / way["median_seconds"]
        if "flops_per_second" in way:
            way["share_of_floor"] = flops / way["flops_per_second"] / way["median_seconds"]
    return {**dataclasses.asdict(size), "rows": size.rows, "needed_gflop": flops / 1e9, "ways": ways}


def _can_compile(device: torch.device) -> bool:
    """Whether there is what ``torch.compile`` needs: on a CPU a compiler."""
    return device.type == "cuda" or any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


# ------------------------------------------------------------------------------------------------ in a process of their own


def _by_turns(size: Size, names: Sequence[str], rounds: int, device: torch.device) -> dict[str, dict[str, Any]]:
    arguments = {"by_turns": list(names), "rounds": rounds, "device": device.type, "size": dataclasses.asdict(size)}
    ways: dict[str, dict[str, Any]] = in_own_process("benchmarks.training_step", arguments)
    return ways


def _alone(size: Size, name: str, device: torch.device) -> dict[str, Any]:
    # Those of the main table more than once, where they do not take turns.
    steps = _STEPS_ALONE if name in ("ours", "textbook") else 1
    arguments = {"alone": name, "steps": steps, "device": device.type, "size": dataclasses.asdict(size)}
    way: dict[str, Any] = in_own_process("benchmarks.training_step", arguments)
    return way


def take_by_turns(size: Size, names: Sequence[str], rounds: int, device: torch.device) -> dict[str, dict[str, Any]]:
    """Seconds of several ways to take the step and of the matrix product, which take turns in this process."""
    keep_freed_memory()  # as training does
    steps = {
        precision: MixtureStep(size, device, precision=precision) for precision in {CONTESTANTS[name].precision for name in names}
    }
    products = {
        precision: matrix_product_rate(dtype=precision, device=device)
        for precision in {CONTESTANTS[name].products for name in names}
    }
    calls = {name: contestant(name, steps[CONTESTANTS[name].precision]) for name in names}
    seconds = take_turns({**{str(precision): product for precision, product in products.items()}, **calls}, rounds)
    step = next(iter(steps.values()))
    ways = {}
    for name in names:
        product = CONTESTANTS[name].products
        rate = products[product]() / median(seconds[str(product)])
        ways[name] = {
            "computed": False,
            "seconds": seconds[name],
            "flops_per_second": rate,
            "flops": step.flops(),
            "chunks": step.num_chunks,
            "rows_computed_twice": step.rows_computed_twice,
        }
    return ways


def take_alone(size: Size, name: str, device: torch.device, steps: int) -> dict[str, Any]:
    """Seconds and memory of a few steps of one kind, with the matrix product before and after each."""
    keep_freed_memory()  # as training does
    step = MixtureStep(size, device, precision=CONTESTANTS[name].precision)
    step.plan_memory(MAX_BYTES)
    take, product = contestant(name, step), matrix_product_rate(dtype=CONTESTANTS[name].products, device=device)
    flops = product()
    if device.type == "cuda":
        take()  # what is made once for the device is no part of a step
    base = held_bytes(device)
    reset_peak_memory()
    started = time.perf_counter()
    losses, seconds = [take()], [time.perf_counter() - started]
    memory = _peak_bytes(device)
    of_product = _seconds_of_product(product)
    for _ in range(steps - 1):
        started = time.perf_counter()
        losses.append(take())
        seconds.append(time.perf_counter() - started)
        of_product += _seconds_of_product(product)
    return {
        "computed": False,
        "seconds": seconds,
        "losses": losses,
        "flops_per_second": flops / median(of_product),
        "flops": step.flops(),
        "chunks": step.num_chunks,
        "rows_computed_twice": step.rows_computed_twice,
        "memory_bytes": None if memory is None or base is None else memory - base,
        "process_bytes": _peak_bytes(device),
    }


def _seconds_of_product(product: Callable[[], float]) -> list[float]:
    return take_turns({"product": product}, 3)["product"]


def held_bytes(device: torch.device) -> int | None:
    """What the process holds now: its memory, or that of its tensors on a GPU, as their peak is counted; None where the system does not
    tell."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else held_memory_bytes() or None


def _peak_bytes(device: torch.device) -> int | None:
    """The most that the process has held, likewise."""
    return peak_device_memory_bytes(device) if device.type == "cuda" else peak_memory_bytes() or None


# --------------------------------------------------------------------------------------------------------------- for people


def training_step_section(results: dict[str, Any]) -> str:
    """The part of the page on the training step."""
    computed = any(case["ways"]["textbook"]["computed"] for case in results["cases"])
    growth = results["textbook_growth"]
    small, large = growth["rows"]
    note = (
        f"""
*computed*: the textbook's step does not fit into this machine, so its figures are those of {small} sequences, with what each further
sequence added between {small} and {large}: {1e3 * growth["seconds_per_row"]:.0f} ms and {_megabytes(growth["memory_bytes_per_row"])}.
"""
        if computed
        else ""
    )
    on_cpu = results["device"] == "cpu"
    where = f"CPU, {results['machine']['processor']}, {results['machine']['cores']} cores" if on_cpu else results["device"]
    main = [_main_row(case, where) for case in results["cases"]]
    ways = [row for case in results["cases"] for row in _way_rows(case)]
    processes = [
        f"- {_name(case)}: {case['needed_gflop']:,.0f} GFLOP; "
        + (
            "all sequences in one part"
            if case["ways"]["ours"]["chunks"] == 1
            else f"planned as with `--max-memory {MAX_BYTES // 10**9}GB`: {case['ways']['ours']['chunks']} parts,"
            f" {case['ways']['ours']['rows_computed_twice']:,} of {case['rows']:,} sequences computed twice"
        )
        + f"; the whole process held at most {_megabytes(case['ways']['ours']['process_bytes'])}."
        for case in results["cases"]
    ]
    profile = results["profile"]
    shares = [f"| {kind} | {100 * share:.1f} % |" for kind, share in profile["shares"].items()]
    others = [f"| `{one['name']}` | {one['calls']:.0f} | {100 * one['share']:.1f} % |" for one in profile["others"]]
    return f"""## The training step

{results["what"][0].upper()}{results["what"][1:]}; text tower of {VIT_B16}, {results["cases"][0]["pictures"]} pictures, contexts of
{results["cases"][0]["context"]} vectors, float32. Text supervision and classification share one encoding, in both. *Textbook* pads to 77
tokens, takes one expert after the other and keeps the whole graph. Medians of {results["rounds"]} rounds by turns; steps of more than
{MOST_ROWS_BY_TURNS} sequences are taken alone, ours {_STEPS_ALONE} times, the other ways once. The floor is what the step's matrix products, none of them taken
twice, would need at the rate of a 2048 x 2048 product on the same device in the same run; the share of it is the floor over the step.
Measured on {results["date"]}{"; there was no GPU, on which the same command measures the same cases" if on_cpu else ""}.

| experts x classes | ours | textbook | ratio | share of the floor | memory, ours | memory, textbook | device |
|---|---:|---:|---:|---:|---:|---:|---|
{chr(10).join(main)}
{note}
{chr(10).join(processes)}

Other ways to take the same steps, each against the floor of its own precision; the ratio is to the textbook in float32:

| experts x classes | way | seconds | ratio | share of the floor | memory |
|---|---|---:|---:|---:|---:|
{chr(10).join(ways)}

Where the time of ours at {_name(results["cases"][0])} goes, of {1e3 * profile["seconds"]:.0f} ms a step in one thread:

| | share |
|---|---:|
{chr(10).join(shares)}

The dearest operations that are neither matrix product nor attention:

| operation | calls a step | share |
|---|---:|---:|
{chr(10).join(others)}
"""


def _main_row(case: dict[str, Any], device: str) -> str:
    ours, textbook = case["ways"]["ours"], case["ways"]["textbook"]
    mark = " (computed)" if textbook["computed"] else ""
    return (
        f"| {_name(case)} | {_seconds(ours['median_seconds'])} | {_seconds(textbook['median_seconds'])}{mark} | {ours['over_textbook']:.1f}"
        f" | {100 * ours['share_of_floor']:.0f} % | {_megabytes(ours['memory_bytes'])} | {_megabytes(textbook['memory_bytes'])}{mark} | {device} |"
    )


def _way_rows(case: dict[str, Any]) -> list[str]:
    return [
        f"| {_name(case)} | {name} | {_seconds(way['median_seconds'])} | {way['over_textbook']:.1f} | {100 * way['share_of_floor']:.0f} %"
        f" | {_megabytes(way['memory_bytes'])} |"
        for name, way in case["ways"].items()
        if name not in ("ours", "textbook")
    ]


def _name(case: dict[str, Any]) -> str:
    return f"{case['experts']} x {case['classes']:,}"


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:.3g} s"


def _megabytes(value: float | None) -> str:
    return "not known" if value is None else f"{value / 1e6:,.0f} MB"


def answer(arguments: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own is asked for."""
    size, device = Size(**arguments["size"]), torch.device(arguments["device"])
    if "alone" in arguments:
        return take_alone(size, arguments["alone"], device, arguments["steps"])
    return take_by_turns(size, arguments["by_turns"], arguments["rounds"], device)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.loads(sys.argv[1]))))
