"""Runs an app until it is told to stop, and then until all that it accepted is answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from promptmix.errors import ConfigError
from promptmix.serving.app import create_app
from promptmix.serving.service import Service

__all__ = ["run_server"]

_logger = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Leaves signals to us: to be told to stop is no failure."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run_server(service: Service, host: str, port: int, on_started: Callable[[str], None] = lambda address: None) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends it at once. SIGHUP reads changed models without delay.

    Args:
        port: 0 takes a free one.
        on_started: told the address once the server answers.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    listener = _listen(host, port)
    try:
        asyncio.run(_serve(service, listener, on_started))
    finally:
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from problem


async def _serve(service: Service, listener: socket.socket, on_started: Callable[[str], None]) -> None:
    config = uvicorn.Config(
        create_app(service),
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=max(1, round(service.settings.stop_limit)),
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def stop() -> None:
        service.ready = False
        server.force_exit = server.should_exit
        server.should_exit = True

    def reload() -> None:
        task = loop.create_task(service.reload_changed())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number, handler in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (getattr(signal, "SIGHUP", None), reload)):
        if number is not None:
            loop.add_signal_handler(number, handler)
    telling = loop.create_task(_tell_when_started(server, listener, on_started))
    await server.serve(sockets=[listener])
    telling.cancel()


async def _tell_when_started(server: uvicorn.Server, listener: socket.socket, on_started: Callable[[str], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.02)
    host, port = listener.getsockname()[:2]
    on_started(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
