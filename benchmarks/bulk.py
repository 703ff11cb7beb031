"""Bulk prediction against the bare image tower in the same run: pictures a second, and memory that does not grow with the pictures.

The bare tower is what nobody can do without: as many threads as there are processors read and pre-process a batch of pictures, the tower
encodes it, and what comes out is thrown away. Bulk prediction also routes, classifies, names classes and experts, and writes part files.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn import functional

from benchmarks.extraction import resident_bytes, vit_b32, write_photographs
from benchmarks.measure import in_own_process, median, take_turns
from promptmix.backbones.base import Backbone
from promptmix.backbones.preprocess import resize_and_crop
from promptmix.backbones.registry import load_backbone
from promptmix.data.images import PictureSource, open_picture
from promptmix.features.reading import reading_threads
from promptmix.inference.bulk import run_here
from promptmix.inference.bulk_job import BulkJob
from promptmix.inference.predictor import Predictor
from promptmix.model_folder import SavedModel
from promptmix.nn.classifier import Classifier, Router

__all__ = ["bulk_page", "measure_bulk", "mixture_over"]

SIZE, BATCH, NUM_EXPERTS, NUM_CLASSES, TOP = (500, 375), 64, 6, 100, 5
FEW, MANY = 1_000, 20_000


def measure_bulk(rounds: int = 7) -> dict[str, Any]:
    """Speed with two towers and both formats, and memory."""
    with tempfile.TemporaryDirectory(prefix="promptmix-benchmark-") as name:
        folder = Path(name)
        paths = write_photographs(folder, 2 * BATCH, SIZE)
        bundled = load_backbone("bundled", with_text=False, device="cpu")
        return {
            "what": f"JPEG files of {SIZE[0]} x {SIZE[1]} pixels, {NUM_EXPERTS} experts x {NUM_CLASSES} classes, on the CPU",
            "rounds": rounds,
            "towers": {
                "bundled": _speed(bundled, paths * 16, folder, rounds),
                "ViT-B/32 size, random weights": _speed(vit_b32(), paths, folder, rounds),
            },
            "memory": _memory(),
        }


def bulk_page(results: dict[str, Any]) -> str:
    """The part of the page on bulk prediction."""
    rows = [
        f"| {name} | {one['bare_pictures_per_second']:.1f} | {one['parquet_pictures_per_second']:.1f} ({100 * one['parquet_share']:.0f} %)"
        f" | {one['csv_pictures_per_second']:.1f} ({100 * one['csv_share']:.0f} %) |"
        for name, one in results["towers"].items()
    ]
    memory = results["memory"]
    grown = (
        "not known on this system"
        if memory is None
        else f"{memory['few_bytes'] / 1e6:.0f} MB after {FEW:,} pictures, {memory['many_bytes'] / 1e6:.0f} MB after {MANY:,}"
    )
    return f"""## Bulk prediction

{results["what"]}. *Bare tower*: threads read and pre-process a batch of {BATCH}, the tower encodes it, and that is all; *to Parquet* and *to CSV*: `promptmix predict --out`,
which also routes, classifies and writes. Pictures a second:

| tower | bare tower | to Parquet | to CSV |
|---|---:|---:|---:|
{chr(10).join(rows)}

Resident memory of a process that predicts the same small pictures again and again, {FEW:,} a part file: {grown}.
"""


def _speed(backbone: Backbone, paths: Sequence[Path], folder: Path, rounds: int) -> dict[str, Any]:
    predictor = mixture_over(backbone)

    def bulk(file_format: str) -> None:
        out = folder / "out"
        out.mkdir()
        run_here(_job(file_format, len(paths)), out, paths, predictor)
        shutil.rmtree(out)

    seconds = take_turns(
        {"bare": lambda: _bare_tower(backbone, paths), "parquet": lambda: bulk("parquet"), "csv": lambda: bulk("csv")}, rounds
    )
    said: dict[str, Any] = {"num_pictures": len(paths)}
    for name, taken in seconds.items():
        said[f"{name}_pictures_per_second"] = len(paths) / median(taken)
    for name in ("parquet", "csv"):
        # Pairs that followed one another: a slow spell of the machine hits both.
        said[f"{name}_share"] = median([bare / ours for bare, ours in zip(seconds["bare"], seconds[name], strict=True)])
    return said


def _bare_tower(backbone: Backbone, paths: Sequence[Path]) -> None:
    preprocess = backbone.config.preprocess

    def view(path: Path) -> UInt8[np.ndarray, "crop crop 3"]:
        return resize_and_crop(open_picture(path), preprocess)

    def start(threads: ThreadPoolExecutor, first: int) -> list[Any]:
        return [threads.submit(view, path) for path in paths[first : first + BATCH]]

    with reading_threads() as threads, torch.inference_mode():
        for first in range(0, len(paths), BATCH):
            views = [one.result() for one in start(threads, first)]
            backbone.encode_pixels(torch.from_numpy(np.stack(views)))


def mixture_over(backbone: Backbone) -> Predictor:
    """A mixture with random features over a backbone."""
    generator, width = torch.Generator().manual_seed(0), backbone.config.embedding_width
    router = Router(weight=torch.randn(NUM_EXPERTS, width, generator=generator), bias=torch.zeros(NUM_EXPERTS), top_k=2)
    features = functional.normalize(torch.randn(NUM_EXPERTS, NUM_CLASSES, width, generator=generator), dim=-1)
    class_names = tuple(f"class {number}" for number in range(NUM_CLASSES))
    model = SavedModel(
        method="mocoop",
        options={},
        class_names=class_names,
        trained_class_names=class_names,
        more_class_names=(),
        backbone_name=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        expert_names=tuple(f"a photo of a {{}}, number {number}." for number in range(NUM_EXPERTS)),
        classifier=Classifier(class_features=features, scale=100.0, router=router),
        learnt={},
        training={},
    )
    return Predictor(model, backbone=backbone)


def _job(file_format: str, rows_per_file: int) -> BulkJob:
    said = {"model": "random", "precision": "auto", "sources": ("made",), "source_state": "", "image_column": None, "top": TOP}
    return BulkJob.model_validate({**said, "file_format": file_format, "rows_per_file": rows_per_file})


def _memory() -> dict[str, int] | None:
    """Resident bytes of a process of its own after few and after many pictures; None where the system cannot tell."""
    if not sys.platform.startswith("linux"):
        return None
    resident: dict[str, int] = in_own_process("benchmarks.bulk", {"few": FEW, "many": MANY})
    return resident


def answer(arguments: dict[str, Any]) -> dict[str, int]:
    """What a process of its own is asked for."""
    few, many = arguments["few"], arguments["many"]
    with tempfile.TemporaryDirectory(prefix="promptmix-benchmark-") as name:
        folder = Path(name)
        paths = write_photographs(folder, 100, (96, 72))
        predictor = mixture_over(load_backbone("bundled", with_text=False, device="cpu"))
        resident: dict[str, int] = {}

        def watch(done: int, rate: float) -> None:
            for what, number in (("few_bytes", few), ("many_bytes", many)):
                if done >= number and what not in resident:
                    resident[what] = resident_bytes()

        (folder / "out").mkdir()
        started = time.perf_counter()
        pictures: list[PictureSource] = list(paths)
        run_here(
            _job("parquet", few), folder / "out", itertools.islice(itertools.cycle(pictures), many), predictor, on_progress=watch
        )
        resident["pictures_per_second"] = round(many / (time.perf_counter() - started))
    return resident


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.loads(sys.argv[1]))))
