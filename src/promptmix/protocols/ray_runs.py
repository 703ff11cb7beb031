"""The runs of a plan as tasks of a Ray cluster. Each writes its own folder, as a process on this machine would."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from promptmix.cluster import connected, resources_of_a_worker
from promptmix.errors import DataError, InterruptedRun, OutOfMemoryError
from promptmix.features.cache import FeatureCache
from promptmix.protocols.base import Plan, PlannedRun, planned_run_ids
from promptmix.protocols.runner import Describe, Failure, Worker, interrupted_by_sigterm, record

__all__ = ["run_on_ray"]

_SECONDS_TO_STOP = 60.0  # for the checkpoints of those that are told to


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """What the tasks of a plan share. Paths are those that all machines of the cluster know.

    Attributes:
        current: the folder that relative paths of pictures and ``out`` count from.
    """

    plan: Plan
    out: Path
    device: str
    cache_folder: Path | None
    describe: Describe
    current: Path
    log_level: int


def run_on_ray(
    plan: Plan,
    runs: Sequence[PlannedRun],
    out: Path,
    device: str,
    cache: FeatureCache | None,
    describe: Describe,
    finished: Callable[[PlannedRun, BaseException | Failure | None], None],
    address: str | None,
) -> None:
    """Do runs on a cluster, which decides how many at a time; each asks for the plan's threads, and for a GPU where it is on one.

    Args:
        finished: told of each run as it ends, with what went wrong.

    Raises:
        ConfigError: the package ``ray`` is missing, or there is no cluster at the address.
        KeyboardInterrupt: stopped by the person; what was being learnt is in checkpoints.
    """
    with connected(address) as ray, interrupted_by_sigterm():
        setup = ray.put(
            _Setup(
                plan=plan,
                out=out,
                device=device,
                cache_folder=None if cache is None else cache.folder,
                describe=describe,
                current=Path.cwd(),
                log_level=logging.getLogger("promptmix").getEffectiveLevel(),
            )
        )
        # A run whose process has died is tried once more.
        task = ray.remote(max_retries=1, **resources_of_a_worker(ray, device, plan.threads))(_do)
        waiting = {task.remote(setup, run): run for run in runs}
        try:
            while waiting:
                (ended, *_), _ = ray.wait(list(waiting))
                problem: BaseException | Failure | None
                try:
                    problem = ray.get(ended)
                except ray.exceptions.RayError as raised:
                    problem = OutOfMemoryError(
                        f"the process of this run was ended from outside ({type(raised).__name__}), as happens when memory runs out"
                    )
                finished(waiting.pop(ended), problem)
        except BaseException:
            for one in waiting:
                ray.cancel(one)
            ray.wait(list(waiting), num_returns=len(waiting), timeout=_SECONDS_TO_STOP)
            raise


_workers: dict[str, Worker] = {}  # one, in a process of the cluster, which does one task after the other


def _do(setup: _Setup, run: PlannedRun) -> BaseException | Failure | None:
    """A run, in a process of the cluster; gives what went wrong."""
    plan = setup.plan
    logging.getLogger("promptmix").setLevel(setup.log_level)
    try:
        os.chdir(setup.current)
        seen = planned_run_ids(setup.out) == [one.run_id for one in plan.runs]
    except OSError:
        seen = False
    if not seen:
        return DataError(
            f"a machine of the cluster does not see {setup.current / setup.out} as it is here; data and --out must lie on storage that all machines share"
        )
    torch.set_num_threads(plan.threads)
    key = plan.model_dump_json()
    if key not in _workers:
        _workers.clear()
        _workers[key] = Worker(plan=plan, out=setup.out, device=setup.device, cache_folder=setup.cache_folder)
    try:
        _workers[key].do(run)
    except InterruptedRun:
        raise
    except Exception as problem:
        return record(setup.out, run, problem, setup.describe)
    return None
