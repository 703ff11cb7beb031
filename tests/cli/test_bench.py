"""promptmix bench: plan, runs and report on the command line; stopped or killed at any moment, it ends as if it had not been."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.new_processes import Command, quick_workers

from promptmix.data.drawn_task import block_of_classes, draw_shots, draw_tests
from promptmix.data.pictograms import UNSEEN_STYLES
from promptmix.errors import CheckpointError, DataError
from promptmix.training import loop

__all__ = ["quick_workers"]

Promptmix = Callable[..., Any]
CLASSES = block_of_classes(0)[0][:4]
QUICK = ["--set", "recipe.epochs=1", "--set", "augmentation.views=0", "--jobs", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes with train and test folders."""
    folder = tmp_path_factory.mktemp("bench") / "pets"
    for part, drawn in (("train", draw_shots(CLASSES, UNSEEN_STYLES, 8, 1)), ("test", draw_tests(CLASSES, UNSEEN_STYLES, 2))):
        for number, one in enumerate(drawn):
            path = folder / part / one.class_name / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            one.image.save(path)
    return folder


def results_of(out: Path) -> dict[str, Any]:
    """All result files, without what no two runs have in common."""
    found = {}
    for path in sorted(out.glob("runs/*/result.json")):
        said = json.loads(path.read_text(encoding="utf-8"))
        del said["seconds"], said["peak_memory_bytes"]
        found[path.parent.name] = said
    return found


def test_a_bench_is_planned_run_and_reported(promptmix: Promptmix, pets: Path, tmp_path: Path) -> None:
    arguments = ["bench", "few-shot", "--data", pets, "--methods", "zero-shot,coop", "--shots", "1,2", "--seeds", "1,2", *QUICK]
    done = promptmix(*arguments, "--out", tmp_path / "out")
    done.works()
    assert "zero-shot" in done.out and "coop" in done.out
    assert f"report: {tmp_path / 'out' / 'report'}" in done.out
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [".lock", "plan.json", "report", "runs"]
    assert sorted(results_of(tmp_path / "out")) == [
        "pets--coop--1-shot--seed-1",
        "pets--coop--1-shot--seed-2",
        "pets--coop--2-shots--seed-1",
        "pets--coop--2-shots--seed-2",
        "pets--zero-shot--seed-1",
        "pets--zero-shot--seed-2",
    ]
    assert (tmp_path / "out" / "report" / "report.md").is_file()
    # The same command again does nothing anew; another plan has no business there.
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")}
    again = promptmix(*arguments, "--out", tmp_path / "out")
    again.works()
    assert again.out == done.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")} == stamps
    promptmix(*arguments, "--seeds", "1", "--out", tmp_path / "out").fails(3, "another plan", "--overwrite")
    promptmix(*arguments, "--seeds", "1", "--out", tmp_path / "out", "--overwrite").works()
    assert len(results_of(tmp_path / "out")) == 3


def test_the_report_is_made_from_the_result_files_alone(promptmix: Promptmix, pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["bench", "base-to-new", "--data", pets, "--methods", "zero-shot,linear-probe", "--shots", "2", "--seeds", "1,2"]
    done = promptmix(*arguments, *QUICK, "--out", out, "--json")
    done.works()
    said = json.loads(done.out)
    assert [one["run_id"] for one in said["results"]] == sorted(results_of(out))
    assert said["failed"] == {}
    shutil.rmtree(out / "report")
    (out / "plan.json").unlink()
    shutil.rmtree(out / "runs" / "pets--zero-shot--seed-2")
    again = promptmix("bench", "report", out)
    again.works()
    assert (out / "report" / "report.md").is_file()
    assert json.loads(promptmix("bench", "report", out, "--json").out)["results"] == said["results"][:-1]
    promptmix("bench", "report", tmp_path).fails(4, "no bench", "--out")
    promptmix("bench", "report", out, "--baseline", "coop").fails(3, "baseline")


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(promptmix: Promptmix, pets: Path, tmp_path: Path) -> None:
    arguments = ["bench", "base-to-new", "--data", pets, "--methods", "zero-shot,coop,linear-probe", "--shots", "2,4"]
    arguments += ["--set", "recipe.epochs=3", "--set", "recipe.batch_size=2", "--set", "augmentation.views=1", "--dry-run"]
    before = set(tmp_path.rglob("*"))
    done = promptmix(*arguments)
    done.works()
    assert set(tmp_path.rglob("*")) == before
    assert "pets--coop--4-shots--seed-3" in done.out
    assert "An estimate: from a few timed steps" in done.out
    promptmix(*arguments, "--out", tmp_path / "out").works()
    assert not (tmp_path / "out").exists()
    said = json.loads(promptmix(*arguments, "--json").out)
    estimates = {one["contender"]: one for one in said["estimates"]}
    # Two base classes: 2 and 4 shots in batches of two are 2 and 4 steps an epoch, for three epochs and three seeds.
    assert estimates["coop"]["steps"] == 3 * 3 * (2 + 4)
    assert estimates["coop"]["text_encodings"] == 2 * estimates["coop"]["steps"]
    assert estimates["coop"]["seconds"] > 0
    assert estimates["zero-shot"]["steps"] == estimates["linear-probe"]["steps"] == 0
    assert estimates["linear-probe"]["num_runs"] == 6
    # For each seed eight pictures to learn from, in two views or one; and sixteen to measure on.
    assert said["pictures"]["views"] == 3 * (8 * 2 + 8) + 16
    assert said["jobs"] >= 1
    assert len(said["plan"]["runs"]) == 15


def test_compare_recommends_and_says_how_sure_it_is(
    promptmix: Promptmix, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["bench", "compare", pets / "train", "--methods", "zero-shot,linear-probe,coop", "--shots", "4", *QUICK]
    monkeypatch.chdir(tmp_path)
    done = promptmix(*arguments, "--hold-out", "0.5")
    done.works()
    recommended = re.search(
        r"^train, 4 shots: take [a-z-]+, [0-9.]+ % \(95 % interval .* above [a-z-]+: .*noise.*", done.out, re.MULTILINE
    )
    assert recommended
    assert ". Intervals cover which pictures 3 seeds draw as shots and hold out, no new pictures. " in recommended[0]
    said = json.loads(promptmix("bench", "report", tmp_path / "bench-compare", "--json").out)
    (one,) = said["recommendations"]
    assert (one["dataset"], one["shots"], one["num_ranked"], one["text"]) == ("train", 4, 3, recommended[0])
    assert one["within_noise"] == ("within noise, so" in one["text"])
    assert one["accuracy"]["count"] == one["lead"]["difference"]["count"] == 3


def test_failed_runs_are_told_of_at_the_end(promptmix: Promptmix, pets: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "pets")
    picture = next((tmp_path / "pets" / "train").rglob("*.png"))
    content = picture.read_bytes()
    picture.write_bytes(b"")
    arguments = [
        "bench",
        "few-shot",
        "--data",
        tmp_path / "pets",
        "--methods",
        "zero-shot,coop",
        "--shots",
        "8",
        "--seeds",
        "1,2",
    ]
    arguments += [*QUICK, "--out", tmp_path / "out"]
    done = promptmix(*arguments)
    assert done.code == 1
    lines = done.err.splitlines()
    assert len(lines) == 3
    for seed, line in zip((1, 2), lines[:2], strict=True):
        assert line.startswith(f"promptmix: pets--coop--8-shots--seed-{seed} failed (4): ")
        assert picture.name in line
        assert "--skip-bad" not in line and "take it away" in line and "promptmix data check" in line
    assert lines[2] == "promptmix: 2 of 4 runs done; the same command goes on, and tries the 2 that failed again"
    assert "2 of 4 runs have no result yet" in done.out
    assert "2 of 4 runs have no result yet" in (tmp_path / "out" / "report" / "report.md").read_text(encoding="utf-8")
    assert promptmix(*arguments, "--quiet").err == done.err
    picture.write_bytes(content)
    promptmix(*arguments).works()
    assert len(results_of(tmp_path / "out")) == 4


def test_what_cannot_be_asked_for(promptmix: Promptmix, pets: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "out"]
    for arguments, code, words in (
        (["few-shot", "--shots", "0", *out], 2, ("--shots",)),
        (["few-shot", "--seeds", "1;2", *out], 2, ("--seeds", "commas")),
        (["few-shot", "--seeds", "99999999999999999999", *out], 2, ("--seeds", "0 to", "2^63-1")),
        (["few-shot", "--hold-out", "1.5", *out], 2, ("--hold-out",)),
        (["few-shots", *out], 2, ("No such command",)),
    ):
        done = promptmix("bench", *arguments)
        assert done.code == code, done
        assert all(word in done.err for word in words), done
    promptmix("bench", "few-shot", "--data", tmp_path / "none", *out).fails(4, "none")
    promptmix("bench", "few-shot", "--data", "", *out).fails(3, "name is empty", "a folder")
    for wish in ([], ["--dry-run"]):
        asked = ["--data", pets, "--methods", "coop", "--baseline", "cop", *wish]
        promptmix("bench", "few-shot", *asked, *out).fails(
            3, "--baseline 'cop'", "did you mean 'coop'", "Allowed: zero-shot, coop"
        )
    promptmix("bench", "few-shot", "--data", pets / "train", *out).fails(3, "no test part", "--hold-out")
    promptmix("bench", "few-shot", "--data", "dtd", *out).fails(3, "--root")
    promptmix("bench", "few-shot", "--data", "dtd", "--root", tmp_path, *out).fails(4, "DTD")
    promptmix("bench", "few-shot", "--methods", "cop", *out).fails(3, "no contender 'cop'", "did you mean 'coop'")
    promptmix("bench", "few-shot", "--recipes", "fields", *out).fails(3, "did you mean 'field'")
    promptmix("bench", "few-shot", "--methods", "coop", "--set", "recipe.epoch=1", *out).fails(
        3, "epoch", "did you mean 'epochs'"
    )
    promptmix("bench", "few-shot", "--backbone", tmp_path / "none", *out).fails(5, "backbone")
    promptmix("bench", "few-shot", "--data", pets, "--out", pets / "out").fails(3, "among the pictures")
    (tmp_path / "thesis.txt").write_text("mine")
    promptmix("bench", "few-shot", "--data", pets, "--methods", "coop", "--out", tmp_path).fails(4, "no bench's", "--out")
    assert not (tmp_path / "out").exists()


def test_overwrite_throws_away_what_a_bench_has_made_and_nothing_else(promptmix: Promptmix, pets: Path, tmp_path: Path) -> None:
    arguments = ["bench", "few-shot", "--data", pets, "--methods", "zero-shot", "--seeds", "1", *QUICK, "--overwrite"]
    other, out = tmp_path / "other", tmp_path / "out"
    (other / "runs" / "mine").mkdir(parents=True)
    (other / "report").mkdir()
    for path in (other / "plan.json", other / "runs" / "mine" / "result.json", other / "report" / "thesis.txt"):
        path.write_text('{"format": "of another program"}')
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    refused = promptmix(*arguments, "--out", other)
    refused.fails(4, "no bench's", "choose another folder")
    assert "--overwrite" not in refused.err
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before
    promptmix(*arguments, "--out", out).works()
    mine = [out / "runs" / "mine.txt", out / "runs" / "mine" / "result.json", out / "report" / "mine.txt"]
    mine += [out / "runs" / "pets--zero-shot--seed-1" / "mine.txt"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("a person's")
    promptmix(*arguments, "--seeds", "2", "--out", out).works()
    assert all(path.read_text() == "a person's" for path in mine)
    assert sorted(results_of_plan(out)) == ["pets--zero-shot--seed-2"]
    assert [entry.name for entry in (out / "runs" / "pets--zero-shot--seed-1").iterdir()] == ["mine.txt"]


def results_of_plan(out: Path) -> list[str]:
    """The folders of the runs that have a result of a bench."""
    return [path.parent.name for path in out.glob("runs/*/result.json") if "promptmix-bench-result" in path.read_text()]


@pytest.mark.skipif(os.name != "posix", reason="no flock")
def test_two_benches_do_not_work_in_one_folder(promptmix: Promptmix, pets: Path, tmp_path: Path) -> None:
    import fcntl

    arguments = ["bench", "few-shot", "--data", pets, "--methods", "zero-shot", "--seeds", "1", *QUICK, "--out", tmp_path / "out"]
    promptmix(*arguments).works()
    with (tmp_path / "out" / ".lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        promptmix(*arguments, "--overwrite").fails(4, "another bench is at work in", "wait for it or choose another folder")
        assert results_of_plan(tmp_path / "out")
    promptmix(*arguments, "--overwrite").works()


def test_a_report_is_of_the_runs_of_the_plan(promptmix: Promptmix, pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["bench", "few-shot", "--data", pets, "--methods", "zero-shot", "--seeds", "1,2", *QUICK, "--out", out]
    promptmix(*arguments).works()
    runs = out / "runs"
    (runs / "pets--zero-shot--seed-2").rename(runs / "of-another-plan")
    (runs / "pets--zero-shot--seed-1" / "failed.json").write_text('{"message": "long ago"}')
    done = promptmix("bench", "report", out)
    done.works()
    assert "1 of 2 runs have no result yet" in done.out
    said = json.loads(promptmix("bench", "report", out, "--json").out)
    assert [one["run_id"] for one in said["results"]] == ["pets--zero-shot--seed-1"]
    assert said["failed"] == {}
    # What is no measurement is done again.
    result = runs / "pets--zero-shot--seed-1" / "result.json"
    broken = json.loads(result.read_text())
    whole = broken["measures"]["test"]["accuracy"]
    broken["measures"]["test"]["accuracy"] = 1.5
    result.write_text(json.dumps(broken))
    promptmix("bench", "report", out).fails(CheckpointError.exit_code, str(result))
    promptmix(*arguments).works()
    assert json.loads(result.read_text())["measures"]["test"]["accuracy"] == whole


def test_where_all_runs_failed_json_says_why(
    promptmix: Promptmix, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the disk was too full to write it down."""
    from promptmix.protocols import runner

    def full(*_: Any) -> None:
        raise DataError("no disk space left")

    monkeypatch.setattr(runner, "execute", full)
    arguments = ["bench", "few-shot", "--data", pets, "--methods", "zero-shot", "--seeds", "1", *QUICK, "--json"]
    done = promptmix(*arguments, "--out", tmp_path / "first")
    assert json.loads(done.out)["failed"] == {"pets--zero-shot--seed-1": "no disk space left"}
    monkeypatch.setattr(runner, "write_json", full)
    done = promptmix(*arguments, "--out", tmp_path / "second")
    assert done.code == 1
    said = json.loads(done.out)
    assert (said["results"], said["failed"]) == ([], {"pets--zero-shot--seed-1": "no disk space left"})
    assert "0 of 1 runs done; the same command goes on" in done.err
    assert "could not be written down" in done.err


def words_of(pets: Path, out: Path, *options: str) -> list[str]:
    arguments = ["bench", "base-to-new", "--data", str(pets), "--methods", "coop,linear-probe", "--shots", "4"]
    arguments += ["--seeds", "1,2", "--set", "recipe.epochs=30", "--set", "recipe.batch_size=2", "--set", "augmentation.views=1"]
    return [*arguments, "--out", str(out), "--device", "cpu", *options]


def checkpoints_after_every_step() -> None:
    loop._SECONDS_BETWEEN_CHECKPOINTS = 0


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | Command) -> bool:
    """Wait for something; False where the process ended before."""
    deadline = time.monotonic() + 120
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "nothing happened for two minutes"
        time.sleep(0.005)
    return True


@pytest.fixture(scope="module")
def whole(promptmix: Promptmix, pets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an uninterrupted bench gives."""
    out = tmp_path_factory.mktemp("whole") / "out"
    promptmix(*words_of(pets, out, "--jobs", "1")).works()
    results = results_of(out)
    assert len(results) == 4
    return results


@pytest.mark.skipif(os.name != "posix", reason="signals differ")
@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize(("jobs", "often"), [("1", True), ("2", False)])
def test_a_bench_killed_at_any_moment_ends_as_if_it_had_not_been(
    promptmix: Promptmix, pets: Path, whole: dict[str, Any], tmp_path: Path, jobs: str, often: bool
) -> None:
    out = tmp_path / "out"
    chance = np.random.default_rng(int(jobs))
    kills = 0
    for attempt in range(2):
        prepare = checkpoints_after_every_step if often else None
        process = Command(tmp_path / "said", *words_of(pets, out, "--jobs", jobs), prepare=prepare)
        lines = int(chance.integers(1, 30))

        def has_begun(lines: int = lines, attempt: int = attempt) -> bool:
            logs = [path.read_text(encoding="utf-8").count("\n") for path in out.glob("runs/*/log.jsonl")]
            return sum(logs) >= lines + 20 * attempt

        if wait_for(has_begun, process):
            time.sleep(float(chance.uniform(0, 0.05)))
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate(timeout=60)
    assert kills
    promptmix(*words_of(pets, out, "--jobs", jobs)).works()
    assert results_of(out) == whole
    assert not list(out.rglob("checkpoint.safetensors"))
    assert not list(out.rglob("failed.json"))


@pytest.mark.skipif(os.name != "posix", reason="signals differ")
@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize(("jobs", "everyone"), [("1", False), ("2", True)])
def test_ctrl_c_writes_checkpoints_and_says_how_to_go_on(
    promptmix: Promptmix, pets: Path, whole: dict[str, Any], tmp_path: Path, jobs: str, everyone: bool
) -> None:
    """Whether the signal reaches all processes, as from a terminal, or the first alone."""
    out = tmp_path / "out"
    process = Command(tmp_path / "said", *words_of(pets, out, "--jobs", jobs))
    assert wait_for(lambda: any(path.stat().st_size for path in out.glob("runs/*coop*/log.jsonl")), process)
    (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert printed == ""
    assert err.count("\n") == 1, err
    assert re.search(r"stopped with [01] of 4 runs done; the same command goes on in ", err)
    assert list(out.glob("runs/*coop*/checkpoint.safetensors"))
    promptmix(*words_of(pets, out, "--jobs", jobs)).works()
    assert results_of(out) == whole


def children_of(process: int) -> set[int]:
    """The processes that a process started, by the system's own tables."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = entry.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(after_name[1]) == process:
            found.add(int(entry.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")
def test_no_worker_goes_on_without_the_process_that_started_it(
    pets: Path, tmp_path: Path, subprocess_environment: dict[str, str]
) -> None:
    start = [sys.executable, "-c", "from promptmix.cli.main import run; run()"]
    process = subprocess.Popen(
        [*start, *words_of(pets, tmp_path / "out", "--jobs", "2")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env=subprocess_environment,
        start_new_session=True,
    )
    assert wait_for(lambda: bool(list((tmp_path / "out").glob("runs/*/log.jsonl"))), process)
    workers = children_of(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker goes on alone"
        time.sleep(0.05)
