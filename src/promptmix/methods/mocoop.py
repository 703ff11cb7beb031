"""MoCoOp, the mixture of prompts (arXiv 2409.12011; 10.3389/frai.2025.1580973)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.methods.base import MethodConfig
from promptmix.methods.layer_norms import TunesBlockNorms
from promptmix.methods.mixture import Mixture, MixtureConfig

__all__ = ["MixtureOfPrompts", "MixtureOfPromptsConfig"]


class MixtureOfPromptsConfig(MixtureConfig):
    """Options of the mixture of prompts; the defaults are the corrected method, ``preset: as_released`` the published code."""

    router_detach: bool = Field(default=True, description="no gradient through the router's target")
    visual_layer_norms: bool = Field(default=False, description="tune the image tower's layer norms, at a tenth of the rate")


class MixtureOfPrompts(TunesBlockNorms, Mixture):
    """Several soft prompts, one for each group of templates, and a router that picks for each picture those that answer.

    With v the normalised image feature, e[g,c] the normalised feature of expert g for class c, q[g,c] the prototype of group g:

    - router ``z = W v + b``; weights a: softmax over the ``top_k`` largest, else 0;
    - logits ``s * sum_g a_g <v, e[g,c]>``;
    - loss = cross-entropy + ``text_weight`` * text supervision + ``router_weight`` * router supervision
      (see :func:`~promptmix.nn.losses.text_loss` and :func:`~promptmix.nn.router.router_target`).

    With ``image_side: linear`` the pictures are classified by ``v' = normalise(v + A v)`` and routed by v; the loss gains
    ``consistency_weight * mean(1 - <v', v>)``. This is not in the paper.

    Differences from the paper and the reference code (the first five are options, which ``preset: as_released`` sets to what the
    reference code does; the last two are mended for good and make no difference where each starting word has one token and both
    widths are equal):

    - text loss: cosines times exp(logit_scale); the reference accepts a temperature and ignores it (1);
    - text loss over the training classes' names; the reference also uses the names of new classes;
    - soft prompts end with a full stop like the hard ones; in the reference they have none;
    - the router's target has no gradient; in the reference the image tower is trained through it;
    - the image tower is frozen; the reference tunes its layer norms;
    - contexts have as many vectors as their starting words have tokens; the reference counts words, which overwrites parts of
      class names or leaves parts of templates out when a word has several tokens;
    - the correction has the width of the joint space; in the reference that of the text tower, which fails where they differ.
    """

    name = "mocoop"
    config_class: ClassVar[type[MethodConfig]] = MixtureOfPromptsConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "as_released": {
            "text_temperature": 1.0,
            "text_classes": "all",
            "router_detach": False,
            "period": False,
            "visual_layer_norms": True,
        },
        "image_side": {"image_side": "linear"},
    }

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(config, backbone, class_names, seed, more_class_names)
        assert isinstance(config, MixtureOfPromptsConfig)
        self._detaches = config.router_detach
        if config.visual_layer_norms:
            self._free_block_norms()

    def _for_router_target(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image embedding"]:
        return image_features.detach() if self._detaches else image_features
