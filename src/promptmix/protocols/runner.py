"""The runs of a plan, one after another or side by side: finished ones are skipped, stopped ones go on, failed ones are tried again."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.errors import BackboneError, DataError, InterruptedRun, OutOfMemoryError, UnreadablePictureError
from promptmix.features.cache import FeatureCache
from promptmix.memory import free_memory_bytes
from promptmix.protocols.base import Plan, PlannedRun
from promptmix.protocols.execute import Workbench, execute, is_finished, run_folder
from promptmix.runtime import write_json
from promptmix.training.fit import Progress, no_progress

__all__ = ["Failure", "Worker", "choose_jobs", "interrupted_by_sigterm", "record", "run_plan"]

_logger = logging.getLogger(__name__)

_PROCESS_BYTES = 700 * 2**20  # of a worker besides the weights: the libraries, features, a training step on a small backbone

Describe = Callable[[BaseException], tuple[int, str]]
"""The exit code of an error, and what to tell the person."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that gave no result: its error in one line, and the exit code that stands for this kind of error."""

    run_id: str
    exit_code: int
    message: str


def choose_jobs(backbone: Backbone) -> int:
    """How many processes work side by side: one a core, fewer where memory is short, one where the backbone is on a GPU."""
    if backbone.device.type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    towers = [tower for tower in (backbone.vision, backbone.text) if tower is not None]
    weights = sum(value.numel() * value.element_size() for tower in towers for value in tower.parameters())
    free = free_memory_bytes()
    return cores if free is None else max(1, min(cores, free // (_PROCESS_BYTES + 3 * weights)))


def run_plan(
    plan: Plan,
    out: Path,
    backbone: Backbone,
    describe: Describe,
    *,
    jobs: int = 1,
    device: str = "auto",
    cache: FeatureCache | None = None,
    on_progress: Progress = no_progress,
    on_ray: bool = False,
    ray_address: str | None = None,
) -> list[Failure]:
    """Do what is left to do of a plan; returns the runs that failed.

    Args:
        backbone: that of the plan, for runs in this process; each worker loads its own.
        jobs: processes that work side by side; 1: all runs in this process.
        device: where the workers load their backbone.
        on_ray: the runs are spread over a Ray cluster, and ``jobs`` does not count; ``ray_address`` says which, see
            :func:`~promptmix.cluster.connected`.

    Raises:
        ConfigError: the package ``ray`` is missing, or there is no such cluster.
        InterruptedRun: stopped by the person; what was being learnt is in checkpoints.
    """
    left = [run for run in plan.runs if not is_finished(out, plan, run)]
    done = len(plan.runs) - len(left)
    failures: dict[str, Failure] = {}
    if done:
        _logger.info("%d of %d runs were finished before", done, len(plan.runs))

    def finished(run: PlannedRun, problem: BaseException | Failure | None) -> None:
        nonlocal done
        done += 1
        on_progress("runs", done, len(plan.runs), run.run_id)
        if problem is not None:
            failures[run.run_id] = problem if isinstance(problem, Failure) else record(out, run, problem, describe)

    on_progress("runs", done, len(plan.runs), "")
    try:
        with interrupted_by_sigterm():
            if on_ray and left:
                from promptmix.protocols.ray_runs import run_on_ray  # which knows this module

                run_on_ray(plan, left, out, device, cache, describe, finished, ray_address)
            elif jobs == 1 or not left:
                _run_here(plan, left, out, Workbench(backbone=backbone, cache=cache), finished, on_progress)
            else:
                _run_side_by_side(plan, left, out, jobs, device, cache, finished)
    except (KeyboardInterrupt, InterruptedRun) as problem:
        raise InterruptedRun(f"stopped with {done} of {len(plan.runs)} runs done; the same command goes on in {out}") from problem
    return [failures[run.run_id] for run in plan.runs if run.run_id in failures]


def _run_here(
    plan: Plan,
    runs: Sequence[PlannedRun],
    out: Path,
    bench: Workbench,
    finished: Callable[[PlannedRun, BaseException | None], None],
    on_progress: Progress,
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        for run in runs:
            problem = None
            try:
                execute(plan, run, bench, out, on_progress)
            except InterruptedRun:
                raise
            except Exception as raised:
                problem = raised
            finished(run, problem)
    finally:
        torch.set_num_threads(threads)


def _run_side_by_side(
    plan: Plan,
    runs: Sequence[PlannedRun],
    out: Path,
    jobs: int,
    device: str,
    cache: FeatureCache | None,
    finished: Callable[[PlannedRun, BaseException | None], None],
) -> None:
    """Runs in worker processes that stay. When one dies, those that were in work are tried again, each alone in a process of its own,
    so that only the run that cannot be done is lost."""
    setup = (plan, out, device, None if cache is None else cache.folder, _logger.getEffectiveLevel())
    waiting, suspects = list(runs), list[PlannedRun]()
    while waiting:
        waiting, in_work = _until_one_dies(waiting, min(jobs, len(waiting)), setup, finished)
        suspects += in_work
    for run in suspects:
        _, died = _until_one_dies([run], 1, setup, finished)
        if died:
            finished(run, OutOfMemoryError("the process of this run was ended from outside, as happens when memory runs out"))


def _until_one_dies(
    runs: Sequence[PlannedRun], jobs: int, setup: tuple[Any, ...], finished: Callable[[PlannedRun, BaseException | None], None]
) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """Do runs in a pool of processes; where one dies, those that were not begun and those that were in work."""
    waiting = list(reversed(runs))
    in_work: dict[Future[None], PlannedRun] = {}
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker, setup)
    try:
        while waiting or in_work:
            # Never more than there are processes, so that what is lost with a pool is what was in work.
            while waiting and len(in_work) < jobs:
                in_work[pool.submit(_work, waiting[-1])] = waiting[-1]
                waiting.pop()
            ended, _ = wait(in_work, return_when=FIRST_COMPLETED)
            for future in ended:
                problem = future.exception()
                if isinstance(problem, BrokenProcessPool):
                    return waiting[::-1], list(in_work.values())
                if isinstance(problem, KeyboardInterrupt | InterruptedRun):
                    raise problem
                finished(in_work.pop(future), problem)
    except BrokenProcessPool:
        return waiting[::-1], list(in_work.values())
    except (KeyboardInterrupt, InterruptedRun):
        # Workers do not hear Ctrl-C themselves: each is told once, writes its checkpoint and ends.
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return [], []


@dataclass(kw_only=True)
class Worker:
    """What a worker process keeps between its runs."""

    plan: Plan
    out: Path
    device: str
    cache_folder: Path | None
    bench: Workbench | None = None
    at_work: bool = False

    def do(self, run: PlannedRun) -> None:
        """Do a run, after the backbone was loaded for the first of them.

        Raises:
            BackboneError: the backbone is not that of the plan any more.
            Exception: as :func:`~promptmix.protocols.execute.execute`.
        """
        self.at_work = True
        try:
            if self.bench is None:
                backbone = load_backbone(self.plan.backbone, device=self.device, precision=self.plan.precision)
                if backbone.features_key != self.plan.backbone_key:
                    raise BackboneError(
                        f"the files of backbone {self.plan.backbone} have changed since the plan was made; start again"
                    )
                cache = None if self.cache_folder is None else FeatureCache(self.cache_folder)
                self.bench = Workbench(backbone=backbone, cache=cache)
            execute(self.plan, run, self.bench, self.out)
        finally:
            self.at_work = False


_workers: list[Worker] = []  # one, in a worker process; a pool gives its functions no other place


def _start_worker(plan: Plan, out: Path, device: str, cache_folder: Path | None, log_level: int) -> None:
    """Make this process ready for runs. What could fail is left to the first of them, which can tell of it."""
    _workers.append(Worker(plan=plan, out=out, device=device, cache_folder=cache_folder))
    logging.getLogger("promptmix").setLevel(log_level)
    if hasattr(signal, "pthread_sigmask"):
        # Ctrl-C reaches all processes of a terminal; the one that started this one tells it to stop, once.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(plan.threads)


def _work(run: PlannedRun) -> None:
    (worker,) = _workers
    worker.do(run)


def _stop(number: int, frame: FrameType | None) -> None:
    """Told to stop outside of training, where there is nothing to keep; within it the training loop hears the signal itself."""
    if _workers[0].at_work:
        raise KeyboardInterrupt


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on writing into a folder in which a new start may be at work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM is as Ctrl-C, so that the workers are told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def record(out: Path, run: PlannedRun, problem: BaseException, describe: Describe) -> Failure:
    """Write down beside a run why it gave no result."""
    told = problem
    if isinstance(problem, UnreadablePictureError):
        # A bench leaves no picture out: the pictures of its plan are what its results are of.
        advice = "mend the picture, or take it away and begin another bench; promptmix data check lists all such pictures"
        told = UnreadablePictureError(problem.reason, advice)
    exit_code, message = describe(told)
    said = {
        "format": "promptmix-bench-failure",
        "run_id": run.run_id,
        "exit_code": exit_code,
        "message": message,
        "traceback": "".join(traceback.format_exception(problem)),
    }
    try:
        write_json(run_folder(out, run) / "failed.json", said)
    except (DataError, OSError) as unwritten:
        _logger.error("why %s failed could not be written down: %s", run.run_id, unwritten)
    return Failure(run_id=run.run_id, exit_code=exit_code, message=message)
