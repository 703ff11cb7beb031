"""What malformed requests are made of."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import dataclass

LATIN = "latin-1"


@dataclass(frozen=True, kw_only=True)
class Malformed:
    """One request, and what may come of it.

    Attributes:
        name: what is wrong.
        request: its bytes; the sender then says no more, and hears.
        is_http: whether there is a request in it that can be answered; what is none may be hung up on.
    """

    name: str
    request: bytes
    is_http: bool = True


def form(content: bytes, head: str = 'form-data; name="picture"; filename="a.jpg"') -> bytes:
    """A body with one part; its boundary is x."""
    return b"--x\r\nContent-Disposition: " + head.encode(LATIN) + b"\r\n\r\n" + content + b"\r\n--x--\r\n"


def post(body: bytes, kind: str = "multipart/form-data; boundary=x", path: str = "/v1/predict", more: str = "") -> bytes:
    """A whole request with a body."""
    return head_of("POST", path, f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}") + body


def head_of(method: str, path: str, headers: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n".encode(LATIN)


def noise(chance: random.Random, most: int = 2000) -> bytes:
    return chance.randbytes(chance.randint(1, most))


def sent(chance: random.Random, content: bytes) -> bytes:
    """Content that is no picture, as a file of a form or as base64."""
    if chance.random() < 0.7:
        return post(form(content))
    text = base64.b64encode(content).decode()
    prefix = chance.choice(("", "data:image/png;base64,"))
    return post(json.dumps({"picture": prefix + text}).encode(), "application/json")
