"""What the methods that mix soft prompts share: experts, router, losses (arXiv 2409.12011; 10.3389/frai.2025.1580973)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.errors import ConfigError
from promptmix.methods.base import Method, MethodConfig, Recipe
from promptmix.nn.classifier import Classifier, Router, move_features
from promptmix.nn.losses import consistency_loss, router_loss, sample_classes, text_loss
from promptmix.nn.router import mixture_logits, router_target, routing_weights
from promptmix.prompts.bank import PromptBank
from promptmix.prompts.encoder import Prompts
from promptmix.prompts.grouping import group_templates
from promptmix.prompts.hard import prototypes
from promptmix.prompts.templates import TemplateGroup, load_bank, parse_groups
from promptmix.runtime import torch_generator
from promptmix.structs import Batch, StepOutput

__all__ = ["Mixture", "MixtureConfig"]


class MixtureConfig(MethodConfig):
    """Options of a mixture of prompts."""

    bank: str = Field(default="general", description="a template bank by name, or a YAML file")
    groups: tuple[tuple[str, ...], ...] | None = Field(default=None, description="template groups written out, instead of a bank")
    regroup: Annotated[int, Field(ge=1)] | Literal["held_out"] | None = Field(
        default=None,
        description="throw the groups together and find this many automatically; held_out: choose how many on held-out shots",
    )
    top_k: int = Field(default=2, ge=1, description="experts that answer for a picture; never more than there are")
    text_weight: float = Field(default=5.0, ge=0)
    router_weight: float = Field(default=1.0, ge=0)
    text_temperature: Annotated[float, Field(gt=0)] | Literal["logit_scale"] = Field(
        default="logit_scale", description="factor of the text loss's cosines"
    )
    text_direction: Literal["prototypes", "prompts"] = Field(
        default="prototypes", description="what the text loss's softmax runs over"
    )
    text_classes: Literal["train", "all"] = Field(default="train", description="class names that the text loss may use")
    router_target: Literal["label", "class_agnostic", "none"] = "label"
    router_bonus: float = Field(default=10.0, ge=0, description="added to the target's top_k largest, before its softmax")
    sampled_classes: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="classes that a step tells apart: those of its pictures, and others drawn at random; null: all of them",
    )
    mixture: Literal["mean_logits", "renormalised"] = "mean_logits"
    correction: bool = Field(default=True, description="one learnt vector added to every class feature")
    period: bool = Field(default=True, description="end the soft prompts with a fixed full stop, as the hard ones end")
    image_side: Literal["none", "linear"] = Field(default="none", description="learn a linear map of the image feature")
    image_rate: float = Field(default=5.0, gt=0, description="the map's learning rate, in units of the prompts' rate")
    consistency_weight: float = Field(default=5.0, ge=0, description="holds the mapped feature near the feature")
    added_classes: Literal["experts", "prototypes"] = Field(
        default="experts",
        description="what answers for classes added later: the soft prompts, or the hard ones they started from",
    )

    def stands_for(self) -> str:
        return repr([[template.text for template in group.templates] for group in _written_groups(self)])


class Mixture(Method):
    """Several soft prompts, one for each group of templates, and a router that picks for each picture those that answer.

    With v the normalised image feature, e[g,c] the normalised feature of expert g for class c, q[g,c] the prototype of group g:

    - router ``z = W v + b``; weights a: softmax over the ``top_k`` largest, else 0;
    - logits ``s * sum_g a_g <v, e[g,c]>``;
    - loss = cross-entropy + ``text_weight`` * text supervision + ``router_weight`` * router supervision
      (see :func:`~promptmix.nn.losses.text_loss` and :func:`~promptmix.nn.router.router_target`).

    With ``image_side: linear`` the pictures are classified by ``v' = normalise(v + A v)`` and routed by v; the loss gains
    ``consistency_weight * mean(1 - <v', v>)``.
    """

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
        assert isinstance(config, MixtureConfig)
        self._config, self._seed = config, seed
        tower, tokenizer = backbone.require_text()
        self.groups = self._choose_groups()
        self._bank = PromptBank(tower, tokenizer, [group.templates[0] for group in self.groups], config.period)
        self._packed = self._bank.lay_out(class_names)

        width, num_experts = backbone.config.embedding_width, len(self.groups)
        self.contexts = nn.Parameter(self._bank.starting_contexts())  # all experts' vectors, one after another
        # One purpose for all mixtures: with equal seeds their routers start alike, so that they can be compared.
        generator = torch_generator(seed, "mocoop router")
        bound = width**-0.5
        self.router_weight = nn.Parameter(torch.empty(num_experts, width).uniform_(-bound, bound, generator=generator))
        self.router_bias = nn.Parameter(torch.empty(num_experts).uniform_(-bound, bound, generator=generator))
        self.correction = nn.Parameter(torch.zeros(width)) if config.correction else None
        self.image_map = nn.Parameter(torch.zeros(width, width)) if config.image_side == "linear" else None

    def _choose_groups(self) -> tuple[TemplateGroup, ...]:
        groups, regroup = _written_groups(self._config), self._config.regroup
        if regroup is None:
            return groups
        if regroup == "held_out":
            raise ConfigError("regroup=held_out is for a training run, which holds shots out; give a number here")
        tower, tokenizer = self._backbone.require_text()
        flat = [template for group in groups for template in group.templates]
        return group_templates(tower, tokenizer, flat, self.class_names, regroup)

    @classmethod
    def open_options(cls, config: MethodConfig) -> list[dict[str, Any]]:
        assert isinstance(config, MixtureConfig)
        if config.regroup != "held_out":
            return []
        distinct = {template.text for group in _written_groups(config) for template in group.templates}
        return [{"regroup": number} for number in (1, 2, 4, 8, 16) if number <= len(distinct)]

    @classmethod
    def default_recipe(cls, shots: int | None) -> Recipe:
        return Recipe(rate=0.032, epochs=50, warmup_epochs=5, clip=1.0)

    def rate_multiplier(self, parameter_name: str) -> float:
        return self._config.image_rate if parameter_name == "image_map" else 1.0

    @property
    def text_encodings_per_step(self) -> int:
        more = self._packed_for_text_loss.num_rows if self._uses_more_classes else 0
        return len(self.groups) * self._classes_a_step + more

    @property
    def _classes_a_step(self) -> int:
        return min(self._config.sampled_classes or len(self.class_names), len(self.class_names))

    @property
    def expert_names(self) -> tuple[str, ...]:
        return tuple(group.name for group in self.groups)

    def saved_options(self) -> dict[str, Any]:
        # The groups belong to the model: a bank may change, and found groups depend on the training classes.
        written = tuple(tuple(template.text for template in group.templates) for group in self.groups)
        return {**super().saved_options(), "groups": written, "bank": "general", "regroup": None}

    def notes(self) -> list[str]:
        return ["the text loss used the names of classes without pictures"] if self._uses_more_classes else []

    @property
    def _uses_more_classes(self) -> bool:
        config = self._config
        return config.text_classes == "all" and config.text_weight > 0 and len(self.more_class_names) > 0

    @functools.cached_property
    def _prototypes(self) -> Float[Tensor, "expert all_classes embedding"]:
        """Of the training classes, then of those whose names alone are known."""
        tower, tokenizer = self._backbone.require_text()
        return prototypes(tower, tokenizer, self.groups, self.class_names + self.more_class_names, period=True)

    @functools.cached_property
    def _packed_for_text_loss(self) -> Prompts:
        """The soft prompts of the classes without pictures, for ``text_classes: all``."""
        return self._bank.lay_out(self.more_class_names)

    def _encode(self, packed: Prompts) -> Float[Tensor, "expert class embedding"]:
        features = packed.encode(self.contexts).unflatten(0, (len(self.groups), -1))
        if self.correction is not None:
            features = features + self.correction
        return functional.normalize(features, dim=-1)

    @property
    def _scale(self) -> float:
        """Factor of the cosines of pictures and class features."""
        return self._backbone.logit_scale

    def _compared(self, features: Float[Tensor, "expert class embedding"]) -> Float[Tensor, "expert class embedding"]:
        """The class features as pictures are compared with them."""
        return features

    def _before_map(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image embedding"]:
        """The image features as the learnt map takes them."""
        return image_features

    def _for_router_target(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image embedding"]:
        """The image features as the router's target looks at them: with no gradient."""
        return image_features.detach()

    def training_step(self, batch: Batch) -> StepOutput:
        config, scale, original = self._config, self._scale, batch.image_features
        num_classes = len(self.class_names)
        packed, hard, labels = self._packed, self._prototypes[:, :num_classes], batch.labels
        chosen: Int[Tensor, "class"] | None = None
        if self._classes_a_step < num_classes:
            generator = torch_generator(self._seed, f"classes of step {batch.number}")
            chosen = sample_classes(labels, num_classes, self._classes_a_step, generator)
            hard, labels = hard[:, chosen], torch.searchsorted(chosen, labels)
            packed = packed.select(
                [group * num_classes + place for group in range(len(self.groups)) for place in chosen.tolist()]
            )
        features = self._encode(packed)

        router_logits = functional.linear(original, self.router_weight, self.router_bias)
        weights = routing_weights(router_logits, config.top_k)
        taken = self._before_map(original)
        moved = taken if self.image_map is None else move_features(taken, self.image_map)
        logits = mixture_logits(moved, self._compared(features), weights, scale, config.mixture == "renormalised")
        terms = {"classification": functional.cross_entropy(logits, labels)}

        if config.text_weight > 0:
            temperature = self._backbone.logit_scale if config.text_temperature == "logit_scale" else config.text_temperature
            supervised, references = features, hard
            if self._uses_more_classes:
                supervised = torch.cat([features, self._encode(self._packed_for_text_loss)], dim=1)
                references = torch.cat([hard, self._prototypes[:, num_classes:]], dim=1)
            terms["text"] = config.text_weight * text_loss(supervised, references, temperature, config.text_direction)
        if config.router_weight > 0 and config.router_target != "none":
            known = labels if config.router_target == "label" else None
            target = router_target(self._for_router_target(original), hard, known, config.top_k, config.router_bonus)
            terms["router"] = config.router_weight * router_loss(router_logits, target)
        if self.image_map is not None and config.consistency_weight > 0:
            terms["consistency"] = config.consistency_weight * consistency_loss(moved, taken)
        if chosen is not None:  # a class that was not asked for is nobody's answer
            logits = logits.new_full((len(logits), num_classes), float("-inf")).index_copy(1, chosen, logits)
        return StepOutput(loss=torch.stack(list(terms.values())).sum(), logits=logits, terms=terms)

    @torch.no_grad()
    def encode_classes(self, class_names: Sequence[str]) -> Float[Tensor, "expert class embedding"]:
        if tuple(class_names) == self.class_names:
            return self._compared(self._encode(self._packed))
        learnt = self._encode(self._bank.lay_out(class_names))
        if self._config.added_classes == "experts":
            return self._compared(learnt)
        tower, tokenizer = self._backbone.require_text()
        hard = prototypes(tower, tokenizer, self.groups, class_names, period=True)
        was_trained = torch.tensor([name in self.class_names for name in class_names], device=learnt.device)
        return self._compared(torch.where(was_trained[:, None], learnt, hard))

    def classifier(self) -> Classifier:
        return Classifier(
            class_features=self.encode_classes(self.class_names),
            scale=self._scale,
            router=Router(
                weight=self.router_weight.detach().clone(),
                bias=self.router_bias.detach().clone(),
                top_k=min(self._config.top_k, len(self.groups)),
            ),
            image_map=None if self.image_map is None else self.image_map.detach().clone(),
            renormalise=self._config.mixture == "renormalised",
        )


def _written_groups(config: MixtureConfig) -> tuple[TemplateGroup, ...]:
    return load_bank(config.bank) if config.groups is None else parse_groups(config.groups)
