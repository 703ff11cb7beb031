"""Exported models are served: without torch, replaced while they answer, with classes that stay as they are."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import signal
from pathlib import Path

import httpx2
import numpy as np
import pytest
from tests.cli.conftest import Promptmix
from tests.serving.conftest import NAMES, TOKEN, client_of, is_problem
from tests.serving.process import served

from promptmix.cli.serve import TOKEN as TOKEN_VARIABLE
from promptmix.errors import CheckpointError
from promptmix.inference.exported import metadata_of
from promptmix.inference.onnx_predictor import OnnxPredictor
from promptmix.model_folder import read_model
from promptmix.serving.models import model_names
from promptmix.serving.onnx_engine import OnnxLoader
from promptmix.serving.service import Service
from promptmix.serving.settings import Settings
from promptmix.serving.torch_engine import TorchLoader

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def file(exported: Path, tmp_path: Path) -> Path:
    """An exported model that may be changed."""
    return Path(shutil.copy(exported, tmp_path / "pets.onnx"))


@pytest.fixture
def made(file: Path) -> Service:
    settings = Settings(max_wait=1.0, allow_class_changes=True, token=TOKEN)
    return Service(model_names([str(file)]), lambda path: OnnxLoader(), settings)


def renamed(source: Path, out: Path, names: tuple[str, ...]) -> None:
    """The same model with other names for its classes, put in its place in one step."""
    onnx = pytest.importorskip("onnx", reason="changing an exported model needs the libraries for ONNX")
    facts = OnnxPredictor(source).facts.model_copy(update={"class_names": names})
    model = onnx.load(source)
    onnx.helper.set_model_props(model, metadata_of(facts))
    beside = out.with_name("beside.onnx")
    onnx.save(model, beside)
    beside.replace(out)


def test_the_pages_of_an_exported_model(made: Service, calibrated: Path, pictures: list[bytes]) -> None:
    async def ask() -> None:
        async with client_of(made) as client:
            (model,) = (await client.get("/v1/models")).json()["models"]
            saved = read_model(calibrated)
            expected = {"name": "pets", "method": "promptmix", "backbone": "bundled", "num_classes": 4, "class_changes": False}
            assert expected.items() <= model.items()
            assert model["num_experts"] == len(saved.expert_names)
            classes = (await client.get("/v1/classes")).json()
            assert [one["name"] for one in classes["classes"]] == list(NAMES)
            assert classes["version"] == model["version"]
            assert classes["version"].startswith("1-")
            answer = await client.post("/v1/embed", files={"picture": pictures[0]})
            assert np.linalg.norm(answer.json()["embeddings"][0]) == pytest.approx(1, abs=1e-5)

    asyncio.run(ask())


def test_its_classes_are_fixed(made: Service, file: Path) -> None:
    async def ask() -> None:
        before = file.read_bytes()
        async with client_of(made) as client:
            for answer in (
                await client.post("/v1/classes", json={"classes": ["heart"]}, headers=AUTHORIZED),
                await client.patch("/v1/classes", json={"old": "cat", "name": "dog"}, headers=AUTHORIZED),
                await client.delete("/v1/classes?name=cat", headers=AUTHORIZED),
            ):
                assert "export it again" in is_problem(answer, 409, "fixed-classes")
            is_problem(await client.post("/v1/classes", json={"classes": ["heart"]}), 401, "wrong-token")
            assert (await client.get("/v1/classes")).json()["version"].startswith("1-")
        assert file.read_bytes() == before

    asyncio.run(ask())


def test_a_file_that_is_replaced_is_read_and_a_damaged_one_is_not(made: Service, file: Path, pictures: list[bytes]) -> None:
    async def ask() -> None:
        async with client_of(made) as client:

            async def names() -> tuple[str, list[str]]:
                body = (await client.get("/v1/classes")).json()
                said = (await client.post("/v1/predict?top=4", files={"picture": pictures[0]})).json()
                assert said["version"] == body["version"]
                assert {one["class"] for one in said["predictions"][0]["top"]} == {one["name"] for one in body["classes"]}
                return body["version"], [one["name"] for one in body["classes"]]

            whole, first = file.read_bytes(), await names()
            assert first[1] == list(NAMES)
            other = ("anchor", "kitten", "snowflake", "umbrella")
            renamed(file, file, other)
            await made.reload_changed()
            second = await names()
            assert second[1] == list(other)
            assert second[0].startswith("2-")
            file.write_bytes(whole[: len(whole) // 2])
            await made.reload_changed()
            await made.reload_changed()
            assert await names() == second
            assert 'promptmix_reloads_total{model="pets",result="failed"} 1.0' in (await client.get("/metrics")).text
            file.unlink()
            await made.reload_changed()
            assert await names() == second
            file.write_bytes(whole)
            await made.reload_changed()
            third = await names()
            # The same file has the same hash, here and on every other server.
            assert third == (first[0].replace("1-", "3-", 1), first[1])

    asyncio.run(ask())


def test_folders_and_files_side_by_side(file: Path, calibrated: Path, pictures: list[bytes], tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated, tmp_path / "drawings")
    torch = TorchLoader(backbone=None, device="cpu", precision="auto", with_text=True)
    settings = Settings(allow_class_changes=True, token=TOKEN)
    paths = model_names([str(file), str(folder)])
    service = Service(paths, lambda path: OnnxLoader() if path == file else torch, settings)

    async def ask() -> None:
        async with client_of(service) as client:
            body = (await client.get("/v1/models")).json()
            assert {one["name"]: one["class_changes"] for one in body["models"]} == {"pets": False, "drawings": True}
            for name in ("pets", "drawings"):
                said = await client.post(f"/v1/predict?model={name}", files={"picture": pictures[0]})
                assert said.json()["model"] == name
            answer = await client.post("/v1/classes?model=drawings", json={"classes": ["heart"]}, headers=AUTHORIZED)
            assert len(answer.json()["classes"]) == 5

    asyncio.run(ask())


def test_no_exported_model_no_server(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="exported models run by onnxruntime")
    (tmp_path / "b.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match="does not exist"):
        Service({"a": tmp_path / "a.onnx"}, lambda path: OnnxLoader(), Settings())
    with pytest.raises(CheckpointError, match="cannot be loaded by onnxruntime"):
        Service({"b": tmp_path / "b.onnx"}, lambda path: OnnxLoader(), Settings())


def test_what_the_verb_refuses(file: Path, calibrated: Path, promptmix: Promptmix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    promptmix("serve", file, "--engine", "torch").fails(3, "pets.onnx is an exported model, which torch does not run")
    promptmix("serve", calibrated, "--engine", "onnx").fails(3, "is a folder", "promptmix export")
    promptmix("serve", file, "--allow-class-changes").fails(3, "classes of an exported model are fixed")
    promptmix("serve", file, "--device", "cuda").fails(3, "--device is for model folders")
    promptmix("serve", file.with_name("missing.onnx")).fails(5, "missing.onnx does not exist")
    promptmix("serve", file, "--url-time-limit", "0").fails(3, "url_time_limit")
    assert promptmix("serve", file, "--url-port", "0").code == 2


@pytest.mark.slow
def test_neither_torch_nor_a_backbone_is_loaded(file: Path, pictures: list[bytes]) -> None:
    """Not even where torch is not installed, which a name that cannot be imported stands for."""
    heavy = ["torch", "onnx", "transformers", "sklearn", "tokenizers", "safetensors", "promptmix.backbones.base"]
    before = (
        "import atexit, json, sys\n"
        "sys.modules['torch'] = None\n"
        f"told = lambda: sys.stderr.write(json.dumps([name for name in {heavy} if sys.modules.get(name) is not None]))\n"
        "atexit.register(told)"
    )
    with served(file, "--allow-urls", before=before) as (process, address):
        encoded = base64.b64encode(pictures[0]).decode()
        said = httpx2.post(f"{address}v1/predict", json={"picture": encoded}, timeout=60)
        assert said.status_code == 200, said.text
        assert len(httpx2.get(f"{address}v1/classes").json()["classes"]) == 4
        refused = httpx2.post(f"{address}v1/predict", json={"url": "http://127.0.0.1/a.png"}, timeout=60)
        is_problem(refused, 422, "address-out-of-reach")
        assert "promptmix_reloads" in httpx2.get(f"{address}metrics").text
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert json.loads(process.stderr.read()) == []
