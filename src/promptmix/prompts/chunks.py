"""Encoding in chunks, so that memory need not grow with the number of classes, and in shares, where several ranks work together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from promptmix.backbones.base import AnyTextTower
from promptmix.distributed.rows import own_share, split_rows

__all__ = ["encode_chunks", "encode_split_chunks", "row_chunks"]

_Chunk = TypeVar("_Chunk")


def row_chunks(num_rows: int, max_rows: int, split: bool) -> list[slice]:
    """The rows that this rank encodes, at most so many at a time; all rows where they are not split or there is one rank."""
    own = own_share(num_rows).places if split else slice(0, num_rows)
    return [slice(start, min(start + max_rows, own.stop)) for start in range(own.start, own.stop, max_rows)]


def encode_split_chunks(
    tower: AnyTextTower,
    encode: Callable[[_Chunk, Tensor | None], Tensor],
    chunks: Sequence[_Chunk],
    num_rows: int,
    contexts: Float[Tensor, "context width"] | None,
    deep_contexts: Float[Tensor, "block context width"] | None = None,
) -> Float[Tensor, "row embedding"]:
    """As :func:`encode_chunks`, of all ``num_rows`` rows, where ``chunks`` hold this rank's share of them.

    Args:
        deep_contexts: what ``encode`` depends on besides, so that its gradient is known.
    """
    learnt = (vectors for vectors in (contexts, deep_contexts) if vectors is not None)
    return split_rows(
        lambda: encode_chunks(encode, chunks, contexts),
        num_rows,
        tower.projection.out_features,
        tower.position_embedding.device,
        itertools.chain(learnt, tower.parameters()),
    )


def encode_chunks(
    encode: Callable[[_Chunk, Tensor | None], Tensor], chunks: Sequence[_Chunk], contexts: Float[Tensor, "context width"] | None
) -> Float[Tensor, "row embedding"]:
    """Features of all chunks' rows, in their order, in float32 at least, whatever the tower calculates in.

    Where there are several chunks and gradients are kept, each is computed again in the backward pass: one more forward, exact,
    and memory for one chunk only.
    """
    if len(chunks) == 1:
        parts = [encode(chunks[0], contexts)]
    elif torch.is_grad_enabled():
        parts = [checkpoint(encode, chunk, contexts, use_reentrant=False) for chunk in chunks]
    else:
        parts = [encode(chunk, contexts) for chunk in chunks]
    features = torch.cat(parts)
    return features.to(torch.promote_types(features.dtype, torch.float32))
