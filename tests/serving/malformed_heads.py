"""Requests with something wrong in their options, heads, lengths and chunks, and what is no request at all."""

from __future__ import annotations

import random

from tests.serving.malformed_base import LATIN, Malformed, form, head_of, noise, post


def odd_options(chance: random.Random) -> Malformed:
    options = chance.choice(
        (
            "top=0",
            "top=-1",
            "top=1e400",
            "top=NaN",
            "top=" + "9" * 5_000,
            "top=%00",
            "top=1&top=x",
            "experts=perhaps",
            "model=",
            "model=../../etc/passwd",
            "model=%00",
            "model=%ff%fe",
            "model=%ed%a0%80",
            "model=" + "m" * 8_000,
            "model=%1b%5b2J",
        )
    )
    path = f"/v1/{chance.choice(('predict', 'predict', 'classes'))}?{options}"
    if "classes" in path and not options.startswith("model"):
        path = f"/v1/predict?{options}"
    request = head_of("GET", path, "") if "classes" in path else post(form(noise(chance)), path=path)
    return Malformed(name=f"options {options[:40]!r}", request=request)


def odd_classes(chance: random.Random, token: str) -> Malformed:
    """Changes of classes by someone who may make them, and by others."""
    bodies = (
        b"",
        b"{}",
        b"[]",
        b'{"classes": []}',
        b'{"classes": [""]}',
        b'{"classes": ["   "]}',
        b'{"classes": [null]}',
        b'{"classes": ["\\ud800"]}',
        b'{"classes": ["' + b"word " * 3_000 + b'"]}',
        b'{"classes": ["cat", "cat"]}',
        b'{"classes": [{"name": "a", "synonyms": "b"}]}',
        b'{"classes": [{"name": "a", "description": "' + b"d" * 300 + b'"}]}',
        b'{"classes": [{"name": "a", "synonyms": [' + b'"s",' * 30 + b'"s"]}]}',
        b'{"classes": [' + b'"a",' * 1_500 + b'"a"]}',
        b'{"old": "cat"}',
        b'{"old": "nothing of the kind", "name": "a"}',
        b'{"old": "cat", "name": "anchor"}',
        b'{"old": "\\u0000", "name": "\\u0000"}',
        b'{"old": "cat", "name": ""}',
        b"\xff",
        b"[" * 100_000,
    )
    given = chance.choice((token, token, token, "wrong", ""))
    headers = f"Authorization: Bearer {given}\r\n" if given else ""
    method = chance.choice(("POST", "PATCH", "DELETE"))
    if method == "DELETE":
        query = chance.choice(
            (
                "",
                "?name=",
                "?name=%00",
                "?name=%ff",
                "?name=nothing%20of%20the%20kind",
                "?name=cat&name=nothing",
                "?model=no&name=cat",
            )
        )
        return Malformed(name=f"removing {query}", request=head_of("DELETE", f"/v1/classes{query}", headers))
    body = chance.choice(bodies)
    if method == "PATCH" and b"old" not in body:
        body = b'{"old": 7, "name": ' + (body or b"1") + b"}"
    if method == "POST" and b"old" in body:
        body = b'{"classes": ' + body + b"}"
    request = post(body, "application/json", "/v1/classes", headers).replace(b"POST", method.encode(), 1)
    return Malformed(name=f"{method} of classes {body[:40]!r}", request=request)


def odd_head(chance: random.Random) -> Malformed:
    """Heads that can be read but ask for nothing there is; and heads that are too much."""
    path = "/" + "".join(chance.choice("abc/%2e.?&=") for _ in range(chance.randint(1, 40)))
    kinds = {
        "no such page": (head_of("GET", f"/nowhere{path}", ""), True),
        "up the tree": (head_of("GET", "/../../etc/passwd", ""), True),
        "up the tree, written out": (head_of("GET", "/%2e%2e/%2e%2e/etc/passwd", ""), True),
        "a path that is no UTF-8": (head_of("GET", "/%ff%fe%00", ""), True),
        "another method": (head_of(chance.choice(("PUT", "TRACE", "BREW", "X" * 50)), "/v1/predict", ""), True),
        "a small method": (head_of("delete", "/v1/predict", ""), True),
        "a wrong page for the method": (head_of("GET", "/v1/predict", ""), True),
        "a huge header": (post(form(b"a"), more=f"X-Header: {'h' * chance.randint(70_000, 300_000)}\r\n"), False),
        "many headers": (post(form(b"a"), more="X-Header: h\r\n" * 8_000), False),
        "a long path": (head_of("GET", "/" + "p" * 100_000, ""), False),
        "headers of odd signs": (post(form(b"a"), more="X-Header: \xff\xfe\xfd\r\nCookie: \xff=\xfe\r\n"), True),
        "no host": (b"POST /v1/predict HTTP/1.1\r\nContent-Length: 0\r\n\r\n", False),
        "two hosts": (b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n", False),
        "an upgrade": (
            head_of("GET", "/v1/predict", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
            True,
        ),
        "a page of HTTP/1.0": (b"GET /v1/predict HTTP/1.0\r\n\r\n", True),
    }
    kind = chance.choice(sorted(kinds))
    request, is_http = kinds[kind]
    return Malformed(name=kind, request=request, is_http=is_http)


def lying_length(chance: random.Random) -> Malformed:
    """The sender says no more after this, so a body that is too short never comes."""
    body = form(noise(chance))
    length = chance.choice(
        (
            str(len(body) + chance.randint(1, 10_000)),
            "0",
            str(chance.randint(1, 10)),
            "-1",
            "1e3",
            "0x10",
            "\xb2",
            "9" * 30,
            "9" * 5_000,
            "",
            f"{len(body)}, 7",
            " ",
        )
    )
    headers = f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {length}\r\n"
    if chance.random() < 0.2:
        headers += "Content-Length: 7\r\n"
    return Malformed(name=f"a length of {length[:30]!r}", request=head_of("POST", "/v1/predict", headers) + body, is_http=False)


def lying_chunks(chance: random.Random) -> Malformed:
    size = chance.choice(("5", "fffffff", "-1", "zz", "", "f" * 100, "5;" + "e" * 20_000, "0x5", "5 5"))
    headers = "Content-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n"
    if chance.random() < 0.3:
        headers += chance.choice(("Content-Length: 5\r\n", "Transfer-Encoding: gzip\r\n", "Transfer-Encoding: chunked\r\n"))
    rest = chance.choice(
        (
            "\r\nhello\r\n0\r\n\r\n",
            "\r\nhel",
            "\r\nhello",
            "\r\nhelloworld\r\n0\r\n\r\n",
            "hello",
            "\r\nhello\r\n0\r\nX: \xff\r\n\r\n",
        )
    )
    return Malformed(
        name=f"a chunk of {size[:20]!r}",
        request=head_of("POST", "/v1/predict", headers) + (size + rest).encode(LATIN),
        is_http=False,
    )


def no_http(chance: random.Random) -> Malformed:
    kinds = {
        "noise": b"\x80" + noise(chance),
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise(chance, 500),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "a version that is none": b"GET / HTTP/99.99\r\nHost: a\r\n\r\n",
        "a line without a version": b"GET /\r\n\r\n",
        "an empty head": b"\r\n\r\n\r\n",
        "a header without a name": b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        "a header with a zero": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "half a head": b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-",
        "a path that is no ASCII": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        "nothing": b"",
    }
    kind = chance.choice(sorted(kinds))
    return Malformed(name=f"no HTTP: {kind}", request=kinds[kind], is_http=False)
