"""How much of the text tower's work is in memory at once: planned before training, from a small step that is weighed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from promptmix.distributed.group import gather_json
from promptmix.distributed.rows import own_share
from promptmix.errors import ConfigError
from promptmix.memory import free_memory_bytes, held_memory_bytes, in_words
from promptmix.methods.base import Method
from promptmix.nn.losses import MOST_SIMILARITIES
from promptmix.prompts.chunks import ChunkLimits, limit_chunks
from promptmix.prompts.encoder import usual_rows
from promptmix.runtime import hand_back_freed_memory, torch_generator
from promptmix.structs import Batch

__all__ = ["ChunkPlan", "plan_chunks"]

_FEWEST_ROWS = 8
# What a processor keeps of the rows that it encodes at a time, of many: blocks of more rows leave its caches, and are so large that the C
# library maps each of them anew.
_BYTES_AT_A_TIME = 192 * 2**20
_WEIGHED_ROWS = 128  # of the larger of the two steps that are weighed
_WEIGHED_PICTURES = 8  # where each picture has prompts of its own
_ON_TOP = 1.25  # what a backward pass needs beside what was kept for it, and what differs from row to row
_HOLES = 1.3  # what many chunks that are kept take with the holes between them
_COPIES_OF_SIMILARITIES = 3  # of what the text loss compares: logits, their softmax, its gradient
_COPIES = 8  # of every row's feature, on its way from the tower to the loss and back
_COPIES_OF_REFERENCES = 5  # themselves, their gradient, and moved by noise
_RESERVE = 256 * 2**20  # optimizer, kernels' own memory, what the allocator cannot give back


@dataclass(frozen=True, kw_only=True)
class ChunkPlan:
    """What was planned, and why.

    Attributes:
        rows: sequences through the text tower in a step; of several ranks, this one's.
        row_bytes: what one of them keeps for the backward pass.
        expected_bytes: the most memory that the process, or on a GPU its tensors, should hold; ``allowed_bytes``: what it may.
    """

    limits: ChunkLimits
    rows: int
    row_bytes: int
    expected_bytes: int
    allowed_bytes: int | None

    def __str__(self) -> str:
        kept = min(self.limits.kept_rows or 0, self.rows)  # a plan says a number
        if self.rows <= self.limits.rows:
            how = "all at once"
        elif kept == self.rows:
            how = f"{self.limits.rows:,} at a time"
        else:
            how = f"{self.limits.rows:,} at a time, {self.rows - kept:,} of them computed again in the backward pass"
        allowed = "" if self.allowed_bytes is None else f" of {in_words(self.allowed_bytes)} allowed"
        return (
            f"{self.rows:,} prompts a step, {how}; {in_words(self.row_bytes)} each, about {in_words(self.expected_bytes)}"
            f" in all{allowed}"
        )


def plan_chunks(
    method: Method,
    build: Callable[[Sequence[str]], Method],
    batch_size: int,
    max_bytes: int | None = None,
    table_bytes: int = 0,
) -> ChunkPlan | None:
    """Plan the training of a method; None where its step encodes no text, or little.

    Two small steps on some of the classes are weighed, by what they keep for the backward pass: its growth is that of a row. The usual
    number of rows is encoded at a time; of more rows than that, on a CPU, as many as it encodes fastest. Without ``max_bytes`` some of
    the free memory may be spent on saving the second forward pass, which changes no bit: half of it, or less where this process is given
    a share of the processors only. With ``max_bytes`` no more rows are encoded at a time than fit.

    Args:
        build: makes the same method for other class names.
        max_bytes: the most memory that the process may hold; on a GPU, that its tensors may.
        table_bytes: what is yet to come beside the step: the features of all pictures.

    Where several ranks work together all call this alike, and all encode the same number of rows at a time.

    Raises:
        LostRankError: another rank is gone.
        ConfigError: not even a few rows at a time fit into ``max_bytes``; the message says how much is needed.
    """
    device = method.backbone.device
    usual = usual_rows(method.backbone.require_text()[0])
    rows = _rows_of_step(method, batch_size)
    if rows == 0 or (rows <= usual and max_bytes is None):
        return None
    hand_back_freed_memory()  # an earlier training may have left much that nobody uses
    held = held_memory_bytes(device)  # before anything is weighed, for not all of that is given back
    row_bytes = _weigh_row(method, build, batch_size)
    pictures = _ON_TOP * own_share(batch_size).count * _weigh_picture(method) if method.tunes_image_tower else 0
    references = method.text_references_per_step
    features = 4 * method.backbone.config.embedding_width * (_COPIES * rows + _COPIES_OF_REFERENCES * references)
    compared = max(rows, references) * (len(method.class_names) + len(method.more_class_names))
    similarities = _COPIES_OF_SIMILARITIES * 4 * min(MOST_SIMILARITIES, compared)
    outside = _RESERVE + table_bytes + pictures + features + similarities
    rows = max(1, _own_rows(method, rows))
    if rows > usual and device.type == "cpu":
        usual = min(usual, max(_FEWEST_ROWS, _BYTES_AT_A_TIME // row_bytes))
    if max_bytes is None:
        at_a_time, allowed = usual, held + _spendable(device)
    else:
        at_a_time, allowed = min(usual, rows, int((max_bytes - held - outside) / (_ON_TOP * row_bytes))), max_bytes
        if at_a_time < min(_FEWEST_ROWS, rows):
            needed = held + outside + _ON_TOP * _FEWEST_ROWS * row_bytes
            raise ConfigError(
                f"--max-memory {in_words(max_bytes)} is too little: {rows:,} prompts a step need about {in_words(needed)}, even"
                f" {_FEWEST_ROWS} at a time; allow more, or learn with fewer classes, experts or pictures a step"
            )
    at_a_time = min(gather_json(at_a_time))  # what is drawn chunk by chunk must be drawn alike on every rank
    at_work = _ON_TOP * min(rows, at_a_time) * row_bytes
    kept = max(0, int((allowed - held - outside - at_work) / (_HOLES * row_bytes))) // at_a_time * at_a_time
    if rows - kept <= at_a_time:
        kept = -(-rows // at_a_time) * at_a_time  # the last chunk is the one at work when the backward pass begins
    expected = held + outside + at_work + _HOLES * row_bytes * min(kept, rows - min(rows, at_a_time))
    full_bytes = int(max(expected, allowed) - at_work)  # before a chunk is encoded
    return ChunkPlan(
        limits=ChunkLimits(rows=at_a_time, kept_rows=kept, full_bytes=full_bytes if device.type == "cpu" else None),
        rows=rows,
        row_bytes=row_bytes,
        expected_bytes=int(expected),
        allowed_bytes=max_bytes,
    )


def _rows_of_step(method: Method, batch_size: int) -> int:
    """Sequences through the text tower in a step, on all ranks together."""
    return method.text_encodings_per_step * (batch_size if method.needs_text_to_predict else 1)


def _own_rows(method: Method, rows: int) -> int:
    """How many of these fall to this rank."""
    return own_share(rows).count if method.splits_text else rows


def _spendable(device: torch.device) -> float:
    """Memory that may be spent without being asked: half of what is free, of a machine's in proportion to its processors."""
    free = free_memory_bytes(device)
    if free is None:
        return 0.0
    # Several that run side by side, as ranks or runs of a bench, have each its share of the processors.
    share = 1.0 if device.type == "cuda" else min(1.0, torch.get_num_threads() / (os.cpu_count() or 1))
    return share * free / 2


def _weigh_row(method: Method, build: Callable[[Sequence[str]], Method], batch_size: int) -> int:
    """Bytes that one sequence keeps for the backward pass: those that twice as many classes add, a sequence."""
    names = method.class_names
    pictures = min(batch_size, _WEIGHED_PICTURES) if method.needs_text_to_predict else batch_size
    fewest = min(len(names), 4)
    rows_a_class = max(1, _rows_of_step(build(_spread(names, fewest)), pictures) // fewest)
    many = min(len(names), max(fewest, -(-_WEIGHED_ROWS // rows_a_class)))
    weighed = []
    for count in (max(2, many // 2), many):
        small = build(_spread(names, count))
        weighed.append((_own_rows(small, _rows_of_step(small, pictures)), _weigh_step(small, pictures)))
    (few_rows, few_bytes), (many_rows, many_bytes) = weighed
    if many_rows == few_rows or many_bytes <= few_bytes:
        return max(1, many_bytes // max(1, many_rows))
    return (many_bytes - few_bytes) // (many_rows - few_rows)


def _weigh_picture(method: Method) -> int:
    """Bytes that one picture of a step keeps for the backward pass, where the image tower is tuned: those that a second one adds."""
    size, kept_by = method.backbone.config.preprocess.crop, []
    for count in (1, 2):
        with _weighing(method) as kept:
            features = method.encode_training_pixels(torch.zeros(count, size, size, 3, dtype=torch.uint8), 0)
        del features
        kept_by.append(sum(kept.values()))
    return kept_by[1] - kept_by[0]


def _spread(names: Sequence[str], count: int) -> list[str]:
    """So many of the names, evenly from first to last: short and long ones."""
    return [names[place * len(names) // count] for place in range(count)]


def _weigh_step(method: Method, batch_size: int) -> int:
    """Bytes that a training step keeps for its backward pass, besides what was there before."""
    width, device = method.backbone.config.embedding_width, method.backbone.device
    drawn = torch.randn(batch_size, width, generator=torch_generator(0, "weighed step"))
    features = functional.normalize(drawn, dim=-1).to(device)
    labels = torch.arange(batch_size, device=device) % len(method.class_names)
    method.start_from(features[:, None], labels)
    batch = Batch(image_features=features, labels=labels, frozen_features=features)
    with limit_chunks(ChunkLimits(rows=2**30, kept_rows=2**40)), _weighing(method) as kept:
        output = method.training_step(batch)
    del output
    return sum(kept.values())


@contextlib.contextmanager
def _weighing(method: Method) -> Iterator[dict[int, int]]:
    """Within the block, the sizes of all memory that autograd holds on to, by its address; weights do not count."""
    tower, _ = method.backbone.require_text()
    weights = {parameter.untyped_storage().data_ptr() for parameter in tower.parameters()}
    kept: dict[int, int] = {}

    def weigh(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        yield kept
