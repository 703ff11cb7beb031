"""CoOp, one soft prompt (arXiv 2109.01134)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.errors import ConfigError
from promptmix.methods.base import Method, MethodConfig, Recipe
from promptmix.nn.classifier import Classifier
from promptmix.nn.router import mixture_logits
from promptmix.prompts.assemble import Slots, assemble_row, class_tokens, context_vector, embeddings_to_learn
from promptmix.prompts.encoder import Prompts, lay_out_prompts
from promptmix.runtime import torch_generator
from promptmix.structs import Batch, StepOutput

__all__ = ["CoOp", "CoOpConfig"]


class CoOpConfig(MethodConfig):
    """Options of CoOp. ``words`` starts the context from their token embeddings and sets its length."""

    context_tokens: int = Field(default=16, ge=1, le=64)
    words: str | None = Field(default=None, max_length=300)
    class_name_position: Literal["end", "middle", "front"] = "end"
    class_specific: bool = False


class CoOp(Method):
    """Learnt context vectors round the class name, shared by all classes or one row for each class.

    ``[start] context  class name . [end]``, with the class name at the end, in the middle or in front of the context; loss: the
    cross-entropy of the cosines times exp(logit_scale).

    Differences from the paper and the reference code: none in what is computed. The full stop is a fixed token, as there. With
    ``words`` the context length is the number of their tokens, where the reference takes the first ``context_tokens`` and
    counts words.
    """

    name = "coop"
    config_class: ClassVar[type[MethodConfig]] = CoOpConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"base-to-new": {"words": "a photo of a"}}
    learns: ClassVar[Literal["nothing", "by gradient", "in closed form"]] = "by gradient"

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(config, backbone, class_names, seed, more_class_names)
        assert isinstance(config, CoOpConfig)
        self._config = config
        tower, tokenizer = backbone.require_text()
        rows = len(class_names) if config.class_specific else 1
        if config.words is None:
            start = 0.02 * torch.randn(
                rows, config.context_tokens, tower.config.width, generator=torch_generator(seed, "coop context")
            )
        else:
            tokens = tokenizer.encode(config.words)
            if not tokens:
                raise ConfigError("option words holds no word; leave it out for a random start")
            start = embeddings_to_learn(tower, tokens).repeat(rows, 1, 1)
        self.context = nn.Parameter(start if config.class_specific else start[0])  # [class] token width
        self._packed = self._lay_out(class_names)

    @classmethod
    def default_recipe(cls, shots: int | None) -> Recipe:
        lengths = {1: 50, 2: 100, 3: 100, 4: 100}
        return Recipe(rate=0.002, epochs=200 if shots is None else lengths.get(shots, 200))

    def _lay_out(self, class_names: Sequence[str]) -> Prompts:
        tower, tokenizer = self._backbone.require_text()
        length = self.context.shape[-2]
        front = {"end": length, "middle": length // 2, "front": 0}[self._config.class_name_position]
        rows = []
        for number, name in enumerate(class_tokens(tokenizer, class_names, after_a_space=front > 0)):
            first = number * length if self._config.class_specific else 0
            vectors = tuple(context_vector(first + place) for place in range(length))
            rows.append(assemble_row(tokenizer, Slots(before=vectors[:front], after=vectors[front:]), name, period=True))
        return lay_out_prompts(tower, rows, [0] * len(rows), list(class_names))

    def _encode(self, packed: Prompts) -> Float[Tensor, "expert class embedding"]:
        contexts = self.context.reshape(-1, self.context.shape[-1])
        return functional.normalize(packed.encode(contexts), dim=-1)[None]

    @property
    def text_encodings_per_step(self) -> int:
        return len(self.class_names)

    def training_step(self, batch: Batch) -> StepOutput:
        features = self._encode(self._packed)
        one_expert = batch.image_features.new_ones(batch.image_features.shape[0], 1)
        logits = mixture_logits(batch.image_features, features, one_expert, self._backbone.logit_scale)
        loss = functional.cross_entropy(logits, batch.labels)
        return StepOutput(loss=loss, logits=logits, terms={"classification": loss})

    @torch.no_grad()
    def encode_classes(self, class_names: Sequence[str]) -> Float[Tensor, "expert class embedding"]:
        if self._config.class_specific and tuple(class_names) != self.class_names:
            raise ConfigError(
                "class-specific contexts belong to the classes they were trained on; for classes added later train with"
                " class_specific=false"
            )
        return self._encode(self._packed if tuple(class_names) == self.class_names else self._lay_out(class_names))

    def classifier(self) -> Classifier:
        return Classifier(class_features=self.encode_classes(self.class_names), scale=self._backbone.logit_scale)
