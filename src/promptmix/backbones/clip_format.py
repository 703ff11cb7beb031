"""CLIP in transformers folders: ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from promptmix.backbones.configs import BackboneConfig, PreprocessConfig
from promptmix.backbones.files import TRANSFORMERS_WEIGHTS, read_json, read_weights, required, validated
from promptmix.backbones.transformers_names import rename_transformers
from promptmix.errors import BackboneError

__all__ = ["PREPROCESSOR_CONFIG", "read_clip_folder", "transformers_preprocess"]

PREPROCESSOR_CONFIG = "preprocessor_config.json"

# What transformers leaves out of a config.json because it equals the default of its CLIPTextConfig or CLIPVisionConfig.
_TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
    "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "bos_token_id": 49406, "eos_token_id": 49407,
}  # fmt: skip
_VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "num_channels": 3,
    "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
_TOWER_KEYS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "activation": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
}
_TEXT_KEYS = {**_TOWER_KEYS, "context_length": "max_position_embeddings", "vocabulary_size": "vocab_size"}
_VISION_KEYS = {**_TOWER_KEYS, "image_size": "image_size", "patch_size": "patch_size"}
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def read_clip_folder(folder: Path, raw: dict[str, Any]) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """Config and weights, by our names, of a folder whose config.json is ``raw``.

    Raises:
        BackboneError: a file, key or weight is missing or surprising.
    """
    config = _config(folder, raw)
    return config, rename_transformers(read_weights(folder, TRANSFORMERS_WEIGHTS), _NAMES, config)


def transformers_preprocess(folder: Path) -> PreprocessConfig:
    """Our config of the pre-processing from a ``preprocessor_config.json``.

    Raises:
        BackboneError: the file or a key is missing, or it asks for what is not done here.
    """
    path = folder / PREPROCESSOR_CONFIG
    raw = read_json(path)
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if raw.get(step, True) is not True:
            raise BackboneError(f"{path}: {step} is {raw[step]!r}; pictures are always resized, rescaled and normalised here")
    factor = raw.get("rescale_factor", 1 / 255)
    if not isinstance(factor, int | float) or not abs(factor * 255 - 1) <= 1e-6:  # nor NaN
        raise BackboneError(f"{path}: rescale_factor is {factor!r}; only 1/255 is known")
    resample = raw.get("resample", 3)
    if not isinstance(resample, int) or resample not in _INTERPOLATIONS:
        raise BackboneError(f"{path}: resample is {resample!r}; known: 3 (bicubic) and 2 (bilinear)")
    size = required(raw, "size", path)
    sides = size if isinstance(size, dict) else {"shortest_edge": size}
    squashed = "shortest_edge" not in sides
    if squashed and required(sides, "height", path) != required(sides, "width", path):
        raise BackboneError(f"{path}: size is {size!r}; only squares are known")
    resize = sides["height"] if squashed else sides["shortest_edge"]
    crop: Any = resize
    if raw.get("do_center_crop", not squashed):
        crop = required(raw, "crop_size", path)
        if isinstance(crop, dict):
            if required(crop, "height", path) != required(crop, "width", path):
                raise BackboneError(f"{path}: crop_size is {crop!r}; only squares are known")
            crop = crop["height"]
    elif not squashed:
        raise BackboneError(f"{path}: do_center_crop is false, so pictures would keep their shape; only squares are known")
    fields = {
        "resize": resize,
        "crop": crop,
        "mean": required(raw, "image_mean", path),
        "standard_deviation": required(raw, "image_std", path),
        "resize_mode": "squash" if squashed else "short_side",
        "interpolation": _INTERPOLATIONS[resample],
    }
    their_names = {"mean": "image_mean", "standard_deviation": "image_std", "resize": "size", "crop": "crop_size"}
    return validated(PreprocessConfig, fields, path, their_names)


def _config(folder: Path, raw: dict[str, Any]) -> BackboneConfig:
    path = folder / "config.json"
    for name in ("text_config", "vision_config"):
        if not isinstance(required(raw, name, path), dict):
            raise BackboneError(f"{path}: {name} is {raw[name]!r}, not a JSON object")
    text, vision = {**_TEXT_DEFAULTS, **raw["text_config"]}, {**_VISION_DEFAULTS, **raw["vision_config"]}
    if vision["num_channels"] != 3:
        raise BackboneError(
            f"{path}: vision_config.num_channels is {vision['num_channels']!r}; only pictures of 3 channels are read"
        )
    # Early conversions say eos_token_id 2 and mean the last token of the vocabulary, as their tokenizer does.
    means_last = text["eos_token_id"] == 2 and isinstance(text["vocab_size"], int)
    end_token = text["vocab_size"] - 1 if means_last else text["eos_token_id"]
    fields = {
        "embedding_width": required(raw, "projection_dim", path),
        "text": {
            **{mine: text[theirs] for mine, theirs in _TEXT_KEYS.items()},
            "start_token": end_token - 1 if means_last else text["bos_token_id"],
            "end_token": end_token,
        },
        "vision": {"kind": "vision_transformer", **{mine: vision[theirs] for mine, theirs in _VISION_KEYS.items()}},
        "preprocess": transformers_preprocess(folder),
    }
    their_names = {"embedding_width": "projection_dim", "text": "text_config", "vision": "vision_config"}
    their_names |= {f"text.{mine}": f"text_config.{theirs}" for mine, theirs in _TEXT_KEYS.items()}
    their_names |= {f"vision.{mine}": f"vision_config.{theirs}" for mine, theirs in _VISION_KEYS.items()}
    return validated(BackboneConfig, fields, path, their_names)


_NAMES = {
    "logit_scale": "logit_scale",
    "text_projection.weight": "text.projection.weight",
    "text_model.embeddings.token_embedding.weight": "text.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "text.position_embedding",
    "text_model.final_layer_norm.weight": "text.final_norm.weight",
    "text_model.final_layer_norm.bias": "text.final_norm.bias",
    "visual_projection.weight": "vision.projection.weight",
    "vision_model.embeddings.class_embedding": "vision.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "vision.patch_embedding.weight",
    "vision_model.embeddings.position_embedding.weight": "vision.position_embedding",
    "vision_model.pre_layrnorm.weight": "vision.pre_norm.weight",
    "vision_model.pre_layrnorm.bias": "vision.pre_norm.bias",
    "vision_model.post_layernorm.weight": "vision.post_norm.weight",
    "vision_model.post_layernorm.bias": "vision.post_norm.bias",
}
