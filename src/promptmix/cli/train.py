"""promptmix train"""

from __future__ import annotations

import json
import math
from pathlib import Path

from promptmix.cli.output import percent, progress
from promptmix.config import apply_overrides, parse_config
from promptmix.data.records import PictureSet
from promptmix.data.sampling import sample_shots
from promptmix.data.sources import read_folder
from promptmix.errors import ConfigError
from promptmix.features.cache import FeatureCache
from promptmix.training.run import LabelledPictures, RunConfig, run


def train(
    source: Path,
    out: Path,
    test: Path | None,
    method: str,
    backbone: str,
    shots: int | None,
    hold_out: float,
    seed: int,
    epochs: int | None,
    settings: list[str],
    resume: bool,
    overwrite: bool,
    skip_bad: bool,
    device: str,
    cache: bool,
    json_output: bool,
    quiet: bool,
) -> None:
    values = {
        "method": method,
        "backbone": backbone,
        "device": device,
        "shots": shots,
        "seed": seed,
        "skip_bad": skip_bad,
        "recipe": {} if epochs is None else {"epochs": epochs},
    }
    renamed = [f"options.{text.removeprefix('method.')}" if text.startswith("method.") else text for text in settings]
    config = parse_config(RunConfig, apply_overrides(values, renamed), "options of train")
    if not 0 <= hold_out < 1:
        raise ConfigError(f"--hold-out {hold_out} is not a share from 0 up to 1")
    pictures = read_folder(source)
    training, held_out = _split(pictures, config.shots, 0.0 if test is not None else hold_out, config.seed)
    parts = {"train": training}
    measured = None
    if test is not None:
        measured = LabelledPictures.of(read_folder(test, pictures.class_names), f"the {test} folder")
    elif len(held_out) > 0:
        measured = LabelledPictures.of(held_out, f"{len(held_out)} pictures of {source} that were not trained on")
        parts["test"] = held_out
    with progress(quiet) as on_progress:
        outcome = run(
            config,
            LabelledPictures.of(training, f"{len(training)} pictures of {source}"),
            measured,
            cache=FeatureCache() if cache else None,
            out=out,
            split=parts,
            resume=resume,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    result = outcome.result
    if json_output:
        print(json.dumps(result.model_dump(mode="json")))
        return
    print(result.data)
    print(
        f"{result.method}: {percent(result.metrics['accuracy'])}   zero-shot, same pictures: {percent(result.zero_shot['accuracy'])}"
    )
    for note in result.notes:
        print(f"note: {note}")
    print(f"model: {out / 'model'}   next: promptmix predict {out} PICTURE ...")


def _split(pictures: PictureSet, shots: int | None, hold_out: float, seed: int) -> tuple[PictureSet, PictureSet]:
    """Training pictures and those left to measure on."""
    if shots is not None:
        chosen = set(sample_shots(pictures, shots, seed).pictures.records)
    else:
        chosen = set()
        for label, count in enumerate(pictures.counts()):
            keep = max(1, count - math.floor(count * hold_out))
            only = pictures.subset([place for place, own in enumerate(pictures.labels) if own == label])
            chosen |= set(sample_shots(only, keep, seed).pictures.records)
    inside = [place for place, record in enumerate(pictures.records) if record in chosen]
    outside = [place for place, record in enumerate(pictures.records) if record not in chosen]
    return pictures.subset(inside), pictures.subset(outside)
