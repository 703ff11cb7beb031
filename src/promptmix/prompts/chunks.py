"""Encoding in chunks, so that memory need not grow with the number of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["encode_chunks"]

_Chunk = TypeVar("_Chunk")


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
