"""Bulk prediction: any number of pictures, to part files in a folder. Nothing is held in memory but the block that is being predicted.

The pictures of the sources, in their order, are cut into blocks of a fixed number. A block is predicted on its own and becomes one part
file, so that the same files come out whether a job was stopped and started again, cut into shards for several machines, or done by
the workers of a cluster. What is finished is known by the files alone: a part that is there is whole.

    job.json            what the job is, so that nothing else is ever mixed in
    part-00000.parquet  the predictions of the first block
    bad-00000.jsonl     those of its pictures that could not be read, with the reasons
    summary.json        counts and times, once all is done
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptmix.data.images import PictureSource
from promptmix.errors import DataError
from promptmix.inference.bulk_job import BulkJob
from promptmix.inference.bulk_parts import (
    PartColumns,
    bad_path,
    part_path,
    paths_in_part,
    rows_in_bad,
    write_bad,
    write_part,
    written,
)
from promptmix.inference.predictor import Predictor
from promptmix.nn.classifier import Classifier
from promptmix.runtime import write_json, writing

__all__ = ["Block", "BulkSummary", "Shard", "Tally", "blocks_left", "finish", "predict_block", "run_here"]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The blocks of one of several machines: the ``index``-th (from 1) of every ``count`` that follow one another."""

    index: int = 1
    count: int = 1

    def has(self, number: int) -> bool:
        """Whether a block belongs to it."""
        return number % self.count == self.index - 1

    def summary_name(self) -> str:
        """The name of its summary; all shards may write to one folder."""
        return "summary.json" if self.count == 1 else f"summary-{self.index}-of-{self.count}.json"


@dataclass(frozen=True, kw_only=True)
class Block:
    """Pictures that follow one another in the sources, and the number of their part file."""

    number: int
    pictures: Sequence[PictureSource]


@dataclass(kw_only=True)
class Tally:
    """What was counted so far, of this start and of earlier ones.

    Attributes:
        blocks: those that are finished.
        predicted, bad: their pictures; ``predicted_now`` and ``bad_now`` those of this start.
        first_reason: why the first bad picture could not be read.
    """

    blocks: int = 0
    predicted: int = 0
    bad: int = 0
    predicted_now: int = 0
    bad_now: int = 0
    first_reason: str = ""

    def add(self, predicted: int, bad: int, first_reason: str, *, now: bool) -> None:
        """Count a block."""
        self.blocks += 1
        self.predicted += predicted
        self.bad += bad
        self.first_reason = self.first_reason or first_reason
        if now:
            self.predicted_now += predicted
            self.bad_now += bad


@dataclass(frozen=True, kw_only=True)
class BulkSummary:
    """A finished bulk prediction, or a finished shard of one.

    Attributes:
        parts: part files; ``predicted`` and ``bad`` their pictures.
        predicted_now: pictures predicted since the last start, in ``seconds``, which makes ``pictures_per_second``.
    """

    parts: int
    predicted: int
    bad: int
    predicted_now: int
    seconds: float
    pictures_per_second: float


def blocks_left(job: BulkJob, out: Path, pictures: Iterable[PictureSource], shard: Shard, tally: Tally) -> Iterator[Block]:
    """The blocks of a shard that are not finished; those that are, are counted.

    A block of which no picture could be read is tried again: the disk they lie on may not have been there. The summaries that say that
    these blocks are done go first: they are true again only once all were looked at.

    Raises:
        DataError: a part is of other pictures than stand in its place now, there are no pictures at all, or ``out`` cannot be written.
    """
    with writing(out):
        for name in {shard.summary_name(), Shard().summary_name()}:
            (out / name).unlink(missing_ok=True)
    iterator, size = iter(pictures), min(job.rows_per_file, sys.maxsize)
    for number in itertools.count():
        block = Block(number=number, pictures=list(itertools.islice(iterator, size)))
        if not block.pictures:
            if not number:
                raise DataError(f"there are no pictures in {' '.join(job.sources[:3])}")
            _refuse_parts_from(out, number)
            return
        if not shard.has(number):
            continue
        path = part_path(out, number, job.file_format)
        names = paths_in_part(path, job.file_format) if path.is_file() else []
        if not names:
            yield block
            continue
        bad = rows_in_bad(bad_path(out, number))
        if sorted([*names, *(name for name, _ in bad)]) != sorted(map(written, block.pictures)):
            raise DataError(
                f"{path} is of other pictures than the sources list in its place now: they have changed since; give another folder, or pass --overwrite"
            )
        tally.add(len(names), len(bad), bad[0][1] if bad else "", now=False)


def _refuse_parts_from(out: Path, end: int) -> None:
    """Raise where there are parts after the last block: the sources had more pictures when these were predicted."""
    for path in sorted(out.glob("part-*.*")):
        number = path.stem.removeprefix("part-")
        if number.isdecimal() and int(number) >= end:
            raise DataError(
                f"{path} is of pictures that the sources no longer list: they have changed since; give another folder, or pass --overwrite"
            )


def predict_block(
    predictor: Predictor,
    job: BulkJob,
    out: Path,
    block: Block,
    *,
    threads: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[int, int, str]:
    """Predict a block and write its files; returns how many of its pictures were predicted and how many are bad, and the first reason.

    Args:
        threads: how many read pictures; None: one a processor.
        on_progress: called with the number of pictures done in this block.

    Raises:
        DataError: the disk is full, or the folder cannot be written.
    """
    model, classifier = predictor.model, predictor.classifier
    num_experts = len(model.expert_names)
    if isinstance(classifier, Classifier) and classifier.router is not None:
        num_experts = min(num_experts, classifier.router.top_k)
    rules = model.calibration
    columns = PartColumns(
        top=min(job.top, len(model.class_names)),
        num_experts=num_experts,
        abstained=rules is not None and rules.abstain is not None,
        label_sets=rules is not None and rules.label_sets is not None,
        labels=job.multi_label,
    )
    bad: list[tuple[str, str]] = []
    path = part_path(out, block.number, job.file_format)
    try:
        with write_part(path, job.file_format, columns) as part:
            try:
                # Steady, so that nothing depends on which features the cache has, if there is one.
                for batch in predictor.iter_predict(block.pictures, top=job.top, skip_bad=True, threads=threads, steady=True):
                    part.write(batch.pictures, batch.predictions)
                    bad += batch.bad
                    if on_progress is not None:
                        on_progress(batch.done)
            except DataError:
                # Where none can be read, this is told once all were tried, and is no reason to stop.
                if len(bad) < len(block.pictures):
                    raise
            write_bad(bad_path(out, block.number), bad)  # before the part, which says that the block is finished
    except DataError:
        # The same command was started twice, and the other was done with this block first: its file is the same. One without rows may be
        # what is tried again here.
        if not path.is_file() or not paths_in_part(path, job.file_format):
            raise
    # Of a start that was killed, or of another that is at the same block: not before the part is there, or that one had nothing.
    for leftover in out.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)
    return len(block.pictures) - len(bad), len(bad), bad[0][1] if bad else ""


def run_here(
    job: BulkJob,
    out: Path,
    pictures: Iterable[PictureSource],
    predictor: Predictor,
    *,
    shard: Shard | None = None,
    on_progress: Callable[[int, float], None] | None = None,
) -> BulkSummary:
    """Do what is left of a job, or of a shard of it, in this process.

    Args:
        on_progress: called with the pictures done, of earlier starts too, and the pictures a second of this one.

    Raises:
        DataError: none of the pictures can be read, there are none, the sources have changed, or ``out`` cannot be written.
    """
    shard, tally, started = shard or Shard(), Tally(), time.monotonic()

    def report(done: int) -> None:
        if on_progress is not None:
            now = tally.predicted_now + tally.bad_now + done
            on_progress(tally.predicted + tally.bad + done, now / max(1e-9, time.monotonic() - started))

    for block in blocks_left(job, out, pictures, shard, tally):
        tally.add(*predict_block(predictor, job, out, block, on_progress=report), now=True)
    return finish(out, shard, tally, time.monotonic() - started)


def finish(out: Path, shard: Shard, tally: Tally, seconds: float) -> BulkSummary:
    """Write the summary of a job of which nothing is left to do.

    Raises:
        DataError: no picture could be read.
    """
    if tally.bad and not tally.predicted:
        raise DataError(f"none of the {tally.bad} pictures can be read; the first: {tally.first_reason}")
    summary = BulkSummary(
        parts=tally.blocks,
        predicted=tally.predicted,
        bad=tally.bad,
        predicted_now=tally.predicted_now,
        seconds=seconds,
        pictures_per_second=tally.predicted_now / seconds if seconds > 0 else 0.0,
    )
    write_json(out / shard.summary_name(), {"format": "promptmix-bulk-summary", **summary.__dict__})
    return summary
