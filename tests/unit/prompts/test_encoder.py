"""The packed encoder against the plain loop: every sequence, padded, through the whole tower."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from promptmix.backbones.configs import TextConfig
from promptmix.backbones.text_tower import TextTower
from promptmix.errors import DataError
from promptmix.prompts.encoder import PackedPrompts


@pytest.fixture(scope="module")
def tower() -> TextTower:
    config = TextConfig(
        width=32, layers=3, heads=4, mlp_width=64, context_length=24, vocabulary_size=50, activation="quick_gelu",
        layer_norm_epsilon=1e-5, start_token=48, end_token=49,
    )  # fmt: skip
    tower = TextTower(config, 16)
    generator = torch.Generator().manual_seed(0)
    for parameter in tower.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    return tower.eval().requires_grad_(False).double()


def plain_loop(tower: TextTower, rows: list[list[int]], contexts: Tensor) -> Tensor:
    features = []
    for row in rows:
        vectors = [tower.token_embedding.weight[value] if value >= 0 else contexts[-1 - value] for value in row]
        padded = torch.stack(vectors + [tower.token_embedding.weight[7]] * (24 - len(row)))
        features.append(tower.encode_padded(padded[None], torch.tensor([len(row) - 1]))[0])
    return torch.stack(features)


CASES: dict[str, tuple[list[list[int]], list[int]]] = {
    "one expert, one class": ([[48, -1, -2, 3, 49]], [0]),
    "ragged names": ([[48, -1, 3, 49], [48, -1, 4, 5, 6, 7, 49], [48, -1, 8, 9, 49]], [0, 0, 0]),
    "two experts of different lengths": (
        [[48, -1, -2, -3, 3, 49], [48, -1, -2, -3, 4, 5, 49], [48, -4, 3, 49], [48, -4, 4, 5, 49]],
        [0, 0, 1, 1],
    ),
    "nothing before": ([[48, 3, -1, -2, 49], [48, 4, 5, -1, -2, 49]], [0, 0]),
    "nothing after and nothing before": ([[48, 3, 49], [48, 4, 49]], [0, 0]),
    "before and after": ([[48, -1, 3, -2, 10, 49], [48, -1, 4, 5, -2, 10, 49]], [0, 0]),
    "class-specific": ([[48, -1, -2, 3, 49], [48, -3, -4, 4, 5, 49]], [0, 0]),
    "equal rows": ([[48, -1, 3, 49], [48, -1, 3, 49]], [0, 0]),
    "a row that begins another": ([[48, -1, 3, 49], [48, -1, 3, 49, 49]], [0, 0]),
    "a full context": ([[48, *([-1] * 22), 49], [48, -1, 49]], [0, 0]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("max_rows", [4096, 2, 1])
def test_equal_to_the_plain_loop_in_values_and_gradients(tower: TextTower, case: str, max_rows: int) -> None:
    rows, groups = CASES[case]
    contexts = torch.randn(4, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    packed_contexts, plain_contexts = contexts.clone().requires_grad_(True), contexts.clone().requires_grad_(True)
    packed = PackedPrompts(tower, rows, groups, max_rows=max_rows).encode(packed_contexts)
    plain = plain_loop(tower, rows, plain_contexts)
    torch.testing.assert_close(packed, plain, rtol=1e-9, atol=1e-10)
    weights = torch.randn(plain.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (packed * weights).sum().backward()
    # Where no row has a context vector the plain loop has no graph; the gradient is 0.
    ((plain * weights).sum() + 0 * plain_contexts.sum()).backward()
    torch.testing.assert_close(packed_contexts.grad, plain_contexts.grad, rtol=1e-8, atol=1e-9)


def deep_plain_loop(tower: TextTower, rows: list[list[int]], contexts: Tensor, deep_contexts: Tensor) -> Tensor:
    """Each sequence padded and alone; before block 1, 2 ... its learnt positions become what ``deep_contexts`` has for them."""
    features = []
    for row in rows:
        padding = [tower.token_embedding.weight[7]] * (24 - len(row))
        vectors = [tower.token_embedding.weight[value] if value >= 0 else contexts[-1 - value] for value in row]
        hidden = torch.stack(vectors + padding) + tower.position_embedding
        for number, block in enumerate(tower.blocks):
            if 0 < number <= len(deep_contexts):
                hidden = torch.stack(
                    [
                        deep_contexts[number - 1, -1 - row[place]] if place < len(row) and row[place] < 0 else state
                        for place, state in enumerate(hidden)
                    ]
                )
            hidden = block(hidden[None], causal=True)[0]
        features.append(tower.read_out(hidden[len(row) - 1][None])[0])
    return torch.stack(features)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("max_rows", [4096, 2, 1])
@pytest.mark.parametrize("deep_blocks", [0, 1, 2])
def test_deep_contexts_are_equal_to_the_plain_loop_in_values_and_gradients(
    tower: TextTower, case: str, max_rows: int, deep_blocks: int
) -> None:
    rows, groups = CASES[case]
    generator = torch.Generator().manual_seed(1)
    contexts = torch.randn(4, 32, dtype=torch.float64, generator=generator)
    deep = torch.randn(deep_blocks, 4, 32, dtype=torch.float64, generator=generator)
    packed_leaves, plain_leaves = ([one.clone().requires_grad_(True) for one in (contexts, deep)] for _ in range(2))
    packed = PackedPrompts(tower, rows, groups, max_rows=max_rows).encode(*packed_leaves)
    plain = deep_plain_loop(tower, rows, *plain_leaves)
    torch.testing.assert_close(packed, plain, rtol=1e-9, atol=1e-10)
    weights = torch.randn(plain.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for features, leaves in ((packed, packed_leaves), (plain, plain_leaves)):
        # Where no row has a context vector the plain loop has no graph; the gradient is 0.
        ((features * weights).sum() + sum(0 * leaf.sum() for leaf in leaves)).backward()
    for ours, theirs in zip(packed_leaves, plain_leaves, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-9)


def test_each_deep_context_counts_and_none_beyond_the_last_block(tower: TextTower) -> None:
    packed = PackedPrompts(tower, [[48, -1, -2, 3, 49], [48, -1, -2, 4, 5, 49]], [0, 0])
    generator = torch.Generator().manual_seed(3)
    contexts = torch.randn(2, 32, dtype=torch.float64, generator=generator)
    deep = torch.randn(3, 2, 32, dtype=torch.float64, generator=generator)
    by_depth = [packed.encode(contexts)] + [packed.encode(contexts, deep[:depth]) for depth in range(1, 4)]
    # The tower has three blocks, so the third vectors have no block to stand before.
    assert torch.equal(by_depth[3], by_depth[2])
    for first in range(3):
        for second in range(first):
            assert not torch.allclose(by_depth[first], by_depth[second], rtol=0, atol=1e-3)


def test_shared_prefixes_are_packed_once(tower: TextTower) -> None:
    packed = PackedPrompts(tower, [[48, -1, -2, 3, 49], [48, -1, -2, 4, 49]], [0, 0])
    assert packed.chunks[0].num_packed_tokens == 3 + 2 + 2


def test_a_name_too_long_is_named(tower: TextTower) -> None:
    with pytest.raises(DataError, match="'endless'"):
        PackedPrompts(tower, [[48, *range(30), 49]], [0], ["endless"])
