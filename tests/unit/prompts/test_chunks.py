"""Chunks of prompts: whatever the limits, the same features and gradients; what is in memory is what the limits say."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.prompts import chunks
from promptmix.prompts.bank import PromptBank
from promptmix.prompts.chunks import ChunkLimits, chunk_limits, limit_chunks
from promptmix.prompts.encoder import Prompts
from promptmix.prompts.templates import parse_template

NAMES = [f"cat {'of the house ' * (number % 3)}{number}" for number in range(20)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


@pytest.fixture(scope="module")
def bank(backbone: Backbone) -> PromptBank:
    tower, tokenizer = backbone.require_text()
    tower = copy.deepcopy(tower).double()  # so that other orders of adding up do not tell
    return PromptBank(tower, tokenizer, [parse_template("a photo of a {}."), parse_template("many {} in it.")], period=True)


def encoded(bank: PromptBank, prompts: Prompts, limits: ChunkLimits) -> tuple[Tensor, Tensor, int]:
    """Features, the contexts' gradient, and how many numbers the backward pass had been kept."""
    contexts = bank.starting_contexts().requires_grad_(True)
    kept: dict[int, int] = {}

    def weigh(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with limit_chunks(limits), torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        features = prompts.encode(contexts)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    (features * weights).sum().backward()
    assert contexts.grad is not None
    return features.detach(), contexts.grad, sum(kept.values())


@settings(max_examples=12, deadline=None)
@given(rows=st.integers(1, 45), kept_rows=st.integers(0, 60))
def test_no_limit_changes_features_or_gradients(bank: PromptBank, rows: int, kept_rows: int) -> None:
    prompts = bank.lay_out(NAMES)
    whole = encoded(bank, prompts, ChunkLimits())
    cut = encoded(bank, prompts, ChunkLimits(rows=rows, kept_rows=kept_rows))
    for ours, expected in zip(cut[:2], whole[:2], strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_what_is_kept_changes_no_bit(bank: PromptBank) -> None:
    prompts = bank.lay_out(NAMES)
    nothing, some, everything = (encoded(bank, prompts, ChunkLimits(rows=10, kept_rows=kept)) for kept in (0, 20, 40))
    for other in (some, everything):
        assert torch.equal(nothing[0], other[0])
        assert torch.equal(nothing[1], other[1])


def test_what_is_kept_is_what_the_limits_say(bank: PromptBank) -> None:
    prompts = bank.lay_out(NAMES)
    nothing, half, everything = (encoded(bank, prompts, ChunkLimits(rows=10, kept_rows=kept))[2] for kept in (0, 20, 40))
    assert nothing < everything / 10
    first = encoded(bank, prompts.select(range(20)), ChunkLimits(rows=10, kept_rows=20))[2]
    assert nothing + 0.9 * first < half < nothing + 1.1 * first
    # A chunk that would be cut by the number is computed again.
    assert encoded(bank, prompts, ChunkLimits(rows=10, kept_rows=29))[2] == half


def test_what_is_kept_is_counted_over_all_that_is_encoded_in_a_block(bank: PromptBank) -> None:
    contexts = bank.starting_contexts().requires_grad_(True)
    prompts, kept = bank.lay_out(NAMES), []

    def weigh(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    with limit_chunks(ChunkLimits(rows=10, kept_rows=40)), torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        first, before = prompts.encode(contexts), len(kept)
        second = prompts.encode(contexts)
        assert len(kept) - before < before / 10
    assert torch.equal(first, second)


@pytest.mark.parametrize("kept_rows", [0, 40, 50, 60])
def test_a_chunk_that_is_alone_counts_like_the_others(bank: PromptBank, kept_rows: int) -> None:
    prompts, few = bank.lay_out(NAMES), bank.lay_out(NAMES[:5])  # four chunks, and one
    contexts = bank.starting_contexts().requires_grad_(True)
    kept = 0

    def weigh(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    def weighed(limits: ChunkLimits) -> tuple[int, int]:
        nonlocal kept
        kept = 0
        with limit_chunks(limits), torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
            prompts.encode(contexts)
            of_first = kept
            few.encode(contexts)
        return of_first, kept - of_first

    (of_first, of_few), (all_of_first, all_of_few) = (
        weighed(ChunkLimits(rows=10, kept_rows=number)) for number in (kept_rows, 60)
    )
    assert (of_first == all_of_first) == (kept_rows >= 40)
    assert of_few == all_of_few if kept_rows >= 50 else of_few < all_of_few / 10


@pytest.mark.parametrize(
    ("full_bytes", "kept_rows", "times"), [(None, 0, 0), (1000, 0, 0), (999, 40, 4), (999, 20, 6), (999, 0, 8)]
)
def test_room_is_made_before_each_chunk_that_is_encoded_where_the_process_is_full(
    bank: PromptBank, monkeypatch: pytest.MonkeyPatch, full_bytes: int | None, kept_rows: int, times: int
) -> None:
    made: list[bool] = []
    monkeypatch.setattr(chunks, "held_memory_bytes", lambda: 1000)
    monkeypatch.setattr(chunks, "hand_back_freed_memory", lambda: made.append(True))
    encoded(bank, bank.lay_out(NAMES), ChunkLimits(rows=10, kept_rows=kept_rows, full_bytes=full_bytes))
    assert len(made) == times  # of four chunks, those that are computed again count twice


def test_limits_hold_within_their_block_alone(bank: PromptBank) -> None:
    prompts = bank.lay_out(NAMES)
    assert len(prompts.chunks) == 1
    with limit_chunks(ChunkLimits(rows=7)):
        assert [chunk.num_rows for chunk in prompts.chunks] == [7, 7, 7, 7, 7, 5]
        with limit_chunks(ChunkLimits(rows=20)):
            assert len(prompts.chunks) == 2
    assert chunk_limits() == ChunkLimits()
    assert len(prompts.chunks) == 1
    assert prompts.chunks is prompts.chunks  # laid out once


def test_some_rows_are_encoded_as_they_are_among_all(bank: PromptBank) -> None:
    prompts, contexts = bank.lay_out(NAMES), bank.starting_contexts()
    numbers = [39, 0, 21, 3, 3]
    torch.testing.assert_close(prompts.select(numbers).encode(contexts), prompts.encode(contexts)[numbers], rtol=0, atol=1e-12)
    assert (prompts.num_rows, prompts.select(numbers).num_rows) == (40, 5)
