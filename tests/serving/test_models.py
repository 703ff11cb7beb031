"""Classes change and folders are replaced while the server answers; each time there is a new version, and nothing is lost."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import httpx2
import pytest
from tests.serving.conftest import NAMES, TOKEN, Services, client_of, is_problem

from promptmix.backbones.base import Backbone
from promptmix.data.class_words import ClassWords
from promptmix.errors import CheckpointError, ConfigError, DataError
from promptmix.inference.open_classes import add_worded_classes
from promptmix.inference.predictor import Predictor
from promptmix.model_folder import read_model, write_classes
from promptmix.serving.models import model_names
from promptmix.serving.service import Service
from promptmix.serving.settings import Settings
from promptmix.serving.torch_engine import TorchLoader

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


def names_in(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["name"] for one in answer.json()["classes"]]


def test_classes_come_and_go_over_http_and_on_disk(service: Services, folder: Path, pictures: list[bytes]) -> None:
    async def work() -> None:
        async with client_of(service(allow_class_changes=True, token=TOKEN)) as client:
            client.headers.update(AUTHORIZED)
            versions = [(await client.get("/v1/classes")).json()["version"]]

            async def check(answer: httpx2.Response, names: list[str]) -> None:
                assert names_in(answer) == names
                versions.append(answer.json()["version"])
                said = (await client.post("/v1/predict?top=10", files={"picture": pictures[0]})).json()
                assert said["version"] == versions[-1]
                assert {one["class"] for one in said["predictions"][0]["top"]} == set(names)
                on_disk = Predictor.from_folder(folder, device="cpu")
                assert list(on_disk.model.class_names) == names
                expected = on_disk.predict(pictures[:1]).predictions[0]
                assert said["predictions"][0]["class"] == expected.class_name
                assert said["predictions"][0]["probability"] == pytest.approx(expected.probability, abs=1e-6)

            body = {"classes": ["heart", {"name": "scissors", "synonyms": ["shears"], "description": "a cutting tool"}]}
            await check(await client.post("/v1/classes", json=body), [*NAMES, "heart", "scissors"])
            await check(await client.patch("/v1/classes", json={"old": "Heart", "name": "star"}), [*NAMES, "star", "scissors"])
            await check(await client.delete("/v1/classes?name=star&name=cat"), ["anchor", "snowflake", "umbrella", "scissors"])
            assert len(set(versions)) == 4
            last = (await client.get("/v1/classes")).json()["classes"][-1]
            assert last == {"name": "scissors", "synonyms": ["shears"], "description": "a cutting tool"}
            for answer in (
                await client.post("/v1/classes", json={"classes": ["Umbrella"]}),
                await client.post("/v1/classes", json={"classes": [""]}),
                await client.post("/v1/classes", json={"classes": ["word " * 100]}),
                await client.patch("/v1/classes", json={"old": "dog", "name": "heart"}),
                await client.patch("/v1/classes", json={"old": "anchor", "name": "umbrella"}),
                await client.delete("/v1/classes?name=dog"),
                await client.delete("/v1/classes?name=anchor&name=snowflake&name=umbrella"),
            ):
                is_problem(answer, 422, "unusable")
            is_problem(await client.post("/v1/classes", content=b"{"), 400, "no-json")
            is_problem(await client.post("/v1/classes", json={"classes": []}), 422, "wrong-body")
            is_problem(await client.delete("/v1/classes"), 422, "wrong-option")
            assert (await client.get("/v1/classes")).json()["version"] == versions[-1]

    asyncio.run(work())


def test_changes_at_the_same_time_all_count(service: Services) -> None:
    async def work() -> None:
        async with client_of(service(allow_class_changes=True, token=TOKEN)) as client:
            new = [f"thing {number}" for number in range(4)]
            asked = [client.post("/v1/classes", json={"classes": [name]}, headers=AUTHORIZED) for name in new]
            versions = {answer.json()["version"] for answer in await asyncio.gather(*asked)}
            assert len(versions) == 4
            assert set(names_in(await client.get("/v1/classes"))) == {*NAMES, *new}

    asyncio.run(work())


def test_a_changed_folder_is_read_while_requests_fly(
    service: Services, folder: Path, backbone: Backbone, pictures: list[bytes]
) -> None:
    async def work() -> None:
        async with client_of(made := service()) as client:
            before = (await client.get("/v1/classes")).json()["version"]

            async def one(number: int) -> httpx2.Response:
                await asyncio.sleep(0.01 * number)
                return await client.post("/v1/predict?top=9", files={"picture": pictures[number % 8]})

            asked = [asyncio.ensure_future(one(number)) for number in range(20)]
            await asyncio.sleep(0.05)
            changed = add_worded_classes(read_model(folder), [ClassWords(name="heart")], backbone)
            write_classes(folder, changed)
            await made.reload_changed()
            after = (await client.get("/v1/classes")).json()["version"]
            assert after != before
            for answer in await asyncio.gather(*asked):
                assert answer.status_code == 200, answer.text
                num_classes = len(answer.json()["predictions"][0]["top"])
                assert (answer.json()["version"], num_classes) in ((before, 4), (after, 5))
            await made.reload_changed()
            assert (await client.get("/v1/classes")).json()["version"] == after

    asyncio.run(work())


def test_a_damaged_folder_leaves_the_model_as_it_is(service: Services, folder: Path, pictures: list[bytes]) -> None:
    async def work() -> None:
        async with client_of(made := service()) as client:
            whole = (folder / "class_features.safetensors").read_bytes()
            before = (await client.get("/v1/classes")).json()["version"]
            (folder / "class_features.safetensors").write_bytes(whole[:-7])
            await made.reload_changed()
            await made.reload_changed()
            said = await client.post("/v1/predict", files={"picture": pictures[0]})
            assert said.json()["version"] == before
            text = (await client.get("/metrics")).text
            assert 'promptmix_reloads_total{model="drawings",result="failed"} 1.0' in text
            (folder / "class_features.safetensors").unlink()
            await made.reload_changed()
            (folder / "class_features.safetensors").write_bytes(whole)
            await made.reload_changed()
            assert (await client.get("/v1/classes")).json()["version"] != before

    asyncio.run(work())


def test_a_model_that_nobody_foresaw_is_told_once_and_stops_no_other(
    service: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with client_of(made := service()) as client:
            (model,) = made.models.values()

            def fails() -> None:
                raise KeyError("surprise")

            monkeypatch.setattr(model, "_state", lambda: ((1, 2, 3),))
            monkeypatch.setattr(model, "_load", fails)
            await made.reload_changed()
            await made.reload_changed()
            assert 'promptmix_reloads_total{model="drawings",result="failed"} 1.0' in (await client.get("/metrics")).text

    asyncio.run(work())
    told = [record.getMessage() for record in caplog.records if "stays as it was" in record.getMessage()]
    assert told == ["model drawings stays as it was: unexpected KeyError: 'surprise'"]


def test_several_models_by_name(folder: Path, tmp_path: Path, pictures: list[bytes]) -> None:
    shutil.copytree(folder, tmp_path / "other")
    loader = TorchLoader(backbone=None, device="cpu", precision="auto", with_text=True)
    settings = Settings(allow_class_changes=True, token=TOKEN)
    service = Service(model_names([str(folder), f"second={tmp_path / 'other'}"]), lambda path: loader, settings)

    async def work() -> None:
        async with client_of(service) as client:
            answer = await client.post("/v1/classes?model=second", json={"classes": ["heart"]}, headers=AUTHORIZED)
            assert names_in(answer) == [*NAMES, "heart"]
            assert names_in(await client.get("/v1/classes")) == list(NAMES)
            for name in ("drawings", "second"):
                said = await client.post(f"/v1/predict?model={name}", files={"picture": pictures[0]})
                assert said.json()["model"] == name

    asyncio.run(work())


def test_names_of_models(tmp_path: Path) -> None:
    assert model_names([str(tmp_path / "a"), f"b={tmp_path}/c=d"]) == {"a": tmp_path / "a", "b": Path(f"{tmp_path}/c=d")}
    assert list(model_names([str(tmp_path / "run" / "model")])) == ["run"]
    assert list(model_names([str(tmp_path / "run" / "pets-2.onnx"), "model.onnx", "b=model.onnx"])) == ["pets-2", "model", "b"]
    (tmp_path / "now.onnx").symlink_to(tmp_path / "pets-2.onnx")
    assert list(model_names([str(tmp_path / "now.onnx")])) == ["now"]
    with pytest.raises(DataError, match="two models"):
        model_names(["x/a", "y/a"])
    with pytest.raises(DataError, match="no name of a model"):
        model_names(["a b=c"])
    with pytest.raises(ConfigError):
        model_names([])


def test_no_model_no_server(tmp_path: Path) -> None:
    loader = TorchLoader(backbone=None, device="cpu", precision="auto", with_text=False)
    with pytest.raises(CheckpointError, match="no such folder"):
        Service({"a": tmp_path / "a"}, lambda path: loader, Settings())
