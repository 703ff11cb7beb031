"""Backbone folders: read the transformers format and our own, write our own. Loading is strict.

Our own format is a folder with ``config.json`` (``"format": "promptmix-backbone"``, the fields of
:class:`~promptmix.backbones.configs.BackboneConfig`), ``model.safetensors`` (our parameter names below ``text.`` and ``vision.``,
and ``logit_scale`` before exp) and ``tokenizer.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from promptmix.backbones.base import Backbone, build_vision_tower
from promptmix.backbones.configs import BackboneConfig
from promptmix.backbones.text_tower import TextTower
from promptmix.backbones.tokenizer import Tokenizer
from promptmix.errors import BackboneError
from promptmix.runtime import atomic_path, short_hash, tensors_checksum, write_json

__all__ = ["FORMAT", "load_folder", "save_folder"]

FORMAT = "promptmix-backbone"
_VERSION = 1
_ONLY_ELSEWHERE = (".position_ids", ".num_batches_tracked")  # buffers that carry no information


def load_folder(folder: Path, name: str, *, with_text: bool = True, with_vision: bool = True) -> Backbone:
    """Read a backbone from a folder, in the transformers format or our own, as float32 on the CPU.

    Raises:
        BackboneError: a file, a key or a tensor is missing, surprising or of the wrong shape; the message names it.
    """
    raw = _read_json(folder / "config.json")
    if raw.get("format") == FORMAT:
        if raw.get("format_version", _VERSION) != _VERSION:
            raise BackboneError(
                f"{folder / 'config.json'} has format version {raw['format_version']}; this promptmix reads {_VERSION}: update it"
            )
        fields = {key: value for key, value in raw.items() if key not in ("format", "format_version")}
        config = _validated(BackboneConfig, fields, folder / "config.json")
    elif raw.get("model_type") == "clip":
        config = _transformers_config(raw, folder)
    else:
        kind = raw.get("model_type", raw.get("format", "not named"))
        raise BackboneError(f"{folder / 'config.json'}: unknown kind of backbone ({kind}); known: clip, {FORMAT}")
    tensors = _read_tensors(folder / "model.safetensors")
    if raw.get("format") != FORMAT:
        tensors = _from_transformers(tensors, config)
    for key in sorted(tensors):
        if key != "logit_scale" and not key.startswith(("text.", "vision.")):
            raise BackboneError(f"{folder}: the weights have {key}, which is part of no tower")
    logit_scale = _required(tensors, "logit_scale", folder)
    if logit_scale.numel() != 1:
        raise BackboneError(f"{folder}: logit_scale is {tuple(logit_scale.shape)}, not one number")
    fingerprint = _fingerprint(tensors, config)

    tokenizer: Tokenizer | None = None
    text: TextTower | None = None
    if with_text:
        tokenizer = Tokenizer(folder / "tokenizer.json")
        for mine, theirs, what in (
            (config.text.start_token, tokenizer.start_token, "start token"),
            (config.text.end_token, tokenizer.end_token, "end token"),
        ):
            if mine != theirs:
                raise BackboneError(f"{folder}: the {what} is {mine} in config.json but {theirs} in tokenizer.json")
        if tokenizer.vocabulary_size > config.text.vocabulary_size:
            raise BackboneError(
                f"{folder}: tokenizer.json has {tokenizer.vocabulary_size} tokens, the text tower only {config.text.vocabulary_size}"
            )
        text = TextTower(config.text, config.embedding_width)
        _load_part(text, tensors, "text.", folder)
    vision = None
    if with_vision:
        vision = build_vision_tower(config)
        _load_part(vision, tensors, "vision.", folder)
    return Backbone(
        name=name,
        fingerprint=fingerprint,
        config=config,
        logit_scale=float(logit_scale.float().exp()),
        tokenizer=tokenizer,
        vision=vision,
        text=text,
    )


def save_folder(
    folder: Path, config: BackboneConfig, towers: dict[str, torch.nn.Module], logit_scale: Tensor, tokenizer_json: str
) -> None:
    """Write our own format, in half precision. ``towers`` maps ``"text"`` and ``"vision"`` to the towers."""
    tensors = {"logit_scale": logit_scale.detach().float().cpu().clone()}
    for part, tower in towers.items():
        for key, value in tower.state_dict().items():
            if not key.endswith(_ONLY_ELSEWHERE):
                tensors[f"{part}.{key}"] = value.detach().to("cpu", torch.float16).contiguous()
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary)
    with atomic_path(folder / "tokenizer.json") as temporary:
        temporary.write_text(tokenizer_json, encoding="utf-8")
    write_json(folder / "config.json", {"format": FORMAT, "format_version": _VERSION, **config.model_dump()})


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BackboneError(f"no backbone at {path.parent}: {path.name} is missing")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as problem:
        raise BackboneError(f"{path} cannot be read: {problem}") from problem
    if not isinstance(value, dict):
        raise BackboneError(f"{path} does not hold a JSON object")
    return value


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise BackboneError(f"no weights at {path}; only safetensors files are read")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as problem:
        raise BackboneError(f"{path} is damaged: {problem}") from problem


def _validated(kind: type[BackboneConfig], fields: dict[str, Any], path: Path) -> BackboneConfig:
    try:
        return kind.model_validate(fields)
    except ValidationError as problem:
        wrong = "; ".join(
            ": ".join([*filter(None, [".".join(map(str, error["loc"]))]), error["msg"].removeprefix("Value error, ")])
            for error in problem.errors()
        )
        raise BackboneError(f"{path}: {wrong}") from problem


def _required(mapping: dict[str, Any], key: str, where: Path) -> Any:
    if key not in mapping:
        raise BackboneError(f"{where}: {key} is missing")
    return mapping[key]


def _load_part(module: torch.nn.Module, tensors: dict[str, Tensor], prefix: str, folder: Path) -> None:
    given = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    wanted = {key: value for key, value in module.state_dict().items() if not key.endswith(_ONLY_ELSEWHERE)}
    for key in sorted(wanted.keys() | given.keys()):
        if key not in given:
            raise BackboneError(f"{folder}: the weights lack {prefix}{key}")
        if key not in wanted:
            raise BackboneError(f"{folder}: the weights have {prefix}{key}, which the config gives no place")
        if given[key].shape != wanted[key].shape:
            raise BackboneError(
                f"{folder}: {prefix}{key} is {tuple(given[key].shape)}, the config asks for {tuple(wanted[key].shape)}"
            )
    module.load_state_dict({key: value.float() for key, value in given.items()}, strict=False)
    module.eval().requires_grad_(False)


def _fingerprint(tensors: dict[str, Tensor], config: BackboneConfig) -> str:
    return short_hash(config.model_dump_json(), tensors_checksum(tensors))


# ------------------------------------------------------------------------------------------- the transformers format


def _transformers_config(raw: dict[str, Any], folder: Path) -> BackboneConfig:
    path = folder / "config.json"
    text, vision = _required(raw, "text_config", path), _required(raw, "vision_config", path)
    for name, part in (("text_config", text), ("vision_config", vision)):
        if not isinstance(part, dict):
            raise BackboneError(f"{path}: {name} is {part!r}, not a JSON object")
    images_path = folder / "preprocessor_config.json"
    images = _read_json(images_path)
    # Early OpenAI conversions say eos_token_id 2 and mean the last token of the vocabulary, as their tokenizer does.
    end_token = text.get("eos_token_id", 49407)
    vocabulary_size = text.get("vocab_size", 49408)
    if end_token == 2:
        end_token = vocabulary_size - 1
    size, crop = _required(images, "size", images_path), _required(images, "crop_size", images_path)
    fields = {
        "embedding_width": _required(raw, "projection_dim", path),
        "text": {
            "width": _required(text, "hidden_size", path),
            "layers": _required(text, "num_hidden_layers", path),
            "heads": _required(text, "num_attention_heads", path),
            "mlp_width": _required(text, "intermediate_size", path),
            "context_length": text.get("max_position_embeddings", 77),
            "vocabulary_size": vocabulary_size,
            "activation": text.get("hidden_act", "quick_gelu"),
            "layer_norm_epsilon": text.get("layer_norm_eps", 1e-5),
            "start_token": end_token - 1 if text.get("eos_token_id", 2) == 2 else text.get("bos_token_id", 49406),
            "end_token": end_token,
        },
        "vision": {
            "kind": "vision_transformer",
            "image_size": _required(vision, "image_size", path),
            "patch_size": _required(vision, "patch_size", path),
            "width": _required(vision, "hidden_size", path),
            "layers": _required(vision, "num_hidden_layers", path),
            "heads": _required(vision, "num_attention_heads", path),
            "mlp_width": _required(vision, "intermediate_size", path),
            "activation": vision.get("hidden_act", "quick_gelu"),
            "layer_norm_epsilon": vision.get("layer_norm_eps", 1e-5),
        },
        "preprocess": {
            "resize": size if isinstance(size, int) else _required(size, "shortest_edge", images_path),
            "crop": crop if isinstance(crop, int) else _required(crop, "height", images_path),
            "mean": _required(images, "image_mean", images_path),
            "standard_deviation": _required(images, "image_std", images_path),
        },
    }
    return _validated(BackboneConfig, fields, path)


_TRANSFORMERS_NAMES = {
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
_TRANSFORMERS_BLOCK = {
    "layer_norm1": "attention_norm",
    "self_attn.out_proj": "attention_output",
    "layer_norm2": "mlp_norm",
    "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
}


def _from_transformers(tensors: dict[str, Tensor], config: BackboneConfig) -> dict[str, Tensor]:
    """Rename to our parameters and join query, key and value; what has no place keeps its name and is refused later."""
    left = {key: value for key, value in tensors.items() if not key.endswith(_ONLY_ELSEWHERE)}
    renamed = {mine: left.pop(theirs) for theirs, mine in _TRANSFORMERS_NAMES.items() if theirs in left}
    assert config.vision.kind == "vision_transformer"  # the only kind of this format
    for part, theirs_part, layers in (
        ("text", "text_model", config.text.layers),
        ("vision", "vision_model", config.vision.layers),
    ):
        for layer in range(layers):
            theirs, mine = f"{theirs_part}.encoder.layers.{layer}", f"{part}.blocks.{layer}"
            for leaf in ("weight", "bias"):
                for their_name, my_name in _TRANSFORMERS_BLOCK.items():
                    if f"{theirs}.{their_name}.{leaf}" in left:
                        renamed[f"{mine}.{my_name}.{leaf}"] = left.pop(f"{theirs}.{their_name}.{leaf}")
                joined = [left.pop(f"{theirs}.self_attn.{which}_proj.{leaf}", None) for which in "qkv"]
                present = [one for one in joined if one is not None]
                if len(present) == 3:
                    renamed[f"{mine}.query_key_value.{leaf}"] = torch.cat(present)
    for key, value in left.items():
        renamed[f"{'text' if key.startswith('text') else 'vision'}.{key}"] = value
    return renamed
