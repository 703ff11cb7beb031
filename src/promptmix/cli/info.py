"""promptmix info"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from promptmix.backbones.card import licence_of
from promptmix.backbones.configs import BackboneConfig, ModifiedResNetConfig, SiglipTextConfig
from promptmix.backbones.registry import BUNDLED, find_backbone, load_backbone
from promptmix.hub_access import is_hub_name
from promptmix.model_folder import is_model, model_path, read_model
from promptmix.model_hub import cached_model, stored_model


def info(what: str, json_output: bool) -> None:
    folder = Path(what)
    if folder.as_posix().startswith("hf:") or (is_hub_name(what) and not folder.parent.is_dir() and cached_model(what)):
        folder = stored_model(folder)
    is_own = what != BUNDLED and (is_model(model_path(folder)) or (folder / "run.json").is_file())
    facts = _model_facts(folder) if is_own else _backbone_facts(what)
    if json_output:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name}: {json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value}")


def _model_facts(folder: Path) -> dict[str, Any]:
    model = read_model(folder)
    facts = {
        "method": model.method,
        "classes": list(model.class_names),
        "backbone": model.backbone_name,
        "backbone fingerprint": model.backbone_fingerprint,
        "experts": list(model.expert_names),
        "training": dict(model.training),
    }
    return facts if model.calibration is None else {**facts, "calibration": model.calibration.model_dump(mode="json")}


def _backbone_facts(name: str) -> dict[str, Any]:
    place, full_name = find_backbone(name)
    backbone = load_backbone(name, device="cpu")
    config = backbone.config
    vision, text = (
        sum(value.numel() for value in tower.parameters()) for tower in (backbone.vision, backbone.text) if tower is not None
    )
    facts: dict[str, Any] = {
        "backbone": full_name,
        "architecture": _architecture(config),
        "parameters": vision + text,
        "parameters of the image tower": vision,
        "parameters of the text tower": text,
        "joint width": config.embedding_width,
        "text width": config.text.width,
        "context length": config.text.context_length,
        "vocabulary": config.text.vocabulary_size,
        "pre-processing": _preprocessing(config),
        "logit scale": backbone.logit_scale,
    }
    if backbone.logit_bias is not None:
        facts["logit bias"] = backbone.logit_bias
    facts["licence of the weights"] = licence_of(place) or "not given"
    facts["fingerprint"] = backbone.fingerprint
    facts["config"] = config.model_dump(mode="json")
    if name == BUNDLED:
        facts["note"] = "knows drawings, not photographs"
    return facts


def _architecture(config: BackboneConfig) -> str:
    kind = "SigLIP" if isinstance(config.text, SiglipTextConfig) else "CLIP"
    text = f"text transformer of {config.text.layers} layers, {config.text.heads} heads, {config.text.activation}"
    vision, size = config.vision, config.vision.image_size
    if isinstance(vision, ModifiedResNetConfig):
        blocks = "-".join(str(number) for number in vision.layers)
        return f"{kind}: ModifiedResNet of width {vision.width}, blocks {blocks}, at {size} pixels; {text}"
    patches = math.floor(size / vision.patch_size) ** 2
    tower = f"vision transformer of {vision.layers} layers, {vision.heads} heads, width {vision.width}, {vision.activation}"
    return f"{kind}: {tower}, {patches} patches of {vision.patch_size} pixels at {size}; {text}"


def _preprocessing(config: BackboneConfig) -> str:
    images = config.preprocess
    shape = f"squashed to {images.resize} x {images.resize} pixels"
    if images.resize_mode == "short_side":
        shape = f"short side to {images.resize} pixels, centre {images.crop} x {images.crop}"
    mean, deviation = (", ".join(f"{value:.4g}" for value in one) for one in (images.mean, images.standard_deviation))
    return f"{images.interpolation}, {shape}; mean {mean}; standard deviation {deviation}"
