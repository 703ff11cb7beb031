"""Learnt tokens in the image tower: against a loop over pictures and blocks that one can read, and a backbone that carries them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tests.backbone_files import write_with_vision_transformer
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.configs import VisionTransformerConfig
from promptmix.backbones.pixels import normalise_pixels
from promptmix.backbones.registry import load_backbone
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.errors import BackboneError

LAYERS, WIDTH = 3, 16
Tables = tuple[Tensor, ...]


@pytest.fixture(scope="module")
def tower() -> VisionTransformer:
    config = VisionTransformerConfig(
        image_size=12, patch_size=4, width=WIDTH, layers=LAYERS, heads=2, mlp_width=32, activation="quick_gelu",
        layer_norm_epsilon=1e-5,
    )  # fmt: skip
    tower = VisionTransformer(config, 8)
    generator = torch.Generator().manual_seed(0)
    for parameter in tower.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return tower.eval().requires_grad_(False).double()


def drawn(*tokens: int, seed: int = 1) -> Tables:
    """A table of that many tokens for each block."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(number, WIDTH, dtype=torch.float64, generator=generator) for number in tokens)


def naive(tower: VisionTransformer, pixels: Tensor, prompts: Tables) -> Tensor:
    """One picture after another: 10 tokens with a position each, then those of the prompts, which have none."""
    features = []
    for picture in pixels:
        patches = [tower.patch_embedding(picture[None])[0, :, row, column] for row in range(3) for column in range(3)]
        tokens = [
            vector + place for vector, place in zip([tower.class_embedding, *patches], tower.position_embedding, strict=True)
        ]
        tokens = [tower.pre_norm(token) for token in [*tokens, *(prompts[0] if prompts else ())]]
        for number, block in enumerate(tower.blocks):
            if 0 < number < len(prompts):
                tokens = [*tokens[:10], *prompts[number]]
            tokens = list(block(torch.stack(tokens)[None], causal=False)[0])
        features.append(tower.projection(tower.post_norm(tokens[0])))
    return torch.stack(features)


@pytest.mark.parametrize("tokens", [(), (1,), (4,), (2, 2), (3, 3, 3)], ids=lambda tokens: "-".join(map(str, tokens)) or "none")
def test_equal_to_the_loop_in_values_and_gradients(tower: VisionTransformer, tokens: tuple[int, ...]) -> None:
    pixels = torch.randn(4, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours, theirs = (tuple(table.requires_grad_(True) for table in drawn(*tokens)) for _ in range(2))
    seen, expected = tower(pixels, ours), naive(tower, pixels, theirs)
    torch.testing.assert_close(seen, expected, rtol=1e-10, atol=1e-12)
    if tokens:
        direction = torch.randn(seen.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        gradients = [torch.autograd.grad(features, tables, direction) for features, tables in ((seen, ours), (expected, theirs))]
        for mine, reference in zip(*gradients, strict=True):
            assert float(mine.abs().max()) > 0
            torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


def test_the_prompts_of_every_block_count(tower: VisionTransformer) -> None:
    pixels = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    tables = drawn(2, 2, 2)
    whole = tower(pixels, tables)
    for block in range(LAYERS):
        changed = (*tables[:block], -tables[block], *tables[block + 1 :])
        assert not torch.allclose(tower(pixels, changed), whole, rtol=0, atol=1e-3), block


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder: Path = tmp_path_factory.mktemp("backbone")
    write_with_vision_transformer(folder)
    return load_backbone(str(folder), device="cpu")


def tables_of(*shapes: tuple[int, int], seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_a_backbone_with_prompts_shows_them_to_its_tower(backbone: Backbone) -> None:
    assert isinstance(backbone.vision, VisionTransformer)
    pixels = torch.randint(256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    tables = tables_of((2, 32), (2, 32))
    prompted = backbone.with_vision_prompts(tables)
    expected = functional.normalize(backbone.vision(normalise_pixels(pixels, backbone.config.preprocess), tables), dim=-1)
    torch.testing.assert_close(prompted.encode_pixels(pixels), expected)
    plain = backbone.encode_pixels(pixels)
    assert not torch.allclose(plain, expected, rtol=0, atol=1e-3)
    assert torch.equal(backbone.with_vision_prompts([]).encode_pixels(pixels), plain)
    # The towers are shared, not copied, and no gradient leaves through what is kept.
    assert prompted.vision is backbone.vision and backbone.vision_prompts == ()
    asked = backbone.with_vision_prompts([table.clone().requires_grad_(True) for table in tables])
    assert not asked.encode_pixels(pixels).requires_grad


def test_the_fingerprint_follows_the_prompts(backbone: Backbone) -> None:
    tables = tables_of((2, 32), (2, 32))
    prompted = backbone.with_vision_prompts(tables).fingerprint
    others = [tables[:1], [tables[1], tables[0]], [tables[0], tables[1] + 1e-6], tables_of((2, 32), (2, 32), seed=2)]
    every = [backbone.fingerprint, prompted, *(backbone.with_vision_prompts(other).fingerprint for other in others)]
    assert len(set(every)) == len(every)
    assert backbone.with_vision_prompts([table.clone() for table in tables]).fingerprint == prompted


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(2, 32)] * 3, r"prompts of \(2, 32\), \(2, 32\), \(2, 32\) do not fit 2 blocks of width 32"),
        ([(2, 32), (2, 31)], r"prompts of \(2, 32\), \(2, 31\) do not fit 2 blocks of width 32"),
    ],
)
def test_too_many_prompts_and_wrong_widths_are_refused(backbone: Backbone, shapes: list[tuple[int, int]], words: str) -> None:
    with pytest.raises(BackboneError, match=words):
        backbone.with_vision_prompts(tables_of(*shapes))


def test_a_tower_of_another_kind_takes_none() -> None:
    bundled = load_backbone("bundled", device="cpu")
    with pytest.raises(BackboneError, match="no CLIP vision transformer"):
        bundled.with_vision_prompts(tables_of((2, 32)))
    with pytest.raises(BackboneError, match="no CLIP vision transformer"):
        dataclasses.replace(bundled, vision=None).with_vision_prompts([])
