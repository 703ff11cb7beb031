"""What the pages of a server share, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from promptmix.serving.engine import EngineLoader
from promptmix.serving.fetching import PictureFetcher
from promptmix.serving.metrics import Metrics
from promptmix.serving.models import ServedModel
from promptmix.serving.pictures import BodyReader
from promptmix.serving.problems import Problem
from promptmix.serving.settings import Settings

__all__ = ["Service"]

_logger = logging.getLogger(__name__)

_DECODERS = 4  # threads; each may hold a whole decoded picture


class Service:
    """All that the pages share: limits, models, counters, the threads that decode and what fetches pictures.

    Args:
        paths: of model folders and exported models by name; the first answers where no model is named.
        loader_of: what reads and runs the model at a path.
        fetcher: fetches pictures from addresses; None: one that reaches the internet.

    Raises:
        CheckpointError, BackboneError, ConfigError: a model cannot be loaded.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        loader_of: Callable[[Path], EngineLoader],
        settings: Settings,
        *,
        fetcher: PictureFetcher | None = None,
    ) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.bodies = BodyReader(settings)
        self.fetcher = fetcher or PictureFetcher(settings)
        self.decoders = ThreadPoolExecutor(max_workers=_DECODERS, thread_name_prefix="promptmix-pictures")
        self.models = {name: self._served(name, path, loader_of(path)) for name, path in paths.items()}
        self.ready = False
        for model in self.models.values():
            self._tell(model)

    async def start(self) -> None:
        """Begin to answer."""
        for model in self.models.values():
            model.batcher.start()
        self.ready = True

    async def stop(self) -> None:
        """Accept nothing more, answer what was accepted, end the threads."""
        self.ready = False
        await asyncio.gather(*(model.batcher.stop() for model in self.models.values()))
        self.decoders.shutdown(wait=True, cancel_futures=True)
        self.fetcher.close()

    @contextlib.asynccontextmanager
    async def until_stopped(self) -> AsyncIterator[None]:
        """Within the block a request is answered; one that is not once the limit to stop has passed is told so.

        Raises:
            Problem: 503, the server stops and waits no longer.
        """
        try:
            yield
        except asyncio.CancelledError as problem:
            if self.ready:
                raise
            detail = "the server stopped before this was answered; ask again in a moment"
            raise Problem(503, "stopping", detail, {"Retry-After": "5", "Connection": "close"}) from problem

    async def reload_changed(self) -> None:
        """Read the models anew that have changed."""
        for model in self.models.values():
            if await model.reload_if_changed():
                self._tell(model)

    async def watch(self) -> None:
        """Look at the models again and again."""
        while True:
            await asyncio.sleep(self.settings.watch_seconds)
            try:
                await self.reload_changed()
            except Exception as problem:
                _logger.error("the models could not be looked at: unexpected %s: %s", type(problem).__name__, problem)

    def changed(self, model: ServedModel) -> None:
        """To be told of a model that has another version."""
        self._tell(model)

    def _served(self, name: str, path: Path, loader: EngineLoader) -> ServedModel:
        def on_batch(pictures: int, seconds: float) -> None:
            self.metrics.batch_pictures.labels(name).observe(pictures)
            self.metrics.batch_seconds.labels(name).observe(seconds)

        def on_reload(worked: bool) -> None:
            self.metrics.reloads.labels(name, "read" if worked else "failed").inc()

        model = ServedModel(name, path, loader, self.settings, on_batch=on_batch, on_reload=on_reload)
        self.metrics.queue.labels(name).set_function(lambda: model.batcher.accepted)
        return model

    def _tell(self, model: ServedModel) -> None:
        self.metrics.classes.labels(model.name).set(len(model.current.engine.class_names))
        self.metrics.version.remove_by_labels({"model": model.name})
        self.metrics.version.labels(model.name, model.current.version).set(1)
