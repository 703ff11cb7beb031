from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from promptmix.data.transforms import Augmentation, augmented_view


def coordinates(width: int, height: int) -> Image.Image:
    """Red grows to the right and green grows downwards, so that a view shows where it was taken."""
    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], axis=2).round().astype(np.uint8))


def views(image: Image.Image, number: int, crop: int = 16, **options: float) -> list[np.ndarray]:
    augmentation = Augmentation(**options)  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    return [augmented_view(image, crop, augmentation, generator) for _ in range(number)]


def test_views_are_bytes_of_the_right_size_and_repeatable() -> None:
    image = coordinates(90, 60)
    first, again = views(image, 5), views(image, 5)
    assert all(view.shape == (16, 16, 3) and view.dtype == np.uint8 for view in first)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({view.tobytes() for view in first}) == 5


def test_the_parts_have_the_promised_area_and_ratio() -> None:
    shares: list[float] = []
    for view in views(coordinates(400, 400), 300, flip=0, min_scale=0.25):
        # The range of the colours inside a view, widened by the half pixel at each edge.
        across = (float(view[0, -1, 0]) - float(view[0, 0, 0])) / 255 * 16 / 15
        down = (float(view[-1, 0, 1]) - float(view[0, 0, 1])) / 255 * 16 / 15
        assert 0.72 < across / down < 1.40
        shares.append(across * down)
    assert 0.22 < min(shares) < 0.35
    assert 0.85 < max(shares) <= 1.1
    assert 0.5 < float(np.mean(shares)) < 0.7


def test_flip_is_a_probability() -> None:
    image = coordinates(64, 64)
    mirrored = [
        sum(int(view[0, 0, 0]) > int(view[0, -1, 0]) for view in views(image, 200, flip=flip)) for flip in (0.0, 0.5, 1.0)
    ]
    assert mirrored[0] == 0 and mirrored[2] == 200
    assert 70 < mirrored[1] < 130


def test_mirroring_is_the_last_step() -> None:
    image = coordinates(80, 50)
    for plain, mirrored in zip(views(image, 1, flip=0.0), views(image, 1, flip=1.0), strict=True):
        np.testing.assert_array_equal(mirrored, plain[:, ::-1])


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 500), (500, 1), (3, 40)])
def test_narrow_pictures_give_their_centre(width: int, height: int) -> None:
    for view in views(coordinates(width, height), 3, flip=0, min_scale=1):
        assert view.shape == (16, 16, 3)
        longer = view[..., 0] if width > height else view[..., 1]
        if max(width, height) > 1:
            assert abs(float(longer.mean()) - 127.5) < 4


def test_the_whole_picture_where_it_is_square_and_the_scale_one() -> None:
    # No part but the picture itself has all of its area, and few draws hit the ratio 1 exactly enough to fit.
    image = coordinates(32, 32)
    np.testing.assert_array_equal(
        views(image, 1, flip=0, min_scale=1)[0], np.array(image.resize((16, 16), Image.Resampling.BICUBIC))
    )


@pytest.mark.parametrize(
    "wrong", [{"views": -1}, {"min_scale": 0}, {"min_scale": 1.5}, {"min_scale": float("nan")}, {"flip": 1.01}, {"flips": 0.5}]
)
def test_the_config_is_strict(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Augmentation(**wrong)  # type: ignore[arg-type]


def test_the_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Augmentation().views = 2
