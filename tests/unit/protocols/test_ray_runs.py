"""What a process of a cluster keeps between the runs it is given; the cluster itself is in the tests of the command line."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from promptmix.cli.guard import described
from promptmix.protocols import ray_runs
from promptmix.protocols.base import Plan


def test_a_process_works_for_the_bench_that_asks(
    small_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, did = small_plan(), list[tuple[str, str, str | None]]()

    class Noted(ray_runs.Worker):
        def do(self, run: Any) -> None:
            did.append((self.out.name, self.device, self.cache_folder and self.cache_folder.name))

    monkeypatch.chdir(tmp_path)  # which the process is brought to
    monkeypatch.setattr(ray_runs, "Worker", Noted)
    monkeypatch.setattr(ray_runs, "planned_run_ids", lambda out: [run.run_id for run in plan.runs])
    monkeypatch.setattr(ray_runs, "_workers", kept := {})
    setup = ray_runs._Setup(
        plan=plan,
        out=tmp_path / "first",
        device="cpu",
        cache_folder=None,
        describe=described,
        current=tmp_path,
        log_level=logging.getLogger("promptmix").level,
    )
    assert torch.get_num_threads() == plan.threads
    changes: list[dict[str, Any]] = [
        {},
        {"out": tmp_path / "second"},
        {"device": "auto"},
        {"cache_folder": tmp_path / "cache"},
        {},
    ]
    for change in changes:
        assert ray_runs._do(dataclasses.replace(setup, **change), plan.runs[0]) is None
    assert did == [
        ("first", "cpu", None),
        ("second", "cpu", None),
        ("first", "auto", None),
        ("first", "cpu", "cache"),
        ("first", "cpu", None),
    ]
    (worker,) = kept.values()
    ray_runs._do(setup, plan.runs[1])
    assert [*kept.values()] == [worker], "the same bench keeps its worker"
