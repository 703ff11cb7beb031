"""From bytes to a tower's input, a batch at a time."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from promptmix.backbones.configs import PreprocessConfig

__all__ = ["normalise_pixels"]


def normalise_pixels(
    pixels: UInt8[Tensor, "image height width 3"], config: PreprocessConfig
) -> Float[Tensor, "image 3 height width"]:
    """Bytes to the tower's input; done on the tower's device, a batch at a time."""
    mean = torch.tensor(config.mean, device=pixels.device).mul(255)
    deviation = torch.tensor(config.standard_deviation, device=pixels.device).mul(255)
    return ((pixels.float() - mean) / deviation).permute(0, 3, 1, 2).contiguous()
