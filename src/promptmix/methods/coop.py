"""CoOp, one soft prompt (arXiv 2109.01134)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.errors import ConfigError
from promptmix.methods.base import MethodConfig
from promptmix.methods.one_prompt import OnePrompt, OnePromptConfig
from promptmix.prompts.soft_prompt import ClassNamePosition
from promptmix.structs import Batch, StepOutput

__all__ = ["CoOp", "CoOpConfig"]


class CoOpConfig(OnePromptConfig):
    """Options of CoOp. ``words`` starts the context from their token embeddings and sets its length."""

    class_name_position: ClassNamePosition = "end"
    class_specific: bool = False


class CoOp(OnePrompt):
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

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        assert isinstance(config, CoOpConfig)
        position, class_specific = config.class_name_position, config.class_specific
        super().__init__(config, backbone, class_names, seed, more_class_names, position, class_specific)
        self._config = config

    def training_step(self, batch: Batch) -> StepOutput:
        logits = self._logits(batch.image_features, self._encode(self._packed))
        loss = functional.cross_entropy(logits, batch.labels)
        return StepOutput(loss=loss, logits=logits, terms={"classification": loss})

    def encode_classes(self, class_names: Sequence[str]) -> Float[Tensor, "expert class embedding"]:
        if self._config.class_specific and tuple(class_names) != self.class_names:
            raise ConfigError(
                "class-specific contexts belong to the classes they were trained on; for classes added later train with"
                " class_specific=false"
            )
        return super().encode_classes(class_names)
