"""From a picture to a tower's input: Pillow's bicubic resize, centre crop, normalisation. The file decides the numbers."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from promptmix.backbones.configs import PreprocessConfig

__all__ = ["normalise_pixels", "resize_and_crop"]


def resize_and_crop(image: Image.Image, config: PreprocessConfig) -> UInt8[np.ndarray, "crop crop 3"]:
    """The test-time view of an RGB picture: short side to ``config.resize``, then the centre."""
    width, height = image.size
    if width <= height:
        size = (config.resize, max(config.resize, int(config.resize * height / width)))
    else:
        size = (max(config.resize, int(config.resize * width / height)), config.resize)
    if size != image.size:
        # Only the part that the crop keeps is resized: a strip 1 x 10,000 would otherwise become 224 x 2,240,000.
        left, top = (size[0] - config.crop) // 2, (size[1] - config.crop) // 2
        if size[0] * size[1] > 16 * config.resize**2 and min(left, top) >= 0:
            box = (
                left * width / size[0],
                top * height / size[1],
                (left + config.crop) * width / size[0],
                (top + config.crop) * height / size[1],
            )
            return np.array(image.resize((config.crop, config.crop), Image.Resampling.BICUBIC, box=box))
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - config.crop) // 2, (image.height - config.crop) // 2
    return np.array(image.crop((left, top, left + config.crop, top + config.crop)))


def normalise_pixels(
    pixels: UInt8[Tensor, "image height width 3"], config: PreprocessConfig
) -> Float[Tensor, "image 3 height width"]:
    """Bytes to the tower's input; done on the tower's device, a batch at a time."""
    mean = torch.tensor(config.mean, device=pixels.device).mul(255)
    deviation = torch.tensor(config.standard_deviation, device=pixels.device).mul(255)
    return ((pixels.float() - mean) / deviation).permute(0, 3, 1, 2).contiguous()
