"""What processes of the tests do; a process finds it here by its name."""

from __future__ import annotations

from multiprocessing.synchronize import Barrier
from pathlib import Path

from promptmix.inference.bulk_job import BulkJob, start_job


def start_in_all(folders: list[Path], job: BulkJob, barrier: Barrier) -> None:
    """Start a job in each folder, at the same moment as the others; a failure is one of the process."""
    problem: Exception | None = None
    for folder in folders:
        barrier.wait(60)
        try:
            start_job(folder, job)
        except Exception as raised:
            problem = raised
    if problem is not None:
        raise problem
