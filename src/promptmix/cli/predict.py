"""promptmix predict"""

from __future__ import annotations

import csv
import json
import logging
import sys
from pathlib import Path

from promptmix.cli.output import percent, progress
from promptmix.data.sources import list_pictures
from promptmix.errors import DataError, printable
from promptmix.features.cache import FeatureCache
from promptmix.inference.predictor import Predictor

logger = logging.getLogger(__name__)


def predict(
    folder: Path,
    sources: list[str],
    csv_output: bool,
    top: int,
    backbone: str | None,
    device: str,
    cache: bool,
    json_output: bool,
) -> None:
    pictures = list_pictures(sources)
    predictor = Predictor.from_folder(folder, backbone=backbone, device=device, cache=FeatureCache() if cache else None)
    with progress() as on_progress:
        said = predictor.predict(
            pictures, top=top, skip_bad=True, on_progress=lambda done, total: on_progress("pictures", done, total, "")
        )
    writer = csv.writer(sys.stdout)
    if csv_output:
        writer.writerow(["path", "prediction", "probability", "margin", "experts"])
    for place, one in zip(said.kept, said.predictions, strict=True):
        path, experts = str(pictures[place]), [{"template": name, "weight": weight} for name, weight in one.experts]
        written = "; ".join(f"{name} {weight:.2f}" for name, weight in one.experts)
        if json_output:
            ranked = [{"class": name, "probability": value} for name, value in one.top]
            print(
                json.dumps(
                    {"path": path, "class": one.class_name, "probability": one.probability, "top": ranked, "experts": experts}
                )
            )
        elif csv_output:
            writer.writerow([path, one.class_name, repr(one.probability), repr(one.margin), written])
        else:
            print(f"{path}: {one.class_name} {percent(one.probability)}   [{written}]")
    for picture, reason in said.bad:
        logger.warning("left out %s: %s", printable(picture), printable(reason))
    if said.bad:
        raise DataError(f"{len(said.bad)} of {len(pictures)} pictures could not be read; the others were predicted")
