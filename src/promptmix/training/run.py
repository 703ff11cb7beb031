"""START READING HERE. One run: backbone, data, method, fit, evaluate, compare with zero-shot, save."""

from __future__ import annotations

import csv
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import known_licence, load_backbone
from promptmix.cards.content import ON_TRAINING_PICTURES
from promptmix.data.images import PictureSource, StoredPicture
from promptmix.data.records import LabelledPictures, PictureSet
from promptmix.data.splits import split_hash, write_split
from promptmix.distributed.group import broadcast_json, broadcast_tensors, is_first, num_ranks
from promptmix.errors import CheckpointError, ConfigError, listed, printable
from promptmix.evaluation.evaluate import class_logits
from promptmix.evaluation.metrics import Metrics, measure
from promptmix.evaluation.predictions import Prediction, predictions_of
from promptmix.evaluation.results import RunResult, peak_memory_bytes, read_result, versions, write_result
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.methods.base import Recipe
from promptmix.methods.registry import build_method, method_class
from promptmix.model_folder import SavedModel, read_model, refuse_overwrite, remove_model, write_model
from promptmix.nn.classifier import Classifier
from promptmix.prompts.chunks import limit_chunks
from promptmix.runtime import atomic_path, write_json, writing
from promptmix.training.fit import Progress, RunConfig, learn, no_progress, plan_memory, prepare, settle_options
from promptmix.training.left_out import CALIBRATION_FILES
from promptmix.training.run_key import shared_run_key
from promptmix.training.tracking import Tracker, forget_tracking, measures_of, settings_of

__all__ = ["Outcome", "run"]

logger = logging.getLogger(__name__)

_FILES_OF_AN_OUTCOME = ("result.json", "model/config.json", "model/model.safetensors", "model/class_features.safetensors")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run gives."""

    model: SavedModel
    result: RunResult


def run(
    config: RunConfig,
    training: LabelledPictures,
    test: LabelledPictures | None = None,
    *,
    more_class_names: Sequence[str] = (),
    backbone: Backbone | None = None,
    cache: FeatureCache | None = None,
    out: Path | None = None,
    split: dict[str, PictureSet] | None = None,
    notes: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Progress = no_progress,
) -> Outcome:
    """Train one method on pictures and measure it.

    Several ranks call this alike; all get the outcome, and the first writes.

    Args:
        test: pictures to measure on; without them the run is measured on its training pictures and says so.
        more_class_names: names without pictures, for options that use them.
        backbone: loaded already; else the config's is loaded.
        out: run folder to write: config, split, log, checkpoint, result, predictions, and the model in ``model/``.
        split: the parts by name, to be written with hashes into the run folder.
        notes: what must stand beside the numbers of this run.
        resume: go on from the checkpoint in ``out``; a finished run is read, not repeated; where there is none, one starts.
        overwrite: throw away a run that is there, and nothing else.

    Raises:
        ConfigError, DataError, BackboneError, CheckpointError: see the message.
        InterruptedRun: stopped by the person; the checkpoint was written.
        LostRankError: another of several ranks is gone; what there is goes on with ``resume``.
    """
    started = time.monotonic()
    seconds: dict[str, float] = {}
    kind = method_class(config.method)
    asked = kind.parse_options(config.options)  # problems come before any work
    recipe = kind.recipe_for(config.shots, config.recipe)
    tracker = Tracker(config.log_to if is_first() else ())
    asked_for = {
        **config.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        "options": asked.model_dump(mode="json"),
    }
    # Of several ranks only the first looks into the run folder and writes there.
    folder = out if is_first() else None
    resumes = bool(broadcast_json(folder is not None and resume and (folder / "run.json").is_file()))
    if folder is not None and not resumes:
        refuse_overwrite(folder, overwrite, "run")
    backbone = (
        backbone if backbone is not None else load_backbone(config.backbone, device=config.device, precision=config.precision)
    )
    measured = training if test is None else test
    run_key = shared_run_key(config, recipe, asked.stands_for(), backbone, training, measured, more_class_names)
    if out is not None and resumes:
        finished = _shared_finished_run(out, run_key)
        if finished is not None:
            return finished
    settled = settle_options(
        config, training, backbone=backbone, cache=cache, more_class_names=more_class_names, on_progress=on_progress
    )
    # What is wrong with options or names is told before anything is written.
    options = settled.config.options
    method = build_method(config.method, options, backbone, training.class_names, config.seed, more_class_names)
    limits = plan_memory(settled.config, recipe, method, backbone, len(training.pictures))
    replaces = folder is not None and not resumes and (folder / "run.json").is_file()
    if folder is not None and not resumes and not replaces:
        if resume:
            logger.warning("there is no run to resume in %s; a new one starts", folder)
        _start_run_folder(folder, run_key, config, recipe)

    # Image features: those of the test pictures are made before the training too. What is wrong with one should not wait for its end.
    begun = time.monotonic()
    with limit_chunks(limits):
        prepared = prepare(
            settled.config,
            training,
            backbone=backbone,
            cache=cache,
            more_class_names=more_class_names,
            method=method,
            on_progress=on_progress,
        )
    tested = extract_features(
        backbone,
        measured.pictures,
        cache=cache,
        skip_bad=config.skip_bad,
        steady=True,
        on_progress=lambda done, total: on_progress("test pictures", done, total, ""),
    )
    test_features = tested.features[:, 0]
    test_labels = torch.tensor([measured.labels[index] for index in tested.kept])
    shown = [measured.pictures[index] for index in tested.kept]
    bad = prepared.bad
    if test is not None:
        bad = (*bad, *tested.bad)
        for picture, reason in tested.bad:
            logger.warning("left out %s: %s", printable(picture), printable(reason))
    # An old run goes only now, with every picture read: a mistake in the new run's input must not cost it.
    if folder is not None and replaces:
        _start_run_folder(folder, run_key, config, recipe)
    hash_of_split = None
    if split is not None:
        left_out = {name for name, _ in bad}
        used = {
            name: part.subset([place for place, picture in enumerate(part.pictures) if str(picture) not in left_out])
            for name, part in split.items()
        }
        hash_of_split = split_hash(used) if folder is None else write_split(folder / "split.json", used)
    seconds |= settled.seconds
    seconds["features"] = time.monotonic() - begun
    logger.info("features of %d pictures: %.1f s", len(prepared.kept) + len(tested.kept), seconds["features"])

    # Learning.
    tracker.open(out, run_key, config.method, settings_of(asked_for, backbone))
    with tracker.closed_on_failure():
        taken = learn(
            prepared,
            run_key=run_key,
            log_path=None if out is None else out / "log.jsonl",
            checkpoint_path=None if out is None else out / "checkpoint.safetensors",
            limits=limits,
            on_progress=on_progress,
            tracker=tracker,
        )
    seconds["training"] = taken.seconds

    # Measuring, beside zero-shot on the same pictures.
    begun = time.monotonic()
    with torch.no_grad(), limit_chunks(limits), tracker.closed_on_failure():
        untrained = build_method("zero-shot", {}, backbone, training.class_names).classifier()
        zero_shot = measure(class_logits(untrained, test_features, backbone.device), test_labels, training.class_names)
        if method.tunes_image_tower:
            # Of this run alone, so that it has no place in the cache.
            test_features = extract_features(method.backbone, shown, steady=True).features[:, 0]
        classifier = method.classifier()
        logits = class_logits(classifier, test_features, backbone.device)
        if method.learns == "by gradient" and not bool(logits.isfinite().all()):
            raise ConfigError(
                "the logits are no longer finite after the last step; lower the rate (--set recipe.rate=...) and start again"
            )
        expert_weights = classifier.expert_weights(test_features.to(backbone.device)).cpu()
    metrics = measure(logits, test_labels, training.class_names)
    seconds["evaluation"] = time.monotonic() - begun
    seconds["all"] = time.monotonic() - started + taken.earlier_seconds
    logger.info("measuring: %.1f s", seconds["evaluation"])
    worse = metrics.accuracy < zero_shot.accuracy
    tracker.result(measures_of(metrics, zero_shot, seconds, method.num_learnt_parameters))
    all_notes = [*notes, *settled.notes, *method.notes(), *tracker.notes]
    if num_ranks() > 1:
        all_notes.append(f"run on {num_ranks()} ranks")
    if bad:
        all_notes.append(f"left out {len(bad)} pictures that cannot be read: {listed(printable(name) for name, _ in bad)}")
    if test is None:
        all_notes.append("measured on the training pictures themselves, so the accuracy says little about new ones")
    unmeasured = [name for name, share in metrics.per_class.items() if share is None]
    if unmeasured:
        all_notes.append(f"no picture was there to measure these classes on: {listed(unmeasured)}")
    if worse:
        all_notes.append("below zero-shot on the same pictures: do not use this model as it stands")

    result = RunResult(
        method=config.method,
        backbone_name=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        config=asked_for,
        data=f"trained on {training.description}; measured on {measured.description}",
        split_hash=hash_of_split,
        seed=config.seed,
        shots=config.shots,
        num_trained_parameters=method.num_learnt_parameters,
        text_encodings_per_step=method.text_encodings_per_step,
        seconds=seconds,
        peak_memory_bytes=max(taken.peak_memory_bytes, peak_memory_bytes()),
        versions=versions(),
        metrics=metrics.to_json(),
        zero_shot=zero_shot.to_json(),
        worse_than_zero_shot=worse,
        notes=all_notes,
    )
    model = SavedModel(
        method=kind.name,
        options=method.saved_options(),
        class_names=training.class_names,
        trained_class_names=training.class_names,
        more_class_names=tuple(more_class_names),
        backbone_name=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        expert_names=method.expert_names,
        classifier=classifier.cpu() if isinstance(classifier, Classifier) else None,
        learnt=method.learnt_state(),
        training={
            "data": training.description,
            "trained_how": training.how,
            "measured_on": measured.description,
            "measured_how": ON_TRAINING_PICTURES if test is None else measured.how,
            "backbone_licence": known_licence(backbone.name),
            "num_training_pictures": len(prepared.kept),
            "shots": config.shots,
            "seed": config.seed,
            "recipe": recipe.model_dump(mode="json"),
            "metrics": _headline(metrics),
            "zero_shot": _headline(zero_shot),
            "notes": all_notes,
        },
    )
    if folder is not None:
        predictions = predictions_of(logits.numpy(), expert_weights.numpy(), training.class_names, method.expert_names, top=1)
        _write_predictions(folder / "predictions.csv", shown, test_labels, training.class_names, predictions)
        write_model(folder / "model", model, overwrite=True)
        write_result(folder / "result.json", result)
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return Outcome(model=model, result=result)


def _shared_finished_run(out: Path, run_key: str) -> Outcome | None:
    """The finished run in the first rank's folder, on every rank; None where it is to be gone on with. It must be of this key."""
    finished = _finished_run(out, run_key) if is_first() else None
    if num_ranks() == 1 or not broadcast_json(finished is not None):
        return finished
    # The others may see no such folder.
    files = {} if finished is None else {name: (out / name).read_bytes() for name in _FILES_OF_AN_OUTCOME}
    sent = broadcast_tensors({name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in files.items()})
    if finished is not None:
        return finished
    with tempfile.TemporaryDirectory(prefix="promptmix-") as name_of_folder:
        folder = Path(name_of_folder)
        (folder / "model").mkdir()
        for name, content in sent.items():
            (folder / name).write_bytes(content.numpy().tobytes())
        return _read_run(folder)


def _finished_run(out: Path, run_key: str) -> Outcome | None:
    """The run in a folder where it is finished; None where it is to be gone on with. It must be of this key."""
    marker = out / "run.json"
    try:
        there = json.loads(marker.read_text(encoding="utf-8"))["run_key"]
    except (ValueError, KeyError, TypeError) as problem:
        raise CheckpointError(f"{marker} is damaged or not of a run; choose another folder, or remove it") from problem
    if there != run_key:
        raise CheckpointError(
            f"{out} holds a run with other options, pictures or backbone; choose another folder, or pass --overwrite"
        )
    if not (out / "result.json").is_file():
        return None
    finished = _read_run(out)
    logger.warning("the run in %s was finished before; its result is shown again", out)
    return finished


def _read_run(out: Path) -> Outcome:
    return Outcome(model=read_model(out / "model"), result=read_result(out / "result.json"))


def _start_run_folder(out: Path, run_key: str, config: RunConfig, recipe: Recipe) -> None:
    """Make the folder ready for a new run. A run that is in the way goes."""
    with writing(out):
        own = ("run.json", "split.json", "log.jsonl", "checkpoint.safetensors", "predictions.csv", "result.json")
        for name in (*own, *CALIBRATION_FILES):
            (out / name).unlink(missing_ok=True)
        forget_tracking(out)
        remove_model(out / "model")
    write_json(
        out / "run.json",
        {
            "format": "promptmix-run",
            "run_key": run_key,
            "config": config.model_dump(mode="json"),
            "recipe": recipe.model_dump(mode="json"),
            "versions": versions(),
        },
    )


def _headline(metrics: Metrics) -> dict[str, Any]:
    """The numbers of a model card, without the tables by class."""
    return {name: value for name, value in metrics.to_json().items() if name not in ("per_class", "confusion")}


def _write_predictions(
    path: Path,
    pictures: Sequence[PictureSource],
    labels: Tensor,
    class_names: Sequence[str],
    predictions: Sequence[Prediction],
) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "prediction", "probability", "margin", "experts"])
        for number, (picture, label, prediction) in enumerate(zip(pictures, labels.tolist(), predictions, strict=True)):
            where = printable(picture) if isinstance(picture, (str, Path, StoredPicture)) else f"picture {number}"
            experts = "; ".join(f"{name} {weight:.4f}" for name, weight in prediction.experts)
            row = [
                where,
                class_names[label],
                prediction.class_name,
                repr(prediction.probability),
                repr(prediction.margin),
                experts,
            ]
            writer.writerow(row)
