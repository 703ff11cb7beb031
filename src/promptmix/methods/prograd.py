"""ProGrad, one soft prompt whose gradient may not contradict the hand-written one (arXiv 2205.14865)."""

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
from promptmix.errors import ConfigError
from promptmix.methods.base import MethodConfig
from promptmix.methods.one_prompt import OnePrompt, OnePromptConfig
from promptmix.prompts.templates import parse_template
from promptmix.structs import Batch, StepOutput

__all__ = ["ProGrad", "ProGradConfig"]


class ProGradConfig(OnePromptConfig):
    """Options of ProGrad. The embeddings of ``words`` start the last context vectors, 0 the ones before them."""

    words: str | None = Field(default="a photo of a", max_length=300)
    template: str = Field(default="a photo of a {}.", description="the hard prompt whose predictions guide the gradient")
    projection: float = Field(default=1.0, ge=0, description="how much of the contradicting part is taken away; 0 is CoOp")
    temperature: float = Field(default=1.0, gt=0, description="divides both classifiers' logits in the distillation")


class ProGrad(OnePrompt):
    """CoOp that steps only where zero-shot classification does not object.

    g is the gradient of the cross-entropy, u the direction of the gradient of KL(zero-shot || learnt), for each parameter tensor:
    where ``<g, u> < 0`` the step follows ``g - projection * <g, u> u``, else g. The divergence itself is not minimised.

    Differences from the paper and the reference code: none in what is computed. The divergence lacks the zero-shot classifier's
    entropy, a constant, as in the reference. Words longer than the context are refused by their number of tokens, where the
    reference counts words.
    """

    name = "prograd"
    config_class: ClassVar[type[MethodConfig]] = ProGradConfig

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(config, backbone, class_names, seed, more_class_names)
        assert isinstance(config, ProGradConfig)
        self._config, self._template = config, parse_template(config.template)

    def _starting_context(self, config: OnePromptConfig, rows: int, seed: int) -> Float[Tensor, "row token width"]:
        start = super()._starting_context(config, rows, seed)
        missing = config.context_tokens - start.shape[1]
        if missing < 0:
            raise ConfigError(
                f"option words is {config.words!r}, {start.shape[1]} tokens, more than context_tokens={config.context_tokens};"
                " shorten the one or raise the other"
            )
        return functional.pad(start, (0, 0, missing, 0))

    @functools.cached_property
    def _teacher(self) -> Float[Tensor, "class embedding"]:
        return self._hard_features(self._template)

    def training_step(self, batch: Batch) -> StepOutput:
        temperature = self._config.temperature
        logits = self._logits(batch.image_features, self._encode(self._packed))
        target = functional.softmax(self._logits(batch.image_features, self._teacher) / temperature, dim=-1)
        loss = functional.cross_entropy(logits, batch.labels)
        guides = {"distillation": temperature**2 * functional.cross_entropy(logits / temperature, target)}
        return StepOutput(loss=loss, logits=logits, terms={"classification": loss}, guides=guides)

    def backward(self, output: StepOutput) -> None:
        parameters = list(self.parameters())
        guides = torch.autograd.grad(output.guides["distillation"], parameters, retain_graph=True)
        output.loss.backward()
        for parameter, guide in zip(parameters, guides, strict=True):
            assert parameter.grad is not None
            direction = functional.normalize(guide.flatten(), dim=0).view_as(guide)
            against = (parameter.grad * direction).sum().clamp(max=0)
            parameter.grad -= self._config.projection * against * direction
