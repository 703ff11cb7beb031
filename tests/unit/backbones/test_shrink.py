"""Shrinking without torch gives the bytes that torch gives, whatever the picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from promptmix.backbones.configs import PreprocessConfig
from promptmix.backbones.preprocess import resize_and_crop
from promptmix.backbones.shrink import shrunk
from promptmix.data.pictograms import draw

needs_quick_torch = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="torch resizes in another way here"
)


@needs_quick_torch
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_the_bytes_are_torchs(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(2, 300)), data.draw(st.integers(2, 300))
    size = (data.draw(st.integers(1, width // 2)), data.draw(st.integers(1, height // 2)))
    mode = data.draw(st.sampled_from(["BICUBIC", "BILINEAR"]))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if data.draw(st.booleans()):
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)  # its sums end on halves, and go beyond 0 and 255
    theirs = functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None], size=(size[1], size[0]), mode=mode.lower(), antialias=True
    )
    assert np.array_equal(shrunk(pixels, size, Image.Resampling[mode]), theirs[0].permute(1, 2, 0).numpy())


@needs_quick_torch
def test_a_process_without_torch_sees_the_same_picture(tmp_path: Path, subprocess_environment: dict[str, str]) -> None:
    config = PreprocessConfig(resize=56, crop=48, mean=(0.5, 0.5, 0.5), standard_deviation=(0.25, 0.25, 0.25))
    sizes = [(400, 300), (300, 400), (301, 299), (60, 200), (900, 130), (48, 56)]
    for number, size in enumerate(sizes):
        draw("cat", "photo", number).resize(size).save(tmp_path / f"{number}.png")
    code = (
        "import json, sys, pathlib, numpy as np\n"
        "from promptmix.backbones.configs import PreprocessConfig\n"
        "from promptmix.backbones.preprocess import resize_and_crop\n"
        "from promptmix.data.images import open_picture\n"
        "folder, config = pathlib.Path(sys.argv[1]), PreprocessConfig.model_validate_json(sys.argv[2])\n"
        "for path in sorted(folder.glob('*.png')):\n"
        "    np.save(path.with_suffix('.npy'), resize_and_crop(open_picture(path), config))\n"
        "print(json.dumps('torch' in sys.modules))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), config.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, env=subprocess_environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) is False
    for number in range(len(sizes)):
        with Image.open(tmp_path / f"{number}.png") as image:
            assert np.array_equal(np.load(tmp_path / f"{number}.npy"), resize_and_crop(image.convert("RGB"), config))
