"""The packed text encoder: the features of many prompts at the price of the tokens that matter.

Equal to running every sequence, padded, through the whole tower, in values and in gradients, but:

1. nothing after the end-of-text token is computed (the tower is causal and is read there);
2. a beginning that many sequences share is computed once, and their continuations attend to its keys and values;
3. continuations of different lengths are packed without padding; only attention sees a padded view;
4. the last block computes queries, output and perceptron at the end tokens alone;
5. frozen weights ask for no gradient;
6. rows can be cut into chunks that are recomputed in the backward pass, so that memory need not grow with the classes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from promptmix.backbones.base import AnyTextTower
from promptmix.backbones.siglip_text import SiglipTextTower
from promptmix.backbones.text_tower import TextTower
from promptmix.backbones.transformer import TransformerBlock
from promptmix.prompts.chunks import ChunkedRows
from promptmix.prompts.layout import PromptLayout, build_layout
from promptmix.prompts.plain import PlainPrompts

__all__ = ["PackedPrompts", "Prompts", "encode_packed", "lay_out_prompts"]


class PackedPrompts(ChunkedRows[PromptLayout]):
    """Sequences laid out for one causal tower; the arguments are those of :class:`~promptmix.prompts.chunks.ChunkedRows`."""

    def __init__(
        self,
        tower: TextTower,
        rows: Sequence[Sequence[int]],
        groups: Sequence[int],
        row_names: Sequence[str] | None = None,
        max_rows: int = 1024,
        split: bool = True,
    ) -> None:
        super().__init__(tower, rows, groups, row_names, max_rows, split)
        self._tower = tower

    def _lay_out(self, rows: Sequence[Sequence[int]], groups: Sequence[int]) -> PromptLayout:
        renumbered = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        layout = build_layout(rows, [renumbered[group] for group in groups])
        return layout.to(self._tower.position_embedding.device)

    def encode(
        self,
        contexts: Float[Tensor, "context width"] | None = None,
        deep_contexts: Float[Tensor, "block context width"] | None = None,
    ) -> Float[Tensor, "row embedding"]:
        """Features of all rows, in their order, NOT normalised.

        Args:
            contexts: the learnt vectors that rows may name.
            deep_contexts: what takes the place of the contexts' states before the second block, the third, and so on.
        """
        encode = functools.partial(encode_packed, self._tower, deep_contexts=deep_contexts)
        return self._encode_rows(encode, contexts, deep_contexts)


Prompts = PackedPrompts | PlainPrompts


def lay_out_prompts(
    tower: AnyTextTower,
    rows: Sequence[Sequence[int]],
    groups: Sequence[int],
    row_names: Sequence[str] | None = None,
    max_rows: int = 1024,
    split: bool = True,
) -> Prompts:
    """Sequences laid out for one tower, in the way that its attention allows; see :class:`PackedPrompts` for the arguments.

    Raises:
        DataError: a sequence is longer than the tower's context; the message names it.
    """
    if isinstance(tower, SiglipTextTower):
        return PlainPrompts(tower, rows, groups, row_names, max_rows, split)
    return PackedPrompts(tower, rows, groups, row_names, max_rows, split)


def encode_packed(
    tower: TextTower,
    layout: PromptLayout,
    contexts: Float[Tensor, "context width"] | None,
    deep_contexts: Float[Tensor, "block context width"] | None = None,
) -> Float[Tensor, "row embedding"]:
    """Encode one layout; see the module's docstring for what is saved and why it is exact."""
    sources = tower.token_embedding(layout.token_ids)
    if contexts is not None:
        sources = torch.cat([sources, contexts.to(sources.dtype)])
    hidden = sources.index_select(0, layout.source_index) + tower.position_embedding.index_select(0, layout.position)
    # As numbers, once: attention would turn a mask of truth values into these in every block.
    prefix_mask, suffix_mask, end_mask = (
        torch.zeros(mask.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(~mask, float("-inf"))
        for mask in (layout.prefix_mask, layout.suffix_mask, layout.end_mask)
    )
    blocks = list(tower.blocks)
    for number, block in enumerate(blocks[:-1]):
        assert isinstance(block, TransformerBlock)
        hidden = _with_deep_contexts(hidden, layout, deep_contexts, number)
        query, key, value = block.query_key_value(block.attention_norm(hidden)).chunk(3, dim=-1)
        hidden = block.perceptron(
            hidden + block.attention_output(_attend_packed(block, layout, query, key, value, prefix_mask, suffix_mask))
        )
    assert isinstance(blocks[-1], TransformerBlock)
    hidden = _with_deep_contexts(hidden, layout, deep_contexts, len(blocks) - 1)
    return tower.read_out(_last_block_at_ends(blocks[-1], layout, hidden, end_mask))


def _with_deep_contexts(
    hidden: Float[Tensor, "packed width"],
    layout: PromptLayout,
    deep_contexts: Float[Tensor, "block context width"] | None,
    number: int,
) -> Float[Tensor, "packed width"]:
    """The states before block ``number``, with those of the contexts replaced where there are vectors for this block."""
    if deep_contexts is None or not 0 < number <= len(deep_contexts):
        return hidden
    vectors = deep_contexts[number - 1].to(hidden.dtype).index_select(0, layout.context_numbers)
    return hidden.index_copy(0, layout.context_slots, vectors)


def _take(packed: Tensor, slots: Tensor) -> Tensor:
    """Rows of ``packed`` as a padded view; index_select, whose backward is an addition of rows, not an indexed put."""
    return packed.index_select(0, slots.flatten()).view(*slots.shape, -1)


def _attend_packed(
    block: TransformerBlock,
    layout: PromptLayout,
    query: Float[Tensor, "packed width"],
    key: Float[Tensor, "packed width"],
    value: Float[Tensor, "packed width"],
    prefix_mask: Float[Tensor, "prefix 1 prefix_length prefix_length"],
    suffix_mask: Float[Tensor, "row 1 suffix_length key_length"],
) -> Float[Tensor, "packed width"]:
    """Prefixes attend to themselves, the rest of each row to its prefix and to itself."""
    of_prefixes = block.attend(
        _take(query, layout.prefix_slots), _take(key, layout.prefix_slots), _take(value, layout.prefix_slots), prefix_mask
    )
    of_rows = block.attend(
        _take(query, layout.suffix_slots), _take(key, layout.key_slots), _take(value, layout.key_slots), suffix_mask
    )
    return torch.cat([of_prefixes.flatten(0, 1), of_rows.flatten(0, 1)]).index_select(0, layout.unpad_index)


def _last_block_at_ends(
    block: TransformerBlock,
    layout: PromptLayout,
    hidden: Float[Tensor, "packed width"],
    end_mask: Float[Tensor, "row 1 1 key_length"],
) -> Float[Tensor, "row width"]:
    """The last block where it is read. Keys and values still come from every token."""
    normed = block.attention_norm(hidden)
    query = block.query_key_value.query(normed.index_select(0, layout.end_slots))
    key, value = block.query_key_value.key_value(normed).chunk(2, dim=-1)
    attended = block.attend(query[:, None], _take(key, layout.key_slots), _take(value, layout.key_slots), end_mask)
    ends = hidden.index_select(0, layout.end_slots) + block.attention_output(attended[:, 0])
    return block.perceptron(ends)
