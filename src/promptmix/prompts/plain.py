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
from promptmix.prompts.chunks import ChunkedRows

__all__ = ["PlainPrompts"]

_MOST_ROWS = 128  # a row is the whole context here, some ten times the tokens of a packed one


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Some rows: the vocabulary tokens in use, and for each position its vector among their embeddings, then the contexts."""

    token_ids: Int[Tensor, "token"]
    source_index: Int[Tensor, "row position"]

    @property
    def num_rows(self) -> int:
        return self.source_index.shape[0]


class PlainPrompts(ChunkedRows[_Chunk]):
    """Sequences laid out for one tower, padded to its whole context.

    The arguments are those of :class:`~promptmix.prompts.chunks.ChunkedRows`, but that never more than 128 rows are encoded at a time.
    """

    def __init__(
        self,
        tower: SiglipTextTower,
        rows: Sequence[Sequence[int]],
        groups: Sequence[int],
        row_names: Sequence[str] | None = None,
        max_rows: int = 1024,
        split: bool = True,
    ) -> None:
        super().__init__(tower, rows, groups, row_names, min(max_rows, _MOST_ROWS), split)
        self._tower = tower

    def _lay_out(self, rows: Sequence[Sequence[int]], groups: Sequence[int]) -> _Chunk:
        config, device = self._tower.config, self._tower.position_embedding.device
        padded = torch.tensor([[*row, *[config.pad_token] * (config.context_length - len(row))] for row in rows])
        is_token = padded >= 0
        token_ids = padded[is_token].unique()
        source_index = torch.where(is_token, torch.searchsorted(token_ids, padded), len(token_ids) - 1 - padded)
        return _Chunk(token_ids=token_ids.to(device), source_index=source_index.to(device))

    def encode(self, contexts: Float[Tensor, "context width"] | None = None) -> Float[Tensor, "row embedding"]:
        """Features of all rows, in their order, NOT normalised; ``contexts`` are the learnt vectors that rows may name."""
        return self._encode_rows(functools.partial(_encode_plain, self._tower), contexts)


def _encode_plain(
    tower: SiglipTextTower, chunk: _Chunk, contexts: Float[Tensor, "context width"] | None
) -> Float[Tensor, "row embedding"]:
    sources = tower.token_embedding(chunk.token_ids)
    if contexts is not None:
        sources = torch.cat([sources, contexts.to(sources.dtype)])
    # index_select, whose backward is an addition of rows, not an indexed put
    embeddings = sources.index_select(0, chunk.source_index.flatten()).view(*chunk.source_index.shape, -1)
    return tower.encode_embeddings(embeddings)
