"""The server says what the predictor says, in every form that pictures may come in."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from tests.serving.conftest import NAMES, Services, client_of

from promptmix.inference.predictor import Predictor
from promptmix.serving.answers import ClassList, Embedded, ModelList, PredictedPicture


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def form(pictures: list[bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("picture", (f"{place}.png", content, "image/png")) for place, content in enumerate(pictures)]


def agrees(said: list[dict[str, Any]], expected: list[Any]) -> None:
    for one, reference in zip(said, expected, strict=True):
        assert one["class"] == reference.class_name
        assert one["probability"] == pytest.approx(reference.probability, abs=1e-6)
        assert one["margin"] == pytest.approx(reference.margin, abs=1e-6)
        assert [(each["class"], pytest.approx(each["probability"], abs=1e-6)) for each in one["top"]] == list(reference.top)
        found = [(each["template"], pytest.approx(each["weight"], abs=1e-5)) for each in one["experts"]]
        assert found == list(reference.experts)
        PredictedPicture.model_validate(one)


def test_probabilities_are_those_of_the_predictor(service: Services, folder: Path, pictures: list[bytes]) -> None:
    expected = Predictor.from_folder(folder, device="cpu").predict(pictures, top=3).predictions

    async def ask() -> None:
        async with client_of(service()) as client:
            url = "/v1/predict?top=3"
            as_form = await client.post(url, files=form(pictures))
            assert as_form.status_code == 200, as_form.text
            agrees(as_form.json()["predictions"], expected)
            assert [one["name"] for one in as_form.json()["predictions"]] == [f"{place}.png" for place in range(8)]
            as_text = await client.post(url, json={"pictures": [encoded(one) for one in pictures]})
            agrees(as_text.json()["predictions"], expected)
            one = await client.post(url, json={"picture": "data:image/png;base64," + encoded(pictures[5])})
            agrees(one.json()["predictions"], [expected[5]])
            alone = await client.post(url, files=form(pictures[2:3]))
            agrees(alone.json()["predictions"], [expected[2]])
            plain = await client.post("/v1/predict?experts=false", files=form(pictures[:1]))
            assert "experts" not in plain.json()["predictions"][0]
            for answer in (as_form, as_text, one, alone, plain):
                assert answer.json()["version"] == answer.headers["promptmix-model-version"]
                assert answer.json()["model"] == "drawings"

    asyncio.run(ask())


def test_embeddings_are_those_of_the_image_tower(service: Services, folder: Path, pictures: list[bytes]) -> None:
    predictor = Predictor.from_folder(folder, device="cpu")

    async def ask() -> None:
        async with client_of(service()) as client:
            answer = await client.post("/v1/embed", files=form(pictures))
            body = Embedded.model_validate(answer.json())
            features = np.array(body.embeddings, np.float32)
            assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
            import torch

            logits = predictor.classifier.logits(torch.from_numpy(features)).detach().numpy()
            assert np.allclose(logits, predictor.logits(pictures).numpy(), atol=1e-4)

    asyncio.run(ask())


def test_many_at_once_get_their_own_answers(service: Services, folder: Path, pictures: list[bytes]) -> None:
    expected = Predictor.from_folder(folder, device="cpu").predict(pictures, top=4).predictions
    every = [[place] if place % 3 else [place % 8, (place + 3) % 8] for place in range(24)]

    async def ask() -> None:
        made = service(max_batch=5)
        async with client_of(made) as client:

            async def one(places: list[int]) -> httpx2.Response:
                places = [place % 8 for place in places]
                return await client.post("/v1/predict?top=4", files=form([pictures[place] for place in places]))

            answers = await asyncio.gather(*map(one, every))
            for places, answer in zip(every, answers, strict=True):
                agrees(answer.json()["predictions"], [expected[place % 8] for place in places])
            assert next(iter(made.models.values())).batcher.accepted == 0

    asyncio.run(ask())


def test_the_small_pages(service: Services) -> None:
    async def ask() -> None:
        made = service()
        async with client_of(made) as client:
            assert (await client.get("/healthz")).text == "ok\n"
            assert (await client.get("/readyz")).text == "ready\n"
            models = ModelList.model_validate((await client.get("/v1/models")).json())
            assert [model.name for model in models.models] == ["drawings"]
            assert not models.class_changes
            classes = await client.get("/v1/classes?model=drawings")
            listed = ClassList.model_validate_json(classes.content)
            assert tuple(one.name for one in listed.classes) == NAMES
            assert listed.version == models.models[0].version
            text = (await client.get("/metrics")).text
            assert 'promptmix_requests_total{method="GET",route="/v1/classes",status="200"} 1.0' in text
            assert f'promptmix_model_info{{model="drawings",version="{listed.version}"}} 1.0' in text
            # Who asks learns what the backbone is called, not where it lies.
            object.__setattr__(made.models["drawings"].current, "backbone_name", "/home/someone/our-clip")
            assert (await client.get("/v1/models")).json()["models"][0]["backbone"] == "our-clip"
            made.ready = False
            assert (await client.get("/readyz")).status_code == 503

    asyncio.run(ask())


def test_the_description_has_every_page_with_its_errors(service: Services) -> None:
    async def ask() -> None:
        async with client_of(service()) as client:
            described = (await client.get("/openapi.json")).json()
            paths = described["paths"]
            wanted = {"/v1/predict", "/v1/embed", "/v1/classes", "/v1/models", "/healthz", "/readyz", "/metrics"}
            assert set(paths) == wanted
            assert set(paths["/v1/classes"]) == {"get", "post", "patch", "delete"}
            assert {"200", "400", "404", "408", "413", "415", "422", "429", "500", "503"} == set(
                paths["/v1/predict"]["post"]["responses"]
            )
            assert described["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
            with_token = {(path, verb) for path, routes in paths.items() for verb, route in routes.items() if "security" in route}
            assert with_token == {("/v1/classes", verb) for verb in ("post", "patch", "delete")}
            for routes in paths.values():
                for route in routes.values():
                    for status, response in route["responses"].items():
                        if status != "200":
                            assert list(response["content"]) == ["application/problem+json"]
            text = str(described)
            assert "HTTPValidationError" not in text
            names = set(described["components"]["schemas"])
            import re

            assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= names

    asyncio.run(ask())
