"""Encoding in chunks, so that memory need not grow with the number of classes, and in shares, where several ranks work together."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from promptmix.backbones.base import AnyTextTower
from promptmix.distributed.rows import own_share, split_rows
from promptmix.memory import held_memory_bytes
from promptmix.prompts.layout import check_lengths
from promptmix.runtime import hand_back_freed_memory

__all__ = ["ChunkLimits", "ChunkedRows", "chunk_limits", "limit_chunks"]


@dataclass(frozen=True, kw_only=True)
class ChunkLimits:
    """How much of the text tower's work may be in memory at once.

    Attributes:
        rows: the most sequences encoded at a time. Another number of rows may change the last bits of what is computed.
        kept_rows: so many sequences in all, from the first on, keep what the backward pass needs; chunks beyond them are computed again
            there: one more forward, exact, and memory for one chunk only. It changes no bit. None: what is encoded all at once is
            kept, and nothing of what is not.
        full_bytes: where the process holds more than this, what was freed is handed back to the system before the next of several
            chunks is encoded; None for memory that is not the machine's.
    """

    rows: int = 1024
    kept_rows: int | None = None
    full_bytes: int | None = None


class _InForce:
    """Limits, and how many sequences may still be kept."""

    def __init__(self, limits: ChunkLimits) -> None:
        self.limits, self.spare_rows = limits, limits.kept_rows

    def keeps(self, rows: int, alone: bool) -> bool:
        """Whether a chunk of so many rows keeps its graph; if so, these count."""
        if self.spare_rows is None:
            return alone
        if rows > self.spare_rows:
            return False
        self.spare_rows -= rows
        return True

    def make_room(self) -> None:
        """Hand back what was freed, where the process holds more than it should before a chunk is encoded."""
        if self.limits.full_bytes is not None and held_memory_bytes() > self.limits.full_bytes:
            hand_back_freed_memory()


_IN_FORCE: ContextVar[_InForce | None] = ContextVar("chunk limits", default=None)


def chunk_limits() -> ChunkLimits:
    """The limits in force here."""
    in_force = _IN_FORCE.get()
    return ChunkLimits() if in_force is None else in_force.limits


@contextlib.contextmanager
def limit_chunks(limits: ChunkLimits) -> Iterator[None]:
    """Within the block text is encoded within these limits, all that is encoded there together."""
    before = _IN_FORCE.set(_InForce(limits))
    try:
        yield
    finally:
        _IN_FORCE.reset(before)


@runtime_checkable
class _LaidOut(Protocol):
    """Some rows, as the tower takes them."""

    @property
    def num_rows(self) -> int: ...


_Chunk = TypeVar("_Chunk", bound=_LaidOut)
_Rows = TypeVar("_Rows", bound="ChunkedRows[Any]")


class ChunkedRows(Generic[_Chunk]):
    """Sequences that are laid out for one tower chunk by chunk, anew where the limits in force change.

    Args:
        tower: whose text these are.
        rows: whole sequences, start and end token included; a value >= 0 is a token of the vocabulary, -1-k is learnt context vector k.
        groups: for each row the number of its group; rows of a group may share their beginning.
        row_names: for error messages, what each row is about.
        max_rows: the most rows encoded at a time, where :func:`chunk_limits` allow as many.
        split: where several ranks work together each encodes its share; else all encode all.

    Raises:
        DataError: a sequence is longer than the tower's context; the message names it.
    """

    def __init__(
        self,
        tower: AnyTextTower,
        rows: Sequence[Sequence[int]],
        groups: Sequence[int],
        row_names: Sequence[str] | None,
        max_rows: int,
        split: bool,
    ) -> None:
        check_lengths(rows, tower.config.context_length, row_names)  # on every rank, whoever encodes them
        self._text_tower, self._rows, self._groups, self._max_rows, self._split = tower, rows, groups, max_rows, split
        self._chunks: list[_Chunk] = []
        self._chunk_rows = 0

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    @property
    def chunks(self) -> Sequence[_Chunk]:
        """The rows that this rank encodes, laid out in chunks no longer than is allowed."""
        most = min(self._max_rows, chunk_limits().rows)
        if most != self._chunk_rows:
            own = own_share(self.num_rows).places if self._split else slice(0, self.num_rows)
            parts = [slice(start, min(start + most, own.stop)) for start in range(own.start, own.stop, most)]
            self._chunks, self._chunk_rows = [self._lay_out(self._rows[part], self._groups[part]) for part in parts], most
        return self._chunks

    def select(self: _Rows, numbers: Sequence[int]) -> _Rows:
        """Some of the rows, by their numbers, in the order given."""
        chosen = copy.copy(self)
        chosen._rows = [self._rows[number] for number in numbers]
        chosen._groups = [self._groups[number] for number in numbers]
        chosen._chunks, chosen._chunk_rows = [], 0
        return chosen

    def _lay_out(self, rows: Sequence[Sequence[int]], groups: Sequence[int]) -> _Chunk:
        raise NotImplementedError

    def _encode_rows(
        self,
        encode: Callable[[_Chunk, Tensor | None], Tensor],
        contexts: Float[Tensor, "context width"] | None,
        deep_contexts: Float[Tensor, "block context width"] | None = None,
    ) -> Float[Tensor, "row embedding"]:
        """Features of all rows, in their order, in float32 at least, whatever the tower calculates in.

        Args:
            deep_contexts: what ``encode`` depends on besides, so that its gradient is known.
        """
        if not self._split:
            return self._encode_chunks(encode, contexts)
        learnt = (vectors for vectors in (contexts, deep_contexts) if vectors is not None)
        return split_rows(
            lambda: self._encode_chunks(encode, contexts),
            self.num_rows,
            self._text_tower.projection.out_features,
            self._text_tower.position_embedding.device,
            itertools.chain(learnt, self._text_tower.parameters()),
        )

    def _encode_chunks(
        self, encode: Callable[[_Chunk, Tensor | None], Tensor], contexts: Float[Tensor, "context width"] | None
    ) -> Float[Tensor, "own_row embedding"]:
        """Features of this rank's rows.

        Where gradients are kept, chunks beyond :attr:`ChunkLimits.kept_rows` are computed again in the backward pass.
        """
        chunks, in_force = self.chunks, _IN_FORCE.get() or _InForce(ChunkLimits())
        parts: list[Tensor] = []

        def encode_chunk(chunk: _Chunk, contexts: Tensor | None) -> Tensor:
            in_force.make_room()  # in the backward pass too, where a chunk is computed again
            return encode(chunk, contexts)

        for chunk in chunks:
            if not torch.is_grad_enabled() or in_force.keeps(chunk.num_rows, alone=len(chunks) == 1):
                parts.append(encode_chunk(chunk, contexts))
            else:
                parts.append(checkpoint(encode_chunk, chunk, contexts, use_reentrant=False))
        features = torch.cat(parts)
        return features.to(torch.promote_types(features.dtype, torch.float32))
