"""The demo: methods compared on styles the bundled backbone has never seen, base and new classes, with the same shots.

Everything is drawn here and now from fixed seeds. No option was chosen on the test pictures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.data import pictograms
from promptmix.errors import ConfigError
from promptmix.evaluation.metrics import harmonic_mean, measure
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.inference.predictor import add_classes
from promptmix.model_folder import SavedModel
from promptmix.runtime import numpy_generator
from promptmix.training.run import LabelledPictures, RunConfig, run

__all__ = ["METHODS", "DemoTask", "MethodScores", "compare", "draw_task"]

NUM_CLASSES = 20  # base classes, and as many new ones
SHOTS = 16
TEST_PICTURES = 5  # of each class and style

METHODS: dict[str, dict[str, Any]] = {
    "zero-shot": {"method": "zero-shot"},
    "ensemble": {"method": "ensemble", "options": {"bank": "styles"}},
    "linear probe": {"method": "linear-probe"},
    "CoOp": {"method": "coop", "options": {"preset": "base-to-new"}, "recipe": {"epochs": 50}},
    "mixture of prompts": {"method": "mocoop", "options": {"bank": "styles"}, "recipe": {"epochs": 25}},
    "mixture, image side": {"method": "mocoop", "options": {"bank": "styles", "preset": "image_side"}, "recipe": {"epochs": 25}},
}


@dataclass(frozen=True, kw_only=True)
class DemoTask:
    """Drawn pictures: ``training`` by seed, and test pictures of base and of new classes with the style of each."""

    training: dict[int, LabelledPictures]
    test_base: LabelledPictures
    test_new: LabelledPictures
    styles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MethodScores:
    """Accuracies of one method, one a seed (shares; None where the method cannot know new classes), and its cost."""

    base: list[float]
    new: list[float] | None
    harmonic: list[float] | None
    num_parameters: int
    seconds: float
    models: list[SavedModel]


def draw_task(seeds: tuple[int, ...], styles: tuple[str, ...] = pictograms.UNSEEN_STYLES) -> DemoTask:
    """The few-shot task: 20 base and 20 new classes in the given styles, 16 shots of each base class for each seed."""
    order = numpy_generator(0, "demo classes").permutation(len(pictograms.CLASS_NAMES))
    names = [pictograms.CLASS_NAMES[index] for index in order[: 2 * NUM_CLASSES]]
    base, new = tuple(names[:NUM_CLASSES]), tuple(names[NUM_CLASSES:])

    def drawn(class_names: tuple[str, ...], per_cell: int, seed: int, what: str) -> LabelledPictures:
        pictures = pictograms.draw_set(class_names, styles, per_cell, seed)
        return LabelledPictures(
            pictures=[one.image for one in pictures],
            labels=[class_names.index(one.class_name) for one in pictures],
            class_names=class_names,
            description=f"{len(pictures)} drawn pictures of {len(class_names)} {what} classes in the styles {', '.join(styles)}",
        )

    return DemoTask(
        training={seed: drawn(base, SHOTS // len(styles), 1000 + seed, "base") for seed in seeds},
        test_base=drawn(base, TEST_PICTURES, 100, "base"),
        test_new=drawn(new, TEST_PICTURES, 100, "new"),
        styles=tuple(style for _ in base for style in styles for _ in range(TEST_PICTURES)),
    )


def compare(
    task: DemoTask,
    backbone: Backbone,
    cache: FeatureCache | None,
    methods: dict[str, dict[str, Any]] | None = None,
    on_progress: Callable[[str, int, int, str], None] = lambda stage, done, total, detail: None,
) -> dict[str, MethodScores]:
    """Train every method on every seed's shots of the base classes; measure on base and on new classes, each among its own."""
    methods = METHODS if methods is None else methods
    new_features = extract_features(backbone, task.test_new.pictures, cache=cache).features[:, 0]
    scores: dict[str, MethodScores] = {}
    for name, options in methods.items():
        started = time.monotonic()
        base: list[float] = []
        new: list[float] = []
        models: list[SavedModel] = []
        for seed, training in task.training.items():
            config = RunConfig.model_validate({"seed": seed, "shots": SHOTS, **options})
            outcome = run(config, training, task.test_base, backbone=backbone, cache=cache, on_progress=on_progress)
            base.append(outcome.result.metrics["accuracy"])
            models.append(outcome.model)
            try:
                both = add_classes(outcome.model, task.test_new.class_names, backbone)
            except ConfigError:
                continue  # the method knows only classes it has seen pictures of
            new.append(_accuracy_on_new(both, new_features, task))
        knows_new = len(new) == len(base)
        scores[name] = MethodScores(
            base=base,
            new=new if knows_new else None,
            harmonic=[harmonic_mean(*pair) for pair in zip(base, new, strict=True)] if knows_new else None,
            num_parameters=sum(value.numel() for value in models[0].learnt.values()),
            seconds=(time.monotonic() - started) / len(base),
            models=models,
        )
    return scores


def _accuracy_on_new(model: SavedModel, features: Float[Tensor, "image embedding"], task: DemoTask) -> float:
    alone = model.classifier.with_classes(model.classifier.class_features[:, NUM_CLASSES:])
    with torch.no_grad():
        logits = alone.logits(features)
    return measure(logits, torch.from_numpy(np.array(task.test_new.labels)), task.test_new.class_names).accuracy
