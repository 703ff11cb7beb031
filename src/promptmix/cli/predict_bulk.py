"""promptmix predict --out: any number of pictures, to part files."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import re
from pathlib import Path

import torch
import typer

from promptmix.cli.output import progress, refuse_missing_thresholds, refuse_unknown_engine
from promptmix.data.read import Columns, iter_any_pictures, state_of_sources
from promptmix.errors import ConfigError, InterruptedRun, did_you_mean
from promptmix.features.cache import FeatureCache
from promptmix.inference.bulk import BulkSummary, Shard, run_here
from promptmix.inference.bulk_job import BulkJob, model_key, refuse_changed_model, start_job
from promptmix.inference.bulk_parts import FileFormat, refuse_missing_writer
from promptmix.inference.predictor import Predictor
from promptmix.model_folder import read_model
from promptmix.model_hub import stored_model

logger = logging.getLogger(__name__)

FORMATS: dict[str, FileFormat] = {"parquet": "parquet", "csv": "csv"}
ROWS_PER_FILE = 10_000


def predict_bulk(
    model: Path,
    sources: list[str],
    out: Path,
    *,
    image_column: str | None,
    file_format: str | None,
    top: int,
    multi_label: bool,
    rows_per_file: int | None,
    shard: str | None,
    engine: str,
    ray_address: str | None,
    overwrite: bool,
    backbone: str | None,
    device: str,
    precision: str,
    cache: bool,
    json_output: bool,
) -> None:
    own = _shard(shard)
    written_as = FORMATS.get(file_format or "parquet")
    if written_as is None:
        raise ConfigError(f"unknown format {file_format!r}{did_you_mean(str(file_format), FORMATS)}")
    refuse_unknown_engine(engine)
    if ray_address is not None and engine != "ray":
        raise typer.BadParameter("--ray-address is where --engine ray finds its cluster; give both")
    if shard is not None and overwrite:
        raise typer.BadParameter(
            "--overwrite would throw away the part files of the other shards; remove the folder, or choose another with --out"
        )
    refuse_missing_writer(written_as)
    model = stored_model(model)
    calibration = read_model(model).calibration
    if multi_label:
        refuse_missing_thresholds(model, calibration)
    job = BulkJob(
        model=model_key(model),
        precision=precision,
        sources=tuple(sources),
        source_state=state_of_sources(sources),
        image_column=image_column,
        file_format=written_as,
        top=top,
        rows_per_file=rows_per_file or ROWS_PER_FILE,
        multi_label=multi_label,
    )
    listed = iter_any_pictures(sources, Columns(image=image_column))
    # A source that is misspelt is told of before there is a job.
    pictures = itertools.chain(list(itertools.islice(listed, 1)), listed)
    features = FeatureCache() if cache else None
    try:
        with progress() as on_progress:

            def report(done: int, rate: float) -> None:
                on_progress("pictures", done, None, f"{rate:,.0f} pictures/s")

            if engine == "ray":
                from promptmix.inference.bulk_ray import run_on_ray

                start_job(out, job, overwrite=overwrite)
                summary = run_on_ray(
                    job,
                    out,
                    pictures,
                    model,
                    backbone=backbone,
                    device=device,
                    threads=torch.get_num_threads(),
                    cache=None if features is None else features.folder,
                    shard=own,
                    address=ray_address,
                    on_progress=report,
                )
            else:
                predictor = Predictor.from_folder(model, backbone=backbone, device=device, precision=precision, cache=features)
                refuse_changed_model(model, job)
                start_job(out, job, overwrite=overwrite)
                summary = run_here(job, out, pictures, predictor, shard=own, on_progress=report)
    except KeyboardInterrupt as problem:
        raise InterruptedRun(f"interrupted; what is finished lies in {out}, and the same command goes on") from problem
    _tell(summary, out, json_output)


def _tell(summary: BulkSummary, out: Path, json_output: bool) -> None:
    if summary.bad:
        logger.warning(
            "%d of %d pictures could not be read; %s says which, and why",
            summary.bad,
            summary.bad + summary.predicted,
            out / "bad-*.jsonl",
        )
    if json_output:
        print(json.dumps({**dataclasses.asdict(summary), "out": str(out)}))
        return
    rate = (
        f"; {summary.predicted_now:,} of them now, {summary.pictures_per_second:,.0f} a second" if summary.predicted_now else ""
    )
    print(f"{summary.predicted:,} pictures predicted, {summary.parts:,} part files in {out}{rate}")


def _shard(text: str | None) -> Shard:
    """A shard as people write it: ``2/8`` is the second of eight."""
    if text is None:
        return Shard()
    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise typer.BadParameter(f"--shard {text!r}: write i/n, such as 1/4, with i from 1 to n")
    return Shard(index=int(found[1]), count=int(found[2]))
