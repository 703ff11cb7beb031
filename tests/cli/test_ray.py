"""The same work by the workers of a real Ray cluster, started on this machine: the same files, the same words on what is wrong."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptmix.cluster import connected, failure_of, resources_of_a_worker
from promptmix.data.datasets_hub import ArrowPicture
from promptmix.data.images import StoredPicture, UnusablePicture
from promptmix.data.parquet import ParquetPicture
from promptmix.data.read import iter_any_pictures
from promptmix.data.shards import TarPicture
from promptmix.errors import ConfigError, OutOfMemoryError, PromptMixError
from promptmix.evaluation.results import read_bench_result
from promptmix.inference import bulk_ray
from promptmix.inference.bulk_job import read_job
from promptmix.inference.bulk_ray import WorkerSetup, _Worker, decoded, encoded
from promptmix.protocols import ray_runs

from .test_predict_bulk import files_of, many
from .test_sources import made

pytest.importorskip("ray", reason="ray is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: no Parquet here")

Promptmix = Callable[..., Any]

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    # Ray's own: settings of its data context that it deprecates itself, and sockets that it leaves to the collector.
    pytest.mark.filterwarnings("ignore:.*is deprecated.*:DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
__all__ = ["many"]

# One for the process, which may start a second cluster when it takes over tests: Ray remembers the first that it was given.
AUTH_TOKEN = secrets.token_hex(32)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of two processors for the tests of this file; its folder has a short name, as its sockets lie there."""
    import tempfile
    import warnings

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", AUTH_TOKEN)  # else it keeps one in the home folder
        patch.delenv("RAY_ADDRESS", raising=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            import ray.data

            ray.data.DataContext.get_current()
            ray.init(
                "local",
                num_cpus=2,
                object_store_memory=90 * 2**20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
            yield ray
            ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_the_cluster_writes_what_this_process_writes(promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path) -> None:
    arguments = ("predict", trained, many, "--rows-per-file", "20", "--out")
    local = promptmix(*arguments, tmp_path / "local")
    done = promptmix(*arguments, tmp_path / "ray", "--engine", "ray", "--json")
    assert (local.code, done.code) == (0, 0), (local, done)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")
    assert done.err.replace("/ray/", "/local/") == local.err
    said = json.loads(done.out)
    assert (said["predicted"], said["bad"], said["parts"], said["predicted_now"]) == (89, 2, 5, 89)
    assert not list((tmp_path / "ray").glob(".*"))

    # What is there stays, what lacks comes again; a shard is a shard.
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "ray").glob("part-*")}
    (tmp_path / "ray" / "part-00003.parquet").unlink()
    again = promptmix(*arguments, tmp_path / "ray", "--engine", "ray", "--shard", "2/2", "--json", "-q")
    again.works()
    assert (json.loads(again.out)["predicted"], json.loads(again.out)["predicted_now"]) == (40, 20)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")
    for name, before in times.items():
        assert ((tmp_path / "ray" / name).stat().st_mtime_ns == before) == (name != "part-00003.parquet")


@pytest.mark.usefixtures("cluster")
def test_sources_of_relative_names(
    promptmix: Promptmix, photos: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative names count from here on every machine
    source = made("tar", photos, tmp_path).relative_to(tmp_path)
    for engine in ("local", "ray"):
        promptmix(
            "predict", trained, source, "--out", engine, "--engine", engine, "--rows-per-file", "10", "--format", "csv"
        ).works()
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")
    assert len(files_of(tmp_path / "ray")) == 3


@pytest.mark.usefixtures("cluster")
def test_what_goes_wrong_in_a_worker_is_one_line(promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path) -> None:
    arguments = ("predict", trained, many / "anchor", "--engine", "ray", "--out", tmp_path / "said")
    promptmix(*arguments, "--backbone", tmp_path / "gone").fails(5, "gone")
    assert not list((tmp_path / "said").glob(".*"))
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.png").write_bytes(b"no picture")
    promptmix("predict", trained, source, "--engine", "ray", "--out", tmp_path / "none").fails(
        4, "none of the 1 pictures can be read"
    )


def test_a_worker_that_cannot_do_its_block_says_so(
    promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    promptmix("predict", trained, many / "anchor", "--out", "said").works()
    setup = WorkerSetup(
        job=read_job(Path("said")),
        out=Path("said"),
        lists=tmp_path / "lists",
        model=trained,
        backbone=None,
        device="cpu",
        threads=1,
        cache=None,
        current=tmp_path,
        log_level=logging.WARNING,
    )
    setup.lists.mkdir()
    (setup.lists / "00000.jsonl").write_text(json.dumps(encoded(many / "anchor" / "001.png")) + "\n")
    worker = _Worker(setup)
    for _ in range(4):  # what ended well does not count
        assert worker({"number": np.array([0])})["predicted"] == [1]

    def killed(*_: Any, **__: Any) -> Any:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(bulk_ray, "predict_block", killed)
        for _ in range(3):
            with pytest.raises(SystemExit):
                worker({"number": np.array([0])})
    told = worker({"number": np.array([0])})
    assert told["kind"] == ["OutOfMemoryError"]
    assert "block 0 were ended from outside 3 times" in told["problem"][0]
    for wrong in ({"current": tmp_path / "gone"}, {"out": Path("elsewhere")}, {"job": setup.job.model_copy(update={"top": 1})}):
        told = _Worker(dataclasses.replace(setup, **wrong))({"number": np.array([0])})
        assert told["kind"] == ["DataError"]
        assert "must lie on storage that all machines share" in told["problem"][0]
    assert not (tmp_path / "elsewhere").exists()
    # A worker that starts late finds another model than the job was started with.
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    promptmix("classes", "add", other, "owl").works()
    told = _Worker(dataclasses.replace(setup, model=other))({"number": np.array([0])})
    assert told["kind"] == ["CheckpointError"]
    assert "was changed while the job was under way" in told["problem"][0]


@pytest.mark.usefixtures("cluster")
def test_a_block_whose_worker_is_killed_is_done_by_another_unless_it_kills_them_all(
    promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = tmp_path / "died"
    died.mkdir()

    class Killed:  # goes to the workers whole, as a class of this function; what it finds there is the real one
        def __init__(self, setup: WorkerSetup) -> None:
            self._worker = bulk_ray._Worker(setup)

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
            predict = vars(bulk_ray)["predict_block"]
            (block,) = batch["number"].tolist()
            deaths = {1: 1, 2: 3}.get(block, 0)  # of the workers that take this block

            def die(*_: Any, **__: Any) -> Any:
                with (died / str(block)).open("a") as file:
                    file.write(".")
                os.kill(os.getpid(), signal.SIGKILL)

            if deaths and (not (died / str(block)).exists() or (died / str(block)).stat().st_size < deaths):
                vars(bulk_ray)["predict_block"] = die
            try:
                return self._worker(batch)
            finally:
                vars(bulk_ray)["predict_block"] = predict

    monkeypatch.setattr(bulk_ray, "_Worker", Killed)
    arguments = ("predict", trained, many / "anchor", "--rows-per-file", "10", "--out")
    promptmix(*arguments, tmp_path / "ray", "--engine", "ray").fails(6, "block 2 were ended from outside 3 times")
    assert {path.name: len(path.read_text()) for path in died.iterdir()} == {"1": 1, "2": 3}
    assert not (tmp_path / "ray" / "summary.json").exists()
    promptmix(*arguments, tmp_path / "ray").works()
    promptmix(*arguments, tmp_path / "local").works()
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")


def test_what_ray_tells_of_is_told_by_its_kind(cluster: Any) -> None:
    def told(work: Callable[[], Any]) -> PromptMixError:
        task = cluster.remote(max_retries=0, num_cpus=0)(work).remote()
        with pytest.raises(cluster.exceptions.RayError) as caught:
            cluster.get(task, timeout=300)
        return failure_of(cluster, "it", caught.value)

    killed = told(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert type(killed) is OutOfMemoryError
    assert "it was ended from outside (WorkerCrashedError), as happens when memory runs out" in str(killed)
    memory = failure_of(cluster, "it", cluster.exceptions.OutOfMemoryError("too much"))
    assert type(memory) is OutOfMemoryError
    wrong = told(lambda: int("no\nnumber"))
    assert type(wrong) is PromptMixError
    assert "it failed on the cluster (RayTaskError(ValueError): ValueError: invalid literal for int()" in str(wrong)
    stopped = failure_of(cluster, "it", cluster.exceptions.TaskCancelledError())
    assert type(stopped) is PromptMixError
    assert "TaskCancelledError" in str(stopped)
    assert "memory" not in f"{wrong} {stopped}"


def test_a_worker_asks_for_what_it_needs(cluster: Any) -> None:
    assert resources_of_a_worker(cluster, "auto", 1) == {"num_cpus": 1.0, "num_gpus": 0.0}
    assert resources_of_a_worker(cluster, "cuda", 64) == {"num_cpus": 2.0, "num_gpus": 1.0}
    with connected("10.255.255.1:1") as there:  # who is connected stays so
        assert there is cluster


@pytest.mark.parametrize("kind", ["folder", "csv", "parquet", "saved", "tar"])
def test_a_listing_is_read_back(photos: Path, tmp_path: Path, kind: str) -> None:
    pictures = list(iter_any_pictures(str(made(kind, photos, tmp_path))))
    assert len(pictures) == 24
    assert [decoded(json.loads(json.dumps(encoded(one)))) for one in pictures] == pictures
    strange = UnusablePicture(name="\udcff\n,", reason='"')
    assert decoded(json.loads(json.dumps(encoded(strange)))) == strange
    assert decoded(json.loads(json.dumps(encoded(Path("a\udcff"))))) == Path("a\udcff")


def test_every_kind_of_stored_picture_can_be_listed() -> None:
    assert set(StoredPicture.__subclasses__()) >= {TarPicture, ParquetPicture, ArrowPicture, UnusablePicture}
    from promptmix.inference import bulk_ray

    ours = {kind for kind in StoredPicture.__subclasses__() if kind.__module__.startswith("promptmix.")}
    assert set(bulk_ray._KINDS.values()) == ours


def results_of(out: Path) -> dict[str, Any]:
    """All results, without what no two runs have in common."""
    found = {}
    for path in sorted(out.glob("runs/*/result.json")):
        said = read_bench_result(path).model_dump()
        found[path.parent.name] = {name: value for name, value in said.items() if name not in ("seconds", "peak_memory_bytes")}
    return found


BENCH = ("--hold-out", "0.3", "--methods", "zero-shot,coop", "--shots", "2", "--seeds", "1,2", "--set", "recipe.epochs=1")


@pytest.mark.usefixtures("cluster")
def test_a_bench_on_the_cluster_gives_what_one_here_gives(
    promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, tmp_path / "photos")
    bench = ("bench", "few-shot", "photos", *BENCH, "--json", "--out")
    promptmix(*bench, "here", "--jobs", "1").works()
    promptmix(*bench, "there", "--jobs", "1", "--engine", "ray").works()
    assert results_of(tmp_path / "there") == results_of(tmp_path / "here")
    assert len(results_of(tmp_path / "there")) == 4
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.glob("there/runs/*/*"))}
    name = "photos--coop--2-shots--seed-2"
    (tmp_path / "there" / "runs" / name / "result.json").unlink()
    promptmix(*bench, "there", "--jobs", "1", "--engine", "ray").works()
    assert results_of(tmp_path / "there") == results_of(tmp_path / "here")
    changed = {path for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert {path.parent.name for path in changed} == {name}


@pytest.mark.usefixtures("cluster")
def test_a_run_that_fails_is_recorded_and_the_rest_go_on(promptmix: Promptmix, photos: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "photos"))
    for part in ("train", "test"):
        (source / part).mkdir()
    for folder in [path for path in source.iterdir() if path.name not in ("train", "test")]:
        (source / "test" / folder.name).mkdir()
        for picture in sorted(folder.iterdir())[:4]:
            picture.rename(source / "test" / folder.name / picture.name)
        folder.rename(source / "train" / folder.name)
    picture = next((source / "train").rglob("*.png"))
    content = picture.read_bytes()
    picture.write_bytes(b"no picture")
    options = ("--methods", "zero-shot,coop", "--shots", "4", "--seeds", "1", "--set", "recipe.epochs=1", "--jobs", "1")
    bench = ("bench", "few-shot", source, *options, "--engine", "ray", "--out", tmp_path / "out")
    done = promptmix(*bench)
    assert done.code == 1
    assert str(picture) in done.err
    said = json.loads(next((tmp_path / "out").glob("runs/*/failed.json")).read_text())
    assert (said["exit_code"], said["run_id"]) == (4, "photos--coop--4-shots--seed-1")
    assert "in execute" in said["traceback"]
    assert list(results_of(tmp_path / "out")) == ["photos--zero-shot--seed-1"]
    picture.write_bytes(content)
    promptmix(*bench).works()
    assert len(results_of(tmp_path / "out")) == 2


@pytest.mark.usefixtures("cluster")
def test_a_run_that_gives_no_answer_is_recorded(
    promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(setup: Any, run: Any) -> None:
        if run.seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("wrong")

    monkeypatch.setattr(ray_runs, "_do", broken)
    methods = ("--methods", "coop", "--shots", "2", "--seeds", "1,2", "--hold-out", "0.3", "--jobs", "1")
    promptmix("bench", "few-shot", photos, *methods, "--engine", "ray", "--out", tmp_path / "out")
    said = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("runs/*/failed.json"))]
    assert [one["exit_code"] for one in said] == [6, 1]
    assert "as happens when memory runs out" in said[0]["message"]
    assert "(RayTaskError(RuntimeError): RuntimeError: wrong)" in said[1]["message"]


@pytest.mark.usefixtures("cluster")
def test_ctrl_c_stops_the_runs_of_the_cluster_which_then_go_on(
    promptmix: Promptmix, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    out, wait = tmp_path / "out", ray.wait
    options = (
        "--hold-out",
        "0.3",
        "--methods",
        "coop",
        "--shots",
        "2",
        "--seeds",
        "1",
        "--set",
        "recipe.epochs=3000",
        "--jobs",
        "1",
    )
    bench = ("bench", "few-shot", photos, *options, "--engine", "ray", "--out", out)

    def pressed(*arguments: Any, **named: Any) -> Any:
        monkeypatch.undo()
        deadline = time.monotonic() + 120
        while not any(len(path.read_text().splitlines()) > 5 for path in out.glob("runs/*/log.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "wait", pressed)
    assert ray.wait is not wait
    promptmix(*bench).fails(130, "stopped with 0 of 1 runs done; the same command goes on")
    (run,) = (out / "runs").iterdir()
    assert not (run / "result.json").exists()
    assert (run / "checkpoint.safetensors").is_file()
    lines = (run / "log.jsonl").read_text().splitlines()
    time.sleep(0.2)
    assert (run / "log.jsonl").read_text().splitlines() == lines, "it has not stopped"
    assert len(lines) < 3000


def test_no_cluster_at_an_address(
    promptmix: Promptmix, trained: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def init(address: str, **_: Any) -> None:
        raise ConnectionError(f"nothing answers\nat {address}")

    monkeypatch.setattr(ray, "init", init)
    arguments = ("predict", trained, many, "--out", tmp_path / "said", "--engine", "ray")
    promptmix(*arguments, "--ray-address", "127.0.0.1:1").fails(3, "there is no cluster of Ray at '127.0.0.1:1'", "--ray-address")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:9")
    promptmix(*arguments).fails(3, "10.0.0.9:9")
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(ConfigError, match="could be started here"), connected():
        pass
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
