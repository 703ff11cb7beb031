"""From a picture to what the tower is shown of it: Pillow's resize and the centre crop. The backbone's files decide how.

Nothing here loads torch: an exported model is run without it, and sees the same bytes.
"""

from __future__ import annotations

import sys
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from promptmix.backbones.configs import PreprocessConfig
from promptmix.backbones.shrink import shrinks_as_torch, shrunk

__all__ = ["View", "resize_and_crop", "resize_part"]

View: TypeAlias = UInt8[np.ndarray, "crop crop 3"]
"""What the tower is shown of one picture."""

_STRIP = 128  # rows that are copied at a time: little enough to stay in the processor's cache


def resize_and_crop(image: Image.Image, config: PreprocessConfig) -> View:
    """The test-time view of an RGB picture: short side to ``config.resize``, then the centre; or all of it, squashed."""
    interpolation = Image.Resampling[config.interpolation.upper()]
    if config.resize_mode == "squash":
        return resize_part(image, (0, 0, *image.size), (config.resize, config.resize), interpolation)
    width, height = image.size
    if width <= height:
        size = (config.resize, max(config.resize, int(config.resize * height / width)))
    else:
        size = (max(config.resize, int(config.resize * width / height)), config.resize)
    if size != image.size:
        # Only the part that the crop keeps is resized: a strip 1 x 10,000 would otherwise become 224 x 2,240,000.
        left, top = (_crop_start(side, config) for side in size)
        if size[0] * size[1] > 16 * config.resize**2 and min(left, top) >= 0:
            box = (
                left * width / size[0],
                top * height / size[1],
                (left + config.crop) * width / size[0],
                (top + config.crop) * height / size[1],
            )
            return np.array(image.resize((config.crop, config.crop), interpolation, box=box))
        image = Image.fromarray(resize_part(image, (0, 0, width, height), size, interpolation))
    left, top = (_crop_start(side, config) for side in image.size)
    return np.array(image.crop((left, top, left + config.crop, top + config.crop)))


def _crop_start(side: int, config: PreprocessConfig) -> int:
    """Where the centre begins on a side of so many pixels."""
    too_much = side - config.crop
    return too_much // 2 if config.crop_rounding == "down" else round(too_much / 2)


def resize_part(
    image: Image.Image,
    part: tuple[int, int, int, int],
    size: tuple[int, int],
    interpolation: Image.Resampling = Image.Resampling.BICUBIC,
) -> UInt8[np.ndarray, "height width 3"]:
    """A part of an RGB picture at another size, as Pillow resizes it.

    Where a part becomes at least twice as small, torch does the work: with the same filter, passes and order of passes, and
    several times as fast; where it is not loaded, :mod:`promptmix.backbones.shrink` does what it does. It rounds its weights to 16 bits, so that some values differ from Pillow's by one level: under one in a hundred in
    photographs. In patterns of pure black and white, where sums end on halves, a few may differ by two. And what lies around the part
    has no influence on its outermost pixels, which with Pillow it has.

    Args:
        part: left, top, right and bottom in pixels, within the picture.
        size: width and height of the result.
    """
    left, top, right, bottom = part
    width, height = right - left, bottom - top
    # Of tall pictures newer versions of Pillow resize the columns first, which changes edges by many levels; torch never does.
    alike = width >= 2 * size[0] and height >= 2 * size[1] and height <= 1.7 * width
    if not alike or not shrinks_as_torch():
        return np.array(image.resize(size, interpolation, box=part))
    pixels = np.empty((height, width, 3), np.uint8)
    for first in range(0, height, _STRIP):
        last = min(first + _STRIP, height)
        pixels[first:last] = np.asarray(image.crop((left, top + first, right, top + last)))
    if sys.modules.get("torch") is None:
        return shrunk(pixels, size, interpolation)
    import torch
    from torch.nn import functional

    resized = functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None],
        size=(size[1], size[0]),
        mode=interpolation.name.lower(),
        antialias=True,
    )
    shown: UInt8[np.ndarray, "height width 3"] = resized[0].permute(1, 2, 0).contiguous().numpy()
    return shown
