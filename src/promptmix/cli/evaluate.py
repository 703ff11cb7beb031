"""promptmix eval"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from promptmix.cli.output import percent, progress, tell_shares
from promptmix.data.read import Columns, part_to_measure, read_parts
from promptmix.data.records import LabelledPictures
from promptmix.evaluation.answers import measure_answers
from promptmix.evaluation.evaluate import class_logits
from promptmix.evaluation.metrics import measure
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.inference.labelled import logits_of_labelled
from promptmix.inference.predictor import Predictor, backbone_of
from promptmix.methods.registry import build_method
from promptmix.model_folder import read_model
from promptmix.model_hub import stored_model


def evaluate(
    folder: Path,
    source: str,
    part: str | None,
    image_column: str | None,
    label_column: str | None,
    classes: Path | None,
    backbone: str | None,
    skip_bad: bool,
    device: str,
    precision: str,
    cache: bool,
    json_output: bool,
) -> None:
    model = read_model(stored_model(folder))
    columns = Columns(image=image_column, label=label_column)
    parts = read_parts(source, class_names=model.class_names, columns=columns, classes_file=classes)
    measured_part = part_to_measure(parts, part, source)
    pictures = parts[measured_part]
    store = FeatureCache() if cache else None
    loaded = backbone_of(model, backbone, device=device, precision=precision)
    predictor = Predictor(model, backbone=loaded, cache=store)
    with progress() as on_progress:
        said = logits_of_labelled(predictor, LabelledPictures.of(pictures, measured_part), store, skip_bad, on_progress)
    labels, features, calibration = said.labels, said.features, model.calibration
    answers = None
    if calibration is None:
        metrics = measure(said.logits, labels, model.class_names)
    else:
        answers = measure_answers(said.logits.numpy(), labels.numpy(), model.class_names, calibration)
        metrics = answers.after
    with torch.no_grad():
        if predictor.backbone is not loaded:
            # The model has tuned its image tower; zero-shot is the tower as it was.
            kept = [pictures.pictures[index] for index in said.kept]
            features = extract_features(loaded, kept, cache=store, steady=True).features[:, 0]
        zero_shot = build_method("zero-shot", {}, loaded, model.class_names).classifier()
        before = measure(class_logits(zero_shot, features, loaded.device), labels, model.class_names)
    measured_on = source if len(parts) == 1 else f"{source}, {measured_part} part"
    if json_output:
        left_out = [{"path": picture, "reason": reason} for picture, reason in said.bad]
        told = {"measured_on": measured_on, "metrics": metrics.to_json(), "zero_shot": before.to_json(), "left_out": left_out}
        if answers is not None:
            told |= {"uncalibrated": answers.before.to_json(), "answers": answers.shares()}
        print(json.dumps(told))
        return
    print(f"measured on {metrics.num_pictures} pictures of {measured_on}, {metrics.num_classes} classes")
    print(f"{model.method}: {percent(metrics.accuracy)} (mean per class {percent(metrics.accuracy_per_class_mean)},", end=" ")
    print(f"calibration error {percent(metrics.expected_calibration_error)})   zero-shot: {percent(before.accuracy)}")
    if answers is not None:
        print(f"calibrated: without that the calibration error would be {percent(answers.before.expected_calibration_error)}")
        tell_shares(answers.shares())
    if said.bad:
        print(f"note: left out {len(said.bad)} pictures that cannot be read")
    if metrics.accuracy < before.accuracy:
        print("note: below zero-shot on the same pictures")
    for name, share in metrics.per_class.items():
        print(f"  {name}: {'no picture' if share is None else percent(share)}")
