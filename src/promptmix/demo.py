"""The demo: methods compared on styles the bundled backbone has never seen, base and new classes, with the same shots.

Everything is drawn here and now from fixed seeds. No option was chosen on the pictures the demo measures on, nor on their classes or
styles: the recipes are those of ``promptmix bench`` for the bundled world (``tools/choose_recipes.py``).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.data.drawn_task import block_of_classes, draw_shots, draw_tests, labelled
from promptmix.data.pictograms import UNSEEN_STYLES, DrawnPicture
from promptmix.errors import ConfigError, DataError
from promptmix.evaluation.evaluate import predict_features
from promptmix.evaluation.metrics import harmonic_mean
from promptmix.evaluation.results import versions
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.inference.predictor import Predictor, add_classes
from promptmix.model_folder import SavedModel, write_model
from promptmix.reporting.aggregate import Spread, spread
from promptmix.reporting.tables import markdown_table, share_with_spread
from promptmix.runtime import numpy_generator, write_json, write_text, writing
from promptmix.training.fit import RunConfig
from promptmix.training.run import run

__all__ = ["METHODS", "DemoTask", "MethodScores", "check_free", "compare", "draw_task", "table_rows", "verdict", "write_demo"]

SEEDS = (1, 2, 3)
SHOTS = 16

# Augmented views made every method worse on the classes the recipes were chosen on: a part of a small pictogram is no pictogram.
_PLAIN: dict[str, Any] = {"augmentation": {"views": 0}}
METHODS: dict[str, dict[str, Any]] = {
    "zero-shot": {"method": "zero-shot"},
    "zero-shot ensemble": {"method": "ensemble", "options": {"bank": "styles"}},
    "linear probe": {"method": "linear-probe"},
    "CoOp": {
        "method": "coop",
        "options": {"preset": "base-to-new"},
        "recipe": {"epochs": 20, "rate": 0.32, "clip": 1.0},
        **_PLAIN,
    },
    "mixture of prompts": {
        "method": "mocoop",
        "options": {"bank": "styles"},
        "recipe": {"epochs": 20, "rate": 0.32, "warmup_epochs": 1},
        **_PLAIN,
    },
    "promptmix": {"method": "promptmix", **_PLAIN},
}
SAVED_METHOD = "promptmix"
_MIXTURES = ("mixture of prompts", "promptmix")

HEADER = ("method", "base", "new", "harmonic mean", "trained parameters", "seconds")
_OUTPUTS = ("demo.json", "table.md", "methods.png", "predictions.png", "router.png", "styles.png", "model", "pictures")


@dataclass(frozen=True, kw_only=True)
class DemoTask:
    """Drawn pictures: few-shot training sets by seed, and test pictures of base and of new classes."""

    base: tuple[str, ...]
    new: tuple[str, ...]
    training: dict[int, list[DrawnPicture]]
    test_base: list[DrawnPicture]
    test_new: list[DrawnPicture]

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles of the test pictures, in their order."""
        return tuple(dict.fromkeys(one.style for one in self.test_base))

    @property
    def measured_on(self) -> str:
        """What the numbers were measured on, for people."""
        return (
            f"{len(self.test_base)} drawn pictures of {len(self.base)} base classes and {len(self.test_new)} of {len(self.new)} new"
            f" classes, in the styles {', '.join(self.styles)}"
        )


@dataclass(frozen=True, kw_only=True)
class MethodScores:
    """Accuracies of one method, one a seed (shares; None where the method cannot know new classes), and its cost.

    Attributes:
        by_style: accuracy on the base classes' test pictures of each style, mean of the seeds.
        seconds: for one seed: text features, training and evaluation; image features once they are cached.
        models: one a seed.
    """

    base: list[float]
    new: list[float] | None
    harmonic: list[float] | None
    by_style: dict[str, float]
    num_parameters: int
    seconds: float
    models: list[SavedModel]


def draw_task(seeds: tuple[int, ...] = SEEDS, *, validation: bool = False) -> DemoTask:
    """The few-shot task in the unseen styles: 20 base and 20 new classes, 16 shots of each base class for each seed.

    With ``validation``, 40 other classes: those that the recipes were chosen on.
    """
    base, new = block_of_classes(1 if validation else 0)
    return DemoTask(
        base=base,
        new=new,
        training={seed: draw_shots(base, UNSEEN_STYLES, SHOTS, seed) for seed in seeds},
        test_base=draw_tests(base, UNSEEN_STYLES),
        test_new=draw_tests(new, UNSEEN_STYLES),
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
    pictures = [one.image for one in (*task.test_base, *task.test_new)]
    features = extract_features(
        backbone,
        pictures,
        cache=cache,
        steady=True,
        on_progress=lambda done, total: on_progress("test pictures", done, total, ""),
    ).features[:, 0]
    base_features, new_features = features[: len(task.test_base)], features[len(task.test_base) :]
    for shots in task.training.values():
        # So that no method pays for the others.
        extract_features(backbone, [one.image for one in shots], cache=cache, steady=True)
    test_base = labelled(task.test_base, task.base, "base classes")
    scores: dict[str, MethodScores] = {}
    for number, (name, options) in enumerate(methods.items()):
        base: list[float] = []
        new: list[float] = []
        styles: list[dict[str, float]] = []
        models: list[SavedModel] = []
        seconds = 0.0
        for place, (seed, shots) in enumerate(task.training.items()):
            on_progress("methods x seeds", number * len(task.training) + place, len(methods) * len(task.training), name)
            config = RunConfig.model_validate({"seed": seed, "shots": SHOTS, **options})
            started = time.monotonic()
            outcome = run(config, labelled(shots, task.base, "base classes"), test_base, backbone=backbone, cache=cache)
            seconds += time.monotonic() - started
            models.append(outcome.model)
            hits = _hits(outcome.model, backbone, base_features, task.test_base, task.base)
            base.append(float(hits.mean()))
            styles.append(_by_style(hits, task.test_base))
            try:
                both = add_classes(outcome.model, task.new, backbone)
            except ConfigError:
                continue  # the method knows only classes it has seen pictures of
            new.append(float(_hits(both, backbone, new_features, task.test_new, task.new).mean()))
        knows_new = len(new) == len(base)
        scores[name] = MethodScores(
            base=base,
            new=new if knows_new else None,
            harmonic=[harmonic_mean(*pair) for pair in zip(base, new, strict=True)] if knows_new else None,
            by_style={style: float(np.mean([one[style] for one in styles])) for style in task.styles},
            num_parameters=sum(value.numel() for value in models[0].learnt.values()),
            seconds=seconds / len(base),
            models=models,
        )
    on_progress("methods x seeds", len(methods) * len(task.training), len(methods) * len(task.training), "")
    return scores


def _hits(
    model: SavedModel,
    backbone: Backbone,
    features: Float[Tensor, "image embedding"],
    pictures: Sequence[DrawnPicture],
    class_names: tuple[str, ...],
) -> Float[np.ndarray, "image"]:
    """1 where the model is right, choosing among ``class_names`` alone."""
    places = [model.class_names.index(name) for name in class_names]
    with torch.no_grad():
        logits = Predictor(model, backbone=backbone).classifier.logits(features)
    said = logits[:, places].argmax(dim=1).tolist()
    return np.array([class_names[one] == picture.class_name for one, picture in zip(said, pictures, strict=True)], dtype=float)


def _by_style(hits: Float[np.ndarray, "image"], pictures: Sequence[DrawnPicture]) -> dict[str, float]:
    styles = dict.fromkeys(one.style for one in pictures)
    return {
        style: float(np.mean([hit for hit, picture in zip(hits, pictures, strict=True) if picture.style == style]))
        for style in styles
    }


def table_rows(scores: dict[str, MethodScores]) -> list[tuple[str, ...]]:
    """The table below :data:`HEADER`, in per cent, mean and standard deviation over the seeds."""
    return [
        (
            name,
            share_with_spread(spread(one.base)),
            "n/a" if one.new is None else share_with_spread(spread(one.new)),
            "n/a" if one.harmonic is None else share_with_spread(spread(one.harmonic)),
            f"{one.num_parameters:,}",
            f"{one.seconds:.1f}",
        )
        for name, one in scores.items()
    ]


def verdict(scores: dict[str, MethodScores]) -> str:
    """One sentence on who leads by harmonic mean, and by how much; the numbers decide what it says."""
    means = {name: spread(one.harmonic).mean for name, one in scores.items() if one.harmonic is not None}
    leader = max(means, key=lambda name: means[name])
    others = {name: value for name, value in means.items() if name not in _MIXTURES}
    mixtures = {name: value for name, value in means.items() if name in _MIXTURES}
    rival, mixture = (max(group, key=lambda name: group[name]) for group in (others, mixtures))
    gap = 100 * (mixtures[mixture] - others[rival])
    if leader in mixtures:
        return f"A mixture of prompts leads by harmonic mean: {mixture!r}, {gap:.1f} points above {rival}."
    return f"No mixture of prompts leads here: {rival} is {-gap:.1f} points above {mixture!r} by harmonic mean."


def check_free(out: Path, overwrite: bool) -> None:
    """Raise unless the demo may be written to ``out``.

    Raises:
        DataError: there are files, and nobody said that they may be replaced, or they are not a demo's.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; choose a folder with --out")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / "demo.json").is_file():
        raise DataError(
            f"{out} holds files that are not a demo's; nothing there is overwritten, choose another folder with --out"
        )
    if not overwrite:
        raise DataError(f"{out} is there already; pass --overwrite, or choose another folder with --out")


def write_demo(
    out: Path, task: DemoTask, backbone: Backbone, cache: FeatureCache | None, scores: dict[str, MethodScores], overwrite: bool
) -> None:
    """Write table, pictures, plots and the model; all is made beside ``out`` first, so that a failure leaves ``out`` as it was.

    Raises:
        DataError: see :func:`check_free`; or the disk is full.
    """
    check_free(out, overwrite)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            _write_all(temporary, task, backbone, cache, scores)
            out.mkdir(exist_ok=True)
            for name in _OUTPUTS:
                old = out / name
                if old.is_dir():
                    shutil.rmtree(old)
                os.replace(temporary / name, old)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_all(
    folder: Path, task: DemoTask, backbone: Backbone, cache: FeatureCache | None, scores: dict[str, MethodScores]
) -> None:
    # The plots' library takes half a second to load: not before it is needed.
    from promptmix.reporting import plots

    seed = next(iter(task.training))
    model = scores[SAVED_METHOD].models[0]
    write_model(folder / "model", model)
    _save_pictures(folder / "pictures" / "train", task.training[seed])
    _save_pictures(folder / "pictures" / "test", task.test_base)
    _save_pictures(folder / "pictures" / "new", task.test_new)

    features = extract_features(backbone, [one.image for one in task.test_base], cache=cache).features[:, 0]
    classifier = Predictor(model, backbone=backbone).classifier
    predictions = predict_features(classifier, model.class_names, model.expert_names, features, top=1)
    shown = numpy_generator(0, "demo grid").permutation(len(task.test_base))[:40]
    plots.picture_grid(
        folder / "predictions.png",
        [task.test_base[place].image for place in shown],
        [task.test_base[place].class_name for place in shown],
        [predictions[place].class_name for place in shown],
        [predictions[place].probability for place in shown],
        f"{SAVED_METHOD}, seed {seed}: 40 test pictures of the base classes, drawn by lot",
    )

    seeds = len(task.training)
    measures: dict[str, list[Spread | None]] = {
        "base": [spread(one.base) for one in scores.values()],
        "new": [None if one.new is None else spread(one.new) for one in scores.values()],
        "harmonic mean": [None if one.harmonic is None else spread(one.harmonic) for one in scores.values()],
    }
    title = f"{SHOTS} shots of {len(task.base)} base classes in styles the backbone has not seen ({seeds} seeds)"
    plots.method_bars(folder / "methods.png", list(scores), measures, title)
    styles = list(task.styles)
    plots.accuracy_by_group(
        folder / "styles.png",
        styles,
        {name: [one.by_style[style] for style in styles] for name, one in scores.items()},
        f"Base classes by style (mean of {seeds} seeds)",
    )
    weights = classifier.expert_weights(features).numpy()
    plots.router_heat_map(
        folder / "router.png",
        np.stack([weights[[one.style == style for one in task.test_base]].mean(axis=0) for style in styles]),
        styles,
        list(model.expert_names),
        f"Who answers for which style: mean router weight on the base classes' test pictures ({SAVED_METHOD}, seed {seed})",
    )

    write_text(
        folder / "table.md",
        f"Measured on {task.measured_on}; {SHOTS} shots a base class, mean ± standard deviation of {seeds} seeds, in per cent.\n\n"
        f"{markdown_table(HEADER, table_rows(scores))}\n\n{verdict(scores)}\n",
    )
    write_json(folder / "demo.json", report(task, backbone, scores))


def report(task: DemoTask, backbone: Backbone, scores: dict[str, MethodScores]) -> dict[str, Any]:
    """All numbers at full precision, with what they were measured on."""
    return {
        "format": "promptmix-demo",
        "measured_on": task.measured_on,
        "seeds": list(task.training),
        "shots": SHOTS,
        "base_classes": list(task.base),
        "new_classes": list(task.new),
        "backbone": backbone.name,
        "backbone_fingerprint": backbone.fingerprint,
        "versions": versions(),
        "verdict": verdict(scores),
        "methods": {
            name: {
                "config": METHODS[name],
                "base": one.base,
                "new": one.new,
                "harmonic_mean": one.harmonic,
                "base_by_style": one.by_style,
                "trained_parameters": one.num_parameters,
                "seconds": one.seconds,
            }
            for name, one in scores.items()
        },
    }


def _save_pictures(folder: Path, pictures: Sequence[DrawnPicture]) -> None:
    """One sub-folder a class, as people keep their pictures."""
    for number, one in enumerate(pictures):
        path = folder / one.class_name.replace(" ", "_") / f"{one.style}-{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture: Image.Image = one.image
        picture.save(path)
