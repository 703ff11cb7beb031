"""Low-rank changes: the formula a projection at a time, dropout that a seed says, and the same towers with the products merged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from promptmix.backbones.configs import (
    SiglipTextConfig,
    SiglipVisionConfig,
    TextConfig,
    VisionTransformerConfig,
)
from promptmix.backbones.low_rank import (
    PROJECTIONS,
    LowRankChanges,
    LowRankQueryKeyValue,
    Projection,
    changed_tower,
    merged_tower,
    starting_changes,
)
from promptmix.backbones.siglip_text import SiglipTextTower
from promptmix.backbones.siglip_vision import SiglipVisionTower
from promptmix.backbones.text_tower import TextTower
from promptmix.backbones.transformer import QueryKeyValue
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.prompts.encoder import PackedPrompts, encode_packed

WIDTH, RANK, BLOCKS = 12, 3, 2
SUBSETS: list[tuple[Projection, ...]] = [("q", "k", "v"), ("q",), ("v", "q"), ("k",), ("k", "v")]

SIZES: dict[str, Any] = {"width": WIDTH, "layers": BLOCKS, "heads": 3, "mlp_width": 24, "layer_norm_epsilon": 1e-5}
TEXT = {**SIZES, "context_length": 10, "vocabulary_size": 20, "activation": "quick_gelu"}
SIGLIP_TEXT = {"kind": "siglip", "end_token": 19, "pad_token": 1, "lower_case": True, "remove_punctuation": True}
VISION = {**SIZES, "image_size": 8, "patch_size": 4, "activation": "quick_gelu"}


def tower_called(name: str) -> Any:
    """A small tower of random weights in double precision, frozen."""
    made: Any
    if name == "text":
        made = TextTower(TextConfig.model_validate({**TEXT, "start_token": 18, "end_token": 19}), 6)
    elif name == "vision":
        made = VisionTransformer(VisionTransformerConfig.model_validate({"kind": "vision_transformer", **VISION}), 6)
    elif name == "siglip text":
        made = SiglipTextTower(SiglipTextConfig.model_validate({**TEXT, **SIGLIP_TEXT}), 6)
    else:
        made = SiglipVisionTower(SiglipVisionConfig.model_validate({"kind": "siglip", **VISION}))
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return made.eval().requires_grad_(False).double()


def look(tower: Any) -> Tensor:
    """What a tower says of some input."""
    generator = torch.Generator().manual_seed(5)
    if isinstance(tower, TextTower):
        embeddings = torch.randn(3, 10, WIDTH, generator=generator, dtype=torch.float64)
        return tower.encode_padded(embeddings, torch.tensor([3, 9, 5]))
    if isinstance(tower, SiglipTextTower):
        return tower(torch.randint(20, (3, 10), generator=generator))
    said: Tensor = tower(torch.randn(3, 3, 8, 8, generator=generator, dtype=torch.float64))
    return said


TOWERS = pytest.mark.parametrize("name", ["text", "vision", "siglip text", "siglip vision"])


def some_changes(projections: tuple[Projection, ...] = PROJECTIONS, dropout: float = 0.0) -> LowRankChanges:
    generator = torch.Generator().manual_seed(1)
    down = torch.randn(BLOCKS, len(projections), RANK, WIDTH, generator=generator, dtype=torch.float64)
    up = torch.randn(BLOCKS, len(projections), WIDTH, RANK, generator=generator, dtype=torch.float64)
    return LowRankChanges(down, up, projections, 0.3, dropout)


def plain_matrices() -> QueryKeyValue:
    tower = tower_called("text")
    matrices: QueryKeyValue = tower.blocks[1].query_key_value
    return matrices


def inputs() -> Tensor:
    return torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("projections", SUBSETS)
def test_each_projection_is_the_formula(projections: tuple[Projection, ...]) -> None:
    plain, changes, given = plain_matrices(), some_changes(projections), inputs()
    expected = []
    for place, projection in enumerate(PROJECTIONS):
        rows = slice(place * WIDTH, (place + 1) * WIDTH)
        one = given @ plain.weight[rows].T + plain.bias[rows]
        if projection in projections:
            number = projections.index(projection)
            one = one + 0.3 * (given @ changes.down[1, number].T) @ changes.up[1, number].T
        expected.append(one)
    changed = LowRankQueryKeyValue(plain, changes, 1)
    torch.testing.assert_close(changed(given), torch.cat(expected, dim=-1))
    torch.testing.assert_close(changed.query(given[0]), expected[0][0])
    torch.testing.assert_close(changed.key_value(given[0]), torch.cat(expected[1:], dim=-1)[0])


def dropping(dropout: float = 0.25) -> tuple[LowRankQueryKeyValue, LowRankChanges]:
    """Matrices that give back what their input is after dropout: W 0, A and B the identity."""
    plain = QueryKeyValue(WIDTH).requires_grad_(False).double()
    nn.init.zeros_(plain.weight)
    nn.init.zeros_(plain.bias)
    identity = torch.eye(WIDTH, dtype=torch.float64).expand(BLOCKS, 3, -1, -1).clone()
    changes = LowRankChanges(identity, identity.clone(), PROJECTIONS, 1.0, dropout)
    return LowRankQueryKeyValue(plain, changes, 0), changes


def test_dropout_leaves_out_a_share_and_makes_up_for_it() -> None:
    matrices, changes = dropping(0.2)
    changes.mask_seed = 7
    given = inputs().repeat(20, 10, 1)
    for part in matrices(given).chunk(3, dim=-1):
        is_kept = part != 0
        torch.testing.assert_close(part[is_kept], given[is_kept] / 0.8)
        assert float(is_kept.double().mean()) == pytest.approx(0.8, abs=0.01)
        # Entry by entry: no row, and no column, is left out as a whole.
        assert float(is_kept.double().mean(dim=-1).quantile(0.01)) > 0.4
        assert float(is_kept.flatten(0, 1).double().mean(dim=0).min()) > 0.7


def test_dropout_is_said_by_seed_block_and_projection() -> None:
    matrices, changes = dropping()
    given = inputs()
    undropped = torch.cat([given] * 3, dim=-1)
    torch.testing.assert_close(matrices(given), undropped)
    changes.mask_seed = 7
    first = matrices(given)
    assert not torch.allclose(first, undropped)
    assert torch.equal(first, matrices(given))
    query, key, value = (part != 0 for part in first.chunk(3, dim=-1))
    assert not torch.equal(query, key)
    assert not torch.equal(key, value)
    assert not torch.equal(first, LowRankQueryKeyValue(matrices, changes, 1)(given))
    # The last block of the packed encoder asks for these by themselves.
    assert torch.equal(matrices.query(given), first[..., :WIDTH])
    assert torch.equal(matrices.key_value(given), first[..., WIDTH:])
    changes.mask_seed = 8
    assert not torch.equal(first, matrices(given))
    changes.mask_seed = None
    torch.testing.assert_close(matrices(given), undropped)


def test_dropout_changes_nothing_on_average() -> None:
    matrices, changes = dropping()
    given, total = inputs(), torch.zeros(4, 5, 3 * WIDTH, dtype=torch.float64)
    for seed in range(400):
        changes.mask_seed = seed
        total += matrices(given)
    torch.testing.assert_close(total / 400, torch.cat([given] * 3, dim=-1), rtol=0.2, atol=0.02)


@TOWERS
def test_changes_that_start_change_nothing_and_are_kaiming_s(name: str) -> None:
    tower = tower_called(name).float()
    changes = starting_changes(tower, ("q", "v"), RANK, 2.0, 0.25, torch.Generator().manual_seed(0))
    assert changes.down.shape == (BLOCKS, 2, RANK, WIDTH)
    assert changes.up.shape == (BLOCKS, 2, WIDTH, RANK)
    assert float(changes.up.detach().abs().max()) == 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = nn.init.kaiming_uniform_(torch.empty(1000, WIDTH), a=5**0.5)
    assert float(theirs.abs().max()) == pytest.approx(WIDTH**-0.5, rel=1e-2)
    assert 0.9 * WIDTH**-0.5 < float(changes.down.detach().abs().max()) <= WIDTH**-0.5
    assert float(changes.down.detach().std()) == pytest.approx(float(theirs.std()), rel=0.15)


@TOWERS
@pytest.mark.parametrize("projections", SUBSETS)
def test_merged_and_unmerged_towers_say_the_same(name: str, projections: tuple[Projection, ...]) -> None:
    tower, changes = tower_called(name), some_changes(projections)
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    plain, beside, merged = look(tower), look(changed_tower(tower, changes)), look(merged_tower(tower, changes))
    torch.testing.assert_close(merged, beside, rtol=1e-9, atol=1e-10)
    assert not torch.allclose(plain, beside, atol=1e-3)
    assert torch.equal(look(tower), plain)
    assert all(torch.equal(value, before[key]) for key, value in tower.state_dict().items())


@TOWERS
def test_every_block_has_its_own_change(name: str) -> None:
    tower = tower_called(name)
    said = []
    for block in range(BLOCKS):
        changes = some_changes()
        with torch.no_grad():
            changes.up[block].zero_()
        said.append(look(changed_tower(tower, changes)))
    assert not torch.allclose(*said, atol=1e-3)


def test_towers_share_what_is_not_changed() -> None:
    tower, changes = tower_called("text"), some_changes()
    mine = dict(tower.named_parameters())
    changed, merged = (dict(one.named_parameters()) for one in (changed_tower(tower, changes), merged_tower(tower, changes)))
    assert all(changed[name] is parameter for name, parameter in mine.items())
    others = {name for name, parameter in mine.items() if merged[name] is not parameter}
    assert others == {f"blocks.{block}.query_key_value.weight" for block in range(BLOCKS)}
    assert merged.keys() == mine.keys()
    assert not any(parameter.requires_grad for parameter in merged.values())


def test_only_the_changes_have_a_gradient() -> None:
    tower, changes = tower_called("vision"), some_changes()
    look(changed_tower(tower, changes)).square().sum().backward()
    for parameter in changes.parameters():
        assert parameter.grad is not None
        assert all(float(part.abs().max()) > 0 for part in parameter.grad.flatten(0, 1))
    assert all(parameter.grad is None for parameter in tower.parameters())


def test_products_are_added_before_they_are_rounded() -> None:
    tower, changes = tower_called("text").bfloat16(), some_changes().float()
    merged = merged_tower(tower, changes)
    for plain, block, product in zip(tower.blocks, merged.blocks, changes.products(), strict=True):
        expected = (plain.query_key_value.weight.float() + product.flatten(0, 1)).bfloat16()
        assert torch.equal(block.query_key_value.weight, expected)


def test_global_randomness_is_left_alone() -> None:
    tower, changes = tower_called("text"), some_changes(dropout=0.5)
    before = torch.get_rng_state()
    changes.mask_seed = 1
    look(changed_tower(tower, changes))
    merged_tower(tower, changes)
    starting_changes(tower, PROJECTIONS, RANK, 1.0, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


ROWS = [[18, 3, 4, 5, 19], [18, 3, 4, 6, 7, 19], [18, 3, 8, 19], [18, 3, 4, 9, 19], [18, 10, 19]]


@pytest.mark.parametrize("max_rows", [2, 8])
def test_packed_prompts_are_the_padded_ones(max_rows: int) -> None:
    changes = some_changes()
    tower = changed_tower(tower_called("text"), changes)
    padded = torch.tensor([[*row, *[0] * (10 - len(row))] for row in ROWS])
    plain = tower.encode_padded(tower.token_embedding(padded), torch.tensor([len(row) - 1 for row in ROWS]))
    packed = PackedPrompts(tower, ROWS, [0] * len(ROWS), max_rows=max_rows).encode()
    torch.testing.assert_close(packed, plain, rtol=1e-9, atol=1e-10)
    wanted = list(changes.parameters())
    weights = torch.randn(plain.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for one, other in zip(
        torch.autograd.grad((packed * weights).sum(), wanted), torch.autograd.grad((plain * weights).sum(), wanted), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_chunks_that_are_computed_again_drop_the_same() -> None:
    changes = some_changes(dropout=0.4)
    tower = changed_tower(tower_called("text"), changes)
    wanted = list(changes.parameters())
    packed = PackedPrompts(tower, ROWS, [0] * len(ROWS), max_rows=2)
    assert len(packed.chunks) == 3
    weights = torch.randn(len(ROWS), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def gradient(features: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((features * weights).sum(), wanted))

    changes.mask_seed = 1
    kept = torch.cat([encode_packed(tower, layout, None) for layout in packed.chunks])
    recomputed, disturbed = packed.encode(), packed.encode()
    assert torch.equal(recomputed, kept)
    right = gradient(kept)
    for one, other in zip(gradient(recomputed), right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    changes.mask_seed = 2  # so this test would notice other masks in the backward pass
    assert not torch.allclose(gradient(disturbed)[0], right[0])


def test_the_pooling_head_of_siglip_is_left_as_it_is() -> None:
    tower = tower_called("siglip vision")
    changed = changed_tower(tower, some_changes())
    assert type(changed.head.query_key_value) is QueryKeyValue
    assert all(isinstance(block.query_key_value, LowRankQueryKeyValue) for block in changed.blocks)
