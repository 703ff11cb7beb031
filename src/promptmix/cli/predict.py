"""promptmix predict"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from promptmix.cli.output import percent, progress
from promptmix.data.read import Columns, list_any_pictures
from promptmix.errors import DataError, printable
from promptmix.evaluation.evaluate import Prediction
from promptmix.features.cache import FeatureCache
from promptmix.inference.predictor import Predictor

logger = logging.getLogger(__name__)


def predict(
    folder: Path,
    sources: list[str],
    image_column: str | None,
    csv_output: bool,
    top: int,
    backbone: str | None,
    device: str,
    precision: str,
    cache: bool,
    json_output: bool,
) -> None:
    pictures = list_any_pictures(sources, Columns(image=image_column))
    predictor = Predictor.from_folder(
        folder, backbone=backbone, device=device, precision=precision, cache=FeatureCache() if cache else None
    )
    out = sys.stdout
    write = _writer(csv_output, json_output)
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


def _writer(csv_output: bool, json_output: bool) -> Callable[[str, Prediction], None]:
    """Writes one prediction a line, in the form that was asked for, to what is stdout now: a progress bar, while it is drawn, puts
    something of its own in its place."""
    out = sys.stdout
    table = csv.writer(out)
    if csv_output:
        table.writerow(["path", "prediction", "probability", "margin", "experts"])

    def write(path: str, one: Prediction) -> None:
        written = "; ".join(f"{name} {weight:.2f}" for name, weight in one.experts)
        if json_output:
            experts = [{"template": name, "weight": weight} for name, weight in one.experts]
            ranked = [{"class": name, "probability": value} for name, value in one.top]
            said = {"path": path, "class": one.class_name, "probability": one.probability, "top": ranked, "experts": experts}
            print(json.dumps(said), file=out)
        elif csv_output:
            table.writerow([path, one.class_name, repr(one.probability), repr(one.margin), written])
        else:
            print(f"{printable(path)}: {one.class_name} {percent(one.probability)}   [{written}]", file=out)

    return write


def _no_progress(stage: str, done: int, total: int | None, detail: str) -> None:
    """Draws nothing."""
