"""The plain text encoder, for towers whose tokens all see each other: every sequence, padded, through the whole tower.

With attention in both directions each token's state depends on the class name, so that there is no beginning to share and no
padding to leave out.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from promptmix.backbones.siglip_text import SiglipTextTower
from promptmix.prompts.chunks import encode_chunks, encode_split_chunks, row_chunks
from promptmix.prompts.layout import check_lengths

__all__ = ["PlainPrompts"]

_MOST_ROWS = 128  # a row is the whole context here, some ten times the tokens of a packed one


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Some rows: the vocabulary tokens in use, and for each position its vector among their embeddings, then the contexts."""

    token_ids: Int[Tensor, "token"]
    source_index: Int[Tensor, "row position"]


class PlainPrompts:
    """Sequences laid out for one tower, padded to its whole context, in one or several chunks.

    Args:
        rows: whole sequences, end token included; a value >= 0 is a token of the vocabulary, -1-k is learnt context vector k.
        row_names: for error messages, what each row is about.
        max_rows: the most rows encoded at a time; more than 128 are never.
        split: where several ranks work together each encodes its share; else all encode all.

    Raises:
        DataError: a sequence is longer than the tower's context; the message names it.
    """

    def __init__(
        self,
        tower: SiglipTextTower,
        rows: Sequence[Sequence[int]],
        row_names: Sequence[str] | None = None,
        max_rows: int = 1024,
        split: bool = True,
    ) -> None:
        config, device = tower.config, tower.position_embedding.device
        check_lengths(rows, config.context_length, row_names)
        self._tower = tower
        self.num_rows, self._split = len(rows), split
        self._chunks: list[_Chunk] = []
        for part in row_chunks(len(rows), min(max_rows, _MOST_ROWS), split):
            padded = torch.tensor([[*row, *[config.pad_token] * (config.context_length - len(row))] for row in rows[part]])
            is_token = padded >= 0
            token_ids = padded[is_token].unique()
            source_index = torch.where(is_token, torch.searchsorted(token_ids, padded), len(token_ids) - 1 - padded)
            self._chunks.append(_Chunk(token_ids=token_ids.to(device), source_index=source_index.to(device)))

    def encode(self, contexts: Float[Tensor, "context width"] | None = None) -> Float[Tensor, "row embedding"]:
        """Features of all rows, in their order, NOT normalised; ``contexts`` are the learnt vectors that rows may name."""
        encode = functools.partial(_encode_plain, self._tower)
        if not self._split:
            return encode_chunks(encode, self._chunks, contexts)
        return encode_split_chunks(self._tower, encode, self._chunks, self.num_rows, contexts)


def _encode_plain(
    tower: SiglipTextTower, chunk: _Chunk, contexts: Float[Tensor, "context width"] | None
) -> Float[Tensor, "row embedding"]:
    sources = tower.token_embedding(chunk.token_ids)
    if contexts is not None:
        sources = torch.cat([sources, contexts.to(sources.dtype)])
    # index_select, whose backward is an addition of rows, not an indexed put
    embeddings = sources.index_select(0, chunk.source_index.flatten()).view(*chunk.source_index.shape, -1)
    return tower.encode_embeddings(embeddings)
