"""KgCoOp, one soft prompt held near the hand-written one (arXiv 2303.13283)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.methods.base import MethodConfig, Recipe
from promptmix.methods.one_prompt import OnePrompt, OnePromptConfig
from promptmix.nn.losses import consistency_loss
from promptmix.prompts.templates import parse_template
from promptmix.structs import Batch, StepOutput

__all__ = ["KgCoOp", "KgCoOpConfig"]


class KgCoOpConfig(OnePromptConfig):
    """Options of KgCoOp. ``words`` starts the context from their token embeddings and sets its length."""

    context_tokens: int = Field(default=4, ge=1, le=64, description="vectors of a random start, for words=null")
    words: str | None = Field(default="a photo of a", max_length=300)
    template: str = Field(default="a photo of a {}.", description="the hard prompt that the soft one is held near")
    weight: float = Field(default=8.0, ge=0, description="of the pull towards the hard prompt; 0 is CoOp")


class KgCoOp(OnePrompt):
    """CoOp whose class features are held near those of a hand-written prompt, so that classes added by name keep working.

    With t[c] the learnt and h[c] the hard prompt's normalised feature of class c:
    loss = cross-entropy of the cosines times exp(logit_scale) + ``weight`` * mean over c of (1 - <t[c], h[c]>).

    Differences from the paper and the reference code: none in what is computed. The paper writes the second term as a squared
    distance, which of normalised features is twice it; the reference, and so ``weight``, goes by the cosine. The reference has
    a hard prompt for each data set ("a photo of a {}, a type of pet."), which is option ``template`` here. The context has as many
    vectors as ``words`` have tokens, where the reference counts words.
    """

    name = "kgcoop"
    config_class: ClassVar[type[MethodConfig]] = KgCoOpConfig

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(config, backbone, class_names, seed, more_class_names)
        assert isinstance(config, KgCoOpConfig)
        self._weight, self._template = config.weight, parse_template(config.template)

    @classmethod
    def default_recipe(cls, shots: int | None) -> Recipe:
        return Recipe(rate=0.002, epochs=100, batch_size=128)

    @functools.cached_property
    def _teacher(self) -> Float[Tensor, "class embedding"]:
        return self._hard_features(self._template)

    def training_step(self, batch: Batch) -> StepOutput:
        features = self._encode(self._packed)
        logits = self._logits(batch.image_features, features)
        terms = {
            "classification": functional.cross_entropy(logits, batch.labels),
            "knowledge": self._weight * consistency_loss(features, self._teacher),
        }
        return StepOutput(loss=torch.stack(list(terms.values())).sum(), logits=logits, terms=terms)
