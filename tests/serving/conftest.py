"""A small trained model, also exported, and an engine that can be held back, for all tests of the server."""

from __future__ import annotations

import contextlib
import io
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import Promptmix, promptmix

from promptmix.backbones.base import Backbone
from promptmix.backbones.configs import PreprocessConfig
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.features.cache import FeatureCache
from promptmix.model_folder import SavedModel
from promptmix.nn.calibration import Calibration
from promptmix.serving.app import create_app
from promptmix.serving.engine import Engine, EngineOutput
from promptmix.serving.fetching import PictureFetcher
from promptmix.serving.service import Service
from promptmix.serving.settings import Settings
from promptmix.serving.torch_engine import TorchLoader
from promptmix.training.fit import RunConfig
from promptmix.training.run import run

__all__ = ["promptmix"]

NAMES = ("anchor", "cat", "snowflake", "umbrella")
TOKEN = "correct horse"
Services = Callable[..., Service]


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


class HeldEngine:
    """Its logits tell the mean of a picture; it waits for ``go`` before each batch and remembers the sizes."""

    def __init__(self, preprocess: PreprocessConfig, class_names: tuple[str, ...] = NAMES) -> None:
        self.class_names, self.expert_names = class_names, ("a {}.",)
        self.preprocess: PreprocessConfig = preprocess
        self.calibration: Calibration | None = None
        self.go, self.began = threading.Event(), threading.Event()
        self.sizes: list[int] = []
        self.go.set()

    def run(self, pixels: np.ndarray) -> EngineOutput:
        self.began.set()
        assert self.go.wait(30)
        self.sizes.append(len(pixels))
        means = pixels.reshape(len(pixels), -1).mean(axis=1).astype(np.float32)
        logits = np.zeros((len(pixels), len(self.class_names)), np.float32)
        logits[:, 0] = means / 255
        features = means[:, None]
        return EngineOutput(logits=logits, expert_weights=np.ones((len(pixels), 1), np.float32), features=features)


class HeldLoader(TorchLoader):
    """Gives the same held engine for any folder."""

    def __init__(self, engine: HeldEngine) -> None:
        super().__init__(backbone=None, device="cpu", precision="auto", with_text=False)
        self._engine = engine

    def engine_of(self, model: SavedModel) -> Engine:
        return self._engine


def drawn_pictures() -> LabelledPictures:
    """Three drawings of each class, to train on."""
    drawn = draw_set(NAMES, ("stamp",), 3, 1)
    return LabelledPictures(
        pictures=[one.image for one in drawn],
        labels=[NAMES.index(one.class_name) for one in drawn],
        class_names=NAMES,
        description="drawn",
    )


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return load_backbone(device="cpu")


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """Eight drawn pictures as PNG files."""
    return [png(one.image) for one in draw_set(NAMES, ("stamp",), 2, 2)]


@pytest.fixture(scope="session")
def trained(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("serving")
    config = RunConfig.model_validate({"method": "promptmix", "recipe": {"epochs": 2, "batch_size": 8}})
    run(config, drawn_pictures(), backbone=backbone, cache=FeatureCache(root / "features"), out=root / "run")
    return root / "run" / "model"


@pytest.fixture(scope="session")
def calibrated(trained: Path, promptmix: Promptmix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a calibration that has rules for abstaining and for label sets."""
    root = tmp_path_factory.mktemp("calibrated")
    for number, one in enumerate(draw_set(NAMES, ("stamp", "photo"), 3, 5)):
        (root / "labelled" / one.class_name).mkdir(parents=True, exist_ok=True)
        one.image.save(root / "labelled" / one.class_name / f"{number}.png")
    model = Path(shutil.copytree(trained, root / "drawings"))
    asked = ("--abstain", "coverage=0.7", "--label-sets", "0.8")
    done = promptmix("calibrate", model, root / "labelled", *asked, "--device", "cpu")
    assert done.code == 0, done
    return model


@pytest.fixture(scope="session")
def exported(calibrated: Path, promptmix: Promptmix) -> Path:
    """The calibrated model as a file."""
    for library in ("onnxruntime", "onnxscript"):
        pytest.importorskip(library, reason="exporting, and running what was exported, needs the libraries for ONNX")
    out = calibrated.parent / "drawings.onnx"
    promptmix("export", calibrated, "--out", out).works()
    return out


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A model folder that may be changed."""
    return Path(shutil.copytree(trained, tmp_path / "drawings"))


@pytest.fixture
def service(folder: Path) -> Services:
    """Makes a service of the model with some settings; with ``engine`` that one answers, and ``fetcher`` fetches pictures."""

    def make(
        engine: HeldEngine | None = None, fetcher: Callable[[Settings], PictureFetcher] = PictureFetcher, **settings: object
    ) -> Service:
        loader = TorchLoader(backbone=None, device="cpu", precision="auto", with_text=bool(settings.get("allow_class_changes")))
        made = Settings.model_validate({"max_wait": 1.0, **settings})
        chosen = loader if engine is None else HeldLoader(engine)
        return Service({"drawings": folder}, lambda path: chosen, made, fetcher=fetcher(made))

    return make


@contextlib.asynccontextmanager
async def client_of(service: Service) -> AsyncIterator[httpx2.AsyncClient]:
    """Asks the service without a network."""
    transport = httpx2.ASGITransport(app=create_app(service), raise_app_exceptions=False)
    await service.start()
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client:
            yield client
    finally:
        await service.stop()


def is_problem(answer: httpx2.Response, status: int, kind: str) -> str:
    """That an answer is a problem of this status and kind; its detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body.keys() == {"type", "title", "status", "detail"}
    assert body["status"] == status
    assert body["type"] == f"urn:promptmix:problem:{kind}", body
    assert "\n" not in body["detail"]
    return str(body["detail"])
