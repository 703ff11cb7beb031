"""What a large body, or one that is long to read, costs the others."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from typing import Any

import pytest
from fastapi import Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartParser
from tests.serving.conftest import HeldEngine, Services, client_of

from promptmix.backbones.base import Backbone
from promptmix.serving import pictures as module
from promptmix.serving.pictures import BodyReader
from promptmix.serving.settings import Settings


def test_others_are_answered_while_a_form_is_read(
    service: Services, backbone: Backbone, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go = threading.Event(), threading.Event()
    large = pictures[0] + bytes(2**16)  # what follows a picture in its file is not looked at

    class Slow(MultiPartParser):
        async def parse(self) -> FormData:
            reading.set()
            assert go.wait(20), "nobody else was answered meanwhile"
            return await super().parse()

    monkeypatch.setattr(module, "MultiPartParser", Slow)

    async def ask() -> None:
        async with client_of(service(HeldEngine(backbone.config.preprocess))) as client:
            asked = asyncio.ensure_future(client.post("/v1/predict", files={"picture": large}))
            assert await asyncio.to_thread(reading.wait, 20)
            assert (await client.get("/healthz")).status_code == 200
            go.set()
            assert (await asked).status_code == 200

    asyncio.run(ask())


def test_a_body_is_in_memory_once() -> None:
    size, number = 2**20, 8

    async def read() -> None:
        parts = [bytes([part]) * size for part in range(number)]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": parts.pop(), "more_body": bool(parts)}

        request = Request({"type": "http", "headers": [], "method": "POST"}, receive)
        until = asyncio.get_running_loop().time() + 60
        before = tracemalloc.get_traced_memory()[0]
        async with BodyReader(Settings()).body_of(request, until) as body:
            assert len(body.content) == number * size
            # The parts were there before.
            assert tracemalloc.get_traced_memory()[0] - before < size

    tracemalloc.start()
    try:
        asyncio.run(read())
    finally:
        tracemalloc.stop()
