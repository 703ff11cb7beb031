"""One run of a plan: learn, and only when all is learnt open the test pictures, measure, and write the result."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.data.images import content_key
from promptmix.data.records import LabelledPictures, class_key
from promptmix.errors import CheckpointError, ConfigError, DataError, listed
from promptmix.evaluation.evaluate import class_logits
from promptmix.evaluation.metrics import Metrics, measure
from promptmix.evaluation.results import (
    BenchResult,
    device_name,
    peak_device_memory_bytes,
    peak_memory_bytes,
    read_bench_result,
    reset_peak_memory,
    versions,
    write_result,
)
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.methods.base import MethodConfig
from promptmix.methods.registry import build_method, method_class
from promptmix.protocols.base import Part, Plan, PlannedRun
from promptmix.protocols.datasets import USUAL_TEMPLATE, DataSource, classes_of, only_classes, open_data
from promptmix.runtime import short_hash, write_json, writing
from promptmix.training.fit import Progress, RunConfig, learn, no_progress, prepare
from promptmix.training.loop import Taken

__all__ = ["Workbench", "execute", "is_finished", "run_folder"]


@dataclass(kw_only=True)
class Workbench:
    """What the runs of one process share: the backbone, the cache, and what zero-shot gives on pictures that were measured on.

    Of the test pictures of a data set nothing is kept but their features, and no run looks at these before it has learnt.
    """

    backbone: Backbone
    cache: FeatureCache | None = None
    tests: dict[tuple[str, int | None], _Tested] = field(default_factory=dict)
    zero_shot: dict[tuple[str, int | None, str], Metrics] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """Test pictures of a data set with their features by the untouched image tower, and the hash of their names and labels."""

    pictures: LabelledPictures
    features: Float[Tensor, "image embedding"]
    listing: str


def run_folder(out: Path, run: PlannedRun) -> Path:
    """Where a run writes."""
    return out / "runs" / run.run_id


def is_finished(out: Path, plan: Plan, run: PlannedRun) -> bool:
    """Whether the result of a run is there, whole and of this plan."""
    folder = run_folder(out, run)
    if _key_there(folder) != plan.run_key(run) or not (folder / "result.json").is_file():
        return False
    try:
        read_bench_result(folder / "result.json")
    except CheckpointError:
        return False
    return True


def execute(
    plan: Plan, run: PlannedRun, bench: Workbench, out: Path | None = None, on_progress: Progress = no_progress
) -> BenchResult:
    """Do one run; with ``out`` an interrupted one goes on from its checkpoint, and the result is written last of all.

    The seconds of the result do not count the encoding of test pictures, nor zero-shot beside them, which is done once for all runs of a
    process.

    Raises:
        ConfigError, DataError, BackboneError: see the message.
        InterruptedRun: stopped while learning; the checkpoint was written.
    """
    reset_peak_memory()
    started = time.monotonic()
    seconds: dict[str, float] = {}
    taken: Taken | None = None
    contender, backbone = plan.contenders[run.contender], bench.backbone
    source = _open(plan, run.data)
    if contender.stands_for(plan.data) != plan.stands_for[run.contender]:
        raise DataError(
            f"the templates that {run.contender} takes from a file are not those of the plan any more; start another bench"
        )
    run_key = plan.run_key(run)
    folder = None if out is None else run_folder(out, run)
    if folder is not None:
        _make_ready(folder, run_key)

    config = RunConfig(
        method=contender.method,
        options=contender.options_for(source.name, source.template),
        recipe=contender.recipe_for(source.name),
        backbone=plan.backbone,
        precision=plan.precision,
        shots=run.shots,
        seed=run.seed,
        augmentation=contender.augmentation,
    )
    learnt_places = classes_of(source, run.classes)
    class_names = tuple(source.class_names[place] for place in learnt_places)
    more_class_names = tuple(name for name in source.class_names if name not in class_names) if contender.new_class_names else ()
    notes = [*source.notes, *contender.notes_for(source.name, source.template)]
    pieces = [run_key]

    # Learning. A method that learns nothing needs no pictures for it.
    kind = method_class(contender.method)
    recipe = kind.recipe_for(run.shots, config.recipe)
    if kind.learns == "nothing":
        method = build_method(config.method, config.options, backbone, class_names, run.seed, more_class_names)
        seconds |= {"features": 0.0, "training": 0.0}
    else:
        training = only_classes(source.training(run.shots, run.seed), learnt_places, run.classes)
        pieces.append(_content_of(training, source))
        notes += _shortages(training, run.shots)
        begun = time.monotonic()
        prepared = prepare(
            config,
            training,
            backbone=backbone,
            cache=bench.cache,
            more_class_names=more_class_names,
            on_progress=on_progress,
        )
        seconds["features"] = time.monotonic() - begun
        taken = learn(
            prepared,
            run_key=short_hash(*pieces),
            log_path=None if folder is None else folder / "log.jsonl",
            checkpoint_path=None if folder is None else folder / "checkpoint.safetensors",
            on_progress=on_progress,
        )
        seconds["training"] = taken.seconds
        method, recipe = prepared.method, prepared.recipe
        notes += prepared.notes
    notes += method.notes()
    if more_class_names:
        notes.append(f"saw the names of the {len(more_class_names)} new classes while learning")

    # Measuring. Up to here no test picture was opened.
    measured_from = time.monotonic()
    measures: dict[str, dict[str, Any] | None] = {}
    zero_shot: dict[str, dict[str, Any]] = {}
    descriptions: dict[str, str] = {}
    refusals: dict[str, str] = {}
    below: list[str] = []
    shared = 0.0  # seconds spent on what later runs have for nothing
    tuned = method.backbone if method.tunes_image_tower else None
    tuned_features: dict[str, Float[Tensor, "image embedding"]] = {}
    for part in run.parts:
        target = _open(plan, part.data)
        begun = time.monotonic()
        tested = _tested(part, target, run.seed, bench, on_progress)
        pieces += [part.name, part.classes, tested.listing]
        places = classes_of(target, part.classes)
        kept, labels = _rows_of(tested.pictures, places)
        names = tuple(target.class_names[place] for place in places)
        notes += _without_pictures(names, labels, "" if target.name == source.name else f"{target.name}: ")
        pictures = only_classes(tested.pictures, places, part.classes)
        descriptions[part.name] = pictures.description
        untrained = _zero_shot(part, target, names, tested, kept, labels, run.seed, bench)
        shared += time.monotonic() - begun
        zero_shot[part.name] = untrained.to_json()
        if target.template is not None:
            notes.append(f"zero-shot of {part.name} has a template picked by hand for it: {target.template!r}")
        if target.name != source.name:
            notes += [f"{target.name}: {note}" for note in target.notes]
        try:
            if kind.learns == "nothing":
                # Nothing travels, so every data set has the words that are its own.
                options = contender.options_for(target.name, target.template)
                notes += contender.notes_for(target.name, target.template)
                notes += _other_options(part, kind.parse_options(config.options), kind.parse_options(options), target)
                classifier = build_method(config.method, options, backbone, names, run.seed).classifier_for(names)
            else:
                # A class that is there under another spelling is the class that was learnt.
                learnt = {class_key(name): name for name in class_names}
                classifier = method.classifier_for([learnt.get(class_key(name), name) for name in names])
        except ConfigError as problem:
            measures[part.name], refusals[part.name] = None, str(problem)
            continue
        features = tested.features
        if tuned is not None:
            if part.data not in tuned_features:
                # Its fingerprint is of this run alone, so that nothing in the cache could ever be used again.
                tuned_features[part.data] = extract_features(
                    tuned,
                    tested.pictures.pictures,
                    steady=True,
                    on_progress=lambda done, total: on_progress("test pictures", done, total, "tuned image tower"),
                ).features[:, 0]
            features = tuned_features[part.data]
        logits = class_logits(classifier, features[kept], backbone.device)
        metrics = measure(logits, labels, names)
        measures[part.name] = metrics.to_json()
        if metrics.accuracy < untrained.accuracy:
            below.append(part.name)
    seconds["evaluation"] = time.monotonic() - measured_from - shared
    seconds["all"] = time.monotonic() - started - shared + (0.0 if taken is None else taken.earlier_seconds)
    if below:
        notes.append(f"below zero-shot on the same pictures: {listed(below)}")

    result = BenchResult(
        protocol=plan.protocol,
        run_id=run.run_id,
        dataset=source.name,
        contender=run.contender,
        config={
            **config.model_dump(mode="json"),
            "options": kind.parse_options(config.options).model_dump(mode="json"),
            "recipe": recipe.model_dump(mode="json"),
        },
        backbone_name=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        seed=run.seed,
        shots=run.shots,
        split_hash=short_hash(*pieces[1:]),
        measures=measures,
        zero_shot=zero_shot,
        descriptions=descriptions,
        refusals=refusals,
        num_trained_parameters=method.num_learnt_parameters,
        text_encodings_per_step=method.text_encodings_per_step,
        seconds=seconds,
        peak_memory_bytes=max(0 if taken is None else taken.peak_memory_bytes, peak_memory_bytes()),
        peak_device_memory_bytes=peak_device_memory_bytes(backbone.device),
        device=device_name(backbone.device),
        num_threads=torch.get_num_threads(),
        precision=backbone.precision,
        versions=versions(),
        notes=list(dict.fromkeys(notes)),
    )
    if folder is not None:
        write_result(folder / "result.json", result)
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return result


def _open(plan: Plan, name: str) -> DataSource:
    """A data set of the plan, which must still be the one that was planned with."""
    source = open_data(plan.data[name].spec)
    if source.listing != plan.data[name].listing:
        raise DataError(f"the pictures of {name} are not those of the plan any more; restore them, or start another bench")
    return source


def _make_ready(folder: Path, run_key: str) -> None:
    """Make a run's folder ready: what another plan left there goes, what this run left stays to go on from."""
    leftovers = ["failed.json", "result.json"]
    if _key_there(folder) != run_key:
        leftovers += ["run.json", "log.jsonl", "checkpoint.safetensors"]
    with writing(folder):
        for name in leftovers:
            (folder / name).unlink(missing_ok=True)
    write_json(folder / "run.json", {"format": "promptmix-bench-run", "run_key": run_key, "versions": versions()})


def _key_there(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / "run.json").read_text(encoding="utf-8"))["run_key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _content_of(training: LabelledPictures, source: DataSource) -> str:
    """Hash of names, labels and contents: what is learnt depends on no more. A picture that cannot be read is told of elsewhere."""
    pieces = list(training.class_names)
    for picture, label in zip(training.pictures, training.labels, strict=True):
        try:
            pieces.append(f"{label} {source.known_as(picture)} {content_key(picture)}")
        except DataError:
            pieces.append(f"{label} {source.known_as(picture)} unreadable")
    return short_hash(*pieces)


def _shortages(training: LabelledPictures, shots: int | None) -> list[str]:
    """Which classes had fewer pictures than shots."""
    if shots is None:
        return []
    counts = torch.bincount(torch.tensor(list(training.labels)), minlength=len(training.class_names)).tolist()
    short = [f"{name} ({count})" for name, count in zip(training.class_names, counts, strict=True) if count < shots]
    return [f"fewer than {shots} pictures, so all of them were learnt from: {listed(short)}"] if short else []


def _without_pictures(names: tuple[str, ...], labels: Int[Tensor, "image"], where: str) -> list[str]:
    """Which classes of a part have nothing to be measured on."""
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    lacking = [name for name, count in zip(names, counts, strict=True) if count == 0]
    return [f"{where}no test picture of {listed(lacking)}"] if lacking else []


def _other_options(part: Part, recorded: MethodConfig, used: MethodConfig, target: DataSource) -> list[str]:
    """Which options a part was measured with, where they are not those that the result records for the source."""
    there = recorded.model_dump()
    # A template picked by hand has a note of its own.
    others = {name: value for name, value in used.model_dump().items() if value != there[name] and value != target.template}
    return [f"{part.name} was measured with {listed(f'{name} {value!r}' for name, value in others.items())}"] if others else []


def _tested(part: Part, target: DataSource, seed: int, bench: Workbench, on_progress: Progress) -> _Tested:
    """The test pictures of a data set, encoded once in a process."""
    key = (part.data, seed if target.tests_vary else None)
    if key not in bench.tests:
        pictures = target.test(seed)
        features = extract_features(
            bench.backbone,
            pictures.pictures,
            cache=bench.cache,
            steady=True,
            on_progress=lambda done, total: on_progress("test pictures", done, total, part.data),
        ).features[:, 0]
        listing = [
            f"{label} {target.known_as(picture)}" for picture, label in zip(pictures.pictures, pictures.labels, strict=True)
        ]
        bench.tests[key] = _Tested(pictures=pictures, features=features, listing=short_hash(*pictures.class_names, *listing))
    return bench.tests[key]


def _rows_of(pictures: LabelledPictures, places: tuple[int, ...]) -> tuple[Int[Tensor, "kept"], Int[Tensor, "kept"]]:
    """The rows of the pictures of some classes, and their labels among these."""
    labels = torch.tensor(list(pictures.labels))
    new_labels = torch.full((len(pictures.class_names),), -1)
    new_labels[list(places)] = torch.arange(len(places))
    kept = (new_labels[labels] >= 0).nonzero()[:, 0]
    return kept, new_labels[labels[kept]]


def _zero_shot(
    part: Part,
    target: DataSource,
    names: tuple[str, ...],
    tested: _Tested,
    kept: Int[Tensor, "kept"],
    labels: Int[Tensor, "kept"],
    seed: int,
    bench: Workbench,
) -> Metrics:
    """What one hard prompt gives on a part; once in a process."""
    key = (part.data, seed if target.tests_vary else None, part.classes)
    if key not in bench.zero_shot:
        template = {"template": target.template or USUAL_TEMPLATE}
        with torch.no_grad():
            classifier = build_method("zero-shot", template, bench.backbone, names).classifier()
            logits = class_logits(classifier, tested.features[kept], bench.backbone.device)
        bench.zero_shot[key] = measure(logits, labels, names)
    return bench.zero_shot[key]
