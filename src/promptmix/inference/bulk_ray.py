"""Bulk prediction by the workers of a Ray cluster: Ray Data hands out the blocks, and the worker that has one writes its part file.

The list of a block's pictures lies beside the part files until it is finished, so that neither the driver nor the cluster ever holds more
than the numbers of the blocks. All lists are written before the first block is handed out. A block that is handed out twice, because a machine was lost, is written twice with the same content.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from promptmix.cluster import connected, failure_of, resources_of_a_worker
from promptmix.data.datasets_hub import ArrowPicture
from promptmix.data.images import PictureSource, StoredPicture, UnusablePicture
from promptmix.data.parquet import ParquetPicture
from promptmix.data.shards import TarPicture
from promptmix.errors import BackboneError, CheckpointError, ConfigError, DataError, OutOfMemoryError, PromptMixError
from promptmix.features.cache import FeatureCache
from promptmix.inference.bulk import Block, BulkSummary, Shard, Tally, blocks_left, finish, predict_block
from promptmix.inference.bulk_job import LISTS, BulkJob, read_job, refuse_changed_model
from promptmix.inference.predictor import Predictor
from promptmix.runtime import write_text

__all__ = ["WorkerSetup", "decoded", "encoded", "run_on_ray"]

_MOST_STARTS = 3
_KINDS = {kind.__name__: kind for kind in (TarPicture, ParquetPicture, ArrowPicture, UnusablePicture)}
_ERRORS = {kind.__name__: kind for kind in (BackboneError, CheckpointError, ConfigError, DataError, OutOfMemoryError)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """What a worker needs to make its predictor. Paths are those that all machines of the cluster know.

    Attributes:
        current: the folder that relative paths of pictures, model and ``out`` count from.
        lists: folder with the list of each block's pictures.
        threads: of a worker, for reading and for calculating.
        cache: the folder of the feature cache; None: there is none.
    """

    job: BulkJob
    out: Path
    lists: Path
    model: Path
    backbone: str | None
    device: str
    threads: int
    cache: Path | None
    current: Path
    log_level: int


def run_on_ray(
    job: BulkJob,
    out: Path,
    pictures: Iterable[PictureSource],
    model: Path,
    *,
    backbone: str | None = None,
    device: str = "auto",
    threads: int = 1,
    cache: Path | None = None,
    shard: Shard | None = None,
    address: str | None = None,
    on_progress: Callable[[int, float], None] | None = None,
) -> BulkSummary:
    """Do what is left of a job on a cluster; the files are those of :func:`~promptmix.inference.bulk.run_here`.

    Args:
        model, backbone, device: as ``Predictor.from_folder`` takes them, on each machine.
        threads: processors of a worker; there are as many workers as the cluster has room for.
        address: see :func:`~promptmix.cluster.connected`.
        on_progress: called after each block with the pictures done, of earlier starts too, and the pictures a second of this one.

    Raises:
        DataError: as ``run_here``; or a machine does not see the folder, the pictures or the model.
        ConfigError: the package ``ray`` is missing, or there is no cluster at the address.
        PromptMixError: a worker failed; the message says how.
    """
    shard, tally, started = shard or Shard(), Tally(), time.monotonic()
    lists = out / f"{LISTS}-{shard.index}-of-{shard.count}"
    with connected(address) as ray:
        shutil.rmtree(lists, ignore_errors=True)
        numbers: list[dict[str, int]] = []
        try:
            for block in blocks_left(job, out, pictures, shard, tally):
                write_text(_list_path(lists, block.number), "\n".join(json.dumps(encoded(one)) for one in block.pictures) + "\n")
                numbers.append({"number": block.number})
            resources = resources_of_a_worker(ray, device, threads)
            setup = WorkerSetup(
                job=job,
                out=out,
                lists=lists,
                model=model,
                backbone=backbone,
                device=device,
                threads=int(resources["num_cpus"]),
                cache=cache,
                current=Path.cwd(),
                log_level=logging.getLogger("promptmix").getEffectiveLevel(),
            )
            for row in _rows(ray, numbers, setup, resources):
                if row["problem"]:
                    raise _ERRORS.get(row["kind"], PromptMixError)(row["problem"])
                tally.add(int(row["predicted"]), int(row["bad"]), str(row["first_reason"]), now=True)
                if on_progress is not None:
                    seconds = max(1e-9, time.monotonic() - started)
                    on_progress(tally.predicted + tally.bad, (tally.predicted_now + tally.bad_now) / seconds)
        finally:
            shutil.rmtree(lists, ignore_errors=True)
    return finish(out, shard, tally, time.monotonic() - started)


def _rows(ray: Any, numbers: list[dict[str, int]], setup: WorkerSetup, resources: Mapping[str, float]) -> Iterable[Any]:
    """What the workers say of each block, as they finish them."""
    if not numbers:
        return
    blocks = ray.data.from_items(numbers, override_num_blocks=len(numbers))
    done = blocks.map_batches(
        _Worker,
        fn_constructor_kwargs={"setup": setup},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=len(numbers)),
        **resources,
    )
    try:
        yield from done.iter_rows()
    except ray.exceptions.RayError as problem:
        raise failure_of(ray, "a worker", problem) from problem


class _Worker:
    """An actor of Ray Data: holds the predictor between blocks."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._predictor: Predictor | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        (number,) = batch["number"].tolist()
        predicted, bad, reason, kind, problem = 0, 0, "", "", ""
        try:
            predicted, bad, reason = self._predict(number)
        except PromptMixError as raised:
            # Told as values: Ray would wrap the error into others, and try again what cannot be mended so.
            kind, problem = type(raised).__name__, str(raised)
        said = {"number": number, "predicted": predicted, "bad": bad, "first_reason": reason, "kind": kind, "problem": problem}
        return {name: [value] for name, value in said.items()}

    def _predict(self, number: int) -> tuple[int, int, str]:
        setup = self._setup
        if self._predictor is None:
            self._predictor = _predictor_of(setup)
        path = _list_path(setup.lists, number)
        starts = path.with_suffix(".starts")
        if starts.is_file() and starts.stat().st_size >= _MOST_STARTS:
            raise OutOfMemoryError(
                f"the workers that predicted block {number} were ended from outside {_MOST_STARTS} times, as happens when memory runs out"
            )
        with starts.open("ab") as file:
            file.write(b".")
        pictures = [decoded(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        block = Block(number=number, pictures=pictures)
        counted = predict_block(self._predictor, setup.job, setup.out, block, threads=setup.threads)
        starts.unlink(missing_ok=True)  # what ended well is no reason to stop, should the answer be lost on its way
        return counted


def _predictor_of(setup: WorkerSetup) -> Predictor:
    """Make this process, which is the worker's alone, like the one that started the job."""
    import torch

    logging.getLogger("promptmix").setLevel(setup.log_level)
    torch.set_num_threads(setup.threads)
    try:
        os.chdir(setup.current)
        seen = read_job(setup.out) == setup.job
    except (OSError, CheckpointError):
        seen = False
    if not seen:
        raise DataError(
            f"a machine of the cluster does not see {setup.current / setup.out} as it is here; pictures, model and --out must lie on storage that all machines share"
        )
    cache = None if setup.cache is None else FeatureCache(setup.cache)
    predictor = Predictor.from_folder(
        setup.model, backbone=setup.backbone, device=setup.device, precision=setup.job.precision, cache=cache
    )
    refuse_changed_model(setup.model, setup.job)  # a worker may start hours after the others
    return predictor


def _list_path(lists: Path, number: int) -> Path:
    return lists / f"{number:05}.jsonl"


def encoded(picture: PictureSource) -> dict[str, Any]:
    """A picture of a listing as JSON; :func:`decoded` reads it back."""
    if isinstance(picture, StoredPicture) and dataclasses.is_dataclass(picture):
        fields = {name: str(value) if isinstance(value, Path) else value for name, value in vars(picture).items()}
        return {"kind": type(picture).__name__, **fields}
    assert isinstance(picture, str | Path), "a listing has no pictures in memory"
    return {"kind": "file", "path": str(picture)}


def decoded(said: Mapping[str, Any]) -> PictureSource:
    """The picture that :func:`encoded` wrote."""
    fields = dict(said)
    kind = fields.pop("kind")
    if kind == "file":
        return Path(fields["path"])
    for name in ("archive", "file"):
        if name in fields:
            fields[name] = Path(fields[name])
    if "state" in fields:
        fields["state"] = tuple(fields["state"])
    picture: StoredPicture = _KINDS[kind](**fields)
    return picture
