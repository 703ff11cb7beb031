"""OpenAI's archives (``ViT-B-32.pt``, ``RN50.pt`` ...) and the parameter names that open_clip shares with them.

The archives hold weights and sizes, but no config. What they leave open is that of the code published with them
(github.com/openai/CLIP): heads of 64 channels, QuickGELU, layer norm epsilon 1e-5, bicubic resize, and their mean and standard
deviation of pictures.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor

from promptmix.backbones.configs import BackboneConfig
from promptmix.backbones.files import validated
from promptmix.backbones.torch_archive import is_torchscript, read_torch_archive
from promptmix.errors import BackboneError

__all__ = ["OPENAI_MEAN", "OPENAI_STANDARD_DEVIATION", "read_openai_archive", "rename_openai"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STANDARD_DEVIATION = (0.26862954, 0.26130258, 0.27577711)

_HEAD_WIDTH = 64
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers that lie beside the weights; shapes tell them too


def read_openai_archive(path: Path) -> tuple[BackboneConfig, dict[str, Tensor]]:
    """Config and weights, by our names, of one of OpenAI's archives, as TorchScript or as a plain state dict.

    Raises:
        BackboneError: the file is no such archive, or lacks a weight.
    """
    everything = read_torch_archive(path)
    if not is_torchscript(path) and not any(name in everything for name in _NO_WEIGHTS):
        # open_clip's checkpoints have the same names, but nothing tells their activation, heads and pictures.
        raise BackboneError(
            f"{path} holds weights alone and is not one of OpenAI's archives; call it open_clip_pytorch_model.bin and put it into a folder"
            " with its open_clip_config.json, which says what weights leave open"
        )
    tensors = {name: value for name, value in everything.items() if name not in _NO_WEIGHTS}
    fields = _fields(tensors, path)
    return validated(BackboneConfig, fields, path), rename_openai(
        tensors, is_resnet=fields["vision"]["kind"] == "modified_resnet"
    )


def rename_openai(tensors: dict[str, Tensor], *, is_resnet: bool) -> dict[str, Tensor]:
    """OpenAI's names to ours; what has no place keeps its name below its tower and is refused later."""
    renamed: dict[str, Tensor] = {}
    for theirs, value in tensors.items():
        if theirs in ("logit_scale", "logit_bias"):
            renamed[theirs] = value
            continue
        tower, name = ("vision", theirs.removeprefix("visual.")) if theirs.startswith("visual.") else ("text", theirs)
        if tower == "vision" and is_resnet:
            renamed[f"vision.{name}"] = value
            continue
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)([._])(weight|bias)", name)
        if block is not None and block[2] in _BLOCK_NAMES:
            renamed[f"{tower}.blocks.{block[1]}.{_BLOCK_NAMES[block[2]]}.{block[4]}"] = value
        elif name in _PROJECTIONS[tower]:
            renamed[f"{tower}.projection.weight"] = value.T.contiguous()
        else:
            renamed[f"{tower}.{_OTHER_NAMES[tower].get(name, name)}"] = value
    return renamed


_BLOCK_NAMES = {
    "ln_1": "attention_norm",
    "attn.in_proj": "query_key_value",
    "attn.out_proj": "attention_output",
    "ln_2": "mlp_norm",
    "mlp.c_fc": "mlp_in",
    "mlp.c_proj": "mlp_out",
}
_PROJECTIONS = {"text": ("text_projection",), "vision": ("proj",)}
_OTHER_NAMES = {
    "text": {
        "positional_embedding": "position_embedding",
        "ln_final.weight": "final_norm.weight",
        "ln_final.bias": "final_norm.bias",
    },
    "vision": {
        "positional_embedding": "position_embedding",
        "conv1.weight": "patch_embedding.weight",
        "ln_pre.weight": "pre_norm.weight",
        "ln_pre.bias": "pre_norm.bias",
        "ln_post.weight": "post_norm.weight",
        "ln_post.bias": "post_norm.bias",
    },
}


def _fields(tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """Sizes from the shapes of the weights."""

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in tensors:
            raise BackboneError(f"{path} is no CLIP in OpenAI's format: it has no {name}")
        if tensors[name].ndim != dimensions:
            raise BackboneError(f"{path}: {name} is {tuple(tensors[name].shape)}, not of {dimensions} dimensions")
        return tuple(tensors[name].shape)

    def count(pattern: str) -> int:
        return len({found[1] for name in tensors if (found := re.match(pattern, name)) is not None})

    vocabulary_size, text_width = shape("token_embedding.weight", 2)
    vision: dict[str, Any]
    if any(name.startswith("visual.layer1.") for name in tensors):
        blocks = Counter(found[1] for name in tensors if (found := re.fullmatch(r"visual\.layer(\d)\.\d+\.conv1\.weight", name)))
        width = shape("visual.layer1.0.conv1.weight", 4)[0]
        grid = math.isqrt(max(0, shape("visual.attnpool.positional_embedding", 2)[0] - 1))
        vision = {
            "kind": "modified_resnet",
            "image_size": grid * 32,
            "width": width,
            "layers": [blocks[stage] for stage in "1234"],
            "heads": width * 32 // _HEAD_WIDTH,
        }
    else:
        width, _, _, patch_size = shape("visual.conv1.weight", 4)
        grid = math.isqrt(max(0, shape("visual.positional_embedding", 2)[0] - 1))
        vision = {
            "kind": "vision_transformer",
            "image_size": grid * patch_size,
            "patch_size": patch_size,
            "width": width,
            "layers": count(r"visual\.transformer\.resblocks\.(\d+)\."),
            "heads": width // _HEAD_WIDTH,
            "mlp_width": shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
            "activation": "quick_gelu",
            "layer_norm_epsilon": 1e-5,
        }
    return {
        "embedding_width": shape("text_projection", 2)[1],
        "text": {
            "width": text_width,
            "layers": count(r"transformer\.resblocks\.(\d+)\."),
            "heads": text_width // _HEAD_WIDTH,
            "mlp_width": shape("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
            "context_length": shape("positional_embedding", 2)[0],
            "vocabulary_size": vocabulary_size,
            "activation": "quick_gelu",
            "layer_norm_epsilon": 1e-5,
            "start_token": vocabulary_size - 2,
            "end_token": vocabulary_size - 1,
        },
        "vision": vision,
        "preprocess": {
            "resize": vision["image_size"],
            "crop": vision["image_size"],
            "mean": OPENAI_MEAN,
            "standard_deviation": OPENAI_STANDARD_DEVIATION,
            "crop_rounding": "nearest",
        },
    }
