"""A server against its bare model in the same run: pictures a second, how long answers take, answers while classes change, and memory.

The server is a process of its own, asked over loopback by clients in this process. *Model* is the same engine, shown pixels that are
ready, in batches as large as the server's. *Loop* reads and pre-processes each batch too, in as many threads as there are processors,
which no server can do without.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bulk import mixture_over
from benchmarks.extraction import vit_b32, write_photographs
from benchmarks.measure import machine, median, take_turns, today
from benchmarks.serving_answers import measure_changes
from benchmarks.serving_clients import Answer, Connection, ask_all, json_request, picture_request
from benchmarks.serving_process import RunningServer, engine_of, serve_bundled, serve_vit_b32, serving
from promptmix.backbones.preprocess import View, resize_and_crop
from promptmix.backbones.registry import load_backbone
from promptmix.data.images import open_picture
from promptmix.data.pictograms import CLASS_NAMES, draw_set
from promptmix.data.records import LabelledPictures
from promptmix.features.cache import FeatureCache
from promptmix.features.reading import reading_threads
from promptmix.inference.predictor import Predictor
from promptmix.model_folder import write_model
from promptmix.serving.settings import Settings
from promptmix.training.fit import RunConfig
from promptmix.training.run import run

__all__ = ["measure_serving", "serving_page"]

SIZE, SMALL = (500, 375), (96, 72)
BATCH = Settings().max_batch
CLIENTS = (1, 8, 32)
NUM_CLASSES = 20
ROUNDS = 3
RANDOM = "ViT-B/32 size, random weights"
PICTURES = {"bundled": 512, RANDOM: 64}
"""How many pictures each contestant is given in a round; a client alone gets a quarter."""
FEW, MANY = 1_000, 10_000


def measure_serving() -> dict[str, Any]:
    """Speed with two towers, answers while classes change, and memory."""
    with tempfile.TemporaryDirectory(prefix="promptmix-benchmark-") as name:
        folder = Path(name)
        pictures, small = _photographs(folder, 64, SIZE), _photographs(folder, 16, SMALL)
        bundled = folder / "trained" / "model"
        trained = _trained(bundled.parent)
        found: dict[str, Any] = {
            "what": f"JPEG files of {SIZE[0]} x {SIZE[1]} pixels, one a request, {ROUNDS} rounds, on the CPU",
            "date": today(),
            "machine": machine(),
            "batch": BATCH,
            "file_bytes": round(sum(map(len, pictures)) / len(pictures)),
        }
        with serving(serve_bundled(bundled)) as server:
            found["memory"] = _memory(server, small)
            found["towers"] = {"bundled": _speed(server, trained, pictures, PICTURES["bundled"])}
            found["changes"] = measure_changes(server, bundled, small)
        found["towers"][RANDOM] = _speed_of_random(folder / "random", pictures)
        return found


def _photographs(folder: Path, number: int, size: tuple[int, int]) -> list[bytes]:
    return [path.read_bytes() for path in write_photographs(folder, number, size)]


def _trained(folder: Path) -> Predictor:
    """A mixture over the bundled backbone that has learnt drawn pictures a little, so that classes can be added to it."""
    names = CLASS_NAMES[:NUM_CLASSES]
    drawn = draw_set(names, ("photo",), 2, 1)
    labelled = LabelledPictures(
        pictures=[one.image for one in drawn],
        labels=[names.index(one.class_name) for one in drawn],
        class_names=names,
        description="drawn",
    )
    config = RunConfig.model_validate({"method": "promptmix", "recipe": {"epochs": 1}})
    backbone = load_backbone("bundled", device="cpu")
    run(config, labelled, backbone=backbone, cache=FeatureCache(folder / "features"), out=folder)
    return Predictor.from_folder(folder / "model", device="cpu")


# ---------------------------------------------------------------------------------------------------------------- speed


def _speed_of_random(folder: Path, pictures: Sequence[bytes]) -> dict[str, Any]:
    predictor = mixture_over(vit_b32())
    write_model(folder, predictor.model)
    with serving(serve_vit_b32(folder)) as server:
        return _speed(server, predictor, pictures, PICTURES[RANDOM])


def _speed(server: RunningServer, predictor: Predictor, pictures: Sequence[bytes], number: int) -> dict[str, Any]:
    engine = engine_of(predictor)
    asked = [picture_request("/v1/predict", picture) for picture in pictures]
    batches = [
        [pictures[place % len(pictures)] for place in range(first, min(first + BATCH, number))]
        for first in range(0, number, BATCH)
    ]

    def view(picture: bytes) -> View:
        return resize_and_crop(open_picture(picture), engine.preprocess)

    ready = [np.stack([view(picture) for picture in batch]) for batch in batches]

    def model() -> None:
        for pixels in ready:
            engine.run(pixels)

    def loop() -> None:
        with reading_threads() as threads:
            for batch in batches:
                engine.run(np.stack(list(threads.map(view, batch))))

    heard: dict[int, list[_Load]] = {clients: [] for clients in CLIENTS}

    def load(clients: int) -> Callable[[], None]:
        wanted = number if clients > 1 else max(1, number // 4)
        return lambda: heard[clients].append(_load(server, asked, clients, wanted))

    seconds = take_turns({"model": model, "loop": loop, **{f"{clients}": load(clients) for clients in CLIENTS}}, ROUNDS)
    own = {name: [taken / number for taken in seconds[name]] for name in ("model", "loop")}
    return {
        "model_pictures_per_second": 1 / median(own["model"]),
        "loop_pictures_per_second": 1 / median(own["loop"]),
        "clients": {f"{clients}": _summary(loads[1:], own) for clients, loads in heard.items()},
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Load:
    """One round of one number of clients."""

    answers: list[Answer]
    seconds: float
    client_seconds: float
    server_seconds: float
    batches: int


def _load(server: RunningServer, asked: Sequence[bytes], clients: int, number: int) -> _Load:
    batches, taken, own = _batches(server), server.processor_seconds(), time.process_time()
    started = time.perf_counter()
    answers = ask_all(server.port, asked, clients, lambda sent: sent < number)
    return _Load(
        answers=answers,
        seconds=time.perf_counter() - started,
        client_seconds=time.process_time() - own,
        server_seconds=server.processor_seconds() - taken,
        batches=_batches(server) - batches,
    )


def _batches(server: RunningServer) -> int:
    """How many batches the server's model was shown so far."""
    with contextlib.closing(Connection(server.port)) as connection:
        _, text = connection.ask(json_request("GET", "/metrics"))
    lines = [line for line in text.decode().splitlines() if line.startswith("promptmix_batch_pictures_count{")]
    return sum(round(float(line.rpartition(" ")[2])) for line in lines)


def _summary(loads: Sequence[_Load], own: dict[str, list[float]]) -> dict[str, Any]:
    answers = [answer for load in loads for answer in load.answers]
    seconds = [answer.seconds for answer in answers]
    a_picture = [load.seconds / len(load.answers) for load in loads]
    return {
        "pictures": len(answers),
        "lost": sum(answer.status != 200 for answer in answers),
        "pictures_per_second": 1 / median(a_picture),
        # Pairs of one round: a slow spell of the machine hits both.
        **{f"share_of_{name}": median([bare / ours for bare, ours in zip(own[name], a_picture, strict=True)]) for name in own},
        "pictures_per_batch": len(answers) / max(1, sum(load.batches for load in loads)),
        "seconds": {f"p{share}": _percentile(seconds, share) for share in (50, 95, 99)},
        "server_processor_seconds": sum(load.server_seconds for load in loads) / len(answers),
        "client_processor_seconds": sum(load.client_seconds for load in loads) / len(answers),
    }


def _percentile(values: Sequence[float], share: int) -> float:
    return float(np.percentile(values, share))


# --------------------------------------------------------------------------------------------------------------- memory


def _memory(server: RunningServer, pictures: Sequence[bytes]) -> dict[str, Any] | None:
    """Resident bytes of the server after few and after many requests; None where the system does not tell."""
    if server.resident_bytes() is None:
        return None
    asked = [picture_request("/v1/predict", picture) for picture in pictures]
    started, answers, resident = time.perf_counter(), [], []
    for number in (FEW, MANY - FEW):
        answers += ask_all(server.port, asked, 8, lambda sent, number=number: sent < number)  # type: ignore[misc]  # mypy infers no lambda's defaults
        resident.append(server.resident_bytes())
    return {
        "few_bytes": resident[0],
        "many_bytes": resident[1],
        "lost": sum(answer.status != 200 for answer in answers),
        "requests_per_second": MANY / (time.perf_counter() - started),
    }


# ----------------------------------------------------------------------------------------------------------- for people


def serving_page(results: dict[str, Any]) -> str:
    """The part of the page on the server."""
    rows, costs = [], []
    for tower, one in results["towers"].items():
        for clients, load in one["clients"].items():
            times = " | ".join(f"{1e3 * value:.0f}" for value in load["seconds"].values())
            rows.append(
                f"| {tower} | {clients} | {load['pictures_per_second']:.1f} | {100 * load['share_of_model']:.0f} %"
                f" | {100 * load['share_of_loop']:.0f} % | {times} | {load['pictures_per_batch']:.1f} |"
            )
        most = list(one["clients"].values())[-1]
        costs.append(
            f"- {tower}: the model alone {one['model_pictures_per_second']:.1f} pictures a second, with reading {one['loop_pictures_per_second']:.1f}."
            f" At {CLIENTS[-1]} clients a picture took {1e3 * most['server_processor_seconds']:.1f} ms of processor time in the server"
            f" and {1e3 * most['client_processor_seconds']:.2f} ms in the clients."
        )
    return f"""## The server

{results["what"]} ({results["file_bytes"] / 1e3:.0f} kB each): a process of `promptmix serve` with its own settings, asked over loopback by clients who each send the next
picture as soon as they have their answer. *Of the model*: against the same engine shown ready pixels in batches of {results["batch"]}; *of model and reading*:
against a loop that also reads and pre-processes each batch in as many threads as there are processors, which is what a server cannot do without.
The clients run on the same {results["machine"]["cores"]} cores and take from the server what they need. Measured on {results["date"]}.

| tower | clients | pictures a second | of the model | of model and reading | p50 ms | p95 ms | p99 ms | pictures a batch |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(rows)}

{chr(10).join(costs)}
{_said_of_changes(results["changes"])}
{_said_of_memory(results["memory"])}
"""


def _said_of_changes(changes: dict[str, Any]) -> str:
    return (
        f"- While classes were added, renamed and removed over HTTP, {changes['answers']:,} answers of {changes['versions']} versions came in {changes['seconds']:.0f} s:"
        f" {changes['lost']} were lost, {changes['wrong']} were wrong. Each was held against the predictions of its own version, made without a server;"
        f" the greatest difference of a probability is {changes['greatest_difference']:.0e}. A change took {1e3 * changes['median_change_seconds']:.0f} ms."
    )


def _said_of_memory(memory: dict[str, Any] | None) -> str:
    if memory is None:
        return "- How much memory the server holds is not known on this system."
    return (
        f"- Resident memory: {memory['few_bytes'] / 1e6:.0f} MB after {FEW:,} requests of small pictures, {memory['many_bytes'] / 1e6:.0f} MB after {MANY:,};"
        f" {memory['requests_per_second']:.0f} requests a second, {memory['lost']} lost."
    )
