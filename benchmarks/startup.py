"""Processor time until the command line and the package are there."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.measure import median

__all__ = ["measure_startup"]


def measure_startup(rounds: int = 7) -> dict[str, Any]:
    """User and system seconds of whole processes, Python's own start included."""
    commands = {
        "python": ["-c", "pass"],
        "import_promptmix": ["-c", "import promptmix"],
        "import_classifier": ["-c", "from promptmix import PromptClassifier"],
        "help": ["-c", "from promptmix.cli.main import run; run()", "--help"],
    }
    return {
        "what": "processor seconds of a whole process, Python's own start included",
        "rounds": rounds,
        **{f"{name}_seconds": median([_processor_seconds(command) for _ in range(rounds)]) for name, command in commands.items()},
    }


def _processor_seconds(arguments: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
