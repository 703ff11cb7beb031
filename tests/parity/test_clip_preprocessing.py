"""Pictures as our pre-processing makes them, against the transformers library's image processor for CLIP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.backbone_files import write_clip

from promptmix.backbones.pixels import normalise_pixels
from promptmix.backbones.preprocess import resize_and_crop
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw

# Wider, taller, square, smaller than the tower's 32 pixels, far larger, and so that an odd number of pixels is cut away.
SIZES = [(64, 64), (96, 48), (48, 96), (67, 41), (41, 67), (20, 30), (32, 32), (35, 32), (400, 300), (300, 400), (640, 200)]


def picture(width: int, height: int) -> Image.Image:
    """Smooth where it is a photograph's part, with the edges of a drawing."""
    drawn = draw("anchor", "photo", 3).resize((width, height), Image.Resampling.BICUBIC)
    ramp = np.linspace(0, 60, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    return Image.fromarray(np.clip(np.asarray(drawn) * 0.6 + ramp, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_are_those_of_transformers_to_one_grey_level(width: int, height: int, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the transformers library is for development only")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    write_clip(tmp_path, "quick_gelu")
    config = load_backbone(str(tmp_path), device="cpu").config.preprocess
    image = picture(width, height)
    theirs = torch.as_tensor(np.asarray(CLIPImageProcessorPil.from_pretrained(tmp_path)(image)["pixel_values"][0]))
    view = resize_and_crop(image, config)
    ours = normalise_pixels(torch.from_numpy(view)[None], config)[0]
    one_level = 1 / 255 / min(config.standard_deviation)
    assert theirs.shape == ours.shape
    assert float((ours - theirs).abs().max()) <= one_level * 1.001
    assert float(theirs.std()) > 10 * one_level  # there is something to see
