"""promptmix train"""

from __future__ import annotations

import json
import math
from pathlib import Path

from promptmix.cli.calibrate import calibrate_run, tell
from promptmix.cli.output import percent, progress
from promptmix.cli.ranks import working_together
from promptmix.config import apply_overrides, parse_config, read_yaml
from promptmix.data.datasets_hub import HUB_PREFIX
from promptmix.data.images import StoredPicture
from promptmix.data.read import Columns, part_to_measure, read_parts
from promptmix.data.records import LabelledPictures, PictureSet, check_class_names
from promptmix.data.sampling import sample_shots
from promptmix.data.splits import read_split
from promptmix.distributed.group import is_first, use_own_device
from promptmix.errors import ConfigError, DataError, InterruptedRun, listed, printable
from promptmix.evaluation.answers import MeasuredAnswers
from promptmix.evaluation.targets import Wanted
from promptmix.features.cache import FeatureCache
from promptmix.nn.calibration import Calibration
from promptmix.training.fit import RunConfig
from promptmix.training.left_out import check_can_leave_out
from promptmix.training.run import run


@working_together()
def train(
    source: str,
    out: Path,
    test: str | None,
    image_column: str | None,
    label_column: str | None,
    classes: Path | None,
    split_file: Path | None,
    config_file: Path | None,
    method: str | None,
    backbone: str | None,
    shots: int | None,
    hold_out: float,
    seed: int | None,
    epochs: int | None,
    more_classes: list[str],
    settings: list[str],
    resume: bool,
    overwrite: bool,
    calibrate: bool,
    abstain: str | None,
    label_sets: float | None,
    log_to: list[str] | None,
    skip_bad: bool,
    device: str | None,
    precision: str | None,
    max_memory: str | None,
    cache: bool,
    json_output: bool,
) -> None:
    # The file first, over it the options that were given, over them --set.
    given = {
        "method": method,
        "backbone": backbone,
        "device": device,
        "precision": precision,
        "max_memory": max_memory,
        "shots": shots,
        "seed": seed,
        "skip_bad": skip_bad or None,
        "log_to": log_to,
        "recipe.epochs": epochs,
    }
    values = {} if config_file is None else read_yaml(config_file)
    overrides = [f"{name}={json.dumps(value)}" for name, value in given.items() if value is not None]
    overrides += [f"options.{text.removeprefix('method.')}" if text.startswith("method.") else text for text in settings]
    config = parse_config(RunConfig, apply_overrides(values, overrides), "options of train")
    wanted = Wanted.parse(abstain, label_sets) if calibrate or abstain is not None or label_sets is not None else None
    if not 0 <= hold_out < 1:
        raise ConfigError(f"--hold-out {hold_out} is not a share; give a number from 0 to below 1, such as 0.2")
    for folder in filter(None, (source, test)):
        if Path(folder).expanduser().is_dir() and out.expanduser().resolve().is_relative_to(Path(folder).expanduser().resolve()):
            raise ConfigError(f"--out {out} lies in {folder}, among the pictures; choose a folder elsewhere")
    use_own_device(config.device)
    columns = Columns(image=image_column, label=label_column)
    notes = []
    parts_there = read_parts(source, columns=columns, classes_file=classes)
    if split_file is not None:
        every = sum(map(len, parts_there.values()))
        parts_there = _parts_of(split_file, parts_there, source)
        unused = every - sum(map(len, parts_there.values()))
        if unused:
            notes.append(f"{unused} pictures of the source are not in the split")
    if "train" not in parts_there:
        raise DataError(f"{source} has no train part to learn from; it has {', '.join(parts_there)}")
    pictures = parts_there["train"]
    tested_elsewhere = test is not None or split_file is not None or "test" in parts_there
    training, held_out, short_classes = _split(pictures, config.shots, 0.0 if tested_elsewhere else hold_out, config.seed)
    if wanted is not None:
        check_can_leave_out(config.method, training.labels)
    if source.startswith(HUB_PREFIX):
        notes.append(f"the pictures are of {pictures.root}")
    if "val" in parts_there:
        notes.append(f"the val part ({len(parts_there['val'])} pictures) was not used; it is left for choosing")
    if short_classes:
        counts = listed(f"{name} ({count})" for name, count in short_classes.items())
        notes.append(f"fewer than {config.shots} pictures, so all of them were learnt from: {counts}")
    parts = {"train": training}
    measured = None
    if test is not None:
        tests = read_parts(test, class_names=pictures.class_names, columns=columns, classes_file=classes)
        test_part = part_to_measure(tests, None, test)
        description = f"the pictures of {printable(test)}" if len(tests) == 1 else f"the {test_part} part of {printable(test)}"
        measured = LabelledPictures.of(tests[test_part], description, "from another source than those it learnt from")
    elif "test" in parts_there:
        parts["test"] = parts_there["test"]
        description = f"the test part of {printable(source)} ({len(parts['test'])} pictures)"
        measured = LabelledPictures.of(parts["test"], description, "the test part of the source that it learnt from")
    elif len(held_out) > 0:
        description = f"{len(held_out)} pictures of {printable(source)} that were not trained on"
        measured = LabelledPictures.of(held_out, description, "from the source that it learnt from, drawn at random and held out")
        parts["test"] = held_out
    how = "all of its source" if tested_elsewhere or not len(held_out) else "all that were not held out"
    how = how if config.shots is None else f"{config.shots} of each class, drawn at random"
    learnt_from = LabelledPictures.of(training, f"{len(training)} pictures of {printable(source)}", how)
    store = FeatureCache() if cache else None
    more_class_names = check_class_names([*pictures.class_names, *more_classes])[len(pictures.class_names) :]
    calibrated: tuple[Calibration, MeasuredAnswers | None] | None = None
    try:
        with progress() as on_progress:
            outcome = run(
                config,
                learnt_from,
                measured,
                cache=store,
                out=out,
                split=parts,
                notes=notes,
                more_class_names=more_class_names,
                resume=resume,
                overwrite=overwrite,
                on_progress=on_progress,
            )
            if wanted is not None:
                calibrated = calibrate_run(
                    out, outcome.model, wanted, config, learnt_from, measured, store, more_class_names, on_progress
                )
    except KeyboardInterrupt as problem:
        raise InterruptedRun(f"interrupted; the same command with --resume goes on with the run in {out}") from problem
    if not is_first():
        return
    result = outcome.result
    if json_output:
        told = result.model_dump(mode="json")
        if calibrated is not None:
            told["calibration"], told["calibration_measured"] = (
                None if one is None else one.model_dump(mode="json") for one in calibrated
            )
        print(json.dumps(told))
        return
    print(result.data)
    trained, untrained = percent(result.metrics["accuracy"]), percent(result.zero_shot["accuracy"])
    print(f"{result.method}: {trained}   zero-shot, same pictures: {untrained}")
    for note in result.notes:
        print(f"note: {note}")
    if calibrated is not None:
        tell(*calibrated)
    print(f"model: {out / 'model'}   next: promptmix predict {out} PICTURE ...")


def _parts_of(split: Path, parts: dict[str, PictureSet], source: str) -> dict[str, PictureSet]:
    """The parts that a split file makes of the pictures of a source, which must still have the classes that it had then."""
    first = next(iter(parts.values()))
    stored = [picture for part in parts.values() for picture in part.pictures if isinstance(picture, StoredPicture)]
    dealt = read_split(split, first.root, stored)
    if not dealt:
        raise DataError(f"{split} has no parts; make a new split")
    before = next(iter(dealt.values())).class_names
    if before != first.class_names:
        one_sided = [name for name in (*first.class_names, *before) if (name in before) != (name in first.class_names)]
        what = f"differ in {listed(map(repr, one_sided))}" if one_sided else "are in another order"
        raise DataError(f"the classes of {source} and of {split} {what}; read it as it was read then, or make a new split")
    labels = {record.picture: record.label for part in parts.values() for record in part.records}
    for record in (record for part in dealt.values() for record in part.records):
        label = labels.get(record.picture)
        if label != record.label:
            now = "not there" if label is None else repr(before[label])
            raise DataError(f"{record.picture} is {now} in {source} but {before[record.label]!r} in {split}; make a new split")
    return dealt


def _split(pictures: PictureSet, shots: int | None, hold_out: float, seed: int) -> tuple[PictureSet, PictureSet, dict[str, int]]:
    """Training pictures, those left to measure on, and the classes with fewer pictures than shots, each with how many it has."""
    short_classes: dict[str, int] = {}
    if shots is not None:
        sampled = sample_shots(pictures, shots, seed)
        chosen, short_classes = set(sampled.pictures.records), sampled.short_classes
    else:
        chosen = set()
        for label, count in enumerate(pictures.counts()):
            keep = max(1, count - math.floor(count * hold_out))
            only = pictures.subset([place for place, own in enumerate(pictures.labels) if own == label])
            chosen |= set(sample_shots(only, keep, seed).pictures.records)
    inside = [place for place, record in enumerate(pictures.records) if record in chosen]
    outside = [place for place, record in enumerate(pictures.records) if record not in chosen]
    return pictures.subset(inside), pictures.subset(outside), short_classes
