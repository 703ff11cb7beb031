"""Whether a server answers right while its classes change: every answer is held against its own version, computed without a server."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from benchmarks.measure import median
from benchmarks.serving_clients import Answer, Connection, ask_all, json_request, picture_request
from benchmarks.serving_process import TOKEN, RunningServer
from promptmix.evaluation.evaluate import predict_features
from promptmix.features.extract import extract_features
from promptmix.inference.predictor import Predictor
from promptmix.model_folder import SavedModel, read_model

__all__ = ["measure_changes", "wrong_answers"]

CLIENTS, SECONDS = 8, 12.0
TOLERANCE = 1e-5
"""Of probabilities: the size of a batch moves them by rounding, another version by far more."""


def measure_changes(server: RunningServer, folder: Path, pictures: Sequence[bytes]) -> dict[str, Any]:
    """Answers to clients who ask without a pause while classes are added, renamed and removed over HTTP, and what is wrong with them."""
    asked = [picture_request("/v1/predict?top=1000&experts=false", picture) for picture in pictures]
    stop = threading.Event()
    changing = _Changing(server, folder, stop)
    changing.start()
    try:
        started = time.perf_counter()
        answers = ask_all(server.port, asked, CLIENTS, lambda sent: not stop.is_set())
        seconds = time.perf_counter() - started
    finally:
        stop.set()
        changing.join()
    if changing.problem is not None:
        raise changing.problem
    predictor = Predictor.from_folder(folder, device="cpu")
    features = extract_features(predictor.backbone, pictures).features[:, 0]
    expected = {version: _probabilities(model, features) for version, model in changing.models.items()}
    heard = [answer for answer in answers if answer.status == 200]
    wrong, greatest = wrong_answers(heard, expected)
    return {
        "answers": len(heard),
        "lost": len(answers) - len(heard),
        "wrong": wrong,
        "versions": len({json.loads(answer.body)["version"] for answer in heard}),
        "greatest_difference": greatest,
        "median_change_seconds": median(changing.seconds),
        "seconds": seconds,
    }


def wrong_answers(answers: Sequence[Answer], expected: Mapping[str, Sequence[Mapping[str, float]]]) -> tuple[int, float]:
    """How many answers are not those of their version, and the greatest difference of a probability among those that list its classes.

    Args:
        expected: by version, for each picture that was asked about, the probability of every class.
    """
    wrong, greatest = 0, 0.0
    for answer in answers:
        said = json.loads(answer.body)
        listed = {one["class"]: one["probability"] for one in said["predictions"][0]["top"]}
        right = expected[said["version"]][answer.asked] if said["version"] in expected else {}
        if listed.keys() != right.keys():
            wrong += 1
            continue
        difference = max(abs(listed[name] - right[name]) for name in right)
        wrong += difference > TOLERANCE
        greatest = max(greatest, difference)
    return wrong, greatest


def _probabilities(model: SavedModel, features: Float[Tensor, "image embedding"]) -> list[dict[str, float]]:
    assert model.classifier is not None
    names = model.class_names
    predictions = predict_features(model.classifier, names, model.expert_names, features, top=len(names))
    return [dict(prediction.top) for prediction in predictions]


class _Changing(threading.Thread):
    """Changes classes one after the other, and keeps the model of every version as it then lies on disk."""

    def __init__(self, server: RunningServer, folder: Path, stop: threading.Event) -> None:
        super().__init__()
        self._server, self._folder, self._until = server, folder, stop
        self.models: dict[str, SavedModel] = {}
        self.seconds: list[float] = []
        self.problem: Exception | None = None

    def run(self) -> None:
        try:
            end = time.perf_counter() + SECONDS
            with contextlib.closing(Connection(self._server.port)) as connection:
                self._keep(connection.ask(json_request("GET", "/v1/classes")))
                for request in _changes():
                    if self._until.is_set() or time.perf_counter() > end:
                        break
                    started = time.perf_counter()
                    answer = connection.ask(request)
                    self.seconds.append(time.perf_counter() - started)
                    self._keep(answer)
        except Exception as problem:
            self.problem = problem
        finally:
            self._until.set()

    def _keep(self, answer: tuple[int, bytes]) -> None:
        status, body = answer
        said = json.loads(body)
        if status != 200:
            raise RuntimeError(f"a change was refused: {said}")
        model = read_model(self._folder)
        if [one["name"] for one in said["classes"]] != list(model.class_names):
            raise RuntimeError("the classes that were answered are not those on disk")
        self.models[said["version"]] = model


def _changes() -> Iterator[bytes]:
    for number in itertools.count():
        words = {"name": f"new thing {number}", "synonyms": [f"fresh thing {number}"]}
        yield json_request("POST", "/v1/classes", {"classes": [words, f"thing {number}"]}, TOKEN)
        yield json_request("PATCH", "/v1/classes", {"old": f"thing {number}", "name": f"renamed thing {number}"}, TOKEN)
        yield json_request("DELETE", f"/v1/classes?name=new%20thing%20{number}&name=renamed%20thing%20{number}", token=TOKEN)
