"""Resizing: what torch does for large pictures is what Pillow does, to a level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch.nn import functional

from promptmix.backbones.configs import PreprocessConfig
from promptmix.backbones.preprocess import resize_and_crop, resize_part
from promptmix.data.pictograms import draw

CONFIG = PreprocessConfig(resize=56, crop=48, mean=(0.5, 0.5, 0.5), standard_deviation=(0.25, 0.25, 0.25))
BICUBIC = Image.Resampling.BICUBIC

is_fast = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="torch resizes no faster than Pillow here"
)


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the pictures that torch was given to resize."""
    seen: list[tuple[int, ...]] = []
    interpolate = functional.interpolate

    def noted(pixels: torch.Tensor, **options: object) -> torch.Tensor:
        seen.append(tuple(pixels.shape))
        return interpolate(pixels, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(functional, "interpolate", noted)
    return seen


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """A drawn picture, enlarged, with a camera's noise."""
    generator = np.random.default_rng(seed)
    pixels = np.asarray(draw("cat", "photo", seed).resize((width, height), BICUBIC), float)
    return Image.fromarray((pixels + generator.normal(0, 8, (height, width, 1))).clip(0, 255).astype(np.uint8))


def plain_view(image: Image.Image, config: PreprocessConfig) -> NDArray[np.uint8]:
    """Short side to ``resize``, then the centre, by Pillow alone."""
    width, height = image.size
    short = min(width, height)
    image = image.resize((int(config.resize * width / short), int(config.resize * height / short)), BICUBIC)
    left, top = (image.width - config.crop) // 2, (image.height - config.crop) // 2
    return np.asarray(image.crop((left, top, left + config.crop, top + config.crop)))


def levels(ours: NDArray[np.uint8], theirs: Image.Image | NDArray[np.uint8]) -> NDArray[np.int64]:
    assert ours.dtype == np.uint8
    return np.abs(ours.astype(int) - np.asarray(theirs))


@is_fast
@pytest.mark.parametrize(("width", "height"), [(400, 300), (300, 400), (1600, 1200), (113, 112), (999, 333), (640, 1024)])
def test_views_of_photographs_are_pillows_to_one_level(width: int, height: int, by_torch: list[tuple[int, ...]]) -> None:
    for seed in range(3):
        image = photograph(width, height, seed)
        difference = levels(resize_and_crop(image, CONFIG), plain_view(image, CONFIG))
        assert difference.shape == (48, 48, 3)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.02
    assert by_torch == [(1, 3, height, width)] * 3


@is_fast
@settings(max_examples=120, deadline=None)
@given(st.data())
def test_no_pattern_differs_from_pillow_by_more_than_two_levels(data: st.DataObject) -> None:
    width, wanted = data.draw(st.integers(40, 400)), data.draw(st.integers(10, 40))
    height = data.draw(st.integers(max(20, width // 10), int(1.7 * width)))
    size = (min(wanted, width // 2), min(data.draw(st.integers(10, 40)), height // 2))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    block = data.draw(st.integers(1, 16))
    coarse = (-(-height // block), -(-width // block), data.draw(st.sampled_from([1, 3])))
    kind = data.draw(st.sampled_from(["noise", "black and white", "checks", "lines", "specks"]))
    if kind == "noise":
        pixels = generator.integers(0, 256, coarse)
    elif kind == "black and white":
        pixels = 255 * generator.integers(0, 2, coarse)
    elif kind == "specks":
        pixels = 255 * (generator.random(coarse) < 0.03)
    else:
        rows, columns = np.indices(coarse[:2])
        pixels = (255 * ((rows + columns if kind == "checks" else columns) % 2))[..., None]
    whole = np.kron(pixels, np.ones((block, block, 1)))[:height, :width].astype(np.uint8)
    image = Image.fromarray(np.repeat(whole, 3 // whole.shape[2], axis=2))
    for interpolation in (BICUBIC, Image.Resampling.BILINEAR):
        difference = levels(resize_part(image, (0, 0, width, height), size, interpolation), image.resize(size, interpolation))
        assert difference.max() <= 2
        assert (difference > 1).mean() < 0.01


@is_fast
@pytest.mark.parametrize("seed", range(5))
def test_edges_of_pure_colours(seed: int) -> None:
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", (900, 700), "white")
    canvas = ImageDraw.Draw(image)
    for _ in range(60):
        colour = tuple((255 * generator.integers(0, 2, 3)).tolist())
        canvas.polygon([tuple(point) for point in generator.integers(0, 900, (3, 2)).tolist()], fill=colour)
    assert levels(resize_and_crop(image, CONFIG), plain_view(image, CONFIG)).max() <= 1


@is_fast
def test_a_part_is_resized_as_if_it_were_cut_out(by_torch: list[tuple[int, ...]]) -> None:
    image, part = photograph(500, 400, 0), (37, 21, 437, 321)
    ours = resize_part(image, part, (48, 48))
    np.testing.assert_array_equal(ours, resize_part(image.crop(part), (0, 0, 400, 300), (48, 48)))
    assert levels(ours, image.crop(part).resize((48, 48), BICUBIC)).max() <= 1
    # With Pillow a little of what lies around the part gets into its outermost pixels.
    assert levels(ours, image.resize((48, 48), BICUBIC, box=part))[1:-1, 1:-1].max() <= 1
    assert by_torch == [(1, 3, 300, 400)] * 2


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((300, 600), (56, 112)),  # tall: Pillow may go another way
        ((100, 90), (56, 50)),  # not twice as small
        ((400, 100), (100, 80)),  # twice as small in one direction only
        ((40, 30), (80, 60)),
    ],
)
def test_all_else_is_pillows_own(picture: tuple[int, int], size: tuple[int, int], by_torch: list[tuple[int, ...]]) -> None:
    image = photograph(*picture, 0)
    np.testing.assert_array_equal(resize_part(image, (0, 0, *picture), size), np.asarray(image.resize(size, BICUBIC)))
    assert by_torch == []


def test_a_processor_without_the_quick_way_has_pillow(by_torch: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    image = photograph(400, 300, 0)
    np.testing.assert_array_equal(resize_and_crop(image, CONFIG), plain_view(image, CONFIG))
    assert by_torch == []


def test_a_strip_is_seen_in_its_middle_without_being_enlarged_whole() -> None:
    image = photograph(20_000, 3, 0)
    view = resize_and_crop(image, CONFIG)
    assert view.shape == (48, 48, 3)
    assert np.abs(view.astype(float).mean() - np.asarray(image.crop((9_990, 0, 10_010, 3)), float).mean()) < 30


def test_the_view_can_be_written_to_and_shares_nothing() -> None:
    for size in ((400, 300), (60, 60), (48, 48)):
        image = photograph(*size, 0)
        before = image.tobytes()
        view = resize_and_crop(image, CONFIG)
        assert view.flags.writeable and view.flags.c_contiguous
        view[:] = 0
        assert image.tobytes() == before
