"""Pictures from addresses, fetched so that nobody reaches through the server what only the server reaches.

A host's name is looked up once; what is not public of what is found is refused, and the connection goes to the very address that was
checked. Every redirect is checked anew. No proxy, no cookie and no password is ever used.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias
from urllib.parse import urljoin

import h11

import promptmix
from promptmix.errors import printable
from promptmix.serving.addresses import WebAddress, is_public, web_address
from promptmix.serving.pictures import AddressedPicture, SentPicture
from promptmix.serving.problems import Problem
from promptmix.serving.settings import Settings

__all__ = ["Connect", "PictureFetcher", "Resolve", "Streams", "connect", "resolve"]

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Resolve: TypeAlias = Callable[[str, int], list[str]]
"""From the name of a host and a port to its IP addresses, the best first; called in a thread."""
Connect: TypeAlias = Callable[[str, int, str | None], Awaitable[Streams]]
"""Connects to an IP address and a port; with the name of a host by TLS, with a certificate of that name."""

_logger = logging.getLogger(__name__)

_MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_ADDRESSES = 3  # of one host that are tried
_LONGEST_HEAD = 2**16
_PART = 2**16
_AT_ONCE = 16  # pictures that are fetched at the same time, and names that are looked up

_OUT_OF_REACH = "nothing can be fetched from there; its address must be one that everybody on the internet can reach"


def resolve(host: str, port: int) -> list[str]:
    """As the system looks names up.

    Raises:
        OSError, UnicodeError: there is none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@functools.cache
def _trusted_here() -> ssl.SSLContext:
    return ssl.create_default_context()


async def connect(ip_address: str, port: int, host: str | None, *, trusted: ssl.SSLContext | None = None) -> Streams:
    """Connect to an IP address, by TLS where the host's name is given.

    Args:
        trusted: whose certificates are good; None: those that the system trusts.

    Raises:
        OSError: it cannot be reached, or has no certificate of that name.
    """
    if host is None:
        return await asyncio.open_connection(ip_address, port)
    return await asyncio.open_connection(ip_address, port, ssl=trusted or _trusted_here(), server_hostname=host)


class PictureFetcher:
    """Fetches pictures.

    Args:
        resolve, connect: tests put others here, which lead to themselves; whatever these find is checked all the same.
    """

    def __init__(self, settings: Settings, *, resolve: Resolve = resolve, connect: Connect = connect) -> None:
        self._settings, self._resolve, self._connect = settings, resolve, connect
        self._room = asyncio.Semaphore(_AT_ONCE)
        # Looking a name up cannot be cancelled, so that those who wait long must not hold up anything else.
        self._lookups = ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="promptmix-names")

    def close(self) -> None:
        """Look no more names up."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def fetch_all(
        self, pictures: Sequence[SentPicture | AddressedPicture], count: Callable[[int], None]
    ) -> list[SentPicture]:
        """All pictures in their order, those with an address fetched.

        Args:
            count: told how many bytes have come, each time some do; it raises where they are too many.

        Raises:
            Problem: 422, an address may not be asked, cannot be reached, gives no picture or takes too long; 413, it gives too much.
        """

        async def one(place: int, picture: SentPicture | AddressedPicture) -> SentPicture:
            if isinstance(picture, SentPicture):
                return picture
            async with self._room:
                return SentPicture(name=picture.url, content=await self._fetch(place, picture.url, count))

        loop = asyncio.get_running_loop()
        work = [loop.create_task(one(place, picture)) for place, picture in enumerate(pictures)]
        try:
            return list(await asyncio.gather(*work))
        finally:
            for task in work:
                task.cancel()  # the others, where one has failed or nobody waits any more
            await asyncio.gather(*work, return_exceptions=True)

    async def _fetch(self, place: int, url: str, count: Callable[[int], None]) -> bytes:
        named, limit = f"picture {place + 1}", self._settings.url_time_limit
        try:
            async with asyncio.timeout(limit):
                for _ in range(_MOST_REDIRECTS + 1):
                    address = web_address(url, self._settings.url_ports)
                    answer = await self._asked(address, named, count)
                    if isinstance(answer, bytes):
                        return answer
                    url = urljoin(url, answer)
        except TimeoutError as problem:
            raise Problem(422, "slow-address", f"{named}: its address gave no picture within {limit:g} s") from problem
        except (OSError, h11.RemoteProtocolError) as problem:
            # Why, is for the log alone: it would tell strangers what there is in the network behind the server.
            _logger.info("%s is not fetched from %s: %s", named, printable(url), printable(problem))
            raise Problem(422, "address-out-of-reach", f"{named}: {_OUT_OF_REACH}") from problem
        except ValueError as problem:
            raise Problem(422, "wrong-address", f"{named}: {problem}") from problem
        detail = f"{named}: its address leads on to others more than {_MOST_REDIRECTS} times; give the last one"
        raise Problem(422, "no-picture-there", detail)

    async def _asked(self, address: WebAddress, named: str, count: Callable[[int], None]) -> bytes | str:
        """What an address gives: the bytes of a picture, or where it leads instead."""
        reader, writer = await self._connected(address)
        try:
            return await self._exchanged(reader, writer, address, named, count)
        finally:
            writer.transport.abort()  # nothing is left to be said, and nobody waits for the other side to agree

    async def _connected(self, address: WebAddress) -> Streams:
        """A connection to an IP address of the host that was checked; the name is looked up this once.

        Raises:
            OSError: there is no public one that can be reached.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._lookups, self._resolve, address.host, address.port)
        except UnicodeError as problem:
            raise OSError("this is no name of a host") from problem
        public = [one for one in dict.fromkeys(found) if is_public(one)][:_MOST_ADDRESSES]
        reason = "it is refused, because none of its IP addresses is public"
        for one in public:
            try:
                async with asyncio.timeout(self._settings.url_time_limit / _MOST_ADDRESSES):
                    return await self._connect(one, address.port, address.host if address.scheme == "https" else None)
            except OSError as problem:
                reason = str(problem) or type(problem).__name__
        raise OSError(reason)

    async def _exchanged(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        address: WebAddress,
        named: str,
        count: Callable[[int], None],
    ) -> bytes | str:
        client = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)
        headers = [
            ("Host", address.host_header),
            ("User-Agent", f"promptmix/{promptmix.__version__}"),
            ("Accept", "image/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        request = h11.Request(method="GET", target=address.target, headers=headers)
        writer.write((client.send(request) or b"") + (client.send(h11.EndOfMessage()) or b""))
        parts: list[bytes] = []
        size, most = 0, self._settings.max_picture_bytes
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(await reader.read(_PART))
            elif isinstance(event, h11.Response):
                leads_to = _leads_to(event, named)
                if leads_to is not None:
                    return leads_to
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > most:
                    raise Problem(413, "too-many-bytes", f"{named} has more than {most:,} bytes; make it smaller")
                count(len(event.data))
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return b"".join(parts)
            elif not isinstance(event, h11.InformationalResponse):
                raise OSError("the connection was closed before an answer")


def _leads_to(answer: h11.Response, named: str) -> str | None:
    """Where a redirect leads; None where the picture itself follows.

    Raises:
        Problem: the answer is of another kind.
    """
    headers = {name: value.decode("latin-1") for name, value in answer.headers}
    if answer.status_code in _REDIRECTS and b"location" in headers:
        return headers[b"location"]
    if answer.status_code != 200:
        detail = f"{named}: its address answers with status {answer.status_code}, not with a picture"
        raise Problem(422, "no-picture-there", detail)
    if headers.get(b"content-encoding", "identity").strip().lower() not in ("", "identity"):
        detail = f"{named}: its address answers in an encoding that was not asked for; send the file's bytes"
        raise Problem(422, "no-picture-there", detail)
    return None
