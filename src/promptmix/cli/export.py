"""promptmix export"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from promptmix.cli.output import percent
from promptmix.data.read import Columns, list_any_pictures
from promptmix.inference.export import TOLERANCE, drawn_sample, export_model, refuse_export, sample_of
from promptmix.inference.predictor import backbone_of
from promptmix.memory import in_words
from promptmix.model_folder import read_model
from promptmix.model_hub import stored_model


def export(
    folder: Path,
    out: Path,
    int8: bool,
    check: list[str],
    image_column: str | None,
    backbone: str | None,
    overwrite: bool,
    json_output: bool,
) -> None:
    model = read_model(stored_model(folder))
    refuse_export(model, out, overwrite)
    pictures = list_any_pictures(check, Columns(image=image_column)) if check else []
    loaded = backbone_of(model, backbone, with_text=False, device="cpu")
    preprocess = loaded.config.preprocess
    sample = sample_of(pictures, preprocess, ", ".join(check)) if check else drawn_sample(preprocess)
    report = export_model(model, loaded, out, sample, quantize=int8, overwrite=overwrite)
    if json_output:
        said = dataclasses.asdict(report) | {"files": [str(file) for file in report.files], "tolerance": TOLERANCE}
        print(json.dumps(said))
        return
    print(f"{' and '.join(map(str, report.files))}: {len(model.class_names)} classes, {in_words(report.size)}")
    print(
        f"float32 beside torch, on {report.checked_on}: probabilities differ by at most {report.agreement.max_difference:.1e}"
        f" (allowed: {TOLERANCE:g})"
    )
    if report.quantized is not None:
        print(
            f"int8 beside torch, on the same: the same class for {percent(report.quantized.same_class)}, probabilities differ by"
            f" {report.quantized.mean_difference:.1e} on average, by at most {report.quantized.max_difference:.1e}"
        )
