"""The record of a run: one JSON file at full precision, from which all tables and plots are made."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

import promptmix
from promptmix.config import StrictModel
from promptmix.errors import CheckpointError
from promptmix.evaluation.metrics import Metrics
from promptmix.runtime import write_text

__all__ = [
    "BenchResult",
    "RunResult",
    "device_name",
    "peak_device_memory_bytes",
    "peak_memory_bytes",
    "read_bench_result",
    "read_result",
    "reset_peak_memory",
    "versions",
    "write_result",
]


_PHASES = ("features", "training", "evaluation", "all")
_SO_AGAIN = "the command that began the bench does this run again"
_NUMBERS = re.compile(r"\[\n[-+.\deE,\s]+\]")


class RunResult(StrictModel):
    """What a run did and what came of it. ``data`` says what the metrics were measured on; ``seconds`` by phase.

    ``config`` is what was asked for, with every default; what a search or a file of templates gave stands in the saved model.
    """

    format: Literal["promptmix-result-2"] = "promptmix-result-2"
    method: str
    backbone_name: str
    backbone_fingerprint: str
    config: dict[str, Any]
    data: str
    split_hash: str | None
    seed: int
    shots: int | None
    num_trained_parameters: int
    text_encodings_per_step: int
    seconds: dict[str, float]
    peak_memory_bytes: int
    versions: dict[str, str]
    metrics: dict[str, Any]
    zero_shot: dict[str, Any]
    worse_than_zero_shot: bool
    notes: list[str]


class BenchResult(StrictModel):
    """What one run of a protocol did and what came of it: one contender, data set, number of shots and seed.

    Attributes:
        protocol: ``few-shot``, ``base-to-new``, ``cross-dataset``, ``domain`` or ``compare``.
        run_id: names the run in its plan, and its folder.
        dataset: what was learnt from, as people see it.
        contender: the method as tables print it; ``config`` has its name, options and recipe with every default.
        measures: for each part that was measured (``test``; ``base``, ``new`` and ``joint``; or the names of data sets or styles) its
            metrics as :meth:`~promptmix.evaluation.metrics.Metrics.to_json` gives them; None where the method cannot know the part's
            classes. ``descriptions`` says what each part is, ``refusals`` why a part was not measured.
        zero_shot: the same parts, measured with one hard prompt and no training.
        shots: None where nothing was learnt from or all pictures were.
        seconds: ``features``, ``training``, ``evaluation`` and ``all``. Of a run that was interrupted those of all its training count,
            and of the rest those of its last leg.
        peak_memory_bytes: the most that the process held; ``peak_device_memory_bytes``: of a GPU's memory, None where there was none.
        device, num_threads, precision: what the towers calculated on, a GPU by its name; threads of the process on the CPU; and what
            the image tower calculated in, ``fp32``, ``bf16`` or ``fp16``, whatever was asked for. None where nobody has said.
    """

    format: Literal["promptmix-bench-result-2"] = "promptmix-bench-result-2"
    protocol: str
    run_id: str
    dataset: str
    contender: str
    config: dict[str, Any]
    backbone_name: str
    backbone_fingerprint: str
    seed: int
    shots: int | None
    split_hash: str | None
    measures: dict[str, dict[str, Any] | None]
    zero_shot: dict[str, dict[str, Any]]
    descriptions: dict[str, str]
    refusals: dict[str, str]
    num_trained_parameters: int
    text_encodings_per_step: int
    seconds: dict[str, float]
    peak_memory_bytes: int
    peak_device_memory_bytes: int | None = None
    device: str | None = None
    num_threads: int | None = None
    precision: str | None = None
    versions: dict[str, str]
    notes: list[str]


def write_result(path: Path, result: RunResult | BenchResult) -> None:
    """Write a result whole or not at all."""
    text = result.model_dump_json(indent=2)
    # A list of numbers goes on one line: there are tens of thousands in a confusion. No string in JSON has a line break in it.
    write_text(path, _NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")


def read_result(path: Path) -> RunResult:
    """Read a result, strictly.

    Raises:
        CheckpointError: the file is missing or is not a whole result.
    """
    try:
        return RunResult.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as problem:
        raise CheckpointError(f"{path} is not a whole result; run again with --overwrite") from problem


def read_bench_result(path: Path) -> BenchResult:
    """Read the result of one run of a protocol, strictly.

    Raises:
        CheckpointError: the file is missing, is not a whole result of the present version, or holds numbers that no measurement gives.
    """
    try:
        result = BenchResult.model_validate_json(path.read_bytes())
        for metrics in (*result.measures.values(), *result.zero_shot.values()):
            if metrics is not None:
                Metrics.model_validate(metrics)
    except (OSError, ValidationError) as problem:
        raise CheckpointError(f"{path} is not a whole result; {_SO_AGAIN}") from problem
    lacking = [name for name in _PHASES if name not in result.seconds]
    if lacking or "format" not in result.model_fields_set:
        raise CheckpointError(f"{path} is not a whole result: it has no {[*lacking, 'format'][0]}; {_SO_AGAIN}")
    return result


def peak_memory_bytes() -> int:
    """The most memory this process has held; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux getrusage would tell the peak of the process that started this one, where that was larger
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 0


def peak_device_memory_bytes(device: torch.device) -> int | None:
    """The most memory that tensors have taken up on a CUDA device; None on another device."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def device_name(device: torch.device) -> str:
    """The name of a GPU; of another device its kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def reset_peak_memory() -> None:
    """Let :func:`peak_memory_bytes` and :func:`peak_device_memory_bytes` count from now on, where the system can: a process that does many runs would else tell of the
    largest."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Only Linux can, and there a container may forbid it.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def versions() -> dict[str, str]:
    """Versions of what computed a result."""
    return {
        "promptmix": promptmix.__version__,
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "platform": platform.platform(),
    }
