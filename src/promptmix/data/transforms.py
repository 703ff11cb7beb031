"""Augmented views: a random part of the picture at the tower's size, mirrored or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field, model_validator

from promptmix.config import StrictModel

__all__ = ["Augmentation", "ResizePart", "augmented_view"]

ResizePart: TypeAlias = Callable[[Image.Image, tuple[int, int, int, int], tuple[int, int]], UInt8[np.ndarray, "height width 3"]]
"""Called with a picture, the part of it that is wanted (left, top, right, bottom) and the width and height of the result."""

_RATIOS = (3 / 4, 4 / 3)  # width to height of the part, before it is made square
_TRIES = 10


class Augmentation(StrictModel):
    """How many augmented views a picture gets, and how they are made.

    Attributes:
        views: augmented views of each picture, besides the test view.
        min_scale: least share of the picture's area that a view shows, above 0 and up to 1.
        flip: probability that a view is mirrored; 0 where left and right mean something.
        fresh: draw the views anew at every step instead of caching ``views`` of them: every picture is read and encoded at every
            step. ``views`` then says only how often the view is an augmented one: ``views`` times of ``1 + views``.
    """

    views: int = Field(default=4, ge=0, le=1000)
    min_scale: float = Field(default=0.08, gt=0, le=1)
    flip: float = Field(default=0.5, ge=0, le=1)
    fresh: bool = False

    @model_validator(mode="after")
    def _check_fresh(self) -> Augmentation:
        if self.fresh and self.views == 0:
            raise ValueError("fresh views were asked for, but views is 0, so none would be augmented; give views=1 or more")
        return self


def _resize_part(
    image: Image.Image, part: tuple[int, int, int, int], size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    return np.array(image.resize(size, Image.Resampling.BICUBIC, box=part))


def augmented_view(
    image: Image.Image,
    crop: int,
    augmentation: Augmentation,
    generator: np.random.Generator,
    resize_part: ResizePart = _resize_part,
) -> UInt8[np.ndarray, "crop crop 3"]:
    """A random part of an RGB picture, resized to ``crop`` pixels square and perhaps mirrored.

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
    view = resize_part(image, (left, top, left + part_width, top + part_height), (crop, crop))
    return np.ascontiguousarray(view[:, ::-1]) if generator.random() < augmentation.flip else view
