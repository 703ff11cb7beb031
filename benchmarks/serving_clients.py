"""Clients that ask a server over HTTP and cost little: ready-made requests, one socket and one thread a client, nothing parsed on the way.

They run on the processors that the server runs on too, so whatever they take is missing there.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "Connection", "ask_all", "json_request", "picture_request"]

_BOUNDARY = "a-boundary-that-no-picture-holds"
_END_OF_HEADERS = b"\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back: the place of what was asked, the status (0: the connection was lost), the body, and the seconds it took."""

    asked: int
    status: int
    body: bytes
    seconds: float


def picture_request(path: str, picture: bytes) -> bytes:
    """A whole request that uploads a picture as a form's file."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    body = head.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return _request("POST", path, f"multipart/form-data; boundary={_BOUNDARY}", body)


def json_request(method: str, path: str, value: Any = None, token: str | None = None) -> bytes:
    """A whole request with a body of JSON, or without one."""
    body = b"" if value is None else json.dumps(value).encode()
    return _request(method, path, "application/json", body, "" if token is None else f"Authorization: Bearer {token}\r\n")


def _request(method: str, path: str, kind: str, body: bytes, more: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


class Connection:
    """A connection that is kept for many requests, one after the other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer.

        Raises:
            OSError: the connection was lost.
        """
        self._socket.sendall(request)
        received = bytearray()
        while (end := received.find(_END_OF_HEADERS)) < 0:
            received += self._more()
        head = bytes(received[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        whole = end + len(_END_OF_HEADERS) + length
        while len(received) < whole:
            received += self._more()
        return int(head[9:12]), bytes(received[end + len(_END_OF_HEADERS) : whole])

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _more(self) -> bytes:
        part = self._socket.recv(2**16)
        if not part:
            raise ConnectionError("the server hung up")
        return part


def ask_all(port: int, requests: Sequence[bytes], num_clients: int, goes_on: Callable[[int], bool]) -> list[Answer]:
    """What so many clients hear who ask ``requests`` in turn, round and round, each the next as soon as it has its answer.

    Args:
        goes_on: whether so many answers as were asked for so far are not enough.
    """
    numbers = itertools.count()

    def client() -> list[Answer]:
        heard = []
        with contextlib.closing(Connection(port)) as connection:
            for number in itertools.takewhile(goes_on, numbers):
                asked = number % len(requests)
                started = time.perf_counter()
                try:
                    status, body = connection.ask(requests[asked])
                except OSError:
                    heard.append(Answer(asked=asked, status=0, body=b"", seconds=time.perf_counter() - started))
                    break
                heard.append(Answer(asked=asked, status=status, body=body, seconds=time.perf_counter() - started))
        return heard

    with ThreadPoolExecutor(num_clients) as threads:
        every = [threads.submit(client) for _ in range(num_clients)]
        return [answer for one in every for answer in one.result()]
