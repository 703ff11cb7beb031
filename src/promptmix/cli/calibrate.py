"""promptmix calibrate, and what train --calibrate does after its run"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from promptmix.backbones.base import Backbone
from promptmix.cli.output import percent, progress, tell_shares
from promptmix.data.read import Columns, part_to_measure, read_parts
from promptmix.data.records import LabelledPictures
from promptmix.data.splits import in_part
from promptmix.distributed.group import broadcast_json, is_first
from promptmix.errors import ConfigError, DataError, listed, printable
from promptmix.evaluation.answers import MeasuredAnswers, measure_answers
from promptmix.evaluation.calibration import fit_calibration, reliability_of
from promptmix.evaluation.metrics import Metrics
from promptmix.evaluation.targets import Wanted
from promptmix.features.cache import FeatureCache
from promptmix.inference.labelled import logits_of_labelled
from promptmix.inference.predictor import Predictor, backbone_of, needs_text
from promptmix.methods.registry import method_class
from promptmix.model_folder import SavedModel, model_path, read_model, write_classes
from promptmix.nn.calibration import Calibration
from promptmix.runtime import numpy_generator, write_json
from promptmix.training.fit import Progress, RunConfig
from promptmix.training.left_out import CALIBRATION_FILES, LeftOut, cross_fit, read_left_out, write_left_out

LEFT_OUT, RECORD, PLOT = CALIBRATION_FILES

logger = logging.getLogger(__name__)


def calibrate(
    folder: Path,
    source: str | None,
    part: str | None,
    image_column: str | None,
    label_column: str | None,
    classes: Path | None,
    abstain: str | None,
    label_sets: float | None,
    multi_label: str | None,
    temperature: str,
    remove: bool,
    seed: int,
    backbone: str | None,
    skip_bad: bool,
    device: str,
    precision: str,
    cache: bool,
    json_output: bool,
) -> None:
    wanted = Wanted.parse(abstain, label_sets, multi_label, temperature)
    model = read_model(folder)
    place = model_path(folder)
    run_folder = place.absolute().parent
    is_run = (run_folder / "run.json").is_file()
    if remove:
        write_classes(place, dataclasses.replace(model, calibration=None))
        for name in (RECORD, PLOT) if is_run else ():
            (run_folder / name).unlink(missing_ok=True)
        print(
            json.dumps({"calibration": None})
            if json_output
            else "the calibration is removed: probabilities are the plain softmax"
        )
        return
    if source is None:
        fitted = read_left_out(run_folder / LEFT_OUT, model)
        shown = fitted
        calibration = fitted.calibration(wanted)
    else:
        columns = Columns(image=image_column, label=label_column)
        parts = read_parts(source, class_names=model.class_names, columns=columns, classes_file=classes)
        # The val part is there to choose on, and the test part to be measured on afterwards.
        chosen = part_to_measure(parts, "val" if part is None and "val" in parts else part, source)
        pictures = LabelledPictures.of(parts[chosen], chosen)
        if is_run and (run_folder / "split.json").is_file():
            _refuse_learnt_from(run_folder / "split.json", model, pictures, source)
        store = FeatureCache() if cache else None
        loaded = backbone_of(model, backbone, with_text=needs_text(model), device=device, precision=precision)
        fitted = _said_of(model, pictures, loaded, store, skip_bad)
        unseen = sorted(set(range(len(model.class_names))) - set(fitted.labels.tolist()))
        if unseen:
            names = listed([model.class_names[label] for label in unseen], most=10)
            logger.warning(
                "%s has no picture of %s; what is fitted may not hold where these classes come too", printable(source), names
            )
        described = f"{len(fitted.labels)} pictures of {source}" + ("" if len(parts) == 1 else f", {chosen} part")
        rules_on, how, shown = None, "", fitted
        if wanted.abstain is not None or wanted.label_sets is not None:
            # A temperature chosen on the same pictures would make their probabilities unlike those of any others.
            rules_on = numpy_generator(seed, "calibration pictures for the rules").permutation(len(fitted.labels)) % 2 == 1
            how = ": the temperature on one half, what is answered and label sets on the other"
            shown = dataclasses.replace(fitted, logits=fitted.logits[~rules_on], labels=fitted.labels[~rules_on])
        calibration = fit_calibration(
            fitted.logits,
            fitted.labels,
            model.class_names,
            wanted,
            fitted_on=described + how,
            cross_fitted=False,
            rules_on=rules_on,
        )
    write_classes(place, dataclasses.replace(model, calibration=calibration))
    if is_run:
        _write_record(run_folder, calibration, shown, None)
    if json_output:
        print(json.dumps({"calibration": calibration.model_dump(mode="json")}))
        return
    tell(calibration)
    print("next: promptmix eval MODEL SOURCE measures it on pictures it was not fitted on")


def calibrate_run(
    out: Path,
    model: SavedModel,
    wanted: Wanted,
    config: RunConfig,
    training: LabelledPictures,
    test: LabelledPictures | None,
    cache: FeatureCache | None,
    more_class_names: tuple[str, ...],
    on_progress: Progress,
) -> tuple[Calibration, MeasuredAnswers | None] | None:
    """Calibrate the model of a finished run on its left-out shots, and measure that on its test pictures.

    Several ranks call this alike; the first alone looks into the run folder, writes there, and gets the calibration.
    """
    if model.class_names != training.class_names or model.class_words:
        raise DataError(
            f"the model in {out} has other classes by now; calibrate it on labelled pictures of them: promptmix calibrate"
        )
    backbone = backbone_of(model, config.backbone, device=config.device, precision=config.precision)
    left_out: LeftOut | None = None
    if broadcast_json(is_first() and (out / LEFT_OUT).is_file()):
        left_out = read_left_out(out / LEFT_OUT, model) if is_first() else None
    else:
        left_out = cross_fit(
            config, training, model, backbone=backbone, cache=cache, more_class_names=more_class_names, on_progress=on_progress
        )
        if is_first():
            # First of all, so that another threshold can be asked for where this one cannot be had.
            write_left_out(out / LEFT_OUT, left_out, model)
    try:
        calibration = None if left_out is None else left_out.calibration(wanted)
    except (ConfigError, DataError) as problem:
        raise type(problem)(
            f"{problem}. The model is trained, but not calibrated: promptmix calibrate {out} does it"
        ) from problem
    said = None if test is None else _said_of(model, test, backbone, cache, config.skip_bad)  # each rank reads its share
    if left_out is None or calibration is None or not is_first():
        return None
    measured = None if said is None else measure_answers(said.logits, said.labels, model.class_names, calibration)
    write_classes(out / "model", dataclasses.replace(model, calibration=calibration))
    _write_record(out, calibration, left_out, measured)
    return calibration, measured


def tell(calibration: Calibration, measured: MeasuredAnswers | None = None) -> None:
    """A calibration in a few lines, and what it is worth on test pictures."""
    before, after = calibration.before, calibration.after
    print(f"calibrated on {calibration.fitted_on}; the numbers from here on are of these same pictures")
    print(
        f"temperature {calibration.temperature:.3g}: calibration error {percent(before.expected_calibration_error)} before,"
        f" {percent(after.expected_calibration_error)} after; negative log-likelihood {before.negative_log_likelihood:.3f} before,"
        f" {after.negative_log_likelihood:.3f} after"
    )
    if (rule := calibration.abstain) is not None:
        sure = "" if rule.confidence is None else f" with {100 * rule.confidence:.0f} % confidence"
        right = "none" if rule.precision is None else f"{percent(rule.precision)} of these right"
        print(
            f"answers from {percent(rule.minimum_probability)} on, for a {rule.target} of {percent(rule.wanted)}{sure}:"
            f" {percent(rule.coverage)} answered, {right}"
        )
    if (sets := calibration.label_sets) is not None:
        print(
            f"label sets of all classes from {percent(sets.minimum_probability)} on, to hold the true class {percent(sets.coverage)} of the"
            f" time: {sets.mean_size:.2f} classes in a set"
        )
    if (rule is not None or sets is not None) and not calibration.held_apart:
        how = ", left out in turn" if calibration.cross_fitted else ""
        print(
            f"note: fitted on the shots{how}: what is promised of new pictures holds nearly, not by proof (docs/calibration.md)"
        )
    if measured is None:
        return
    errors = [percent(metrics.expected_calibration_error) for metrics in (measured.before, measured.after)]
    print(f"on the {measured.after.num_pictures} test pictures: calibration error {errors[0]} before, {errors[1]} after")
    tell_shares(measured.shares())


def _refuse_learnt_from(split: Path, model: SavedModel, pictures: LabelledPictures, source: str) -> None:
    """Raise where the run has learnt from some of these pictures: what its model says of them tells nothing of others."""
    if method_class(model.method).learns == "nothing":
        return
    known = in_part(split, "train", pictures.pictures)
    if known:
        raise DataError(
            f"the model has learnt from {len(known)} of the {len(pictures.pictures)} pictures of {source}, such as {printable(known[0])}: its"
            " probabilities for these say nothing of others; give other pictures, or train with --calibrate"
        )


def _said_of(
    model: SavedModel, pictures: LabelledPictures, backbone: Backbone, cache: FeatureCache | None, skip_bad: bool
) -> LeftOut:
    """What a model says of pictures that it did not learn from."""
    with progress() as on_progress:
        said = logits_of_labelled(Predictor(model, backbone=backbone), pictures, cache, skip_bad, on_progress)
    return LeftOut(logits=said.logits.numpy(), labels=said.labels.numpy(), folds=0, class_names=model.class_names)


def _write_record(out: Path, calibration: Calibration, fitted: LeftOut, measured: MeasuredAnswers | None) -> None:
    """The calibration with all that was measured, and its picture, beside the model of a run."""
    from promptmix.reporting.protocol_plots import reliability_diagrams

    record: dict[str, Any] = {
        "calibration": calibration.model_dump(mode="json"),
        "measured": None if measured is None else measured.model_dump(mode="json"),
    }
    write_json(out / RECORD, record)
    panels: dict[str, Metrics] = {
        "fitted on, before": reliability_of(fitted.logits, fitted.labels, fitted.class_names, 1.0),
        "fitted on, after": reliability_of(fitted.logits, fitted.labels, fitted.class_names, calibration.temperature),
    }
    if measured is not None:
        panels |= {"test, before": measured.before, "test, after": measured.after}
    reliability_diagrams(
        out / PLOT,
        {name: [(int(count), mean, share) for count, mean, share in metrics.calibration] for name, metrics in panels.items()},
        {name: metrics.expected_calibration_error for name, metrics in panels.items()},
        f"Temperature {calibration.temperature:.3g}; grey: share of the pictures; error: expected calibration error in points",
    )
