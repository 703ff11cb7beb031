"""Backbones from their files: whose format it is, then towers with every weight in its place. Loading is strict.

Read are transformers folders (CLIP and SigLIP), open_clip folders, OpenAI's archives, and our own format, which is also written: a
folder with ``config.json`` (``"format": "promptmix-backbone"``, the fields of :class:`~promptmix.backbones.configs.BackboneConfig`),
``model.safetensors`` (our parameter names below ``text.`` and ``vision.``, and ``logit_scale`` before exp) and ``tokenizer.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptmix.backbones.base import Backbone, build_text_tower, build_vision_tower
from promptmix.backbones.clip_format import read_clip_folder
from promptmix.backbones.clip_tokenizer import CLIP_VOCABULARY_SIZE, bundled_clip_tokenizer, merges_file_tokenizer
from promptmix.backbones.configs import BackboneConfig, SiglipTextConfig
from promptmix.backbones.files import read_json, read_weights, required, validated
from promptmix.backbones.open_clip_format import OPEN_CLIP_CONFIG, read_open_clip_folder
from promptmix.backbones.openai_format import read_openai_archive
from promptmix.backbones.siglip_format import MODEL_TYPES as SIGLIP_TYPES
from promptmix.backbones.siglip_format import config_of as siglip_config
from promptmix.backbones.siglip_format import rename as rename_siglip
from promptmix.backbones.tokenizer import Tokenizer
from promptmix.errors import BackboneError
from promptmix.runtime import short_hash, tensors_checksum, write_json, write_tensors, write_text

__all__ = ["FORMAT", "load_files", "save_folder"]

FORMAT = "promptmix-backbone"
_VERSION = 1
_ONLY_ELSEWHERE = (".num_batches_tracked",)  # a buffer that carries no information


def load_files(place: Path, name: str, *, with_text: bool = True, with_vision: bool = True) -> Backbone:
    """Read a backbone from a folder or an archive, whichever format it has, as float32 on the CPU.

    Raises:
        BackboneError: a file, a key or a tensor is missing, surprising or of the wrong shape; the message names it.
    """
    config, tensors = _read(place)
    tensors = {key: value for key, value in tensors.items() if not key.endswith(_ONLY_ELSEWHERE)}
    for key in sorted(tensors):
        if key not in ("logit_scale", "logit_bias") and not key.startswith(("text.", "vision.")):
            raise BackboneError(f"{place}: the weights have {key}, which is part of no tower")
    logit_scale, logit_bias = _number(tensors, "logit_scale", place), None
    if "logit_bias" in tensors:
        logit_bias = float(_number(tensors, "logit_bias", place))

    tokenizer = text = vision = None
    if with_text:
        tokenizer = _read_tokenizer(place if place.is_dir() else place.parent, config)
        text = build_text_tower(config)
        _load_part(text, tensors, "text.", place)
    if with_vision:
        vision = build_vision_tower(config)
        _load_part(vision, tensors, "vision.", place)
    return Backbone(
        name=name,
        fingerprint=short_hash(config.model_dump_json(), tensors_checksum(tensors)),
        config=config,
        logit_scale=float(logit_scale.exp()),
        logit_bias=logit_bias,
        tokenizer=tokenizer,
        vision=vision,
        text=text,
    )


def save_folder(
    folder: Path, config: BackboneConfig, towers: dict[str, torch.nn.Module], logit_scale: Tensor, tokenizer_json: str
) -> None:
    """Write a CLIP in our own format, in half precision. ``towers`` maps ``"text"`` and ``"vision"`` to the towers."""
    tensors = {"logit_scale": logit_scale.detach().float().cpu().clone()}
    for part, tower in towers.items():
        for key, value in tower.state_dict().items():
            if not key.endswith(_ONLY_ELSEWHERE):
                tensors[f"{part}.{key}"] = value.detach().to("cpu", torch.float16).contiguous()
    write_tensors(folder / "model.safetensors", tensors, {})
    write_text(folder / "tokenizer.json", tokenizer_json)
    write_json(folder / "config.json", {"format": FORMAT, "format_version": _VERSION, **config.model_dump()})


def _read(place: Path) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """Config and weights by our names, from whichever format this is."""
    if place.is_file():
        return read_openai_archive(place)
    # Many repositories hold a model in both formats; the weights say which of them this folder has.
    has_open_clip = (place / OPEN_CLIP_CONFIG).is_file()
    if has_open_clip and not any((place / name).exists() for name in _TRANSFORMERS_WEIGHTS):
        return read_open_clip_folder(place)
    path = place / "config.json"
    raw = read_json(path)
    if raw.get("format") == FORMAT:
        return _read_own(place, raw)
    if raw.get("model_type") == "clip":
        return read_clip_folder(place, raw)
    if raw.get("model_type") in SIGLIP_TYPES:
        siglip = siglip_config(raw, place)
        return siglip, rename_siglip(read_weights(place, "model.safetensors", "pytorch_model.bin"), siglip)
    if has_open_clip:
        return read_open_clip_folder(place)
    kind = raw.get("model_type", raw.get("format", "not named"))
    raise BackboneError(
        f"{path}: unknown kind of backbone ({kind}); known: clip, siglip, {FORMAT}, and folders with {OPEN_CLIP_CONFIG}"
    )


_TRANSFORMERS_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def _read_own(folder: Path, raw: dict[str, Any]) -> tuple[BackboneConfig, dict[str, Tensor]]:
    path = folder / "config.json"
    if raw.get("format_version", _VERSION) != _VERSION:
        raise BackboneError(f"{path} has format version {raw['format_version']}; this promptmix reads {_VERSION}: update it")
    fields = {key: value for key, value in raw.items() if key not in ("format", "format_version")}
    config = validated(BackboneConfig, fields, path)
    return config, read_weights(folder, "model.safetensors", "pytorch_model.bin")


def _number(tensors: dict[str, Tensor], key: str, place: Path) -> Tensor:
    value: Tensor = required(tensors, key, place)
    if value.numel() != 1:
        raise BackboneError(f"{place}: {key} is {tuple(value.shape)}, not one number")
    return value.float()


def _read_tokenizer(folder: Path, config: BackboneConfig) -> Tokenizer:
    """The folder's tokenizer, whatever its form; OpenAI's own where a CLIP of that vocabulary comes without one."""
    own, merges = folder / "tokenizer.json", folder / "merges.txt"
    if own.exists() or isinstance(config.text, SiglipTextConfig):
        tokenizer, path = Tokenizer(own, config.text), own
    elif merges.is_file():
        tokenizer, path = Tokenizer(merges, config.text, merges_file_tokenizer(merges)), merges
    elif config.text.vocabulary_size == CLIP_VOCABULARY_SIZE:
        tokenizer, path = Tokenizer(own, config.text, bundled_clip_tokenizer()), own
    else:
        raise BackboneError(
            f"{folder} holds no tokenizer.json, and a vocabulary of {config.text.vocabulary_size} tokens is not OpenAI's; put the"
            " tokenizer.json of the model beside its weights"
        )
    if not isinstance(config.text, SiglipTextConfig):
        for mine, theirs, what in (
            (config.text.start_token, tokenizer.start_token, "start token"),
            (config.text.end_token, tokenizer.end_token, "end token"),
        ):
            if mine != theirs:
                raise BackboneError(f"{folder}: the {what} is {mine} in config.json but {theirs} in {path.name}")
    if tokenizer.vocabulary_size > config.text.vocabulary_size:
        raise BackboneError(
            f"{folder}: {path.name} has {tokenizer.vocabulary_size} tokens, the text tower only {config.text.vocabulary_size}"
        )
    return tokenizer


def _load_part(module: torch.nn.Module, tensors: dict[str, Tensor], prefix: str, place: Path) -> None:
    given = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    wanted = {key: value for key, value in module.state_dict().items() if not key.endswith(_ONLY_ELSEWHERE)}
    for key in sorted(wanted.keys() | given.keys()):
        if key not in given:
            raise BackboneError(f"{place}: the weights lack {prefix}{key}")
        if key not in wanted:
            raise BackboneError(f"{place}: the weights have {prefix}{key}, which the config gives no place")
        if given[key].shape != wanted[key].shape:
            raise BackboneError(
                f"{place}: {prefix}{key} is {tuple(given[key].shape)}, the config asks for {tuple(wanted[key].shape)}"
            )
    module.load_state_dict({key: value.float() for key, value in given.items()}, strict=False)
    module.eval().requires_grad_(False)
