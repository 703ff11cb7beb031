"""How much of the text tower's work is in memory at once: planned before training, from a small step that is weighed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from promptmix.distributed.rows import own_share
from promptmix.errors import ConfigError
from promptmix.memory import free_memory_bytes, held_memory_bytes, in_words
from promptmix.methods.base import Method
from promptmix.prompts.chunks import ChunkLimits, limit_chunks
from promptmix.runtime import torch_generator
from promptmix.structs import Batch

__all__ = ["ChunkPlan", "plan_chunks"]

_USUAL_ROWS = ChunkLimits().rows
_FEWEST_ROWS = 8
_WEIGHED_ROWS = 128  # of the larger of the two steps that are weighed
_ON_TOP = 1.25  # what a backward pass needs beside what was kept for it, and what differs from row to row
_COPIES = 8  # of every row's feature, on its way from the tower to the loss and back
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
        kept = min(self.limits.kept_rows, self.rows)
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
    method: Method, build: Callable[[Sequence[str]], Method], batch_size: int, max_bytes: int | None = None
) -> ChunkPlan | None:
    """Plan the training of a method; None where its step encodes no text.

    Two small steps on some of the classes are weighed, by what they keep for the backward pass: its growth is that of a row. Without
    ``max_bytes`` the usual number of rows is encoded at a time, and half of what memory is free may be spent on saving the second
    forward pass; that changes no bit. With it no more rows are encoded at a time than fit.

    Args:
        build: makes the same method for other class names.
        max_bytes: the most memory that the process may hold; on a GPU, that its tensors may.

    Raises:
        ConfigError: not even a few rows at a time fit into ``max_bytes``; the message says how much is needed.
    """
    pictures = batch_size if method.needs_text_to_predict else 1
    rows = pictures * method.text_encodings_per_step
    if rows == 0 or (rows <= _USUAL_ROWS and max_bytes is None):
        return None
    row_bytes = _weigh_row(method, build, batch_size, rows // len(method.class_names))
    device = method.backbone.device
    outside = _RESERVE + held_memory_bytes(device) + _COPIES * 4 * rows * method.backbone.config.embedding_width
    rows = own_share(rows).count
    if max_bytes is None:
        free = free_memory_bytes(device)
        at_a_time = _USUAL_ROWS
        spare = 0.0 if free is None else free / 2 - (outside - held_memory_bytes(device)) - _ON_TOP * at_a_time * row_bytes
    else:
        at_a_time = min(_USUAL_ROWS, rows, int((max_bytes - outside) / (_ON_TOP * row_bytes)))
        if at_a_time < min(_FEWEST_ROWS, rows):
            needed = outside + _ON_TOP * _FEWEST_ROWS * row_bytes
            raise ConfigError(
                f"--max-memory {in_words(max_bytes)} is too little: {rows:,} prompts a step need about {in_words(needed)}, even"
                f" {_FEWEST_ROWS} at a time; allow more, or learn with fewer classes, experts or pictures a step"
            )
        spare = max_bytes - outside - _ON_TOP * at_a_time * row_bytes
    kept = min(rows, max(0, int(spare / row_bytes)) // at_a_time * at_a_time)
    if rows - kept <= at_a_time:
        kept = rows  # the last chunk is the one at work when the backward pass begins
    in_tower = min(rows, kept + at_a_time) if kept < rows else rows
    return ChunkPlan(
        limits=ChunkLimits(rows=at_a_time, kept_rows=kept),
        rows=rows,
        row_bytes=row_bytes,
        expected_bytes=int(outside + row_bytes * (in_tower + (_ON_TOP - 1) * min(rows, at_a_time))),
        allowed_bytes=max_bytes,
    )


def _weigh_row(method: Method, build: Callable[[Sequence[str]], Method], batch_size: int, rows_a_class: int) -> int:
    """Bytes that one sequence keeps for the backward pass: those that twice as many classes add, a sequence."""
    names = method.class_names
    many = min(len(names), max(4, -(-_WEIGHED_ROWS // rows_a_class)))
    few = max(2, many // 2)
    rows = {count: own_share(count * rows_a_class).count for count in (few, many)}
    weights = {count: _weigh_step(build(_spread(names, count)), batch_size) for count in (few, many)}
    if rows[few] == rows[many]:
        return max(1, weights[many] // max(1, rows[many]))
    return max(1, (weights[many] - weights[few]) // (rows[many] - rows[few]))


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
    with limit_chunks(ChunkLimits(rows=2**30)), _weighing(method) as kept:
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
