"""Parameter names of the transformers library, where its models are alike, to ours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from promptmix.backbones.configs import BackboneConfig

__all__ = ["rename_transformers"]

_BLOCK_NAMES = {
    "layer_norm1": "attention_norm",
    "self_attn.out_proj": "attention_output",
    "layer_norm2": "mlp_norm",
    "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
}


def rename_transformers(tensors: Mapping[str, Tensor], names: Mapping[str, str], config: BackboneConfig) -> dict[str, Tensor]:
    """Rename to our parameters and join query, key and value; what has no place keeps its name and is refused later.

    Args:
        names: ours by theirs, of all weights outside the blocks.
    """
    assert config.vision.kind != "modified_resnet"  # the library has no such tower
    left = {key: value for key, value in tensors.items() if not key.endswith(".position_ids")}
    renamed = {mine: left.pop(theirs) for theirs, mine in names.items() if theirs in left}
    for part, layers in (("text", config.text.layers), ("vision", config.vision.layers)):
        for layer in range(layers):
            theirs, mine = f"{part}_model.encoder.layers.{layer}", f"{part}.blocks.{layer}"
            for leaf in ("weight", "bias"):
                for their_name, my_name in _BLOCK_NAMES.items():
                    if f"{theirs}.{their_name}.{leaf}" in left:
                        renamed[f"{mine}.{my_name}.{leaf}"] = left.pop(f"{theirs}.{their_name}.{leaf}")
                parts = [f"{theirs}.self_attn.{which}_proj.{leaf}" for which in "qkv"]
                if all(key in left for key in parts):
                    renamed[f"{mine}.query_key_value.{leaf}"] = torch.cat([left.pop(key) for key in parts])
    for key, value in left.items():
        renamed[f"{'text' if key.startswith('text') else 'vision'}.{key}"] = value
    return renamed
