"""promptmix eval"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from promptmix.cli.output import percent, progress
from promptmix.data.read import Columns, part_to_measure, read_parts
from promptmix.errors import printable
from promptmix.evaluation.evaluate import class_logits
from promptmix.evaluation.metrics import measure
from promptmix.features.cache import FeatureCache
from promptmix.features.extract import extract_features
from promptmix.inference.predictor import Predictor, backbone_of
from promptmix.methods.registry import build_method
from promptmix.model_folder import read_model

logger = logging.getLogger(__name__)


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
    model = read_model(folder)
    columns = Columns(image=image_column, label=label_column)
    parts = read_parts(source, class_names=model.class_names, columns=columns, classes_file=classes)
    measured_part = part_to_measure(parts, part, source)
    pictures = parts[measured_part]
    store = FeatureCache() if cache else None
    loaded = backbone_of(model, backbone, device=device, precision=precision)
    predictor = Predictor(model, backbone=loaded, cache=store)
    with progress() as on_progress:
        extracted = extract_features(
            predictor.backbone,
            pictures.pictures,
            cache=store,
            skip_bad=skip_bad,
            steady=True,
            on_progress=lambda done, total: on_progress("pictures", done, total, ""),
        )
    for picture, reason in extracted.bad:
        logger.warning("left out %s: %s", printable(picture), printable(reason))
    labels = torch.tensor([pictures.labels[index] for index in extracted.kept])
    features = extracted.features[:, 0]
    with torch.no_grad():
        metrics = measure(class_logits(predictor.classifier, features), labels, model.class_names)
        if predictor.backbone is not loaded:
            # The model has tuned its image tower; zero-shot is the tower as it was.
            kept = [pictures.pictures[index] for index in extracted.kept]
            features = extract_features(loaded, kept, cache=store, steady=True).features[:, 0]
        zero_shot = build_method("zero-shot", {}, loaded, model.class_names).classifier()
        before = measure(class_logits(zero_shot, features, loaded.device), labels, model.class_names)
    measured_on = source if len(parts) == 1 else f"{source}, {measured_part} part"
    if json_output:
        left_out = [{"path": picture, "reason": reason} for picture, reason in extracted.bad]
        said = {"measured_on": measured_on, "metrics": metrics.to_json(), "zero_shot": before.to_json(), "left_out": left_out}
        print(json.dumps(said))
        return
    print(f"measured on {metrics.num_pictures} pictures of {measured_on}, {metrics.num_classes} classes")
    print(f"{model.method}: {percent(metrics.accuracy)} (mean per class {percent(metrics.accuracy_per_class_mean)},", end=" ")
    print(f"calibration error {percent(metrics.expected_calibration_error)})   zero-shot: {percent(before.accuracy)}")
    if extracted.bad:
        print(f"note: left out {len(extracted.bad)} pictures that cannot be read")
    if metrics.accuracy < before.accuracy:
        print("note: below zero-shot on the same pictures")
    for name, share in metrics.per_class.items():
        print(f"  {name}: {'no picture' if share is None else percent(share)}")
