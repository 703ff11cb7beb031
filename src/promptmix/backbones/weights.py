"""Backbones from their files: whose format it is, then towers with every weight in its place. Loading is strict.

Read are transformers folders (CLIP and SigLIP), open_clip folders, OpenAI's archives, and our own format, which is also written: a
folder with ``config.json`` (``"format": "promptmix-backbone"``, the fields of :class:`~promptmix.backbones.configs.BackboneConfig`),
``model.safetensors`` (our parameter names below ``text.`` and ``vision.``, and ``logit_scale`` before exp) and ``tokenizer.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from promptmix.backbones.base import Backbone, build_text_tower, build_vision_tower
from promptmix.backbones.clip_format import read_clip_folder
from promptmix.backbones.clip_tokenizer import CLIP_VOCABULARY_SIZE, bundled_clip_tokenizer, merges_file_tokenizer
from promptmix.backbones.configs import BackboneConfig, SiglipTextConfig
from promptmix.backbones.files import FORMAT, OPEN_CLIP_CONFIG, kind_of_folder, read_json, read_weights, required, validated
from promptmix.backbones.open_clip_format import read_open_clip_folder
from promptmix.backbones.openai_format import read_openai_archive
from promptmix.backbones.siglip_format import read_siglip_folder
from promptmix.backbones.tokenizer import Tokenizer
from promptmix.errors import BackboneError
from promptmix.runtime import short_hash, tensors_checksum, write_json, write_tensors, write_text

__all__ = ["load_files", "save_folder"]

_VERSION = 1
_ONLY_ELSEWHERE = (".num_batches_tracked",)  # a buffer that carries no information


class _Unfilled(TorchFunctionMode):
    """Modules that are made within the block draw no first numbers: those of the files come in their place.

    Where there is no memory to draw them into, torch goes through the motions in Python, and imports its compiler for it: a second.
    """

    _FILLING = (nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_, nn.init.xavier_uniform_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._FILLING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


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
        if not tensors[key].is_floating_point() or not bool(tensors[key].isfinite().all()):
            raise BackboneError(f"{place}: {key} is {tensors[key].dtype} or not finite everywhere; weights are finite numbers")
    logit_scale, logit_bias = _number(tensors, "logit_scale", place).exp(), None
    if not bool(logit_scale.isfinite()):
        raise BackboneError(f"{place}: logit_scale is {float(tensors['logit_scale']):g}, whose exponential is no number")
    if "logit_bias" in tensors:
        logit_bias = float(_number(tensors, "logit_bias", place))

    tokenizer = text = vision = None
    if with_text:
        tokenizer = _read_tokenizer(place, config)
        with torch.device("meta"), _Unfilled():
            text = build_text_tower(config)
        _load_part(text, tensors, "text.", place)
    if with_vision:
        with torch.device("meta"), _Unfilled():
            vision = build_vision_tower(config)
        _load_part(vision, tensors, "vision.", place)
    return Backbone(
        name=name,
        fingerprint=short_hash(config.model_dump_json(), tensors_checksum(tensors)),
        config=config,
        logit_scale=float(logit_scale),
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
    names = [path.name for path in place.iterdir()] if place.is_dir() else []
    raw = read_json(place / "config.json") if "config.json" in names or OPEN_CLIP_CONFIG not in names else {}
    match kind_of_folder(names, raw):
        case "own":
            return _read_own(place, raw)
        case "clip":
            return read_clip_folder(place, raw)
        case "siglip" | "siglip2":
            return read_siglip_folder(place, raw)
        case "open_clip":
            return read_open_clip_folder(place)
    kind = raw.get("model_type", raw.get("format", "not named"))
    raise BackboneError(
        f"{place / 'config.json'}: unknown kind of backbone ({kind}); known: clip, siglip, {FORMAT}, and folders with {OPEN_CLIP_CONFIG}"
    )


def _read_own(folder: Path, raw: dict[str, Any]) -> tuple[BackboneConfig, dict[str, Tensor]]:
    path = folder / "config.json"
    if raw.get("format_version", _VERSION) != _VERSION:
        raise BackboneError(f"{path} has format version {raw['format_version']}; this promptmix reads {_VERSION}: update it")
    fields = {key: value for key, value in raw.items() if key not in ("format", "format_version")}
    config = validated(BackboneConfig, fields, path)
    return config, read_weights(folder, ("model.safetensors",))


def _number(tensors: dict[str, Tensor], key: str, place: Path) -> Tensor:
    value: Tensor = required(tensors, key, place)
    if value.numel() != 1:
        raise BackboneError(f"{place}: {key} is {tuple(value.shape)}, not one number")
    return value.float()


def _read_tokenizer(place: Path, config: BackboneConfig) -> Tokenizer:
    """The folder's tokenizer, whatever its form; OpenAI's own where a CLIP of that vocabulary comes without one.

    An archive of that vocabulary has OpenAI's: what lies beside it may be another model's.
    """
    folder = place if place.is_dir() else place.parent
    if place.is_file() and config.text.vocabulary_size == CLIP_VOCABULARY_SIZE:
        return Tokenizer(place, config.text, bundled_clip_tokenizer())
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
    """Put weights into a tower without any, which is on no device: a wrong shape is told before memory is asked for."""
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
    values = {key: value.float() for key, value in given.items()}
    values |= {key: torch.zeros((), dtype=torch.long) for key in module.state_dict() if key.endswith(_ONLY_ELSEWHERE)}
    module.load_state_dict(values, assign=True)
    module.eval().requires_grad_(False)
