"""promptmix bench: what its verbs do."""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
from pathlib import Path
from typing import Any

import torch

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.cli.guard import described
from promptmix.cli.output import progress, refuse_unknown_engine
from promptmix.errors import ConfigError, DataError, PromptMixError
from promptmix.evaluation.results import BenchResult, read_bench_result
from promptmix.features.cache import FeatureCache
from promptmix.protocols.base import Plan, alone_in, planned_run_ids, start_plan
from promptmix.protocols.compare import recommend
from promptmix.protocols.estimate import estimate_plan, seconds_for_pictures
from promptmix.protocols.make_plan import make_plan
from promptmix.protocols.runner import choose_jobs, run_plan
from promptmix.reporting.bench_report import report_text, write_report
from promptmix.reporting.tables import text_table

logger = logging.getLogger(__name__)


def bench(
    protocol: str,
    *,
    data: list[str],
    root: str | None,
    hold_out: float | None,
    out: Path,
    methods: list[str] | None,
    recipes: str | None,
    shots: list[int] | None,
    seeds: list[int],
    backbone_name: str,
    jobs: int | None,
    device: str,
    precision: str,
    baseline: str,
    dry_run: bool,
    overwrite: bool,
    settings: list[str],
    engine: str,
    ray_address: str | None,
    json_output: bool,
) -> None:
    refuse_unknown_engine(engine)
    for folder in filter(None, data):
        pictures = Path(folder).expanduser().resolve()
        if pictures.is_dir() and out.expanduser().resolve().is_relative_to(pictures):
            raise ConfigError(f"--out {out} lies in {folder}, among the pictures; choose a folder elsewhere")
    backbone = load_backbone(backbone_name, device=device, precision=precision)
    jobs = choose_jobs(backbone) if jobs is None else jobs
    plan = make_plan(
        protocol,
        backbone,
        data=data,
        root=root,
        hold_out=hold_out,
        methods=methods,
        recipes=recipes,
        shots=shots,
        seeds=seeds,
        backbone_name=backbone_name,
        precision=precision,
        overrides=settings,
        threads=max(1, torch.get_num_threads() // jobs),
        baseline=baseline,
    )
    if dry_run:
        _estimate(plan, backbone, jobs, json_output)
        return
    with alone_in(out):
        plan = start_plan(out, plan, overwrite)
        with progress() as on_progress:
            failures = run_plan(
                plan,
                out,
                backbone,
                described,
                jobs=jobs,
                device=device,
                cache=FeatureCache(),
                on_progress=on_progress,
                on_ray=engine == "ray",
                ray_address=ray_address,
            )
        for failure in failures:
            logger.error("%s failed (%d): %s", failure.run_id, failure.exit_code, failure.message)
        try:
            results, failed = _read_results(out)
            # The disk may have been too full for what a run would have left to tell why it failed.
            failed |= {failure.run_id: failure.message for failure in failures}
            if results or json_output:
                _report(out, results, failed, baseline, json_output)
        except PromptMixError as problem:
            if not failures:
                raise
            logger.error("no report: %s", problem)
    if failures:
        done = len(plan.runs) - len(failures)
        raise PromptMixError(
            f"{done} of {len(plan.runs)} runs done; the same command goes on, and tries the {len(failures)} that failed again"
        )


def report(out: Path, baseline: str, json_output: bool) -> None:
    if not (out / "runs").is_dir():
        raise DataError(f"{out} holds no bench; make one with promptmix bench few-shot --out {shlex.quote(str(out))}")
    results, failed = _read_results(out)
    if results or json_output:
        _report(out, results, failed, baseline, json_output)
    if not results:
        raise DataError(f"no run in {out} has a result yet; the command that began it goes on")


def _report(out: Path, results: list[BenchResult], failed: dict[str, str], baseline: str, json_output: bool) -> None:
    """Write the report of some results and print its short form; without a result there is JSON alone."""
    unfinished = _unfinished(out, results)
    if results:
        write_report(results, out / "report", baseline, failed, unfinished)
    recommendations = recommend(results) if results and results[0].protocol == "compare" else []
    if json_output:
        said = {
            "results": [result.model_dump(mode="json") for result in results],
            "failed": failed,
            "recommendations": [
                {**dataclasses.asdict(one), "within_noise": one.within_noise, "text": one.text()} for one in recommendations
            ],
        }
        print(json.dumps(said))
        return
    print(report_text(results, baseline, failed))
    if unfinished:
        print(unfinished)
    for one in recommendations:
        print(one.text())
    print(f"report: {out / 'report'}")


def _read_results(out: Path) -> tuple[list[BenchResult], dict[str, str]]:
    """The results of the runs of a bench's plan, and why others gave none, in the order of their folders; without a plan, of all runs."""
    planned = planned_run_ids(out)
    folders = [path for path in sorted((out / "runs").glob("*")) if planned is None or path.name in planned]
    results = [read_bench_result(path / "result.json") for path in folders if (path / "result.json").is_file()]
    # Beside a result it is of an earlier start.
    failed = {
        path.name: _message_of(path / "failed.json")
        for path in folders
        if (path / "failed.json").is_file() and not (path / "result.json").is_file()
    }
    return results, failed


def _unfinished(out: Path, results: list[BenchResult]) -> str:
    """How many runs of the plan have no result; empty where all have one, or where there is no plan."""
    planned = planned_run_ids(out) or []
    lacking = len(planned) - len(results)
    return (
        f"{lacking} of {len(planned)} runs have no result yet; the command that began the bench goes on." if lacking > 0 else ""
    )


def _message_of(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return "it is not known why: failed.json is damaged"


def _estimate(plan: Plan, backbone: Backbone, jobs: int, json_output: bool) -> None:
    """Say which runs there would be and what they would cost."""
    estimates = estimate_plan(plan, backbone)
    num_views, seconds = seconds_for_pictures(plan, backbone)
    learning = sum(one.seconds for one in estimates) / jobs
    if json_output:
        said: dict[str, Any] = {
            "plan": plan.model_dump(mode="json"),
            "estimates": [dataclasses.asdict(one) for one in estimates],
            "pictures": {"views": num_views, "seconds": seconds},
            "jobs": jobs,
            "seconds": learning + seconds / jobs,
        }
        print(json.dumps(said))
        return
    for run in plan.runs:
        print(run.run_id)
    print()
    header = ("contender", "data", "classes", "runs", "steps", "text encodings", "time", "memory")
    rows = [
        (
            one.contender,
            one.data,
            f"{one.num_classes}",
            f"{one.num_runs}",
            f"{one.steps:,}",
            f"{one.text_encodings:,}",
            _time(one.seconds),
            f"{one.memory_bytes / 2**20:.0f} MiB",
        )
        for one in estimates
        if not one.problem
    ]
    print(text_table(header, rows, "ll" + "r" * 6))
    for one in estimates:
        if one.problem:
            print(f"no estimate for {one.contender} on {one.data}: {one.problem}")
    print()
    print(f"{len(plan.runs)} runs; pictures: {num_views:,} views, {_time(seconds)} where none is in the cache")
    print(f"About {_time(learning + seconds / jobs)} in all with --jobs {jobs}.")
    print(
        "An estimate: from a few timed steps of each contender on random features, and a few random pictures. Nothing was written."
    )


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
