"""Learning: from pictures to a method that has learnt. What is measured afterwards, and saved, is not known here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import BeforeValidator, Field
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.config import StrictModel
from promptmix.data.records import LabelledPictures
from promptmix.data.transforms import Augmentation
from promptmix.distributed.group import broadcast_json
from promptmix.errors import DataError, InterruptedRun, printable
from promptmix.evaluation.evaluate import class_logits
from promptmix.evaluation.metrics import measure
from promptmix.evaluation.results import peak_memory_bytes
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.memory import memory_bytes
from promptmix.methods.base import Method, Recipe
from promptmix.methods.registry import build_method, method_class
from promptmix.prompts.chunks import ChunkLimits
from promptmix.training.choose import choose_options
from promptmix.training.chunking import plan_chunks
from promptmix.training.feeds import CachedFeed, Feed, LiveFeed
from promptmix.training.loop import StepReport, Taken, train
from promptmix.training.sinks import sink_names
from promptmix.training.tracking import Tracker

__all__ = [
    "Prepared",
    "Progress",
    "RunConfig",
    "Settled",
    "learn",
    "logits_of_held_out",
    "no_progress",
    "plan_memory",
    "prepare",
    "settle_options",
]

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int, str], None]
"""Called with (what is being done, how much is done, how much there is, a few words of detail)."""


class RunConfig(StrictModel):
    """Everything a run depends on, besides the pictures.

    Attributes:
        method, options: the method by name and its own options (``preset`` among them).
        recipe: what to change of the method's recipe.
        shots: how many pictures a class the training set was cut to, for the record and the recipe's length; None: all.
        seed: of every random choice; 0 is a seed like any other.
        log_to: where to tell of the run besides ``log.jsonl``: names of :data:`~promptmix.training.sinks.SINKS`, or a text with commas.
        max_memory: bytes that training may take, also as ``8GB`` or ``2GiB``: on a GPU of its memory, else of the machine's. Fewer
            prompts are encoded at a time then. None: as is usual.
    """

    method: str = "mocoop"
    options: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    backbone: str = "bundled"
    device: str = "auto"
    precision: str = "auto"
    shots: int | None = Field(default=None, ge=1)
    seed: int = Field(default=1, ge=0, lt=2**63)
    augmentation: Augmentation = Augmentation()
    skip_bad: bool = False
    log_to: Annotated[tuple[str, ...], BeforeValidator(sink_names)] = ()
    max_memory: Annotated[int, Field(ge=1), BeforeValidator(memory_bytes)] | None = None


def no_progress(stage: str, done: int, total: int, detail: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that learning needs: the pictures' features, and the method, untrained.

    Attributes:
        kept: the places of the pictures that could be read; ``bad`` the others, each with the reason.
        features: of the kept pictures; view 0 is the test view.
        notes: what must stand beside any number that comes of it.
        seconds: of choosing options, where some were left open.
    """

    config: RunConfig
    recipe: Recipe
    method: Method
    backbone: Backbone
    training: LabelledPictures
    features: Float[Tensor, "picture view embedding"]
    labels: Int[Tensor, "picture"]
    kept: tuple[int, ...]
    bad: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A config whose options leave nothing open, with what must be said of the choice and the seconds it took."""

    config: RunConfig
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def settle_options(
    config: RunConfig,
    training: LabelledPictures,
    *,
    backbone: Backbone,
    cache: FeatureCache | None = None,
    more_class_names: Sequence[str] = (),
    on_progress: Progress = no_progress,
) -> Settled:
    """Choose what the options leave open, on held-out training pictures; the config itself where they leave nothing open.

    Raises:
        ConfigError, DataError, BackboneError: see the message; among them a class with one picture only.
        InterruptedRun: stopped; nothing was chosen.
    """
    kind = method_class(config.method)
    open_options = kind.open_options(kind.parse_options(config.options))
    if not open_options:
        return Settled(config=config)

    def accuracy_with(candidate: Mapping[str, Any], learnt_from: list[int], held_out: list[int]) -> float:
        tried = config.model_copy(update={"options": {**config.options, **candidate}})
        parts = training.subset(learnt_from), training.subset(held_out)
        try:
            return _accuracy(tried, *parts, backbone, cache, more_class_names, on_progress)
        except InterruptedRun as problem:
            raise InterruptedRun("stopped while choosing options; nothing was learnt yet, start the run again") from problem

    begun = time.monotonic()
    choice = choose_options(open_options, training.labels, training.class_names, config.seed, accuracy_with)
    chosen = broadcast_json(dict(choice.options))  # ranks on unlike machines may round to unlike accuracies
    return Settled(
        config=config.model_copy(update={"options": {**config.options, **chosen}}),
        notes=(choice.note(),),
        seconds={"choosing": time.monotonic() - begun},
    )


def prepare(
    config: RunConfig,
    training: LabelledPictures,
    *,
    backbone: Backbone,
    cache: FeatureCache | None = None,
    more_class_names: Sequence[str] = (),
    method: Method | None = None,
    on_progress: Progress = no_progress,
) -> Prepared:
    """Choose what the options leave open, on held-out training pictures; build the method; encode the training pictures.

    Args:
        method: built already from a config that leaves nothing open; else it is built here.

    Raises:
        ConfigError, DataError, BackboneError: see the message; among them a class without a readable picture.
        InterruptedRun: stopped while choosing options.
    """
    kind = method_class(config.method)
    recipe = kind.recipe_for(config.shots, config.recipe)
    settled = settle_options(
        config, training, backbone=backbone, cache=cache, more_class_names=more_class_names, on_progress=on_progress
    )
    if method is None:
        options = settled.config.options
        method = build_method(config.method, options, backbone, training.class_names, config.seed, more_class_names)

    # Each picture once, from the cache where it was seen before.
    uses_views = (kind.learns == "by gradient" and not _is_live(method, config)) or kind.learns_from_views
    extracted = extract_features(
        backbone,
        training.pictures,
        augmentation=config.augmentation if uses_views else None,
        seed=config.seed,
        cache=cache,
        skip_bad=config.skip_bad,
        steady=True,
        on_progress=lambda done, total: on_progress("training pictures", done, total, ""),
    )
    labels = torch.tensor(list(training.labels), device=backbone.device)[list(extracted.kept)]
    _check_classes(labels, training)
    for picture, reason in extracted.bad:
        logger.warning("left out %s: %s", printable(picture), printable(reason))
    features = extracted.features.to(backbone.device)
    if kind.learns == "by gradient":
        method.start_from(features, labels)
    return Prepared(
        config=config,
        recipe=recipe,
        method=method,
        backbone=backbone,
        training=training,
        features=features,
        labels=labels,
        kept=extracted.kept,
        bad=extracted.bad,
        notes=settled.notes,
        seconds=settled.seconds,
    )


def plan_memory(config: RunConfig, recipe: Recipe, method: Method, backbone: Backbone, num_pictures: int) -> ChunkLimits:
    """How much text training encodes at a time; told where the person asked for a limit.

    Raises:
        ConfigError: the limit is too low.
    """
    if method.learns != "by gradient":
        return _unplanned(config)

    def build(class_names: Sequence[str]) -> Method:
        more = method.more_class_names[: len(class_names)]
        return build_method(config.method, config.options, backbone, class_names, config.seed, more)

    views = 1 if _is_live(method, config) else 1 + config.augmentation.views
    table_bytes = 4 * num_pictures * views * backbone.config.embedding_width
    plan = plan_chunks(method, build, min(recipe.batch_size, num_pictures), config.max_memory, table_bytes)
    if plan is None:
        return _unplanned(config)
    logger.log(logging.INFO if config.max_memory is None else logging.WARNING, "memory: %s", plan)
    return plan.limits


def _unplanned(config: RunConfig) -> ChunkLimits:
    if config.max_memory is not None:
        logger.warning("memory: %s encodes no text in its training steps; --max-memory changes nothing", config.method)
    return ChunkLimits()


def learn(
    prepared: Prepared,
    *,
    run_key: str = "",
    log_path: Path | None = None,
    checkpoint_path: Path | None = None,
    limits: ChunkLimits | None = None,
    on_progress: Progress = no_progress,
    tracker: Tracker | None = None,
) -> Taken:
    """Train the prepared method in place; goes on from ``checkpoint_path`` where that file is there. Returns what it took in all.

    Args:
        limits: as :func:`plan_memory` gave them; else they are planned here.
        tracker: to be told of every step; open.

    Raises:
        InterruptedRun: stopped by the person; the checkpoint was written.
        CheckpointError: the checkpoint is damaged or of another run.
        ConfigError: the loss or a parameter is no longer a finite number.
    """
    config, method, labels = prepared.config, prepared.method, prepared.labels
    begun = time.monotonic()
    taken: Taken | None = None
    if method.learns == "by gradient":
        feed: Feed = CachedFeed(prepared.features, labels, config.seed)
        if _is_live(method, config):
            pictures = [prepared.training.pictures[place] for place in prepared.kept]
            feed = LiveFeed(method, prepared.backbone, pictures, labels, config.augmentation, config.seed)

        def report(step: StepReport) -> None:
            on_progress("training", step.done, step.steps, f"loss {step.loss:.3f}, accuracy {100 * step.accuracy:.1f} %")
            if tracker is not None:
                tracker.step(step)

        if limits is None:
            limits = plan_memory(config, prepared.recipe, method, prepared.backbone, feed.num_pictures)
        taken = train(
            method,
            prepared.recipe,
            feed,
            limits=limits,
            run_key=run_key,
            log_path=log_path,
            checkpoint_path=checkpoint_path,
            on_step=report,
            before_save=None if tracker is None else tracker.tell,
        )
    elif method.learns == "in closed form":
        method.fit_features(prepared.features.cpu(), labels.cpu(), config.seed)
    if taken is None:
        seconds = time.monotonic() - begun
        taken = Taken(steps=0, seconds=seconds, earlier_seconds=0.0, peak_memory_bytes=peak_memory_bytes())
    logger.info("training of %d parameters: %.1f s", method.num_learnt_parameters, taken.seconds)
    return taken


def _accuracy(
    config: RunConfig,
    training: LabelledPictures,
    held_out: LabelledPictures,
    backbone: Backbone,
    cache: FeatureCache | None,
    more_class_names: Sequence[str],
    on_progress: Progress,
) -> float:
    """What a method that learns from some training pictures gives on others of them."""
    logits, labels = logits_of_held_out(
        config, training, held_out, "choosing options", backbone, cache, more_class_names, on_progress
    )
    return measure(logits, labels, training.class_names).accuracy


def logits_of_held_out(
    config: RunConfig,
    training: LabelledPictures,
    held_out: LabelledPictures,
    purpose: str,
    backbone: Backbone,
    cache: FeatureCache | None = None,
    more_class_names: Sequence[str] = (),
    on_progress: Progress = no_progress,
) -> tuple[Float[Tensor, "picture class"], Int[Tensor, "picture"]]:
    """Logits and labels of the held-out pictures that can be read, by a method that learns from others alone.

    Args:
        purpose: what for, as progress tells it.
    """

    def report(stage: str, done: int, total: int, detail: str) -> None:
        on_progress(f"{purpose}: {stage}", done, total, detail)

    prepared = prepare(config, training, backbone=backbone, cache=cache, more_class_names=more_class_names, on_progress=report)
    learn(prepared, on_progress=report)
    method = prepared.method
    # A tuned tower is of this method alone, so that nothing in the cache could ever be used again.
    store = None if method.tunes_image_tower else cache
    seen = extract_features(method.backbone, held_out.pictures, cache=store, skip_bad=config.skip_bad, steady=True)
    with torch.no_grad():
        logits = class_logits(method.classifier(), seen.features[:, 0], backbone.device)
    return logits, torch.tensor([held_out.labels[place] for place in seen.kept])


def _is_live(method: Method, config: RunConfig) -> bool:
    """Whether the pictures are encoded anew at each step."""
    return method.learns == "by gradient" and (method.tunes_image_tower or config.augmentation.fresh)


def _check_classes(labels: Tensor, training: LabelledPictures) -> None:
    """Every class needs a picture to learn from."""
    present = set(labels.tolist())
    missing = [name for index, name in enumerate(training.class_names) if index not in present]
    if missing:
        raise DataError(
            f"no readable training picture of class {missing[0]!r} ({len(missing)} such); add some or remove the class"
        )
