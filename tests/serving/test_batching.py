"""Batches: order, bounds, waiting, cancelling, stopping, and another engine in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

import numpy as np
import pytest
from tests.serving.conftest import HeldEngine, Services, client_of, is_problem

from promptmix.backbones.configs import PreprocessConfig
from promptmix.backbones.preprocess import View
from promptmix.backbones.registry import load_backbone
from promptmix.serving.app import create_app
from promptmix.serving.batching import Batcher, Versioned
from promptmix.serving.problems import Problem


@pytest.fixture(scope="module")
def preprocess() -> PreprocessConfig:
    return load_backbone(device="cpu").config.preprocess


@pytest.fixture
def engine(preprocess: PreprocessConfig) -> HeldEngine:
    return HeldEngine(preprocess)


def view(value: int) -> View:
    return np.full((8, 8, 3), value, np.uint8)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


async def asked(batcher: Batcher[Versioned], current: Versioned, values: list[int]) -> tuple[list[int], str]:
    with batcher.room(len(values)):
        answered = await batcher.answer([view(value) for value in values], current)
    assert answered.output.features is not None
    return [round(float(one)) for one in answered.output.features[:, 0]], answered.by.version


def test_everybody_gets_their_own_and_batches_fill_up(engine: HeldEngine) -> None:
    async def work() -> None:
        current = Versioned(engine=engine, version="1")
        batcher = Batcher(lambda: current, max_batch=4, max_wait=50, max_queue=1000)
        batcher.start()
        engine.go.clear()
        wanted = [[7 * number % 251 + place for place in range(1 + number % 3)] for number in range(40)]
        tasks = [asyncio.ensure_future(asked(batcher, current, values)) for values in wanted]
        await until(engine.began.is_set)
        engine.go.set()
        assert [values for values, _ in await asyncio.gather(*tasks)] == wanted
        assert max(engine.sizes) <= 4
        assert sum(engine.sizes) == sum(map(len, wanted))
        assert len(engine.sizes) < len(wanted), "requests are run together"
        await batcher.stop()

    asyncio.run(work())


def test_a_request_larger_than_a_batch_goes_alone_in_steps(engine: HeldEngine) -> None:
    async def work() -> None:
        current = Versioned(engine=engine, version="1")
        batcher = Batcher(lambda: current, max_batch=4, max_wait=0, max_queue=1000)
        batcher.start()
        values, _ = await asked(batcher, current, list(range(10)))
        assert values == list(range(10))
        assert engine.sizes == [4, 4, 2]
        await batcher.stop()

    asyncio.run(work())


def test_there_is_room_for_so_many_only(engine: HeldEngine) -> None:
    async def work() -> None:
        current = Versioned(engine=engine, version="1")
        batcher = Batcher(lambda: current, max_batch=4, max_wait=0, max_queue=3)
        with batcher.room(2):
            with pytest.raises(Problem) as full, batcher.room(2):
                pass
            assert full.value.status == 429
            assert int(full.value.headers["Retry-After"]) >= 1
            with batcher.room(1):
                assert batcher.accepted == 3
            with pytest.raises(Problem) as never, batcher.room(4):
                pass
            assert never.value.status == 413
        assert batcher.accepted == 0
        await batcher.stop()
        with pytest.raises(Problem) as stopping, batcher.room(1):
            pass
        assert stopping.value.status == 503

    asyncio.run(work())


def test_who_is_gone_leaves_the_queue(engine: HeldEngine) -> None:
    async def work() -> None:
        current = Versioned(engine=engine, version="1")
        batcher = Batcher(lambda: current, max_batch=1, max_wait=0, max_queue=10)
        batcher.start()
        engine.go.clear()
        first = asyncio.ensure_future(asked(batcher, current, [1]))
        await until(engine.began.is_set)
        gone, stays = (asyncio.ensure_future(asked(batcher, current, [value])) for value in (2, 3))
        await asyncio.sleep(0.02)
        assert batcher.accepted == 3
        gone.cancel()
        await asyncio.sleep(0)
        await until(lambda: batcher.accepted == 2)
        engine.go.set()
        assert (await first)[0] == [1]
        assert (await stays)[0] == [3]
        assert engine.sizes == [1, 1], "nobody waits for the one that is gone"
        await batcher.stop()

    asyncio.run(work())


def test_a_failing_batch_does_not_stop_the_next(engine: HeldEngine) -> None:
    async def work() -> None:
        current = Versioned(engine=engine, version="1")
        batcher = Batcher(lambda: current, max_batch=4, max_wait=0, max_queue=10)
        batcher.start()
        run, engine.run = engine.run, lambda pixels: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        with pytest.raises(ZeroDivisionError):
            await asked(batcher, current, [1])
        engine.run = run  # type: ignore[method-assign]
        assert (await asked(batcher, current, [2]))[0] == [2]
        await batcher.stop()

    asyncio.run(work())


def test_an_answer_has_one_version_and_none_is_lost_in_a_swap(engine: HeldEngine, preprocess: PreprocessConfig) -> None:
    async def work() -> None:
        versions = [Versioned(engine=engine, version="1"), Versioned(engine=HeldEngine(preprocess), version="2")]
        now = versions[0]
        batcher = Batcher(lambda: now, max_batch=4, max_wait=0, max_queue=1000)
        batcher.start()
        engine.go.clear()
        tasks = [asyncio.ensure_future(asked(batcher, now, [value, value + 1, value + 2])) for value in range(30)]
        await until(engine.began.is_set)
        now = versions[1]
        engine.go.set()
        answers = await asyncio.gather(*tasks)
        assert [values for values, _ in answers] == [[value, value + 1, value + 2] for value in range(30)]
        assert [version for _, version in answers] == ["1"] + ["2"] * 29
        await batcher.stop()

    asyncio.run(work())


def test_another_view_of_pictures_is_not_mixed_up(engine: HeldEngine, preprocess: PreprocessConfig) -> None:
    async def work() -> None:
        old = Versioned(engine=engine, version="1")
        other = preprocess.model_copy(update={"mean": (0.1, 0.1, 0.1)})
        now = Versioned(engine=HeldEngine(other), version="2")
        batcher = Batcher(lambda: now, max_batch=4, max_wait=0, max_queue=10)
        batcher.start()
        with pytest.raises(Problem, match="replaced"):
            await asked(batcher, old, [1])
        assert await asked(batcher, now, [1]) == ([1], "2")
        await batcher.stop()

    asyncio.run(work())


def test_pictures_that_cannot_go_together_fail_alone(engine: HeldEngine) -> None:
    async def work() -> None:
        current = Versioned(engine=engine, version="1")
        batcher = Batcher(lambda: current, max_batch=4, max_wait=0, max_queue=10)
        batcher.start()
        engine.go.clear()
        before = asyncio.ensure_future(asked(batcher, current, [1]))
        await until(engine.began.is_set)
        pair = [asyncio.ensure_future(batcher.answer([np.zeros((size, size, 3), np.uint8)], current)) for size in (8, 9)]
        await asyncio.sleep(0)
        engine.go.set()
        async with asyncio.timeout(20):
            assert (await before)[0] == [1]
            for one in await asyncio.gather(*pair, return_exceptions=True):
                assert isinstance(one, ValueError)
                assert "same shape" in str(one)
            assert await asked(batcher, current, [7]) == ([7], "1")
            await batcher.stop()

    asyncio.run(work())


def test_what_was_accepted_is_answered_when_it_stops(engine: HeldEngine) -> None:
    async def work() -> None:
        current = Versioned(engine=engine, version="1")
        batcher = Batcher(lambda: current, max_batch=2, max_wait=1000, max_queue=100)
        batcher.start()
        engine.go.clear()
        tasks = [asyncio.ensure_future(asked(batcher, current, [value])) for value in range(7)]
        await until(engine.began.is_set)

        async def late() -> list[int]:
            with batcher.room(1):  # accepted, but its picture is still being decoded
                await asyncio.sleep(0.1)
                answered = await batcher.answer([view(99)], current)
                return [round(float(one)) for one in answered.output.logits[:, 0] * 255]

        tardy = asyncio.ensure_future(late())
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(batcher.stop())
        await asyncio.sleep(0.01)
        engine.go.set()
        assert [values for values, _ in await asyncio.gather(*tasks)] == [[value] for value in range(7)]
        assert await tardy == [99]
        await stopping

    asyncio.run(work())


def test_the_server_refuses_more_than_fits_and_goes_on(service: Services, engine: HeldEngine, pictures: list[bytes]) -> None:
    async def work() -> None:
        made = service(engine, max_queue=2, max_batch=1)
        async with client_of(made) as client:
            engine.go.clear()
            files = {"picture": pictures[0]}
            waiting = [asyncio.ensure_future(client.post("/v1/predict", files=files)) for _ in range(2)]
            await until(lambda: next(iter(made.models.values())).batcher.accepted == 2)
            refused = await client.post("/v1/predict", files=files)
            is_problem(refused, 429, "queue-full")
            assert int(refused.headers["retry-after"]) >= 1
            assert 'promptmix_queue_pictures{model="drawings"} 2.0' in (await client.get("/metrics")).text
            engine.go.set()
            assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
            assert (await client.post("/v1/predict", files=files)).status_code == 200

    asyncio.run(work())


def test_who_waits_too_long_is_told(service: Services, engine: HeldEngine, pictures: list[bytes]) -> None:
    async def work() -> None:
        made = service(engine, time_limit=0.3)
        async with client_of(made) as client:
            engine.go.clear()
            answer = await client.post("/v1/predict", files={"picture": pictures[0]})
            is_problem(answer, 503, "time-limit")
            assert answer.headers["retry-after"]
            engine.go.set()
            await until(lambda: next(iter(made.models.values())).batcher.accepted == 0)
            assert (await client.post("/v1/predict", files={"picture": pictures[0]})).status_code == 200

    asyncio.run(work())


def test_whoever_hangs_up_leaves_the_queue(service: Services, engine: HeldEngine, pictures: list[bytes]) -> None:
    async def work() -> None:
        made = service(engine, max_batch=1)
        batcher = next(iter(made.models.values())).batcher
        async with client_of(made) as client:
            engine.go.clear()
            first = asyncio.ensure_future(client.post("/v1/predict", files={"picture": pictures[0]}))
            await until(engine.began.is_set)
            built = client.build_request("POST", "/v1/predict", files={"picture": pictures[1]})
            scope = {
                "type": "http",
                "method": "POST",
                "path": "/v1/predict",
                "query_string": b"",
                "headers": [(name.lower(), value) for name, value in built.headers.raw],
            }
            messages = [{"type": "http.request", "body": built.read(), "more_body": False}]
            hung_up = asyncio.Event()
            sent: list[MutableMapping[str, Any]] = []

            async def receive() -> MutableMapping[str, Any]:
                if messages:
                    return messages.pop()
                await hung_up.wait()
                return {"type": "http.disconnect"}

            async def send(message: MutableMapping[str, Any]) -> None:
                sent.append(message)

            second = asyncio.ensure_future(create_app(made)(scope, receive, send))
            await until(lambda: batcher.accepted == 2)
            hung_up.set()
            await second
            assert batcher.accepted == 1
            engine.go.set()
            assert (await first).status_code == 200
            assert engine.sizes == [1]
            assert sent[0]["status"] == 400

    asyncio.run(work())
