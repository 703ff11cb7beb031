"""CoCoOp, one soft prompt that depends on the picture (arXiv 2203.05557)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.errors import ConfigError
from promptmix.methods.base import MethodConfig, Recipe
from promptmix.methods.one_prompt import OnePrompt, OnePromptConfig
from promptmix.nn.classifier import AnyClassifier
from promptmix.prompts.encoder import Prompts
from promptmix.prompts.soft_prompt import SoftPrompt
from promptmix.runtime import torch_generator
from promptmix.structs import Batch, StepOutput

__all__ = ["CoCoOp", "CoCoOpConfig", "ConditionalClassifier", "MetaNet", "PicturePrompts"]

_MOST_ROWS = 1024  # sequences of a block of pictures, where no gradient is kept


class CoCoOpConfig(OnePromptConfig):
    """Options of CoCoOp. ``words`` starts the context from their token embeddings and sets its length."""

    context_tokens: int = Field(default=4, ge=1, le=64, description="vectors of a random start, for words=null")
    words: str | None = Field(default="a photo of a", max_length=300)
    reduction: int = Field(default=16, ge=1, le=1024, description="the hidden layer is this many times narrower than a feature")


@dataclass(frozen=True, kw_only=True)
class MetaNet:
    """What a picture adds to every context vector: ``pi(v) = shift_weight relu(hidden_weight v + hidden_bias) + shift_bias``."""

    hidden_weight: Float[Tensor, "hidden embedding"]
    hidden_bias: Float[Tensor, "hidden"]
    shift_weight: Float[Tensor, "width hidden"]
    shift_bias: Float[Tensor, "width"]

    def __call__(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image width"]:
        hidden = functional.linear(image_features, self.hidden_weight, self.hidden_bias).relu()
        return functional.linear(hidden, self.shift_weight, self.shift_bias)

    def detached(self) -> MetaNet:
        """A copy that no training changes."""
        return MetaNet(**{name: getattr(self, name).detach().clone() for name in self.__dataclass_fields__})


class PicturePrompts:
    """The prompts of some classes for several pictures at once, each picture with a context of its own.

    They are laid out once for each number of pictures; a picture's sequences share their beginning, which is encoded once.

    Raises:
        DataError: a class name is too long for the tower's context; the message names it.
    """

    def __init__(self, prompt: SoftPrompt, class_names: Sequence[str]) -> None:
        self._prompt, self.class_names = prompt, tuple(class_names)
        self._laid_out: dict[int, Prompts] = {}
        self._lay_out(1)

    def _lay_out(self, num_pictures: int) -> Prompts:
        if num_pictures not in self._laid_out:
            if len(self._laid_out) > 1:  # blocks of one size, and the rest: two sizes are all that come back
                del self._laid_out[next(iter(self._laid_out))]
            self._laid_out[num_pictures] = self._prompt.lay_out(self.class_names, num_pictures, _MOST_ROWS)
        return self._laid_out[num_pictures]

    def encode(self, contexts: Float[Tensor, "image token width"]) -> Float[Tensor, "image class embedding"]:
        """Normalised class features for every picture."""
        features = self._lay_out(len(contexts)).encode(contexts.flatten(0, 1))
        return functional.normalize(features, dim=-1).view(len(contexts), len(self.class_names), -1)


def _conditional_logits(
    image_features: Float[Tensor, "image embedding"],
    context: Float[Tensor, "token width"],
    meta_net: MetaNet,
    prompts: PicturePrompts,
    scale: float,
) -> Float[Tensor, "image class"]:
    """``scale * <v_b, t[c](context + pi(v_b))>``."""
    contexts = context + meta_net(image_features)[:, None]
    return scale * torch.einsum("bd,bcd->bc", image_features, prompts.encode(contexts))


@dataclass(frozen=True, kw_only=True)
class ConditionalClassifier:
    """CoCoOp as learnt, over some classes: it encodes their prompts for every picture anew, through the text tower.

    Pictures are taken in blocks, so that memory does not grow with pictures x classes. What it is asked on another device than the
    tower's it answers there.
    """

    context: Float[Tensor, "token width"]
    meta_net: MetaNet
    prompts: PicturePrompts
    scale: float

    @torch.no_grad()
    def logits(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image class"]:
        """Class logits of normalised image features."""
        num_classes = len(self.prompts.class_names)
        blocks = image_features.to(self.context.device).split(max(1, _MOST_ROWS // num_classes))
        said = [_conditional_logits(one, self.context, self.meta_net, self.prompts, self.scale) for one in blocks if len(one)]
        return torch.cat([image_features.new_zeros(0, num_classes), *(one.to(image_features.device) for one in said)])

    def expert_weights(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image expert"]:
        """One column of ones: there is one expert."""
        return image_features.new_ones(image_features.shape[0], 1)


class CoCoOp(OnePrompt):
    """One context for all classes, to which every picture adds a vector of its own.

    ``[start] (context + pi(v))  class name . [end]`` with ``pi(v) = W2 relu(W1 v + b1) + b2``, the same vector added to each of the
    context's; so class features depend on the picture, and ``logits[b, c] = s <v_b, t_c(v_b)>``, s = exp(logit_scale). Loss: the
    cross-entropy.

    A training step encodes the prompts of all its pictures in one pass of the packed encoder, at any batch size; in prediction too every
    picture takes all classes through the text tower.

    Differences from the paper and the reference code: none in what is computed. The reference encodes one picture's prompts after the
    other and knows no other batch size than 1. The context has as many vectors as ``words`` have tokens, where the reference counts
    words.
    """

    name = "cocoop"
    config_class: ClassVar[type[MethodConfig]] = CoCoOpConfig
    needs_text_to_predict: ClassVar[bool] = True

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(config, backbone, class_names, seed, more_class_names)
        assert isinstance(config, CoCoOpConfig)
        embedding, width = backbone.config.embedding_width, self.context.shape[1]
        hidden = max(1, embedding // config.reduction)
        generator = torch_generator(seed, "cocoop meta-net")

        def drawn(*shape: int, inputs: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator))

        self.hidden_weight, self.hidden_bias = drawn(hidden, embedding, inputs=embedding), drawn(hidden, inputs=embedding)
        self.shift_weight, self.shift_bias = drawn(width, hidden, inputs=hidden), drawn(width, inputs=hidden)
        self.prompts = PicturePrompts(self._prompt, class_names)

    @classmethod
    def default_recipe(cls, shots: int | None) -> Recipe:
        return Recipe(rate=0.002, epochs=10, batch_size=1)

    @property
    def meta_net(self) -> MetaNet:
        """What a picture adds to the context, as learnt so far, with a graph."""
        return MetaNet(
            hidden_weight=self.hidden_weight,
            hidden_bias=self.hidden_bias,
            shift_weight=self.shift_weight,
            shift_bias=self.shift_bias,
        )

    def training_step(self, batch: Batch) -> StepOutput:
        logits = _conditional_logits(batch.image_features, self.context, self.meta_net, self.prompts, self._backbone.logit_scale)
        loss = functional.cross_entropy(logits, batch.labels)
        return StepOutput(loss=loss, logits=logits, terms={"classification": loss})

    def encode_classes(self, class_names: Sequence[str]) -> Float[Tensor, "expert class embedding"]:
        raise ConfigError(
            "class features of method cocoop depend on the picture, so there are none without one; ask classifier_for for logits"
        )

    def classifier(self) -> AnyClassifier:
        return self._classifier(self.prompts)

    def classifier_for(self, class_names: Sequence[str]) -> AnyClassifier:
        return self._classifier(PicturePrompts(self._prompt, class_names))

    def _classifier(self, prompts: PicturePrompts) -> ConditionalClassifier:
        return ConditionalClassifier(
            context=self.context.detach().clone(),
            meta_net=self.meta_net.detached(),
            prompts=prompts,
            scale=self._backbone.logit_scale,
        )
