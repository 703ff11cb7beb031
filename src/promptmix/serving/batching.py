"""Requests that come one by one are run through the model together: a bounded queue, one thread, whole requests only.

A request is never split over two models: all its pictures are answered by the engine that its batch began with, so that an answer has
one version.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from promptmix.backbones.preprocess import View
from promptmix.serving.engine import Engine, EngineOutput
from promptmix.serving.problems import Problem

__all__ = ["Answered", "Batcher", "Versioned"]


@dataclass(frozen=True, kw_only=True)
class Versioned:
    """An engine with the version of the model that it runs."""

    engine: Engine
    version: str


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What an engine said of a request's pictures, and which one it was."""

    output: EngineOutput
    by: Versioned


Current = TypeVar("Current", bound=Versioned)


@dataclass(eq=False, kw_only=True)
class _Waiting(Generic[Current]):
    """A request in the queue. Its views were made for ``made_for``; another pre-processing cannot run them."""

    views: list[View]
    made_for: Current
    answer: asyncio.Future[Answered] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher(Generic[Current]):
    """Runs pictures of many requests through one model, in batches.

    Args:
        current: the engine to run the next batch with; it may be another one each time.
        max_batch: pictures the engine is shown at once; a larger request goes through it alone, in several steps.
        max_wait: milliseconds that a batch waits for more pictures once it has one.
        max_queue: pictures that are accepted and not yet answered, at most.
        on_batch: told the pictures and the seconds of every batch.
    """

    def __init__(
        self,
        current: Callable[[], Current],
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        on_batch: Callable[[int, float], None] = lambda pictures, seconds: None,
    ) -> None:
        self._current, self._on_batch = current, on_batch
        self._max_batch, self._max_wait, self._max_queue = max_batch, max_wait / 1000, max_queue
        self._waiting: deque[_Waiting[Current]] = deque()
        self._accepted = 0
        self._changed = asyncio.Event()
        self._stopping = False
        self._seconds_a_picture = 0.05  # a running mean, for Retry-After
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="promptmix-model")
        self._task: asyncio.Task[None] | None = None

    @property
    def accepted(self) -> int:
        """Pictures that are accepted and not yet answered."""
        return self._accepted

    def start(self) -> None:
        """Begin to take batches; called within the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Accept nothing more, answer what was accepted, and end the thread."""
        self._stopping = True
        self._changed.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown(wait=True)

    @contextlib.contextmanager
    def room(self, pictures: int) -> Iterator[None]:
        """Within the block so many pictures count as accepted.

        Raises:
            Problem: 429, the queue is full; 413, it is never long enough for so many; 503, the server is stopping.
        """
        if self._stopping:
            raise Problem(503, "stopping", "the server is stopping; ask again in a moment", {"Retry-After": "5"})
        if pictures > self._max_queue:
            raise Problem(413, "too-many-pictures", f"at most {self._max_queue} pictures may wait; send them in several requests")
        if self._accepted + pictures > self._max_queue:
            seconds = max(1, math.ceil(self._accepted * self._seconds_a_picture))
            detail = f"{self._accepted} pictures are waiting, and at most {self._max_queue} may; come again in {seconds} s"
            raise Problem(429, "queue-full", detail, {"Retry-After": str(seconds)})
        self._accepted += pictures
        try:
            yield
        finally:
            self._accepted -= pictures
            self._changed.set()

    async def answer(self, views: list[View], made_for: Current) -> Answered:
        """What the model says of views for which there is room; a caller that is cancelled leaves the queue.

        Raises:
            Problem: 503, the model was replaced by one of another pre-processing.
        """
        request = _Waiting(views=views, made_for=made_for)
        self._waiting.append(request)
        self._changed.set()
        try:
            return await request.answer
        finally:
            if request in self._waiting:
                self._waiting.remove(request)

    async def _run(self) -> None:
        while (batch := await self._next_batch()) is not None:
            current = self._current()
            fitting = [request for request in batch if request.made_for.engine.preprocess == current.engine.preprocess]
            for request in batch:
                if request not in fitting:
                    detail = "the model was replaced meanwhile by one that sees pictures in another way; ask again"
                    request.answer.set_exception(Problem(503, "model-replaced", detail, {"Retry-After": "1"}))
            if not fitting:
                continue
            views = [view for request in fitting for view in request.views]
            started = time.monotonic()
            try:
                work = asyncio.get_running_loop().run_in_executor(self._thread, self._through, current.engine, views)
                output = await work
            except Exception as problem:
                # Each request hears of it; the next batch is tried as if nothing had been.
                for request in fitting:
                    if not request.answer.done():
                        request.answer.set_exception(problem)
                continue
            seconds = time.monotonic() - started
            self._seconds_a_picture += 0.2 * (seconds / len(views) - self._seconds_a_picture)
            self._on_batch(len(views), seconds)
            first = 0
            for request in fitting:
                end = first + len(request.views)
                if not request.answer.done():
                    request.answer.set_result(Answered(output=output.rows(first, end), by=current))
                first = end

    async def _next_batch(self) -> list[_Waiting[Current]] | None:
        """The requests that go together; None once the batcher is stopping and has answered all it accepted."""
        while not self._waiting:
            if self._stopping and not self._accepted:
                return None
            self._changed.clear()
            await self._changed.wait()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._max_wait
        while not self._stopping and self._waiting and sum(len(one.views) for one in self._waiting) < self._max_batch:
            self._changed.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                break
        batch: list[_Waiting[Current]] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0].views) <= self._max_batch):
            request = self._waiting.popleft()
            if request.answer.done():
                continue  # whoever asked has gone
            batch.append(request)
            size += len(request.views)
        return batch

    def _through(self, engine: Engine, views: list[View]) -> EngineOutput:
        parts = [engine.run(np.stack(views[first : first + self._max_batch])) for first in range(0, len(views), self._max_batch)]
        every = [part.features for part in parts if part.features is not None]
        return EngineOutput(
            logits=np.concatenate([part.logits for part in parts]),
            expert_weights=np.concatenate([part.expert_weights for part in parts]),
            features=np.concatenate(every) if every else None,
        )
