"""promptmix info"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from promptmix.backbones.registry import BUNDLED, load_backbone
from promptmix.model_folder import is_model, model_path, read_model


def info(what: str, json_output: bool) -> None:
    folder = Path(what)
    facts: dict[str, Any]
    if what != BUNDLED and (is_model(model_path(folder)) or (folder / "run.json").is_file()):
        model = read_model(folder)
        facts = {
            "method": model.method,
            "classes": list(model.class_names),
            "backbone": model.backbone_name,
            "backbone fingerprint": model.backbone_fingerprint,
            "experts": list(model.expert_names),
            "training": dict(model.training),
        }
    else:
        backbone = load_backbone(what, device="cpu")
        towers = [tower for tower in (backbone.vision, backbone.text) if tower is not None]
        facts = {
            "backbone": backbone.name,
            "fingerprint": backbone.fingerprint,
            "parameters": sum(parameter.numel() for tower in towers for parameter in tower.parameters()),
            "logit scale": backbone.logit_scale,
            **backbone.config.model_dump(mode="json"),
        }
        if what == BUNDLED:
            facts["note"] = "knows pictograms, not photographs"
    if json_output:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name}: {json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value}")
