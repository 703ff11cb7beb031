"""CLIP-LoRA, low-rank changes of both towers (arXiv 2405.18541)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.low_rank import PROJECTIONS, LowRankChanges, Projection, changed_tower, merged_tower, starting_changes
from promptmix.backbones.vision_resnet import ModifiedResNet
from promptmix.distributed.rows import Share
from promptmix.errors import ConfigError
from promptmix.methods.base import Method, MethodConfig, Recipe
from promptmix.methods.layer_norms import require_float32
from promptmix.nn.classifier import Classifier
from promptmix.nn.router import mixture_logits
from promptmix.prompts.encoder import Prompts
from promptmix.prompts.hard import ensemble_features, lay_out_templates
from promptmix.prompts.templates import parse_template
from promptmix.runtime import derive_seed, torch_generator
from promptmix.structs import Batch, StepOutput

__all__ = ["ClipLora", "ClipLoraConfig"]


class ClipLoraConfig(MethodConfig):
    """Options of CLIP-LoRA."""

    template: str = "a photo of a {}."
    towers: Literal["both", "vision", "text"] = Field(default="both", description="which towers are changed")
    projections: tuple[Projection, ...] = Field(
        default=PROJECTIONS, min_length=1, description="which matrices of each block are changed: query, key, value"
    )
    rank: int = Field(default=2, ge=1, le=1024)
    alpha: float = Field(default=1.0, gt=0, description="the changes count alpha / sqrt(rank) times")
    dropout: float = Field(default=0.25, ge=0, lt=1, description="share of the inputs of A that a training step drops")

    @field_validator("projections")
    @classmethod
    def _each_once(cls, projections: tuple[Projection, ...]) -> tuple[Projection, ...]:
        if len(set(projections)) < len(projections):
            raise ValueError("a projection is named twice; name each of q, k, v at most once")
        return projections

    @property
    def scale(self) -> float:
        """The factor of the products B A."""
        return self.alpha / math.sqrt(self.rank)


class ClipLora(Method):
    """Low-rank changes of the query, key and value matrices of every block of both towers; prompts are hard, from one template.

    With x what a matrix W is given, ``W x`` becomes ``W x + alpha / sqrt(rank) * B A dropout(x)``; A starts uniform within
    1 / sqrt(width), B at zero; loss: the cross-entropy of the cosines times exp(logit_scale). To predict, the products are added to
    the weights, so that a tuned tower costs what the frozen one costs.

    Differences from the paper and the reference code:

    - the cosines count exp(logit_scale) times, which is 100 for OpenAI's CLIP; in the reference 100 for all;
    - one template for all data sets, unless the option says otherwise; the reference has one for each;
    - a beginning that all prompts share, such as "a photo of a", is encoded once, so that in a training step dropout drops the same
      of it for all classes; in the reference each class has draws of its own;
    - everything is calculated in float32; the reference mixes in float16;
    - a last batch that is not full is left out of its epoch; the reference takes it;
    - trained on all pictures, the reference has no length; here it is that of 16 shots, 8000 steps.
    """

    name = "clip-lora"
    config_class: ClassVar[type[MethodConfig]] = ClipLoraConfig
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
        assert isinstance(config, ClipLoraConfig)
        self._config, self._seed = config, seed
        self._template = parse_template(config.template)
        text, tokenizer = backbone.require_text()
        self.vision: LowRankChanges | None = None
        self.text: LowRankChanges | None = None
        self._changed = backbone
        if config.towers != "text":
            if backbone.vision is None or isinstance(backbone.vision, ModifiedResNet):
                raise ConfigError(
                    f"clip-lora changes a vision transformer, and backbone {backbone.name} has none: set towers=text, or give another"
                    " backbone"
                )
            require_float32(backbone.vision, "clip-lora trains the image tower")
            self.vision = starting_changes(backbone.vision, *self._shape(), torch_generator(seed, "clip-lora vision"))
            self._changed = dataclasses.replace(backbone, vision=changed_tower(backbone.vision, self.vision))
        if config.towers != "vision":
            require_float32(text, "clip-lora trains the text tower")
            self.text = starting_changes(text, *self._shape(), torch_generator(seed, "clip-lora text"))
            text = changed_tower(text, self.text)
        self._packed: Prompts = lay_out_templates(text, tokenizer, [self._template], class_names, split=self.splits_text)

    def _shape(self) -> tuple[tuple[Projection, ...], int, float, float]:
        config = self._config
        return config.projections, config.rank, config.scale, config.dropout

    @classmethod
    def default_recipe(cls, shots: int | None) -> Recipe:
        return Recipe(
            steps=500 * (16 if shots is None else shots),
            schedule="step",
            rate=2e-4,
            final_rate=1e-6,
            batch_size=32,
            optimizer="adamw",
            weight_decay=1e-2,
        )

    @property
    def tunes_image_tower(self) -> bool:
        return self.vision is not None

    @property
    def text_encodings_per_step(self) -> int:
        return 0 if self.text is None else len(self.class_names)

    @property
    def splits_text(self) -> bool:
        # What dropout takes away goes by the packed tokens of all classes, so with dropout no rank may pack its own classes alone.
        return self.text is None or self._config.dropout == 0

    def encode_training_pixels(
        self, pixels: UInt8[Tensor, "image height width 3"], number: int, share: Share | None = None
    ) -> Float[Tensor, "image embedding"]:
        self._choose_masks(self.vision, "vision", number)
        if self.vision is not None:
            self.vision.mask_share = share
        return self._changed.encode_pixels(pixels)

    def _choose_masks(self, changes: LowRankChanges | None, tower: str, number: int) -> None:
        """Drop what belongs to this step; in evaluation mode, nothing."""
        if changes is not None:
            purpose = f"clip-lora dropout of the {tower} tower in step {number}"
            changes.mask_seed = derive_seed(self._seed, purpose) if self.training else None

    @classmethod
    def tuned_backbone(cls, backbone: Backbone, options: Mapping[str, Any], learnt: Mapping[str, Tensor]) -> Backbone:
        if "vision.down" not in learnt or backbone.vision is None:
            return backbone
        config = cls.parse_options(options)
        assert isinstance(config, ClipLoraConfig)
        assert not isinstance(backbone.vision, ModifiedResNet)
        changes = LowRankChanges(learnt["vision.down"], learnt["vision.up"], config.projections, config.scale)
        # What the products are made of is far smaller than they are, and says as much.
        named = {f"{'+'.join(config.projections)} {config.scale} {name}": learnt[name] for name in ("vision.down", "vision.up")}
        return dataclasses.replace(
            backbone, vision=merged_tower(backbone.vision, changes), fingerprint=backbone.fingerprint_with(named)
        )

    def training_step(self, batch: Batch) -> StepOutput:
        features = self._class_features(batch.number)
        one_expert = batch.image_features.new_ones(batch.image_features.shape[0], 1)
        logits = mixture_logits(batch.image_features, features, one_expert, self._backbone.logit_scale)
        loss = functional.cross_entropy(logits, batch.labels)
        return StepOutput(loss=loss, logits=logits, terms={"classification": loss})

    def _class_features(self, number: int) -> Float[Tensor, "1 class embedding"]:
        """Of the classes at hand, in step ``number``, with a graph where the text tower is changed."""
        if self.text is None:
            return self._frozen_class_features
        self._choose_masks(self.text, "text", number)
        return functional.normalize(self._packed.encode(), dim=-1)[None]

    @functools.cached_property
    def _frozen_class_features(self) -> Float[Tensor, "1 class embedding"]:
        return self.encode_classes(self.class_names)

    @torch.no_grad()
    def encode_classes(self, class_names: Sequence[str]) -> Float[Tensor, "expert class embedding"]:
        tower, tokenizer = self._backbone.require_text()
        if self.text is not None:
            tower = merged_tower(tower, self.text)
        return ensemble_features(tower, tokenizer, [self._template], class_names)[None]

    def classifier(self) -> Classifier:
        return Classifier(class_features=self.encode_classes(self.class_names), scale=self._backbone.logit_scale)
