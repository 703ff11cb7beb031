"""What the methods with one soft prompt share: its context, how it is encoded, and the classifier it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.methods.base import Method, MethodConfig, Recipe
from promptmix.nn.classifier import AnyClassifier, Classifier
from promptmix.prompts.encoder import Prompts
from promptmix.prompts.hard import encode_templates
from promptmix.prompts.soft_prompt import ClassNamePosition, SoftPrompt, context_from_words
from promptmix.prompts.templates import Template
from promptmix.runtime import torch_generator

__all__ = ["OnePrompt", "OnePromptConfig"]


class OnePromptConfig(MethodConfig):
    """Options of the context. ``words`` starts it from their token embeddings and sets its length."""

    context_tokens: int = Field(default=16, ge=1, le=64)
    words: str | None = Field(default=None, max_length=300)


class OnePrompt(Method):
    """Base of the methods that learn one context for all classes; what they learn it by is theirs.

    Args:
        config, backbone, class_names, seed, more_class_names: as for every method.
        class_name_position, class_specific: as for :class:`~promptmix.prompts.soft_prompt.SoftPrompt`.
    """

    learns: ClassVar[Literal["nothing", "by gradient", "in closed form"]] = "by gradient"

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
        class_name_position: ClassNamePosition = "end",
        class_specific: bool = False,
    ) -> None:
        super().__init__(config, backbone, class_names, seed, more_class_names)
        assert isinstance(config, OnePromptConfig)
        start = self._starting_context(config, len(class_names) if class_specific else 1, seed)
        self.context = nn.Parameter(start if class_specific else start[0])  # [class] token width
        tower, tokenizer = backbone.require_text()
        self._prompt = SoftPrompt(tower, tokenizer, start.shape[1], class_name_position, class_specific)
        self._packed = self._prompt.lay_out(class_names)

    def _starting_context(self, config: OnePromptConfig, rows: int, seed: int) -> Float[Tensor, "row token width"]:
        """From words, the same in each row, or drawn from N(0, 0.02^2)."""
        tower, tokenizer = self._backbone.require_text()
        if config.words is not None:
            return context_from_words(tower, tokenizer, config.words).repeat(rows, 1, 1)
        generator = torch_generator(seed, f"{self.name} context")
        return 0.02 * torch.randn(rows, config.context_tokens, tower.config.width, generator=generator)

    @classmethod
    def default_recipe(cls, shots: int | None) -> Recipe:
        lengths = {1: 50, 2: 100, 3: 100, 4: 100}
        return Recipe(rate=0.002, epochs=200 if shots is None else lengths.get(shots, 200))

    @property
    def text_encodings_per_step(self) -> int:
        return self._packed.num_rows

    def _encode(self, packed: Prompts) -> Float[Tensor, "class embedding"]:
        """Normalised class features, with a graph."""
        return functional.normalize(packed.encode(self.context.reshape(-1, self.context.shape[-1])), dim=-1)

    def _logits(
        self, image_features: Float[Tensor, "image embedding"], class_features: Float[Tensor, "class embedding"]
    ) -> Float[Tensor, "image class"]:
        return self._backbone.logit_scale * (image_features @ class_features.T)

    def _hard_features(self, template: Template) -> Float[Tensor, "class embedding"]:
        """Normalised features of the classes in words alone, without a graph: what zero-shot classification uses."""
        tower, tokenizer = self._backbone.require_text()
        return encode_templates(tower, tokenizer, [template], self.class_names)[0]

    @torch.no_grad()
    def encode_classes(self, class_names: Sequence[str]) -> Float[Tensor, "expert class embedding"]:
        return self._encode(self._packed if tuple(class_names) == self.class_names else self._prompt.lay_out(class_names))[None]

    def classifier(self) -> AnyClassifier:
        return Classifier(class_features=self.encode_classes(self.class_names), scale=self._backbone.logit_scale)
