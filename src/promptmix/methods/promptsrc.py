"""PromptSRC, prompts in both towers that are held near the frozen ones (arXiv 2307.06948)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.methods.base import MethodConfig, Recipe
from promptmix.methods.deep_prompts import DeepPrompts, random_prompts, require_clip_transformers
from promptmix.prompts.hard import lay_out_templates
from promptmix.prompts.templates import flat_templates
from promptmix.structs import Batch, StepOutput

__all__ = ["PromptSRC", "PromptSRCConfig"]


class PromptSRCConfig(MethodConfig):
    """Options of PromptSRC."""

    text_tokens: int = Field(default=4, ge=1, le=64, description="learnt vectors before every text block that has some")
    vision_tokens: int = Field(default=4, ge=1, le=1024, description="learnt vectors before every image block that has some")
    words: str | None = Field(
        default="a photo of a",
        max_length=300,
        description="the first of their tokens start the context, the others stay as they are; null: a random start",
    )
    text_depth: int = Field(default=9, ge=1, le=1000, description="text blocks with prompts of their own, from the first on")
    vision_depth: int = Field(default=9, ge=1, le=1000, description="image blocks with prompts of their own, from the first on")
    text_weight: float = Field(default=25.0, ge=0, description="holds the text features near those of the templates")
    image_weight: float = Field(default=10.0, ge=0, description="holds the image features near the frozen ones")
    logits_weight: float = Field(default=1.0, ge=0, description="holds the class probabilities near zero-shot's")
    bank: str = Field(default="promptsrc", description="templates of the frozen text features, by name or from a YAML file")
    templates: tuple[str, ...] | None = Field(default=None, min_length=1, description="templates written out, instead of a bank")

    def stands_for(self) -> str:
        return repr([template.text for template in flat_templates(self.bank, self.templates)])


class PromptSRC(DeepPrompts):
    """Learnt vectors before the first blocks of both towers, independent of each other, and three losses against forgetting.

    With v, t the normalised features of a picture and a class, v0 that of the untouched image tower, t0 the normalised mean of
    the untouched text tower's features of many templates, s = exp(logit_scale), p = softmax(s v t) and p0 = softmax(s v0 t0)::

        loss = CE(s v t) + text_weight * mean|t - t0| + image_weight * mean|v - v0| + logits_weight * mean(p0 log(p0 / p))

    each mean over all entries of its tensor. At the end the parameters are their mean over the epochs, weighted by a normal density.

    Differences from the paper and the reference code: none in what is computed. As in the reference code t0 averages features of the
    length the tower gives them, before they are normalised. A tower with fewer blocks than its depth has prompts in all of them.
    """

    name = "promptsrc"
    config_class: ClassVar[type[MethodConfig]] = PromptSRCConfig

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        assert isinstance(config, PromptSRCConfig)
        text, _, vision = require_clip_transformers(backbone, self.name)
        deep_blocks = min(config.text_depth, text.config.layers) - 1
        super().__init__(config, backbone, class_names, seed, more_class_names, config.text_tokens, config.words, deep_blocks)
        self._config = config
        self._templates = flat_templates(config.bank, config.templates)
        vision_depth = min(config.vision_depth, vision.config.layers)
        start = random_prompts(seed, "promptsrc vision prompts", vision_depth, config.vision_tokens, vision.config.width)
        self.vision_prompts = nn.Parameter(start)

    @classmethod
    def default_recipe(cls, shots: int | None) -> Recipe:
        return Recipe(rate=0.0025, batch_size=4, epochs=20, averaging="gaussian", averaging_mean=15.0, averaging_deviation=1.0)

    @property
    def needs_frozen_features(self) -> bool:
        return self._config.image_weight > 0 or self._config.logits_weight > 0

    @classmethod
    def vision_prompts_of(cls, learnt: Mapping[str, Tensor]) -> Float[Tensor, "block token width"]:
        return learnt["vision_prompts"]

    def saved_options(self) -> dict[str, Any]:
        # A bank may change, and a file may be elsewhere.
        texts = tuple(template.text for template in self._templates)
        return {**super().saved_options(), "templates": texts, "bank": "promptsrc"}

    @functools.cached_property
    def _frozen_text_features(self) -> Float[Tensor, "class embedding"]:
        tower, tokenizer = self._backbone.require_text()
        laid_out = lay_out_templates(tower, tokenizer, self._templates, self.class_names)
        with torch.no_grad():
            features = laid_out.encode().unflatten(0, (len(self._templates), -1))
        return functional.normalize(features.mean(dim=0), dim=-1)

    def training_step(self, batch: Batch) -> StepOutput:
        config, scale, frozen = self._config, self._backbone.logit_scale, batch.frozen_features
        frozen_text = self._frozen_text_features  # made, the first time, before the graph of the prompts is in memory, too
        features = self._encode(self._packed)
        logits = scale * (batch.image_features @ features.T)
        terms = {"classification": functional.cross_entropy(logits, batch.labels)}
        if config.text_weight > 0:
            terms["text"] = config.text_weight * functional.l1_loss(features, frozen_text)
        if self.needs_frozen_features and frozen is None:
            raise ValueError("PromptSRC learns from frozen image features beside those of its own tower; the batch has none")
        if config.image_weight > 0 and frozen is not None:
            terms["image"] = config.image_weight * functional.l1_loss(batch.image_features, frozen)
        if config.logits_weight > 0 and frozen is not None:
            zero_shot = scale * (frozen @ frozen_text.T)
            said, expected = functional.log_softmax(logits, dim=1), functional.log_softmax(zero_shot, dim=1)
            divergence = functional.kl_div(said, expected, reduction="sum", log_target=True) / logits.numel()
            terms["logits"] = config.logits_weight * divergence
        return StepOutput(loss=torch.stack(list(terms.values())).sum(), logits=logits, terms=terms)
