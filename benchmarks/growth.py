"""How time and memory grow: of a training step with classes, experts, context and pictures; of prediction with classes.

Every point is measured in a process of its own. An exponent is the slope of a straight line through the upper half of a curve's
points on logarithmic axes, by least squares: 1 is linear growth, 0 none.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.measure import in_own_process, machine, median, take_turns, today
from benchmarks.mixture_step import BUNDLED, VIT_B16, MixtureStep, Size
from benchmarks.training_step import held_bytes
from promptmix.evaluation.evaluate import predict_features
from promptmix.evaluation.results import peak_memory_bytes, reset_peak_memory
from promptmix.nn.classifier import Classifier, Memory, Router
from promptmix.prompts.chunks import ChunkLimits
from promptmix.reporting.growth_plots import GrowthPanel, growth_curves
from promptmix.runtime import keep_freed_memory

__all__ = ["draw_growth", "fitted_exponent", "growth_section", "measure_growth"]

IMAGE = "images/growth.png"
STEP = Size(experts=2, classes=20, tower=BUNDLED)
VALUES: dict[str, tuple[int, ...]] = {
    "classes": (10, 30, 100, 300, 1000, 2000),
    "experts": (1, 2, 4, 8, 16, 32),
    "context": (1, 2, 4, 8, 16, 32, 64),
    "pictures": (8, 32, 128, 512, 2048, 8192),
}
TOWERS: dict[str, tuple[str, ...]] = {
    "classes": (BUNDLED, VIT_B16),
    "experts": (BUNDLED, VIT_B16),
    "context": (BUNDLED, VIT_B16),
    "pictures": (BUNDLED,),
}
PREDICTION_CLASSES = (10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
PREDICTION = {"pictures": 32, "experts": 6, "top_k": 2, "embedding": 512, "remembered": 1_600}

_LABELS = {
    "classes": "classes",
    "experts": "experts",
    "context": "context vectors of an expert",
    "pictures": "pictures of a batch",
}
_MODELS = {
    "zero-shot": "one expert",
    "mocoop": "a mixture of experts",
    "promptmix": "the mixture with an image map, weighted means of length 1 and remembered pictures",
}
MAX_BYTES = 2 * 10**9  # of a step of many sequences: as with --max-memory 2GB
MOST_REPEATS, LEAST_REPEATS, _SECONDS_OF_REPEATS = 7, 2, 4.0


def measure_growth(
    step: Size = STEP,
    values: Mapping[str, Sequence[int]] = VALUES,
    towers: Mapping[str, Sequence[str]] = TOWERS,
    prediction_classes: Sequence[int] = PREDICTION_CLASSES,
) -> dict[str, Any]:
    """All curves, with their exponents."""
    return {
        "what": "growth of a training step and of prediction, on the CPU, float32",
        "date": today(),
        "machine": machine(),
        "step": {
            axis: {tower: _step_curve(dataclasses.replace(step, tower=tower), axis, values[axis]) for tower in towers[axis]}
            for axis in values
        },
        "at": dataclasses.asdict(step),
        "prediction": _prediction_curves(prediction_classes),
        "prediction_at": PREDICTION,
    }


def fitted_exponent(places: Sequence[float], values: Sequence[float]) -> float:
    """b of ``values = a * places**b``, by least squares of the logarithms over the upper half of the points, two at least.

    Raises:
        ValueError: there are fewer than two points, or one that has no logarithm.
    """
    if len(places) != len(values) or len(places) < 2:
        raise ValueError(f"{len(places)} places and {len(values)} values; an exponent needs two of each")
    if min(*places, *values) <= 0:
        raise ValueError("a place or a value is not above 0, so it has no logarithm")
    upper = max(2, math.ceil(len(places) / 2))
    return float(np.polyfit(np.log(places[-upper:]), np.log(values[-upper:]), 1)[0])


def _exponent(places: Sequence[float], values: Sequence[float | None]) -> float | None:
    """The same, or None where a value is missing or 0: memory that the system does not tell, or that was held before."""
    known = [value for value in values if value is not None and value > 0]
    return fitted_exponent(places, known) if len(known) == len(values) else None


def _step_curve(size: Size, axis: str, values: Sequence[int]) -> dict[str, Any]:
    points = [in_own_process("benchmarks.growth", {"step": {**dataclasses.asdict(size), axis: value}}) for value in values]
    places = [point["context"] if axis == "context" else value for value, point in zip(values, points, strict=True)]
    seconds, memory = ([point[what] for point in points] for what in ("seconds", "memory_bytes"))
    return {
        "at": places,
        "seconds": seconds,
        "memory_bytes": memory,
        "repeats": [point["repeats"] for point in points],
        "exponent_of_seconds": _exponent(places, seconds),
        "exponent_of_memory": _exponent(places, memory),
    }


def _prediction_curves(classes: Sequence[int]) -> dict[str, Any]:
    points = [in_own_process("benchmarks.growth", {"prediction": number}) for number in classes]
    curves = {name: {"at": list(classes), "seconds": [point[name] for point in points]} for name in points[0]}
    return {name: {**curve, "exponent_of_seconds": _exponent(classes, curve["seconds"])} for name, curve in curves.items()}


# ------------------------------------------------------------------------------------------------ in a process of their own


def take_step_point(size: Size) -> dict[str, Any]:
    """Median seconds of a step after the first, and the memory that the first adds."""
    keep_freed_memory()  # as training does
    step = MixtureStep(size)
    step.plan_memory(MAX_BYTES)
    base = held_bytes(step.device)
    reset_peak_memory()
    step.step(step.loss)
    peak = peak_memory_bytes() or None
    seconds = _repeated(lambda: step.step(step.loss))
    return {
        "seconds": median(seconds),
        "repeats": len(seconds),
        "memory_bytes": None if peak is None or base is None else peak - base,
        "context": step.context,
    }


def _repeated(call: Callable[[], object]) -> list[float]:
    """Seconds of each of several calls: fewer of those that take long."""
    seconds: list[float] = []
    while len(seconds) < LEAST_REPEATS or (len(seconds) < MOST_REPEATS and sum(seconds) < _SECONDS_OF_REPEATS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def take_prediction_point(classes: int) -> dict[str, float]:
    """Median seconds of the logits of saved models over so many classes, and of all that prediction says with one of them."""
    generator = torch.Generator().manual_seed(0)
    width, experts = PREDICTION["embedding"], PREDICTION["experts"]

    def unit_vectors(*shape: int) -> torch.Tensor:
        return functional.normalize(torch.randn(*shape, width, generator=generator), dim=-1)

    pictures, features = unit_vectors(PREDICTION["pictures"]), unit_vectors(experts, classes)
    router = Router(weight=unit_vectors(experts), bias=torch.zeros(experts), top_k=PREDICTION["top_k"])
    entries = PREDICTION["remembered"]
    memory = Memory(keys=unit_vectors(entries), labels=torch.arange(entries) % classes, alpha=1.0, beta=15.0)
    image_map = 0.01 * torch.randn(width, width, generator=generator)
    made = {
        "zero-shot": Classifier(class_features=features[:1], scale=100.0),
        "mocoop": Classifier(class_features=features, scale=100.0, router=router),
        "promptmix": Classifier(
            class_features=features, scale=30.0, router=router, image_map=image_map, renormalise=True, memory=memory
        ),
    }
    saved = {name: Classifier.from_tensors(classifier.tensors()) for name, classifier in made.items()}
    class_names, expert_names = (
        [f"class {number}" for number in range(classes)],
        [f"expert {number}" for number in range(experts)],
    )

    def all_that_is_said() -> object:
        return predict_features(saved["promptmix"], class_names, expert_names, pictures)

    with torch.inference_mode():
        calls: dict[str, Callable[[], object]] = {
            name: lambda classifier=classifier: classifier.logits(pictures)  # type: ignore[misc]  # mypy infers no lambda's defaults
            for name, classifier in saved.items()
        }
        seconds = take_turns({**calls, "promptmix, whole answer": all_that_is_said}, MOST_REPEATS)
    return {name: median(values) for name, values in seconds.items()}


# --------------------------------------------------------------------------------------------------------------- for people


def draw_growth(results: dict[str, Any], path: Path) -> None:
    """All curves, a panel for each axis and what grows, with the exponents in the legends."""
    panels = []
    for axis, curves in results["step"].items():
        for what, unit, factor in (("seconds", "seconds a step", 1.0), ("memory_bytes", "memory of a step in MB", 1e-6)):
            exponent = "exponent_of_seconds" if what == "seconds" else "exponent_of_memory"
            drawn = {
                _with_exponent(tower, curve[exponent]): (curve["at"], [factor * value for value in curve[what]])
                for tower, curve in curves.items()
                if curve[exponent] is not None
            }
            panels.append(GrowthPanel(title=f"{unit} by {axis}", place=_LABELS[axis], value=unit, curves=drawn))
    predictions = {
        _with_exponent(name, curve["exponent_of_seconds"]): (curve["at"], curve["seconds"])
        for name, curve in results["prediction"].items()
    }
    panels.append(GrowthPanel(title="prediction by classes", place="classes", value="seconds a batch", curves=predictions))
    growth_curves(path, [panel for panel in panels if panel.curves], "Growth of a training step and of prediction")


def _with_exponent(name: str, exponent: float | None) -> str:
    return f"{name}, exponent {exponent:.2f}" if exponent is not None else name


def growth_section(results: dict[str, Any]) -> str:
    """The part of the page on growth."""
    at, prediction = results["at"], results["prediction_at"]
    rows = [
        f"| {axis}, {curve['at'][0]:,.4g} to {curve['at'][-1]:,.4g} | {tower} | {_from_to(curve['seconds'], 's')} | {_shown(curve['exponent_of_seconds'])}"
        f" | {_from_to([None if one is None else one / 1e6 for one in curve['memory_bytes']], 'MB')} | {_shown(curve['exponent_of_memory'])} |"
        for axis, curves in results["step"].items()
        for tower, curve in curves.items()
    ]
    classes = next(iter(results["prediction"].values()))["at"]
    shown = [place for place, number in enumerate(classes) if number in (classes[0], 100, 1_000, 10_000, classes[-1])]
    of_prediction = [
        f"| {name} | {' | '.join(f'{1e3 * seconds[place]:.3g}' for place in shown)} | {_shown(exponent)} |"
        for name, seconds, exponent in (
            (name, curve["seconds"], curve["exponent_of_seconds"]) for name, curve in results["prediction"].items()
        )
    ]
    return f"""## How time and memory grow

A training step of the mixture, one number changed and the others at {at["experts"]} experts, {at["classes"]} classes, {at["context"]} context vectors and
{at["pictures"]} pictures; every point in a process of its own, the median of {LEAST_REPEATS} to {MOST_REPEATS} steps after the first. Memory is what the first
step adds to the process; steps of more than {ChunkLimits().rows:,} sequences are planned as with `--max-memory {MAX_BYTES // 10**9}GB`: where that
is not enough to keep all of the backward pass, memory grows no more, and sequences are computed twice. An exponent is the slope of a line through the upper half of a curve's points on logarithmic axes, by least
squares: 1 is linear growth, 0 none. Measured on {results["date"]} on the CPU, {results["machine"]["cores"]} cores.

| what grows | text tower | time of a step | exponent | memory of a step | exponent |
|---|---|---:|---:|---:|---:|
{chr(10).join(rows)}

Prediction after the image tower, {prediction["pictures"]} pictures, {prediction["experts"]} experts of which {prediction["top_k"]} answer, features of width {prediction["embedding"]}: a saved model holds the
features of its classes, so no text is encoded and only the product with them grows. {"; ".join(f"*{name}* is {what}" for name, what in _MODELS.items())}
({prediction["remembered"]:,} of them). The *whole answer* is also probabilities, the five most probable classes and the experts. Milliseconds by classes:

| | {" | ".join(f"{classes[place]:,}" for place in shown)} | exponent |
|---|{"---:|" * len(shown)}---:|
{chr(10).join(of_prediction)}

![growth curves]({IMAGE})
"""


def _from_to(values: Sequence[float | None], unit: str) -> str:
    if values[0] is None or values[-1] is None:
        return "not known"
    first, last = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (values[0], values[-1]))
    return f"{first} to {last} {unit}"


def _shown(exponent: float | None) -> str:
    return "not known" if exponent is None else f"{exponent:.2f}"


def answer(arguments: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own is asked for."""
    if "step" in arguments:
        return take_step_point(Size(**arguments["step"]))
    return take_prediction_point(arguments["prediction"])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.loads(sys.argv[1]))))
