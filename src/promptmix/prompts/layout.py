"""Where every token of every sequence goes: all index tensors of the packed text encoder, built once for a class list.

A sequence is written as a list of integers: a value >= 0 is a token of the vocabulary, a value -1-k is learnt context vector
k. Sequences come in groups (an expert, a template) whose common beginning is found here and encoded once.

Packed order: first the shared prefixes, group after group, then the rest of each sequence, row after row, with no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from promptmix.errors import DataError

__all__ = ["PromptLayout", "build_layout", "check_lengths"]


@dataclass(frozen=True, kw_only=True)
class PromptLayout:
    """Index tensors for ``row`` sequences that share ``prefix`` beginnings; T packed tokens in all.

    Attributes:
        token_ids: the vocabulary tokens in use; sources are their embeddings, then the context vectors.
        source_index, position: for each packed token, its vector among the sources and its place in its sequence.
        prefix_slots: packed index of each prefix token, padded; ``prefix_mask`` says where a query may look.
        suffix_slots: packed index of each further token, padded; ``key_slots`` are all tokens a row can see.
        unpad_index: from the padded views (prefixes, then rows) back to packed order.
        end_slots: packed index of each row's end-of-text token.
        context_slots: packed index of each context vector; ``context_numbers`` which one it is.
    """

    token_ids: Int[Tensor, "token"]
    source_index: Int[Tensor, "packed"]
    position: Int[Tensor, "packed"]
    prefix_slots: Int[Tensor, "prefix prefix_length"]
    prefix_mask: Bool[Tensor, "prefix 1 prefix_length prefix_length"]
    suffix_slots: Int[Tensor, "row suffix_length"]
    key_slots: Int[Tensor, "row key_length"]
    suffix_mask: Bool[Tensor, "row 1 suffix_length key_length"]
    end_mask: Bool[Tensor, "row 1 1 key_length"]
    unpad_index: Int[Tensor, "packed"]
    end_slots: Int[Tensor, "row"]
    context_slots: Int[Tensor, "learnt"]
    context_numbers: Int[Tensor, "learnt"]

    @property
    def num_rows(self) -> int:
        return self.end_slots.shape[0]

    @property
    def num_packed_tokens(self) -> int:
        return self.source_index.shape[0]

    def to(self, device: torch.device) -> PromptLayout:
        """The same layout on another device."""
        return PromptLayout(**{name: getattr(self, name).to(device) for name in self.__dataclass_fields__})


def build_layout(rows: Sequence[Sequence[int]], groups: Sequence[int]) -> PromptLayout:
    """Build the index tensors.

    Args:
        rows: whole sequences, start and end token included, each at least two long.
        groups: for each row the number of its group, 0 and up without gaps.
    """
    num_groups = max(groups) + 1
    members: list[list[Sequence[int]]] = [[] for _ in range(num_groups)]
    for row, group in zip(rows, groups, strict=True):
        members[group].append(row)
    # The end token always stays outside the prefix: it is where a row is read.
    prefix_lengths = [_common_length(group_rows) for group_rows in members]

    token_ids = sorted({value for row in rows for value in row if value >= 0})
    place_of = {token: place for place, token in enumerate(token_ids)}
    sources: list[int] = []
    positions: list[int] = []

    def pack(values: Sequence[int], first_position: int) -> list[int]:
        slots = list(range(len(sources), len(sources) + len(values)))
        sources.extend(place_of[value] if value >= 0 else len(token_ids) - 1 - value for value in values)
        positions.extend(range(first_position, first_position + len(values)))
        return slots

    prefixes = [pack(group_rows[0][:length], 0) for group_rows, length in zip(members, prefix_lengths, strict=True)]
    suffixes = [pack(row[prefix_lengths[group] :], prefix_lengths[group]) for row, group in zip(rows, groups, strict=True)]

    prefix_slots, prefix_valid = _padded(prefixes)
    suffix_slots, suffix_valid = _padded(suffixes)
    group_row = np.asarray(groups)
    key_slots = np.concatenate([prefix_slots[group_row], suffix_slots], axis=1)
    key_valid = np.concatenate([prefix_valid[group_row], suffix_valid], axis=1)
    longest_prefix, longest_suffix = prefix_slots.shape[1], suffix_slots.shape[1]
    # A padded query sees the start token, so that no row of the softmax is empty; what it computes is thrown away.
    prefix_mask = np.tril(np.ones((longest_prefix, longest_prefix), bool)) & prefix_valid[:, None, :]
    causal = np.concatenate(
        [np.ones((longest_suffix, longest_prefix), bool), np.tril(np.ones((longest_suffix, longest_suffix), bool))], axis=1
    )
    suffix_mask = causal & key_valid[:, None, :]

    unpad_index = np.empty(len(sources), np.int64)
    unpad_index[prefix_slots[prefix_valid]] = np.flatnonzero(prefix_valid)
    unpad_index[suffix_slots[suffix_valid]] = np.flatnonzero(suffix_valid) + prefix_valid.size
    source_index = np.array(sources, np.int64)
    context_slots = np.flatnonzero(source_index >= len(token_ids))
    return PromptLayout(
        token_ids=torch.tensor(token_ids),
        source_index=torch.from_numpy(source_index),
        position=torch.tensor(positions),
        prefix_slots=torch.from_numpy(prefix_slots),
        prefix_mask=torch.from_numpy(prefix_mask)[:, None],
        suffix_slots=torch.from_numpy(suffix_slots),
        key_slots=torch.from_numpy(key_slots),
        suffix_mask=torch.from_numpy(suffix_mask)[:, None],
        end_mask=torch.from_numpy(key_valid)[:, None, None],
        unpad_index=torch.from_numpy(unpad_index),
        end_slots=torch.tensor([slots[-1] for slots in suffixes]),
        context_slots=torch.from_numpy(context_slots),
        context_numbers=torch.from_numpy(source_index[context_slots] - len(token_ids)),
    )


def check_lengths(rows: Sequence[Sequence[int]], context_length: int, row_names: Sequence[str] | None) -> None:
    """Refuse sequences that the tower has no room for.

    Raises:
        DataError: a sequence is longer than the tower's context; the message names it.
    """
    for number, row in enumerate(rows):
        if len(row) > context_length:
            about = f"{row_names[number]!r}" if row_names is not None else f"row {number}"
            raise DataError(
                f"the prompt for {about} needs {len(row)} tokens but the text tower has room for {context_length}; shorten the name"
            )


def _common_length(rows: Sequence[Sequence[int]]) -> int:
    shortest = min(len(row) for row in rows) - 1
    first = rows[0]
    for place in range(shortest):
        if any(row[place] != first[place] for row in rows):
            return place
    return shortest


def _padded(lists: Sequence[Sequence[int]]) -> tuple[Int[np.ndarray, "list longest"], Bool[np.ndarray, "list longest"]]:
    lengths = np.array([len(one) for one in lists])
    valid = np.arange(lengths.max()) < lengths[:, None]
    padded = np.zeros(valid.shape, np.int64)
    padded[valid] = np.concatenate([np.asarray(one) for one in lists])
    return padded, valid
