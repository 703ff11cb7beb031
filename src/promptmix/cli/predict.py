"""promptmix predict"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from promptmix.cli.output import percent, progress, refuse_missing_thresholds, refuse_options_of_folders
from promptmix.data.read import Columns, list_any_pictures
from promptmix.errors import DataError, printable
from promptmix.evaluation.predictions import Prediction
from promptmix.features.cache import FeatureCache
from promptmix.inference.exported import is_exported
from promptmix.inference.onnx_predictor import OnnxPredictor
from promptmix.nn.calibration import NONE_OF_THESE, Calibration

if TYPE_CHECKING:
    from promptmix.inference.predictor import Predictor

logger = logging.getLogger(__name__)


def predict(
    folder: Path,
    sources: list[str],
    image_column: str | None,
    csv_output: bool,
    top: int,
    multi_label: bool,
    backbone: str | None,
    device: str,
    precision: str,
    cache: bool,
    json_output: bool,
) -> None:
    pictures = list_any_pictures(sources, Columns(image=image_column))
    predictor: OnnxPredictor | Predictor
    if is_exported(folder):
        refuse_options_of_folders(backbone, device, precision)
        predictor = OnnxPredictor(folder)
        calibration = predictor.facts.calibration
    else:
        from promptmix.inference.predictor import Predictor  # brings torch, which exported models do without
        from promptmix.model_hub import stored_model

        folder = stored_model(folder)
        features = FeatureCache() if cache else None
        predictor = Predictor.from_folder(folder, backbone=backbone, device=device, precision=precision, cache=features)
        calibration = predictor.model.calibration
    if multi_label:
        refuse_missing_thresholds(folder, calibration)
    out = sys.stdout
    write = _writer(csv_output, json_output, multi_label, calibration)
    unread: list[tuple[str, str]] = []  # told only once a picture was predicted: where none is, one error says it all
    num_predicted = num_unread = 0
    # On a terminal the lines themselves show how far it is.
    with contextlib.nullcontext(_no_progress) if out.isatty() else progress() as on_progress:
        for batch in predictor.iter_predict(pictures, top=top, skip_bad=True):
            for picture, one in zip(batch.pictures, batch.predictions, strict=True):
                write(str(picture), one)
            out.flush()
            num_predicted += len(batch.predictions)
            num_unread += len(batch.bad)
            unread += batch.bad
            if num_predicted:
                for name, reason in unread:
                    logger.warning("left out %s: %s", printable(name), printable(reason))
                unread.clear()
            on_progress("pictures", batch.done, len(pictures), "")
    if num_unread:
        raise DataError(f"{num_unread} of {len(pictures)} pictures could not be read; the others were predicted")


def _writer(
    csv_output: bool, json_output: bool, multi_label: bool, calibration: Calibration | None
) -> Callable[[str, Prediction], None]:
    """Writes one prediction a line, in the form that was asked for, to what is stdout now: a progress bar, while it is drawn, puts
    something of its own in its place."""
    out = sys.stdout
    table = csv.writer(out)
    has_sets = calibration is not None and calibration.label_sets is not None
    may_abstain = calibration is not None and calibration.abstain is not None
    if csv_output and multi_label:
        table.writerow(["path", "labels", "probabilities", "experts"])
    elif csv_output:
        table.writerow(["path", "prediction", "probability", "margin", "experts", *(["label_set"] if has_sets else [])])

    def write(path: str, one: Prediction) -> None:
        written = "; ".join(f"{name} {weight:.2f}" for name, weight in one.experts)
        labels, label_set = one.labels or (), one.label_set or ()
        if json_output:
            experts = [{"template": name, "weight": weight} for name, weight in one.experts]
            ranked = [{"class": name, "probability": value} for name, value in one.top]
            said = {"path": path, "class": one.answer, "probability": one.probability, "top": ranked, "experts": experts}
            if may_abstain:
                said["abstained"] = one.abstained
            if has_sets:
                said["label_set"] = list(label_set)
            if multi_label:
                said["labels"] = [{"class": name, "probability": value} for name, value in labels]
            print(json.dumps(said), file=out)
        elif csv_output and multi_label:
            values = "; ".join(repr(value) for _, value in labels)
            table.writerow([path, "; ".join(name for name, _ in labels) or NONE_OF_THESE, values, written])
        elif csv_output:
            row = [path, one.answer, repr(one.probability), repr(one.margin), written]
            table.writerow([*row, "; ".join(label_set)] if has_sets else row)
        elif multi_label:
            said_to_be = ", ".join(f"{name} {percent(value)}" for name, value in labels) or NONE_OF_THESE
            print(printable(f"{path}: {said_to_be}   [{written}]"), file=out)
        else:
            answer = f"{one.class_name} {percent(one.probability)}"
            answer = f"{NONE_OF_THESE} (most likely {answer})" if one.abstained else answer
            sets = f"   one of: {', '.join(label_set)}" if has_sets else ""
            print(printable(f"{path}: {answer}{sets}   [{written}]"), file=out)

    return write


def _no_progress(stage: str, done: int, total: int | None, detail: str) -> None:
    """Draws nothing."""
