"""A web that is all on the loopback: names, IP addresses that are never asked, and pages."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from promptmix.serving.fetching import PictureFetcher, Streams
from promptmix.serving.settings import Settings

HERE = "93.184.215.14"  # a public address; what leads to the loopback stands in its place
THERE = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"  # another, where nothing answers

OK = b"HTTP/1.1 200 OK\r\n"
Page = bytes | Sequence[bytes | float]


def whole(content: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % len(content) + content


def in_chunks(content: bytes) -> bytes:
    chunks = [content[first : first + 1000] for first in range(0, len(content), 1000)]
    return (
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in chunks) + b"0\r\n\r\n"
    )


def to(url: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Elsewhere\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()


class Web:
    """What stands for the internet: names with their IP addresses, and pages, all of which one server of the loopback gives.

    A page is what is sent: bytes; or a head, and bytes and pauses in seconds that are repeated without end.

    Args:
        certificate: the server speaks TLS with it.
    """

    def __init__(
        self, pages: dict[str, Page], names: dict[str, list[str]] | None = None, certificate: Path | None = None
    ) -> None:
        self.pages = pages
        self.names = {"here.example": [HERE], **(names or {})}
        self.looked_up: list[str] = []
        self.asked: list[tuple[str, int, str | None]] = []
        self.heads: list[str] = []
        self.sent = 0
        self.port = 0
        self._certificate = certificate
        self._answering: set[asyncio.Task[None]] = set()

    def resolve(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        if host not in self.names:
            raise OSError("no such name: secret")
        found = self.names[host]
        return [found.pop(0)] if host == "rebinding.example" else found  # elsewhere each time it is looked up

    async def connect(self, ip_address: str, port: int, host: str | None) -> Streams:
        self.asked.append((ip_address, port, host))
        if ip_address == THERE:
            raise OSError("no way there: secret")
        return await asyncio.open_connection("127.0.0.1", self.port)

    def fetcher(self, settings: Settings) -> PictureFetcher:
        return PictureFetcher(settings, resolve=self.resolve, connect=self.connect)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        by_tls = None
        if self._certificate is not None:
            by_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            by_tls.load_cert_chain(self._certificate)
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=by_tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._answering:
                task.cancel()
            await asyncio.gather(*self._answering, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                page = self.pages[head.split()[1]]
                for part in [page] if isinstance(page, bytes) else itertools.chain(page[:1], itertools.cycle(page[1:])):
                    if isinstance(part, float):
                        await asyncio.sleep(part)
                    else:
                        writer.write(part)
                        await writer.drain()
                        self.sent += len(part)
        finally:
            writer.close()
