"""The runs of a plan: skipped when finished, tried again when failed, the same in one process as in two, and none lost with another."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.new_processes import quick_workers
from tests.unit.protocols import workers

from promptmix.backbones.base import Backbone
from promptmix.cli.guard import described
from promptmix.errors import InterruptedRun
from promptmix.evaluation.results import read_bench_result
from promptmix.protocols import runner
from promptmix.protocols.base import Plan
from promptmix.protocols.execute import run_folder
from promptmix.protocols.runner import choose_jobs, run_plan

__all__ = ["quick_workers"]

MakePlan = Callable[..., Plan]


def results_of(out: Path) -> dict[str, Any]:
    """All results, without what no two runs have in common."""
    found = {}
    for path in sorted(out.glob("runs/*/result.json")):
        said = read_bench_result(path).model_dump()
        said.pop("seconds")
        said.pop("peak_memory_bytes")
        found[path.parent.name] = said
    return found


def test_runs_are_done_once(small_plan: MakePlan, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, done = small_plan(seeds=[1, 2]), list[str]()
    execute = runner.execute

    def counted(plan: Plan, run: Any, *others: Any) -> Any:
        done.append(run.run_id)
        return execute(plan, run, *others)

    monkeypatch.setattr(runner, "execute", counted)
    stages: list[tuple[int, int]] = []

    def watch(stage: str, number: int, total: int, detail: str) -> None:
        if stage == "runs":
            stages.append((number, total))

    assert run_plan(plan, tmp_path, backbone, described, on_progress=watch) == []
    assert done == [run.run_id for run in plan.runs]
    assert stages == [(number, 4) for number in range(5)]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    assert run_plan(plan, tmp_path, backbone, described) == []
    assert len(done) == 4
    (run_folder(tmp_path, plan.runs[2]) / "result.json").unlink()
    assert run_plan(plan, tmp_path, backbone, described) == []
    assert done[4:] == [plan.runs[2].run_id]
    assert set(tmp_path.rglob("*.json")) == set(before)


def test_a_failed_run_is_recorded_the_rest_go_on_and_it_is_tried_again(
    small_plan: MakePlan, backbone: Backbone, split_photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(split_photos, tmp_path / "split")
    plan, out = (
        small_plan(data=[str(tmp_path / "split")], methods=["coop", "linear-probe", "zero-shot"], shots=[6]),
        tmp_path / "out",
    )
    picture = next((tmp_path / "split" / "train").rglob("*.png"))
    content = picture.read_bytes()
    picture.write_bytes(b"no picture")
    failures = run_plan(plan, out, backbone, described)
    assert [(one.run_id, one.exit_code) for one in failures] == [(run.run_id, 4) for run in plan.runs[:2]]
    assert str(picture) in failures[0].message
    assert list(results_of(out)) == [plan.runs[2].run_id]
    said = json.loads((run_folder(out, plan.runs[0]) / "failed.json").read_text())
    assert (said["exit_code"], said["message"]) == (4, failures[0].message)
    assert "DataError" in said["traceback"]
    picture.write_bytes(content)
    assert run_plan(plan, out, backbone, described) == []
    assert len(results_of(out)) == 3
    assert list(out.rglob("failed.json")) == []


@pytest.mark.parametrize("problem", [MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 5 GB")])
def test_memory_that_runs_out_is_told_as_such(
    small_plan: MakePlan, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def full(*_: Any) -> None:
        raise problem

    monkeypatch.setattr(runner, "execute", full)
    (failure,) = run_plan(small_plan(methods=["coop"]), tmp_path, backbone, described)
    assert failure.exit_code == 6
    assert failure.message.startswith("out of memory")


@pytest.mark.usefixtures("quick_workers")
def test_processes_side_by_side_give_what_one_gives(small_plan: MakePlan, backbone: Backbone, tmp_path: Path) -> None:
    plan = small_plan("base-to-new", methods=["zero-shot", "coop", "linear-probe"], seeds=[1, 2])
    assert run_plan(plan, tmp_path / "one", backbone, described, jobs=1) == []
    assert run_plan(plan, tmp_path / "two", backbone, described, jobs=2, device="cpu") == []
    assert results_of(tmp_path / "one") == results_of(tmp_path / "two")
    assert len(results_of(tmp_path / "one")) == 6


@pytest.mark.usefixtures("quick_workers")
def test_a_failure_in_a_worker_has_its_message_and_traceback(
    small_plan: MakePlan, backbone: Backbone, split_photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(split_photos, tmp_path / "split")
    plan = small_plan(data=[str(tmp_path / "split")], methods=["coop"], shots=[6], seeds=[1, 2])
    for picture in (tmp_path / "split" / "train").rglob("*.png"):
        picture.write_bytes(b"no picture")
    failures = run_plan(plan, tmp_path / "out", backbone, described, jobs=2, device="cpu")
    assert [one.exit_code for one in failures] == [4, 4]
    said = json.loads((run_folder(tmp_path / "out", plan.runs[0]) / "failed.json").read_text())
    assert "in execute" in said["traceback"]


@pytest.mark.usefixtures("quick_workers")
def test_with_a_process_that_dies_only_its_own_run_is_lost(
    small_plan: MakePlan, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_work", workers.die_with_seed_2)
    plan = small_plan(methods=["coop"], seeds=[1, 2, 3])
    (failure,) = run_plan(plan, tmp_path, backbone, described, jobs=2, device="cpu")
    assert failure.run_id == plan.runs[1].run_id
    assert failure.exit_code == 6
    assert "memory" in failure.message
    assert len(results_of(tmp_path)) == 2


@pytest.mark.usefixtures("quick_workers")
def test_a_run_that_died_beside_others_may_do_alone(
    small_plan: MakePlan, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_work", workers.die_beside_others)
    plan = small_plan(methods=["coop"], seeds=[1, 2])
    assert run_plan(plan, tmp_path, backbone, described, jobs=2, device="cpu") == []
    assert len(results_of(tmp_path)) == 2


@pytest.mark.usefixtures("quick_workers")
def test_a_worker_that_is_told_to_stop_ends_the_plan(
    small_plan: MakePlan, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_work", workers.interrupted)
    with pytest.raises(InterruptedRun, match="0 of 2 runs done; the same command goes on"):
        run_plan(small_plan(methods=["coop"], seeds=[1, 2]), tmp_path, backbone, described, jobs=2, device="cpu")
    assert results_of(tmp_path) == {}


def test_threads_are_those_of_the_plan_and_only_for_its_runs(
    small_plan: MakePlan, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(runner, "execute", lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    run_plan(small_plan(methods=["coop"], threads=before + 1), tmp_path, backbone, described)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_fewer_processes_where_memory_is_short(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(runner, "free_memory_bytes", lambda: 2**40)
    assert choose_jobs(backbone) == 8
    monkeypatch.setattr(runner, "free_memory_bytes", lambda: 2**31)
    assert choose_jobs(backbone) == 2
    monkeypatch.setattr(runner, "free_memory_bytes", lambda: 1)
    assert choose_jobs(backbone) == 1
    monkeypatch.setattr(runner, "free_memory_bytes", lambda: None)
    assert choose_jobs(backbone) == 8


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="this system counts no peak that can be forgotten")
def test_the_peak_of_a_run_is_its_own() -> None:
    # In a process of its own: what earlier tests have freed, this one may still hold.
    code = """
import torch
from promptmix.evaluation.results import peak_memory_bytes, reset_peak_memory
for numbers in (64 * 2**20, 1):
    reset_peak_memory()
    torch.ones(numbers).sum()
    print(peak_memory_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    large, small = map(int, done.stdout.split())
    assert large - small > 200 * 2**20
