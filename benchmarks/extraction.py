"""Image features of photographs: pictures a second against two plain loops, where the time goes, and memory that stays flat.

Real JPEG files are made at the start in a temporary folder: drawn pictures, enlarged, with noise. So it runs offline.
"""

from __future__ import annotations

import functools
import gc
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from benchmarks.measure import median, take_turns
from promptmix.backbones.base import Backbone
from promptmix.backbones.configs import BackboneConfig, PreprocessConfig, TextConfig, VisionTransformerConfig
from promptmix.backbones.preprocess import resize_and_crop
from promptmix.backbones.registry import load_backbone
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.data.images import open_picture
from promptmix.data.pictograms import CLASS_NAMES, draw
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features, iter_features

__all__ = ["measure_extraction", "resident_bytes", "vit_b32", "write_photographs"]

NUM_PICTURES, SIZE, QUALITY = 32, (1600, 1200), 90
FEW, MANY = 1_000, 50_000
PHONE = (4000, 3000)


def measure_extraction(rounds: int = 7) -> dict[str, Any]:
    """Speed with two towers, its parts, what decoding JPEGs at a reduced size would change, and memory."""
    with tempfile.TemporaryDirectory(prefix="promptmix-benchmark-") as name:
        folder = Path(name)
        paths = write_photographs(folder, NUM_PICTURES, SIZE)
        bundled = load_backbone("bundled", with_text=False, device="cpu")
        return {
            "what": f"{NUM_PICTURES} JPEG files of {SIZE[0]} x {SIZE[1]} pixels, quality {QUALITY}, on the CPU",
            "rounds": rounds,
            "file_bytes": round(sum(path.stat().st_size for path in paths) / len(paths)),
            "towers": {
                "bundled": _speed(bundled, paths, rounds),
                "ViT-B/32 size, random weights": _speed(vit_b32(), paths, rounds),
            },
            "reduced_decoding": _reduced_decoding(rounds),
            "memory": {which: _memory_of(which) for which in ("without cache", "with cache")},
        }


def _speed(backbone: Backbone, paths: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Pictures a second of three ways to the same features, and seconds a picture of their parts, one after the other."""
    preprocess = backbone.config.preprocess
    pictures = [open_picture(path) for path in paths[:4]]
    views = np.stack([resize_and_crop(pictures[0], preprocess)] * len(paths))

    def tower() -> object:
        with torch.inference_mode():
            return backbone.encode_pixels(torch.from_numpy(views))

    seconds = take_turns(
        {
            "one_by_one": lambda: _plain_loop(backbone, paths, 1),
            "batched": lambda: _plain_loop(backbone, paths, len(paths)),
            "ours": lambda: extract_features(backbone, paths),
            "tower": tower,
            "plain_reading": lambda: [_plain_open(path) for path in paths[:4]],
            "plain_preprocessing": lambda: [_plain_view(picture, preprocess) for picture in pictures],
            "our_reading": lambda: [open_picture(path) for path in paths[:4]],
            "our_preprocessing": lambda: [resize_and_crop(picture, preprocess) for picture in pictures],
        },
        rounds,
    )
    loops = {name: median(seconds[name]) for name in ("one_by_one", "batched", "ours")}
    return {
        **{f"{name}_pictures_per_second": len(paths) / value for name, value in loops.items()},
        "speedup_over_one_by_one": loops["one_by_one"] / loops["ours"],
        "speedup_over_batched": loops["batched"] / loops["ours"],
        "tower_seconds_per_picture": median(seconds["tower"]) / len(paths),
        **{
            f"{name}_seconds_per_picture": median(seconds[name]) / len(pictures)
            for name in ("plain_reading", "plain_preprocessing", "our_reading", "our_preprocessing")
        },
        "least_cosine_with_the_plain_loop": float(
            (_plain_loop(backbone, paths, 1) * extract_features(backbone, paths).features[:, 0]).sum(dim=1).min()
        ),
    }


def _plain_open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _plain_view(image: Image.Image, preprocess: PreprocessConfig) -> UInt8[np.ndarray, "crop crop 3"]:
    """Short side to ``resize``, then the centre: as pre-processing is written down everywhere."""
    scale = preprocess.resize / min(image.size)
    size = (int(image.width * scale + 1e-9), int(image.height * scale + 1e-9))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - preprocess.crop) // 2, (image.height - preprocess.crop) // 2
    return np.array(image.crop((left, top, left + preprocess.crop, top + preprocess.crop)))


def _plain_loop(backbone: Backbone, paths: Sequence[Path], batch_size: int) -> torch.Tensor:
    """Read, pre-process, encode: one batch after the other, one picture after the other."""
    features = []
    with torch.inference_mode():
        for first in range(0, len(paths), batch_size):
            batch = paths[first : first + batch_size]
            views = [_plain_view(_plain_open(path), backbone.config.preprocess) for path in batch]
            features.append(backbone.encode_pixels(torch.from_numpy(np.stack(views))))
    return torch.cat(features)


# ----------------------------------------------------------------------------------------------------- reduced decoding


def _reduced_decoding(rounds: int) -> list[dict[str, Any]]:
    """What libjpeg's decoding at a half or a quarter of the size would save, and by how many levels it changes a view of 224 pixels."""
    preprocess = PreprocessConfig(resize=224, crop=224, mean=(0.5, 0.5, 0.5), standard_deviation=(0.25, 0.25, 0.25))
    rows = []
    with tempfile.TemporaryDirectory(prefix="promptmix-benchmark-") as name:
        (smooth,) = write_photographs(Path(name), 1, PHONE)
        for kind, path in (("smooth", smooth), ("bright triangles", _write_triangles(Path(name), PHONE))):
            whole = functools.partial(_view_at, path, preprocess, 1)
            for divisor in (2, 4):
                reduced = functools.partial(_view_at, path, preprocess, divisor)
                seconds = take_turns({"whole": whole, "reduced": reduced}, rounds)
                difference = np.abs(whole().astype(int) - reduced())
                rows.append(
                    {
                        "picture": f"{kind}, {PHONE[0]} x {PHONE[1]}",
                        "divisor": divisor,
                        "whole_seconds": median(seconds["whole"]),
                        "reduced_seconds": median(seconds["reduced"]),
                        "greatest_difference_in_levels": int(difference.max()),
                        "share_above_one_level": float((difference > 1).mean()),
                    }
                )
    return rows


def _view_at(path: Path, preprocess: PreprocessConfig, divisor: int) -> UInt8[np.ndarray, "crop crop 3"]:
    if divisor == 1:
        return resize_and_crop(open_picture(path), preprocess)
    with Image.open(path) as image:
        image.draft(None, (image.width // divisor, image.height // divisor))
        image.load()
        return resize_and_crop(image, preprocess)


# --------------------------------------------------------------------------------------------------------------- memory


def _memory_of(which: str) -> dict[str, int] | None:
    """Resident bytes of a process of its own after few and after many pictures; None where the system cannot tell."""
    if not sys.platform.startswith("linux"):
        return None
    done = subprocess.run([sys.executable, "-m", "benchmarks.extraction", which], check=True, capture_output=True, text=True)
    result: dict[str, int] = json.loads(done.stdout)
    return result


def _print_memory_of(which: str, many: int) -> None:
    with tempfile.TemporaryDirectory(prefix="promptmix-benchmark-") as temporary:
        folder = Path(temporary)
        paths = write_photographs(folder, 100, (96, 72))
        cache = FeatureCache(folder / "cache") if which == "with cache" else None
        backbone = load_backbone("bundled", with_text=False, device="cpu")
        resident: dict[str, int] = {}
        started = time.perf_counter()
        for batch in iter_features(backbone, itertools.islice(itertools.cycle(paths), many), cache=cache):
            for name, number in (("few_bytes", FEW), ("many_bytes", many)):
                if batch.done >= number and name not in resident:
                    resident[name] = resident_bytes()
        resident["pictures_per_second"] = round(many / (time.perf_counter() - started))
        sys.stdout.write(json.dumps(resident))


def resident_bytes() -> int:
    """Bytes of this process that are in memory now."""
    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


# ------------------------------------------------------------------------------------------------------- what it works on


def write_photographs(folder: Path, number: int, size: tuple[int, int]) -> list[Path]:
    """Drawn pictures at the size of photographs, with a camera's noise, saved as JPEG."""
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 6, (size[1], size[0], 1)).astype(np.float32)
    paths = []
    for index in range(number):
        drawn = draw(CLASS_NAMES[index % len(CLASS_NAMES)], "photo", index)
        pixels = np.asarray(drawn.resize(size, Image.Resampling.BICUBIC), np.float32) + np.roll(noise, index, axis=1)
        paths.append(folder / f"{index}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=QUALITY)
    return paths


def _write_triangles(folder: Path, size: tuple[int, int]) -> Path:
    """A JPEG of triangles in the eight purest colours: edges where JPEG's halved colour does worst."""
    generator = np.random.default_rng(0)
    image = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(image)
    for _ in range(300):
        middle, reach = generator.integers(size), generator.integers(3, 200)
        corners = middle + generator.integers(-reach, reach, (3, 2))
        red, green, blue = (255 * generator.integers(0, 2, 3)).tolist()
        canvas.polygon([(x, y) for x, y in corners.tolist()], fill=(red, green, blue))
    path = folder / "triangles.jpg"
    image.save(path, quality=QUALITY)
    return path


def vit_b32() -> Backbone:
    """An image tower of ViT-B/32's size with random weights."""
    vision = VisionTransformerConfig(
        image_size=224,
        patch_size=32,
        width=768,
        layers=12,
        heads=12,
        mlp_width=3072,
        activation="quick_gelu",
        layer_norm_epsilon=1e-5,
    )
    text = TextConfig(
        width=8,
        layers=1,
        heads=1,
        mlp_width=8,
        context_length=8,
        vocabulary_size=8,
        activation="quick_gelu",
        layer_norm_epsilon=1e-5,
        start_token=6,
        end_token=7,
    )
    preprocess = PreprocessConfig(resize=224, crop=224, mean=(0.48, 0.46, 0.41), standard_deviation=(0.27, 0.26, 0.28))
    config = BackboneConfig(embedding_width=512, text=text, vision=vision, preprocess=preprocess)
    torch.manual_seed(0)
    tower = VisionTransformer(vision, 512).requires_grad_(False).eval()
    return Backbone(
        name="random", fingerprint="random", config=config, logit_scale=100.0, tokenizer=None, vision=tower, text=None
    )


if __name__ == "__main__":
    _print_memory_of(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else MANY)
