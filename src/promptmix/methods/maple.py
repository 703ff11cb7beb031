"""MaPLe, prompts in both towers of which those for pictures are made from those for texts (arXiv 2210.03117)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.methods.base import MethodConfig, Recipe
from promptmix.methods.deep_prompts import DeepPrompts, require_clip_transformers
from promptmix.runtime import torch_generator
from promptmix.structs import Batch, StepOutput

__all__ = ["MaPLe", "MaPLeConfig"]


class MaPLeConfig(MethodConfig):
    """Options of MaPLe."""

    context_tokens: int = Field(default=2, ge=1, le=64, description="learnt vectors before every block that has some")
    words: str | None = Field(
        default="a photo of a",
        max_length=300,
        description="the first of their tokens start the context, the others stay as they are; null: a random start",
    )
    depth: int = Field(
        default=9, ge=1, le=1000, description="blocks of either tower with prompts of their own, from the first on"
    )


class MaPLe(DeepPrompts):
    """Learnt vectors before the first blocks of the text tower, and before those of the image tower linear maps of the same vectors.

    With P[0] the context in front of the class name and P[1], P[2] ... what takes the place of its states before the second block,
    the third and so on, the image tower sees ``V[l] = W[l] P[l] + b[l]`` behind its patches, before block l. Loss: the
    cross-entropy of the cosines times exp(logit_scale). P, W and b are learnt.

    Where a tower has fewer than ``depth`` blocks, all its blocks have prompts. There are as many P as the deeper of the two
    needs and as many W and b as the image tower needs, so that everything declared is used.

    Differences from the paper and the reference code: none in what is computed. The reference declares maps for blocks that the image
    tower may not have, and it takes words for a context of four vectors at most, where this takes any number of them.
    """

    name = "maple"
    config_class: ClassVar[type[MethodConfig]] = MaPLeConfig

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        assert isinstance(config, MaPLeConfig)
        text, _, vision = require_clip_transformers(backbone, self.name)
        text_depth, vision_depth = min(config.depth, text.config.layers), min(config.depth, vision.config.layers)
        deep_blocks = max(text_depth, vision_depth) - 1
        super().__init__(config, backbone, class_names, seed, more_class_names, config.context_tokens, config.words, deep_blocks)
        # As in the reference code, the maps of the second block and on all start as copies of one.
        bound, starts = text.config.width**-0.5, [min(block, 1) for block in range(vision_depth)]
        generator = torch_generator(seed, "maple projections")
        weight = torch.empty(2, vision.config.width, text.config.width).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(2, vision.config.width).uniform_(-bound, bound, generator=generator)
        self.projection_weight = nn.Parameter(weight[starts])
        self.projection_bias = nn.Parameter(bias[starts])

    @classmethod
    def default_recipe(cls, shots: int | None) -> Recipe:
        return Recipe(rate=0.0035, batch_size=4, epochs=5)

    @classmethod
    def vision_prompts_of(cls, learnt: Mapping[str, Tensor]) -> Float[Tensor, "block token width"]:
        weight, bias, contexts = learnt["projection_weight"], learnt["projection_bias"], learnt["context"][None]
        if "deep_contexts" in learnt:
            contexts = torch.cat([contexts, learnt["deep_contexts"]])[: len(weight)]
        return torch.einsum("btw,bvw->btv", contexts, weight) + bias[:, None]

    def training_step(self, batch: Batch) -> StepOutput:
        logits = self._backbone.logit_scale * (batch.image_features @ self._encode(self._packed).T)
        loss = functional.cross_entropy(logits, batch.labels)
        return StepOutput(loss=loss, logits=logits, terms={"classification": loss})
