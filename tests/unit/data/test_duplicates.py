from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from promptmix.data.duplicates import MOST_DIFFERENT_BITS, Sketch, look_alikes, near_pairs, sketch
from promptmix.data.images import open_picture
from promptmix.data.pictograms import CLASS_NAMES, draw_set

Change = Callable[[Image.Image], Image.Image]


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file).convert("RGB")


CHANGES: dict[str, Change] = {
    "compressed": compressed,
    "smaller": lambda image: image.resize((image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.BICUBIC),
    "larger": lambda image: image.resize((image.width * 3, image.height * 3), Image.Resampling.BICUBIC),
    "brighter": lambda image: image.point(lambda value: min(255, int(1.05 * value + 6))),
}


def naive_pairs(hashes: list[int], most_bits: int) -> set[tuple[int, int]]:
    return {
        (left, right)
        for right in range(len(hashes))
        for left in range(right)
        if (hashes[left] ^ hashes[right]).bit_count() <= most_bits
    }


def found_pairs(hashes: list[int], most_bits: int) -> list[tuple[int, int]]:
    return [(left, right) for left, right in near_pairs(np.array(hashes, np.uint64), most_bits).tolist()]


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 63), max_size=9)), max_size=40),
    st.integers(0, 8),
)
def test_near_pairs_are_those_of_the_naive_loop(centres: list[int], changed: list[tuple[int, list[int]]], most_bits: int) -> None:
    hashes = [centres[which % len(centres)] ^ sum(1 << bit for bit in set(bits)) for which, bits in changed]
    found = found_pairs(hashes, most_bits)
    assert len(found) == len(set(found))
    assert set(found) == naive_pairs(hashes, most_bits)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_near_pairs_of_hashes_that_share_most_bits(share: float) -> None:
    generator = np.random.default_rng(3)
    bits = generator.random((600, 64)) > share
    hashes = [int.from_bytes(np.packbits(row).tobytes(), "big") for row in bits]
    assert set(found_pairs(hashes, MOST_DIFFERENT_BITS)) == naive_pairs(hashes, MOST_DIFFERENT_BITS)


def test_no_pairs_of_nothing() -> None:
    assert near_pairs(np.array([], np.uint64), 4).shape == (0, 2)
    assert near_pairs(np.array([7], np.uint64), 4).shape == (0, 2)


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    return [one.image for one in draw_set(CLASS_NAMES[:60:3], ("chalk", "neon", "stamp"), 1, 5)]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_is_known_again_and_nothing_else_is(drawn: list[Image.Image], change: Change) -> None:
    sketches = [sketch(image) for image in drawn]
    assert look_alikes(sketches) == []
    count = len(drawn)
    groups = look_alikes(sketches + [sketch(change(image)) for image in drawn])
    assert all(len(group) == 2 and group[1] - group[0] == count for group in groups)
    assert len(groups) >= 0.9 * count


def test_real_photographs_are_not_taken_for_one_another_but_their_copies_are(shared: Path) -> None:
    import tarfile

    archive = shared / "data" / "clothing.tar"
    if not archive.is_file():
        pytest.skip("clothing.tar is not in the folder beside the checkout")
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.name.endswith(".jpg")][::4]
        pictures = [open_picture(file.read()) for member in members if (file := tar.extractfile(member))]
    sketches = [sketch(picture) for picture in pictures]
    assert len(sketches) > 200
    assert look_alikes(sketches) == []
    for change in CHANGES.values():
        groups = look_alikes(sketches + [sketch(change(picture)) for picture in pictures])
        assert all(group[1] - group[0] == len(pictures) and len(group) == 2 for group in groups)
        assert len(groups) >= 0.95 * len(pictures)


def test_blank_pictures_are_like_nothing() -> None:
    white = [Image.new("RGB", (60, 40), "white") for _ in range(3)]
    nearly = Image.new("RGB", (60, 40), (250, 250, 250))
    ImageDraw.Draw(nearly).rectangle((0, 0, 30, 40), fill=(252, 252, 252))
    sketches = [sketch(picture) for picture in (*white, nearly)]
    assert [one.hash for one in sketches] == [None] * 4
    assert look_alikes(sketches) == []


def test_faint_pictures_are_told_apart() -> None:
    generator = np.random.default_rng(0)
    faint = [
        Image.fromarray((200 + 8 * generator.standard_normal((6, 6, 1)).repeat(3, axis=2)).clip(0, 255).astype(np.uint8)).resize(
            (80, 80), Image.Resampling.BICUBIC
        )
        for _ in range(50)
    ]
    assert look_alikes([sketch(picture) for picture in faint]) == []


def test_a_group_is_whole_however_many_copies_there_are(drawn: list[Image.Image]) -> None:
    first, second = sketch(drawn[0]), sketch(drawn[1])
    assert look_alikes([second, *[first] * 300, second]) == [[0, 301], list(range(1, 301))]


def test_the_same_hash_is_not_enough() -> None:
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (200, 16, 16, 3), np.uint8)
    other = [Sketch(hash=5, pixels=one) for one in pixels]
    near = [Sketch(hash=4, pixels=one) for one in pixels[:10]]
    groups = look_alikes([*other, *near])
    # Of one hash only so many different pictures are compared with those of others; none is taken for another.
    assert groups == [[place, 200 + place] for place in range(10)]


def test_colours_count(drawn: list[Image.Image]) -> None:
    hue = np.zeros((64, 64, 3), np.uint8)
    hue[16:48, 16:48] = (200, 40, 40)
    red = Image.fromarray(hue)
    blue = Image.fromarray(hue[:, :, ::-1].copy())
    assert look_alikes([sketch(red), sketch(blue)]) == []
    assert look_alikes([sketch(red), sketch(compressed(red))]) == [[0, 1]]
