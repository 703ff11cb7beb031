"""The layer norms of the image tower as something to learn, for the methods that tune them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from promptmix.backbones.base import Backbone
from promptmix.backbones.siglip_vision import SiglipVisionTower
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.errors import ConfigError

__all__ = ["PREFIX", "free_block_norms", "with_learnt_norms"]

PREFIX = "visual_norms."
"""Under which a method keeps them: the name of its attribute, and a dot."""


def free_block_norms(backbone: Backbone) -> tuple[Backbone, nn.ParameterDict]:
    """A backbone with an image tower of its own, and the norms of its blocks, which have a gradient, as parameters.

    Raises:
        ConfigError: the image tower is no transformer, or not in float32.
    """
    if not isinstance(backbone.vision, VisionTransformer | SiglipVisionTower):
        raise ConfigError(
            f"visual_layer_norms needs a vision transformer; backbone {backbone.name} has none: set visual_layer_norms=false"
        )
    if backbone.features_key != backbone.fingerprint:
        raise ConfigError("visual_layer_norms trains the image tower, which needs --precision fp32")
    tuned = backbone.with_block_norms({})
    assert isinstance(tuned.vision, VisionTransformer | SiglipVisionTower)
    norms = nn.ParameterDict()
    for name, norm in tuned.vision.block_norms().items():
        for leaf, parameter in norm.named_parameters():
            # ParameterDict takes no dots; the tower keeps the same parameter under its own name.
            norms[f"{name}.{leaf}".replace(".", "/")] = parameter.requires_grad_(True)
    return tuned, norms


def with_learnt_norms(backbone: Backbone, learnt: Mapping[str, Tensor]) -> Backbone:
    """The backbone with the norms among a method's saved parameters in its image tower; the same backbone where there are none."""
    norms = {name.removeprefix(PREFIX).replace("/", "."): value for name, value in learnt.items() if name.startswith(PREFIX)}
    return backbone.with_block_norms(norms) if norms else backbone
