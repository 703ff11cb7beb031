"""What a plan will cost, from a few timed steps of each contender on random features and a few timed pictures. Nothing is written."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.data.transforms import Augmentation
from promptmix.errors import PromptMixError
from promptmix.evaluation.results import peak_memory_bytes, reset_peak_memory
from promptmix.methods.base import Method, Recipe
from promptmix.methods.registry import build_method, method_class
from promptmix.protocols.base import Plan, PlannedRun
from promptmix.protocols.contenders import Contender
from promptmix.protocols.datasets import DataSource, classes_of, open_data
from promptmix.runtime import torch_generator
from promptmix.structs import Batch
from promptmix.training.feeds import num_steps

__all__ = ["Estimate", "estimate_plan", "seconds_for_pictures"]

_TIMED_PICTURES = 8
_TIMED_STEPS = 5
_TIMED_SECONDS = 2.0  # no further step after so long
_TIMED_FEATURES = 512  # of a fit in closed form, at most; a longer one is taken to grow with the number of pictures


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What all runs of one contender on one class list are expected to cost.

    Attributes:
        num_runs: of this contender on this class list.
        steps: of all these runs together; ``text_encodings``: sequences through the text tower in all of them.
        seconds: of learning, in all of them, each process by itself; without features and measuring.
        memory_bytes: the most that this process held in a timed step; 0 where the system does not tell.
        problem: why there is no estimate; empty where there is one.
    """

    contender: str
    data: str
    num_classes: int
    num_runs: int
    steps: int
    text_encodings: int
    seconds: float
    memory_bytes: int
    problem: str


def estimate_plan(plan: Plan, backbone: Backbone) -> list[Estimate]:
    """One estimate for each contender and class list of a plan, in the order of its runs."""
    groups: dict[tuple[str, str, str], list[PlannedRun]] = {}
    for run in plan.runs:
        groups.setdefault((run.contender, run.data, run.classes), []).append(run)
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        return [_estimate(plan, runs, backbone) for runs in groups.values()]
    finally:
        torch.set_num_threads(threads)


def seconds_for_pictures(plan: Plan, backbone: Backbone) -> tuple[int, float]:
    """How many views of pictures are to be encoded where none is in the cache, and how long a few random ones say that this takes."""
    sources = {name: open_data(data.spec) for name, data in plan.data.items()}
    wanted: dict[tuple[str, int | None, int, Augmentation], int] = {}
    for run in plan.runs:
        source, contender = sources[run.data], plan.contenders[run.contender]
        if contender.learns != "nothing":
            views = contender.augmentation if _uses_cached_views(contender) else Augmentation(views=0)
            key = (run.data, run.seed, len(classes_of(source, run.classes)), views)
            wanted[key] = max(wanted.get(key, 0), _num_pictures(run, source))
    num_views = sum(count * (1 + views.views) for (_, _, _, views), count in wanted.items())
    measured = {(part.data, run.seed if sources[part.data].tests_vary else None) for run in plan.runs for part in run.parts}
    num_views += sum(sources[name].num_test for name, _ in measured)
    size = backbone.config.preprocess.crop
    pixels = torch.randint(0, 256, (_TIMED_PICTURES, size, size, 3), generator=torch_generator(0, "estimate"), dtype=torch.uint8)
    with torch.inference_mode():
        backbone.encode_pixels(pixels[:1])
        begun = time.monotonic()
        backbone.encode_pixels(pixels)
    return num_views, (time.monotonic() - begun) / _TIMED_PICTURES * num_views


def _estimate(plan: Plan, runs: list[PlannedRun], backbone: Backbone) -> Estimate:
    first = runs[0]
    contender, source = plan.contenders[first.contender], open_data(plan.data[first.data].spec)
    places = classes_of(source, first.classes)
    names = tuple(source.class_names[place] for place in places)
    others = tuple(name for name in source.class_names if name not in names) if contender.new_class_names else ()
    kind = method_class(contender.method)
    steps = encodings = 0
    seconds, problem = 0.0, ""
    reset_peak_memory()
    try:
        options = dict(contender.options_for(source.name, source.template))
        open_options = kind.open_options(kind.parse_options(options))
        if open_options:
            options |= open_options[0]  # what is chosen later costs about as much; the choosing itself is not counted
        method = build_method(contender.method, options, backbone, names, first.seed, others)
        counts = [_num_pictures(run, source) for run in runs]
        recipes = [kind.recipe_for(run.shots, contender.recipe_for(source.name)) for run in runs]
        if kind.learns == "by gradient":
            steps = sum(_num_steps(recipe, count) for recipe, count in zip(recipes, counts, strict=True))
            encodings = steps * method.text_encodings_per_step
            batch_size = min(recipes[0].batch_size, max(counts))
            method.start_from(*_random_pictures(backbone, min(max(counts), _TIMED_FEATURES), len(names)))
            seconds = steps * _seconds_of_a_step(method, backbone, batch_size, contender.augmentation.fresh)
        elif kind.learns == "in closed form":
            timed = max(2 * len(names), min(_TIMED_FEATURES, max(counts)))
            seconds = _seconds_of_a_fit(method, backbone, timed) / timed * sum(counts)
    except PromptMixError as failure:
        problem = str(failure)
    return Estimate(
        contender=first.contender,
        data=first.data,
        num_classes=len(names),
        num_runs=len(runs),
        steps=steps,
        text_encodings=encodings,
        seconds=seconds,
        memory_bytes=peak_memory_bytes(),
        problem=problem,
    )


def _uses_cached_views(contender: Contender) -> bool:
    kind = method_class(contender.method)
    return kind.learns_from_views or (kind.learns == "by gradient" and not contender.augmentation.fresh)


def _num_pictures(run: PlannedRun, source: DataSource) -> int:
    """How many pictures a run learns from, where no class has too few."""
    share = len(classes_of(source, run.classes)) / len(source.class_names)
    known = None if source.num_training is None else math.ceil(share * source.num_training)
    if run.shots is None:
        return known or 0
    asked = run.shots * len(classes_of(source, run.classes))
    return asked if known is None else min(asked, known)


def _num_steps(recipe: Recipe, num_pictures: int) -> int:
    return recipe.epochs * num_steps(num_pictures, recipe.batch_size) if recipe.steps is None else recipe.steps


def _random_pictures(
    backbone: Backbone, count: int, num_classes: int
) -> tuple[Float[Tensor, "image view embedding"], Int[Tensor, "image"]]:
    """Features of one view of pictures that nobody has seen, and labels."""
    features = torch.randn(count, 1, backbone.config.embedding_width, generator=torch_generator(0, "estimate"))
    labels = torch.arange(count) % num_classes
    return functional.normalize(features, dim=-1).to(backbone.device), labels.to(backbone.device)


def _seconds_of_a_step(method: Method, backbone: Backbone, batch_size: int, fresh: bool) -> float:
    """A training step and its gradients: the median of a few, without the first, in which things are made that are then kept."""
    views, labels = _random_pictures(backbone, batch_size, len(method.class_names))
    features = views[:, 0]
    size = backbone.config.preprocess.crop
    pixels = torch.zeros((batch_size, size, size, 3), dtype=torch.uint8)
    is_live = method.tunes_image_tower or fresh
    seconds: list[float] = []
    while len(seconds) <= _TIMED_STEPS and (len(seconds) < 2 or sum(seconds) < _TIMED_SECONDS):
        begun, number = time.monotonic(), len(seconds)
        seen = method.encode_training_pixels(pixels, number) if is_live else features
        frozen = None
        if method.needs_frozen_features:
            frozen = backbone.encode_pixels(pixels).detach() if is_live else features
        output = method.training_step(Batch(image_features=seen, labels=labels, frozen_features=frozen, number=number))
        method.zero_grad()
        method.backward(output)
        seconds.append(time.monotonic() - begun)
    return statistics.median(seconds[1:])


def _seconds_of_a_fit(method: Method, backbone: Backbone, count: int) -> float:
    views, labels = _random_pictures(backbone, count, len(method.class_names))
    begun = time.monotonic()
    method.fit_features(views.cpu(), labels.cpu(), 0)
    return time.monotonic() - begun
