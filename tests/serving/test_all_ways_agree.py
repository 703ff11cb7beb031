"""One picture, every way to have it classified: Python, command line, exported model, server of either. All say the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import Promptmix
from tests.serving.conftest import NAMES, client_of
from tests.serving.process import served

from promptmix.data.pictograms import draw_set
from promptmix.estimator import PromptClassifier
from promptmix.inference.onnx_predictor import OnnxPredictor
from promptmix.inference.predictor import Predictor
from promptmix.model_folder import read_model
from promptmix.serving.service import Service
from promptmix.serving.settings import Settings
from promptmix.serving.torch_engine import TorchLoader

SAME = 1e-4
Said = dict[str, tuple[str, dict[str, float]]]  # of each file: the answer, and the probability of each class


@pytest.fixture(scope="module")
def many_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures of the kinds that programs disagree on."""
    folder = tmp_path_factory.mktemp("kinds")
    drawn = [one.image.convert("RGB").resize((200, 150)) for one in draw_set(NAMES, ("photo", "sketch"), 2, 7)]
    turned = Image.Exif()
    turned[0x0112] = 6
    drawn[0].save(folder / "turned.jpg", exif=turned, quality=95)
    drawn[1].convert("CMYK").save(folder / "four-inks.jpg", quality=95)
    drawn[2].quantize(16).save(folder / "palette.png", transparency=0)
    deep = np.asarray(drawn[3].convert("L")).astype(np.uint16) * 257 + 13
    Image.fromarray(deep).save(folder / "sixteen-bits.png")
    layer = drawn[4].convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(layer.size))
    layer.save(folder / "alpha.png")
    drawn[5].convert("L").save(folder / "grey.png")
    drawn[6].resize((900, 600)).save(folder / "large.jpg", quality=90)
    drawn[7].save(folder / "animation.gif", save_all=True, append_images=[drawn[0]])
    drawn[8].resize((40, 300)).save(folder / "narrow.webp", lossless=True)
    return folder


def of_command_line(promptmix: Promptmix, model: Path, pictures: Path) -> Said:
    done = promptmix("predict", model, pictures, "--json", "--top", "4", "--device", "cpu")
    done.works()
    every = [json.loads(line) for line in done.out.splitlines()]
    return {Path(one["path"]).name: _answer(one) for one in every}


def of_server(answer: httpx2.Response) -> Said:
    assert answer.status_code == 200, answer.text
    return {one["name"]: _answer(one) for one in answer.json()["predictions"]}


def _answer(one: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    return one["class"], {ranked["class"]: ranked["probability"] for ranked in one["top"]}


@pytest.mark.slow
def test_all_ways_to_classify_a_picture_agree(promptmix: Promptmix, calibrated: Path, exported: Path, many_kinds: Path) -> None:
    files = sorted(many_kinds.iterdir())
    parts = [("picture", (file.name, file.read_bytes())) for file in files]
    predicted = Predictor.from_folder(calibrated, device="cpu").predict(files, top=4).predictions
    (batch,) = OnnxPredictor(exported).iter_predict(files, top=4)
    ways: dict[str, Said] = {
        way: {file.name: (one.answer, dict(one.top)) for file, one in zip(files, every, strict=True)}
        for way, every in (("Predictor", predicted), ("OnnxPredictor", batch.predictions))
    }
    ways["command line"] = of_command_line(promptmix, calibrated, many_kinds)
    ways["command line, exported"] = of_command_line(promptmix, exported, many_kinds)

    async def ask() -> httpx2.Response:
        loader = TorchLoader(backbone=None, device="cpu", precision="auto", with_text=False)
        async with client_of(Service({"a": calibrated}, lambda path: loader, Settings())) as client:
            return await client.post("/v1/predict?top=4", files=parts)

    ways["server"] = of_server(asyncio.run(ask()))
    # In a process of its own, which cannot import torch: all of the way from the file to the answer is then another one.
    with served(exported, before="import sys\nsys.modules['torch'] = None") as (_, address):
        ways["server, exported"] = of_server(httpx2.post(f"{address}v1/predict?top=4", files=parts, timeout=60))

    classifier = PromptClassifier.from_pretrained(calibrated, device="cpu")
    by_python = classifier.predict_proba(files)
    answers = classifier.predict(files)
    calibration = read_model(calibrated).calibration
    assert calibration is not None and calibration.temperature != 1
    for place, file in enumerate(files):
        shares = dict(zip(classifier.classes_.tolist(), by_python[place].tolist(), strict=True))
        assert set(shares) == set(NAMES)
        for way, said in ways.items():
            answer, probabilities = said[file.name]
            assert answer == answers[place], (way, file.name)
            assert probabilities == pytest.approx(shares, abs=SAME), (way, file.name)
    assert len({json.dumps(shares) for _, shares in ways["Predictor"].values()}) == len(files), "the pictures are told apart"
