"""Augmented views: a random part of the picture at the tower's size, mirrored or not."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field

from promptmix.config import StrictModel

__all__ = ["Augmentation", "augmented_view"]

_RATIOS = (3 / 4, 4 / 3)  # width to height of the part, before it is made square
_TRIES = 10


class Augmentation(StrictModel):
    """How many augmented views a picture gets, and how they are made.

    Attributes:
        views: augmented views of each picture, besides the test view.
        min_scale: least share of the picture's area that a view shows, above 0 and up to 1.
        flip: probability that a view is mirrored; 0 where left and right mean something.
    """

    views: int = Field(default=4, ge=0, le=1000)
    min_scale: float = Field(default=0.08, gt=0, le=1)
    flip: float = Field(default=0.5, ge=0, le=1)


def augmented_view(
    image: Image.Image, crop: int, augmentation: Augmentation, generator: np.random.Generator
) -> UInt8[np.ndarray, "crop crop 3"]:
    """A random part of an RGB picture, resized to ``crop`` pixels square (bicubic) and perhaps mirrored.

    The part has between ``min_scale`` and all of the area and a ratio of 3:4 to 4:3, uniform in its logarithm. Where ten
    tries fit no such part into the picture, the largest one in its centre is taken.
    """
    width, height = image.size
    for _ in range(_TRIES):
        area = width * height * generator.uniform(augmentation.min_scale, 1)
        ratio = math.exp(generator.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        part_width, part_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < part_width <= width and 0 < part_height <= height:
            left = int(generator.integers(width - part_width + 1))
            top = int(generator.integers(height - part_height + 1))
            break
    else:
        part_width = max(1, min(width, round(height * _RATIOS[1])))
        part_height = max(1, min(height, round(width / _RATIOS[0])))
        left, top = (width - part_width) // 2, (height - part_height) // 2
    box = (left, top, left + part_width, top + part_height)
    view = image.resize((crop, crop), Image.Resampling.BICUBIC, box=box)
    if generator.random() < augmentation.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(view)
