"""TensorBoard, Weights & Biases and MLflow, offline: a run that is killed and goes on, read back by the libraries' own readers."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.records import LabelledPictures
from promptmix.training import loop, sinks, tracking
from promptmix.training.fit import RunConfig
from promptmix.training.run import Outcome, run

# MLflow asks its library for databases for something that is to go.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.store.tracking.sqlalchemy_store")

CLASSES = ("anchor", "cat")
STEPS, KILLED_AT, SAVED_AT = 12, 9, 5
LIBRARIES = tuple(name for name in ("tensorboard", "wandb", "mlflow") if importlib.util.find_spec(name) is not None)


def train(out: Path, names: tuple[str, ...] = LIBRARIES, resume: bool = False, dies: bool = False) -> Outcome:
    """A run of twelve steps in three epochs; one that dies has told eight steps by then, and saved five."""
    drawn = draw_set(CLASSES, ("stamp", "cross-stitch"), 4, 1)
    labels = [CLASSES.index(one.class_name) for one in drawn]
    pictures = LabelledPictures(pictures=[one.image for one in drawn], labels=labels, class_names=CLASSES, description="drawn")
    values = {"method": "coop", "recipe": {"epochs": 3, "batch_size": 4}, "augmentation": {"views": 0}, "log_to": names}

    def watch(stage: str, done: int, total: int, detail: str) -> None:
        if dies and stage == "training":
            loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0 if done <= SAVED_AT else 1e9
            if done == KILLED_AT:
                wait_for_wandb(out)
                os.kill(os.getpid(), signal.SIGKILL)

    tracking._SECONDS_BETWEEN_TELLINGS = 0.0 if dies else 1e9
    config = RunConfig.model_validate(values)
    return run(config, pictures, backbone=load_backbone(device="cpu"), out=out, resume=resume, on_progress=watch)


def wait_for_wandb(out: Path) -> None:
    """The library has a process of its own, which takes a second to write down what it is told."""
    deadline = time.monotonic() + 60
    for path in (out / "tracking").glob("wandb/offline-run-*/*.wandb"):
        while sum(record.WhichOneof("record_type") == "history" for record in wandb_records(path)) < KILLED_AT - 1:
            assert time.monotonic() < deadline, "the steps are not written down within a minute"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
            patch.delenv(name)
        patch.setenv("WANDB_MODE", "offline")
        patch.setattr(tracking, "_SECONDS_BETWEEN_TELLINGS", tracking._SECONDS_BETWEEN_TELLINGS)
        yield


@pytest.fixture(scope="module")
def resumed(environment: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of a run that was killed and went on, and what came of it."""
    if not LIBRARIES:
        pytest.skip("none of tensorboard, wandb and mlflow is installed")
    out = tmp_path_factory.mktemp("tracked") / "run"
    code = f"import pathlib; from tests.unit.training.test_sinks import train; train(pathlib.Path({str(out)!r}), dies=True)"
    child = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=child, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed
    state = json.loads((out / "tracking" / "state.json").read_text())
    assert state["told"] == dict.fromkeys(LIBRARIES, KILLED_AT - 1), killed
    assert (out / "checkpoint.safetensors").is_file()
    outcome = train(out, resume=True)
    assert not any("told no more" in note for note in outcome.result.notes), outcome.result.notes
    return out, outcome


def check_losses(losses: list[tuple[int, float]], out: Path) -> None:
    """Each step stands there once, with the losses that the log has by epoch."""
    assert [number for number, _ in losses] == list(range(STEPS))
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for epoch, line in enumerate(log):
        assert sum(loss for _, loss in losses[4 * epoch : 4 * epoch + 4]) / 4 == pytest.approx(line["loss"], rel=1e-5)


def test_tensorboard_has_each_step_once(resumed: tuple[Path, Outcome]) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, outcome = resumed
    events = EventAccumulator(str(out / "tracking" / "tensorboard"))
    events.Reload()
    check_losses([(event.step, event.value) for event in events.Scalars("train/loss")], out)
    (accuracy,) = events.Scalars("result/accuracy")
    assert (accuracy.step, accuracy.value) == (STEPS, pytest.approx(outcome.result.metrics["accuracy"]))
    settings = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| recipe.epochs | 3 |" in settings
    assert json.loads((out / "run.json").read_text())["run_key"] in settings


def wandb_records(path: Path) -> list[Any]:
    """The records of an offline run: a header of seven bytes, then blocks of 32 KiB, with pieces of records under seven bytes each."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    records, gathered, place = [], b"", 7
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        gathered += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(gathered)
            records.append(record)
            gathered = b""
    return records


def test_wandb_has_each_step_once_under_one_id(resumed: tuple[Path, Outcome]) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    out, outcome = resumed
    folders = sorted((out / "tracking" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    losses, summary, ids, configs = [], {}, set(), []
    for folder in folders:
        (path,) = folder.glob("*.wandb")
        for record in wandb_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "history":
                row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                if "train/loss" in row:
                    losses.append((row.get("_step", record.history.step.num), row["train/loss"]))
            elif kind == "summary":
                summary |= {item.key or "/".join(item.nested_key): item.value_json for item in record.summary.update}
            elif kind == "run":
                ids.add(record.run.run_id)
                configs.append({item.key: json.loads(item.value_json) for item in record.run.config.update})
    check_losses(losses, out)
    assert ids == {json.loads((out / "tracking" / "state.json").read_text())["id"]}
    assert json.loads(summary["result/accuracy"]) == outcome.result.metrics["accuracy"]
    assert configs[0]["recipe.epochs"] == 3


def test_mlflow_has_each_step_once_in_one_run(resumed: tuple[Path, Outcome]) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    out, outcome = resumed
    client = mlflow.MlflowClient(sinks._own_store(out / "tracking"))
    (experiment,) = [one for one in client.search_experiments() if one.name == "promptmix"]
    (told,) = client.search_runs([experiment.experiment_id])
    check_losses([(one.step, one.value) for one in client.get_metric_history(told.info.run_id, "train/loss")], out)
    assert told.info.status == "FINISHED"
    assert told.data.metrics["result/accuracy"] == outcome.result.metrics["accuracy"]
    assert told.data.metrics["zero_shot/accuracy"] == outcome.result.zero_shot["accuracy"]
    assert told.data.params["recipe.epochs"] == "3"
    assert told.data.params["run_key"] == json.loads((out / "run.json").read_text())["run_key"]


def test_nothing_that_was_written_names_a_folder_of_this_machine(resumed: tuple[Path, Outcome]) -> None:
    out, _ = resumed
    for path in [*out.rglob("*.wandb"), *out.rglob("events.out.*")]:
        assert str(out.parent).encode() not in path.read_bytes(), path


@pytest.mark.parametrize(("there", "place"), [(True, "sqlite:///{}/mlflow.db"), (False, "file://{}/mlflow")])
def test_mlflow_has_a_database_where_the_libraries_for_one_are(
    there: bool, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if there else None)
    assert sinks._own_store(tmp_path) == place.format(tmp_path)


@pytest.mark.usefixtures("environment")
def test_an_mlflow_server_that_is_away_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    outcome = train(tmp_path / "run", ("mlflow",))
    (note,) = [note for note in outcome.result.notes if "mlflow" in note]
    assert note.startswith("mlflow was told no more after 0 steps (")
    assert not (tmp_path / "run" / "tracking" / "mlflow.db").exists()
