"""How the recipes for the bundled world were chosen: on pairs of styles that the bundled backbone was pretrained on, laid over each other.

    python tools/choose_recipes.py                              # every method over one grid of rates
    python tools/choose_recipes.py --methods promptmix --set options.whitening=5 --set options.whitening=20

A style the backbone knows leaves nothing to learn. A pixelated sketch, a negative of a stamp or a dark negative does: the backbone
knows both styles and has never seen them together. The tasks are few-shot, base and new, on 80 classes that are not those of the demo
(blocks 1 and 2 of ``promptmix.data.drawn_task``). Two benchmarks of the bundled world have the same classes: ``promptmix bench
cross-dataset`` is measured on block 2 unless told otherwise (``pictograms:others``), and ``pictograms:validation`` is block 1. What they
share with these tasks is the names of the classes, no style and no picture: they are drawn in the unseen styles, and here none is.
Printed is the harmonic mean of base and new accuracy, mean over the tasks; the recipe with the best is the one that ships. Half an hour
on two cores.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import importlib.resources
import itertools
import multiprocessing
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from promptmix.backbones.registry import BUNDLED, load_backbone
from promptmix.config import apply_overrides, read_yaml
from promptmix.data import pictograms
from promptmix.data.drawn_task import block_of_classes
from promptmix.data.records import LabelledPictures
from promptmix.errors import ConfigError
from promptmix.evaluation.metrics import harmonic_mean, measure
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.reporting.tables import text_table
from promptmix.runtime import numpy_generator
from promptmix.training.fit import RunConfig, learn, prepare

RATES = (0.0032, 0.01, 0.032, 0.1, 0.32, 1.0)
SHOTS = 16
TEST_PICTURES = 10
BY_GRADIENT = ("coop", "cocoop", "kgcoop", "prograd", "lasp", "clip-lora", "mocoop", "promptmix", "tip-adapter-f")
# Each task has two pairs: a style and the effect laid over its pictures.
TASKS = (
    (("sketch", "pixelated"), ("stamp", "negative")),
    (("chalk", "painting"), ("small", "negative")),
    (("dark", "negative"), ("painting", "painting")),
    (("sketch", "blurry"), ("stamp", "pixelated")),
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Pictures to learn from, and base and new ones to measure on."""

    seed: int
    training: LabelledPictures
    base: LabelledPictures
    new: LabelledPictures


def draw(class_names: tuple[str, ...], pairs: tuple[tuple[str, str], ...], per_pair: int, seed: int) -> LabelledPictures:
    """Pictures of every class in every pair of styles."""
    pictures, labels = [], []
    for style, effect in pairs:
        for number, one in enumerate(pictograms.draw_set(class_names, (style,), per_pair, seed)):
            generator = numpy_generator(seed, f"{effect} over {style} {number}")
            pixels = np.asarray(one.image.convert("RGB"), np.float32) / np.float32(255)
            changed = np.clip(pictograms.EFFECTS[effect](pixels, generator), 0, 1)
            pictures.append(Image.fromarray((255 * changed).astype(np.uint8)))
            labels.append(class_names.index(one.class_name))
    return LabelledPictures(pictures=pictures, labels=labels, class_names=class_names, description=f"pictures in {pairs}")


@functools.cache
def tasks(shots: int) -> tuple[Task, ...]:
    """One task for each two pairs of styles, each with classes of its own."""
    classes = [name for block in (1, 2) for part in block_of_classes(block) for name in part]
    drawn = []
    for seed, pairs in enumerate(TASKS, start=1):
        order = numpy_generator(seed, "classes of a task").permutation(len(classes))
        names = [classes[place] for place in order]
        base, new = tuple(names[:20]), tuple(names[20:40])
        drawn.append(
            Task(
                seed=seed,
                training=draw(base, pairs, max(1, shots // len(pairs)), 1000 + seed),
                base=draw(base, pairs, TEST_PICTURES, 500),
                new=draw(new, pairs, TEST_PICTURES, 500),
            )
        )
    return tuple(drawn)


def measured(config: dict[str, Any]) -> tuple[float, float, float]:
    """Mean accuracy on base classes, on new ones and their harmonic mean, over the tasks; 0 where new classes are refused."""
    torch.set_num_threads(1)
    backbone, cache = load_backbone(BUNDLED, device="cpu"), FeatureCache()
    found = []
    for task in tasks(config["shots"]):
        run = RunConfig.model_validate({**config, "seed": task.seed})
        prepared = prepare(run, task.training, backbone=backbone, cache=cache)
        learn(prepared)
        shares = []
        for part in (task.base, task.new):
            features = extract_features(backbone, part.pictures, cache=cache).features[:, 0]
            try:
                with torch.no_grad():
                    logits = prepared.method.classifier_for(part.class_names).logits(features)
            except ConfigError:
                shares.append(0.0)
                continue
            shares.append(measure(logits, torch.tensor(list(part.labels)), part.class_names).accuracy)
        found.append((*shares, harmonic_mean(*shares)))
    base, new, harmonic = (statistics.fmean(column) for column in zip(*found, strict=True))
    return base, new, harmonic


def candidates(methods: list[str], settings: list[str], rates: list[float], shots: int) -> dict[str, dict[str, Any]]:
    """The shipped recipes with other rates, and with each of the given settings."""
    recipes = Path(str(importlib.resources.files("promptmix.protocols"))) / "recipes" / "bundled"
    named = {}
    for method, rate, setting in itertools.product(methods, rates, settings):
        written = read_yaml(recipes / f"{method}.yaml")
        written.pop("template_option", None)
        if rate:
            written["recipe"] = {**written.get("recipe", {}), "rate": rate}
        changed = apply_overrides({**written, "shots": shots}, setting.split(",") if setting else [])
        named[" ".join(filter(None, (method, f"rate {rate}" if rate else "", setting)))] = changed
    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(BY_GRADIENT))
    parser.add_argument("--rates", default=",".join(map(str, RATES)), help="0: the recipe's own")
    parser.add_argument("--set", action="append", default=[], help="a=b,c=d: one more candidate for each method and rate")
    parser.add_argument("--shots", type=int, default=SHOTS)
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    rates = [float(rate) for rate in asked.rates.split(",")]
    named = candidates(asked.methods.split(","), asked.set or [""], rates, asked.shots)
    rows = []
    with concurrent.futures.ProcessPoolExecutor(asked.jobs, multiprocessing.get_context("spawn")) as pool:
        for name, shares in zip(named, pool.map(measured, named.values()), strict=True):
            rows.append((name, *(f"{100 * share:.1f}" for share in shares)))
            sys.stderr.write("  ".join(rows[-1]) + "\n")
    sys.stdout.write(text_table(("recipe", "base", "new", "harmonic mean"), rows) + "\n")


if __name__ == "__main__":
    main()
