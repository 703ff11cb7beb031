"""Shrinking a picture without torch, to the very bytes that torch's quick kernel for bytes makes of it.

The filter of Pillow, with weights rounded to 16 bits: columns first, rows then, bytes between the two. All sums are of whole numbers, so
that their order makes no difference.
"""

from __future__ import annotations

import math
import platform
import sys
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

__all__ = ["shrinks_as_torch", "shrunk"]

_CUBIC = -0.5  # the free number of the cubic kernel; Pillow's, and torch's where it smooths
_STRIP = 128  # rows that are on their way at a time
_REACH = {Image.Resampling.BILINEAR: 1.0, Image.Resampling.BICUBIC: 2.0}


def shrinks_as_torch() -> bool:
    """Whether torch has its quick kernel for bytes on this processor; elsewhere Pillow does the work, with torch or without.

    Without torch it is taken to be there on every x86 processor of 64 bits, as it is on all of the last ten years.
    """
    if sys.modules.get("torch") is not None:
        import torch

        return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return platform.machine().lower() in ("x86_64", "amd64")


def shrunk(
    pixels: UInt8[np.ndarray, "height width 3"], size: tuple[int, int], interpolation: Image.Resampling
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """The picture at a smaller size.

    Args:
        size: width and height of the result.
        interpolation: bilinear or bicubic.
    """
    across, precision_across = _weights(pixels.shape[1], size[0], interpolation)
    down, precision_down = _weights(pixels.shape[0], size[1], interpolation)
    narrow = np.empty((pixels.shape[0], size[0], 3), np.uint8)
    for first in range(0, len(pixels), _STRIP):
        strip = pixels[first : first + _STRIP].transpose(1, 0, 2)
        summed = across @ strip.astype(np.int32).reshape(len(strip), -1)
        narrow[first : first + _STRIP] = _rounded(summed, precision_across).reshape(size[0], -1, 3).transpose(1, 0, 2)
    summed = down @ narrow.astype(np.int32).reshape(len(narrow), -1)
    return _rounded(summed, precision_down).reshape(size[1], size[0], 3)


def _rounded(summed: np.ndarray[Any, np.dtype[np.int32]], precision: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rounded: np.ndarray[Any, np.dtype[np.uint8]] = np.clip((summed + (1 << (precision - 1))) >> precision, 0, 255).astype(
        np.uint8
    )
    return rounded


def _weights(length: int, new_length: int, interpolation: Image.Resampling) -> tuple[Any, int]:
    """A sparse matrix ``new_length x length`` of whole numbers, and the power of two that stands for 1."""
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    scale = length / new_length
    reach = _REACH[interpolation] * scale
    centres = scale * (np.arange(new_length) + 0.5)
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + reach + 0.5).astype(np.int64), length)
    places = first[:, None] + np.arange(2 * math.ceil(reach) + 1)
    inside = places < end[:, None]
    values = _kernel((places - centres[:, None] + 0.5) * (1 / scale), interpolation) * inside
    values /= values.sum(axis=1, keepdims=True)
    # As many bits as the largest weight leaves room for.
    largest = float(values.max())
    precision = next((bits for bits in range(22) if int(0.5 + largest * 2 ** (bits + 1)) >= 2**15), 22)
    whole = np.trunc(values * 2**precision + np.where(values < 0, -0.5, 0.5)).astype(np.int32)
    starts = np.concatenate([[0], inside.sum(axis=1).cumsum()])
    return csr_array((whole[inside], places[inside], starts), shape=(new_length, length)), precision


def _kernel(distance: Float[np.ndarray, "*rows"], interpolation: Image.Resampling) -> Float[np.ndarray, "*rows"]:
    far = np.abs(distance)
    if interpolation is Image.Resampling.BILINEAR:
        return np.where(far < 1, 1 - far, 0.0)
    near = ((_CUBIC + 2) * far - (_CUBIC + 3)) * far * far + 1
    outer = ((_CUBIC * far - 5 * _CUBIC) * far + 8 * _CUBIC) * far - 4 * _CUBIC
    return np.where(far < 1, near, np.where(far < 2, outer, 0.0))
