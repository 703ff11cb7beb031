"""What a server counts, for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Measured", "Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters in a registry of their own, so that two servers in one process do not add up."""

    def __init__(self) -> None:
        kept = self._registry = CollectorRegistry()
        self.requests = Counter(
            "promptmix_requests", "Requests by route, method and status.", ["route", "method", "status"], registry=kept
        )
        self.seconds = Histogram(
            "promptmix_request_seconds",
            "From the head of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=kept,
        )
        self.batch_pictures = Histogram(
            "promptmix_batch_pictures", "Pictures in a batch of the model.", ["model"], buckets=_PICTURES, registry=kept
        )
        self.batch_seconds = Histogram(
            "promptmix_batch_seconds", "What the model takes for a batch.", ["model"], buckets=_SECONDS, registry=kept
        )
        self.queue = Gauge("promptmix_queue_pictures", "Pictures accepted and not yet answered.", ["model"], registry=kept)
        self.classes = Gauge("promptmix_classes", "Classes that the model tells apart.", ["model"], registry=kept)
        self.version = Gauge("promptmix_model_info", "1, with the version that answers.", ["model", "version"], registry=kept)
        self.reloads = Counter(
            "promptmix_reloads", "Changed model folders, by whether they could be read.", ["model", "result"], registry=kept
        )

    def text(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self._registry)


class Measured:
    """Counts and times the requests of an app; those that found no route are one kind, so that nobody can make up new ones."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            status = status or 500  # what nobody expected is answered further out
            raise
        finally:
            # The app has left the route in the scope; without one the path was made up by whoever asked.
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PATCH", "DELETE") else "other"
            self._metrics.requests.labels(route, method, status or "gone").inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - started)
