"""promptmix info, of an exported model: without torch."""

from __future__ import annotations

import json
from pathlib import Path

from promptmix.inference.onnx_predictor import OnnxPredictor


def info(path: Path, json_output: bool) -> None:
    facts = OnnxPredictor(path).facts.model_dump(mode="json")
    shown = {name.replace("_", " "): value for name, value in facts.items() if value is not None}
    shown = {"classes": shown.pop("class names"), "experts": shown.pop("expert names"), **shown}
    if json_output:
        print(json.dumps(shown))
        return
    for name, value in shown.items():
        print(f"{name}: {json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value}")
