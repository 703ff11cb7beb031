"""What processes of the tests do in place of a run; a worker finds it here by its name."""

from __future__ import annotations

import os

from promptmix.protocols import runner
from promptmix.protocols.base import PlannedRun

do_the_run = runner._work


def die_with_seed_2(run: PlannedRun) -> None:
    """As when memory runs out: no word, no exception."""
    if run.seed == 2:
        os._exit(9)
    do_the_run(run)


def die_beside_others(run: PlannedRun) -> None:
    """Dies with seed 2, but only the first time."""
    (worker,) = runner._workers
    marker = worker.out / "died"
    if run.seed == 2 and not marker.exists():
        marker.write_text("")
        os._exit(9)
    do_the_run(run)


def interrupted(run: PlannedRun) -> None:
    """As when a worker is told to stop while it works."""
    worker = runner._workers[0]
    worker.at_work = True
    runner._stop(15, None)
