"""open_clip folders: ``open_clip_config.json`` beside ``open_clip_model.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from promptmix.backbones.configs import BackboneConfig
from promptmix.backbones.files import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, read_json, read_weights, required, validated
from promptmix.backbones.openai_format import OPENAI_MEAN, OPENAI_STANDARD_DEVIATION, rename_openai
from promptmix.errors import BackboneError, did_you_mean

__all__ = ["read_open_clip_folder"]

# What both towers may say.
_ONLY_IN_BOTH: dict[str, tuple[Any, ...]] = {
    "ls_init_value": (None,),
    "final_ln_after_pool": (False,),
    "act_kwargs": (None, {}),
    "block_type": (None, "default"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
}
# Keys that change the towers, each with the only value that these towers have. None of them stands in a plain CLIP's file.
_ONLY: dict[str, dict[str, tuple[Any, ...]]] = {
    "model_cfg": {"custom_text": (False,), "init_logit_bias": (None,), "nonscalar_logit_scale": (False,)},
    "vision_cfg": {
        "attentional_pool": (False,),
        "no_ln_pre": (False,),
        "pos_embed_type": ("learnable",),
        "pool_type": ("tok",),
        "timm_model_name": (None, ""),
        **_ONLY_IN_BOTH,
    },
    "text_cfg": {
        "hf_model_name": (None, ""),
        "hf_tokenizer_name": (None, ""),
        "tokenizer_mode": (None, "clip"),
        "tokenizer_kwargs": (None, {}, {"clean": "lower"}),
        "embed_cls": (False,),
        "no_causal_mask": (False,),
        "pool_type": ("argmax",),
        "proj_bias": (False,),
        "proj_type": ("linear",),
        **_ONLY_IN_BOTH,
    },
}
# Keys that are read, and keys that say nothing about the towers at rest.
_KNOWN: dict[str, frozenset[str]] = {
    "model_cfg": frozenset({"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "init_logit_scale", "cast_dtype"}),
    "vision_cfg": frozenset(
        {
            "layers",
            "width",
            "head_width",
            "mlp_ratio",
            "patch_size",
            "image_size",
            "norm_kwargs",
            "patch_dropout",
            "output_tokens",
        }
        | {"attn_pooler_queries", "attn_pooler_heads"}
        | {"timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path"}
    ),
    "text_cfg": frozenset(
        {
            "context_length",
            "vocab_size",
            "width",
            "heads",
            "layers",
            "mlp_ratio",
            "norm_kwargs",
            "output_tokens",
            "pad_id",
            "eos_id",
        }
        | {"hf_model_pretrained"}
    ),
    "preprocess_cfg": frozenset({"mean", "std", "interpolation", "resize_mode", "fill_color", "size", "mode"}),
}


_THEIR_NAMES = {
    "embedding_width": "model_cfg.embed_dim",
    "text": "model_cfg.text_cfg",
    "text.vocabulary_size": "model_cfg.text_cfg.vocab_size",
    "vision": "model_cfg.vision_cfg",
    "preprocess": "preprocess_cfg",
    "preprocess.standard_deviation": "preprocess_cfg.std",
}


def read_open_clip_folder(folder: Path) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """Config and weights, by our names.

    A key that the file leaves out has the value it has in open_clip's own configs; one that is unknown is an error, because it could
    change what the towers compute.

    Raises:
        BackboneError: a file, key or weight is missing or surprising.
    """
    path = folder / OPEN_CLIP_CONFIG
    raw = read_json(path)
    model = _object(raw, "model_cfg", path)
    vision, text = _object(model, "vision_cfg", path), _object(model, "text_cfg", path)
    images = _object(raw, "preprocess_cfg", path)
    for name, part in (("model_cfg", model), ("vision_cfg", vision), ("text_cfg", text), ("preprocess_cfg", images)):
        _refuse_surprises(name, part, path)
    is_resnet = isinstance(vision.get("layers", 12), list)
    image_size, width = vision.get("image_size", 224), vision.get("width", 768)
    for name, value in (("image_size", image_size), ("width", width), ("head_width", vision.get("head_width", 64))):
        if not isinstance(value, int) or value < 1:
            raise BackboneError(f"{path}: vision_cfg.{name} is {value!r}; only one whole number above 0 is supported")
    heads = width // vision.get("head_width", 64)
    activation = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
    vision_fields: dict[str, Any] = {"image_size": image_size, "width": width}
    if is_resnet:
        heads = width * 32 // vision.get("head_width", 64)
        vision_fields |= {"kind": "modified_resnet", "layers": vision["layers"], "heads": heads}
    else:
        vision_fields |= {
            "kind": "vision_transformer",
            "patch_size": vision.get("patch_size", 16),
            "layers": vision.get("layers", 12),
            "heads": heads,
            "mlp_width": _mlp_width(width, vision, "vision_cfg", path),
            "activation": activation,
            "layer_norm_epsilon": _epsilon(vision, "vision_cfg", path),
        }
    vocabulary_size, text_width = text.get("vocab_size", 49408), text.get("width", 512)
    for name, value in (("vocab_size", vocabulary_size), ("width", text_width)):
        if not isinstance(value, int) or value < 1:
            raise BackboneError(f"{path}: text_cfg.{name} is {value!r}, not a whole number above 0")
    fields = {
        "embedding_width": required(model, "embed_dim", path),
        "text": {
            "width": text_width,
            "layers": text.get("layers", 12),
            "heads": text.get("heads", 8),
            "mlp_width": _mlp_width(text_width, text, "text_cfg", path),
            "context_length": text.get("context_length", 77),
            "vocabulary_size": vocabulary_size,
            "activation": activation,
            "layer_norm_epsilon": _epsilon(text, "text_cfg", path),
            # The text is read at its largest token: the last of the vocabulary, whose neighbour starts a text.
            "start_token": vocabulary_size - 2,
            "end_token": vocabulary_size - 1,
        },
        "vision": vision_fields,
        "preprocess": _preprocess(images, image_size, path),
    }
    config = validated(BackboneConfig, fields, path, _THEIR_NAMES)
    tensors = read_weights(folder, OPEN_CLIP_WEIGHTS)
    return config, rename_openai(tensors, is_resnet=is_resnet)


def _object(mapping: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = required(mapping, key, path)
    if not isinstance(value, dict):
        raise BackboneError(f"{path}: {key} is {value!r}, not a JSON object")
    return value


def _refuse_surprises(name: str, part: dict[str, Any], path: Path) -> None:
    only = _ONLY.get(name, {})
    known = _KNOWN[name] | only.keys()
    for key, value in part.items():
        if key not in known:
            raise BackboneError(f"{path}: {name}.{key} is unknown here and may change the towers{did_you_mean(key, known)}")
        if key in only and value not in only[key]:
            raise BackboneError(
                f"{path}: {name}.{key} is {value!r}, which makes another kind of tower than CLIP's; a transformers folder of the same"
                " model may be readable"
            )


def _mlp_width(width: int, part: dict[str, Any], name: str, path: Path) -> int:
    ratio = part.get("mlp_ratio", 4.0)
    if not isinstance(ratio, int | float) or not 0 < ratio < 1000:
        raise BackboneError(f"{path}: {name}.mlp_ratio is {ratio!r}, not a number above 0")
    return int(width * ratio)


def _epsilon(part: dict[str, Any], name: str, path: Path) -> Any:
    options = part.get("norm_kwargs") or {}
    if not isinstance(options, dict) or options.keys() - {"eps"}:
        raise BackboneError(f"{path}: {name}.norm_kwargs is {options!r}; only eps is known")
    return options.get("eps", 1e-5)


def _preprocess(images: dict[str, Any], image_size: int, path: Path) -> dict[str, Any]:
    modes = {"shortest": "short_side", "squash": "squash"}
    mode = images.get("resize_mode", "shortest")
    if not isinstance(mode, str) or mode not in modes:
        raise BackboneError(f"{path}: preprocess_cfg.resize_mode is {mode!r}; known: {', '.join(modes)}")
    return {
        "resize": image_size,
        "crop": image_size,
        "mean": images.get("mean", OPENAI_MEAN),
        "standard_deviation": images.get("std", OPENAI_STANDARD_DEVIATION),
        "resize_mode": modes[mode],
        "interpolation": images.get("interpolation", "bicubic"),
        "crop_rounding": "nearest" if mode == "shortest" else "down",
    }
