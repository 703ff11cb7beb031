"""The layer norms of the image tower as something to learn, for the methods that tune them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from promptmix.backbones.base import Backbone
from promptmix.backbones.siglip_vision import SiglipVisionTower
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.distributed.rows import Share
from promptmix.errors import ConfigError
from promptmix.methods.base import Method

__all__ = ["PREFIX", "TunesBlockNorms", "free_block_norms", "require_float32", "with_learnt_norms"]

PREFIX = "visual_norms."
"""Under which a method keeps them: the name of its attribute, and a dot."""


def require_float32(tower: nn.Module, what: str) -> None:
    """Refuse to train a tower whose weights are rounded to half precision; ``what`` says who trains it.

    Raises:
        ConfigError: it is not in float32.
    """
    if next(tower.parameters()).dtype != torch.float32:
        raise ConfigError(f"{what}, which needs --precision fp32")


def free_block_norms(backbone: Backbone) -> tuple[Backbone, nn.ParameterDict]:
    """A backbone with an image tower of its own, and the norms of its blocks, which have a gradient, as parameters.

    Raises:
        ConfigError: the image tower is no transformer, or not in float32.
    """
    if not isinstance(backbone.vision, VisionTransformer | SiglipVisionTower):
        raise ConfigError(
            f"visual_layer_norms needs a vision transformer; backbone {backbone.name} has none: set visual_layer_norms=false"
        )
    require_float32(backbone.vision, "visual_layer_norms trains the image tower")
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


class TunesBlockNorms(Method):
    """Base of the methods that learn the norms too where they are asked to, at a tenth of the rate."""

    _tuned: Backbone | None = None

    def _free_block_norms(self) -> None:
        """To be called by the subclass when it is made, if it is asked to.

        Raises:
            ConfigError: as for :func:`free_block_norms`.
        """
        self._tuned, self.visual_norms = free_block_norms(self._backbone)

    @property
    def tunes_image_tower(self) -> bool:
        return self._tuned is not None

    def encode_training_pixels(
        self, pixels: UInt8[Tensor, "image height width 3"], number: int, share: Share | None = None
    ) -> Float[Tensor, "image embedding"]:
        return (self._backbone if self._tuned is None else self._tuned).encode_pixels(pixels)

    @classmethod
    def tuned_backbone(cls, backbone: Backbone, options: Mapping[str, Any], learnt: Mapping[str, Tensor]) -> Backbone:
        return with_learnt_norms(backbone, learnt)

    def rate_multiplier(self, parameter_name: str) -> float:
        return 0.1 if parameter_name.startswith(PREFIX) else super().rate_multiplier(parameter_name)
