"""promptmix: the mixture of prompts with an image side, the method of this library."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.methods.base import MethodConfig, Recipe
from promptmix.methods.mixture import Mixture, MixtureConfig
from promptmix.methods.remembered import RemembersPictures
from promptmix.nn.classifier import Classifier, Memory

__all__ = ["PromptMix", "PromptMixConfig"]


class PromptMixConfig(MixtureConfig):
    """Options of promptmix: those of the mixture, and of the image side."""

    mixture: Literal["mean_logits", "renormalised"] = "renormalised"
    image_side: Literal["none", "linear"] = Field(default="linear", description="learn a linear map of the image feature")
    image_rate: float = Field(default=1.0, gt=0, description="the map's learning rate, in units of the prompts' rate")
    consistency_weight: float = Field(default=20.0, ge=0, description="holds the mapped feature near the feature")
    whitening: Annotated[float, Field(gt=0)] | None = Field(
        default=20.0,
        description="shrink the directions in which pictures of one class differ, the less the larger this number; null: none",
    )
    centring: bool = Field(default=True, description="take the training pictures' mean from pictures, the classes' from classes")
    scale: float = Field(
        default=0.3, gt=0, description="factor of exp(logit_scale): cosines of centred features lie further apart than CLIP's"
    )
    memory_weight: float = Field(default=1.0, ge=0, description="weight of the training pictures' votes for their own classes")
    memory_sharpness: float = Field(default=15.0, gt=0, description="how fast a vote falls with the distance")


class PromptMix(RemembersPictures, Mixture):
    """The mixture of prompts between pictures that have lost their style and classes that stand apart.

    What the training pictures say of the new surroundings goes into the image side, which is shared by all classes, so that new
    classes gain too; what they say of their own class alone goes into votes that only their own class receives. With v the
    normalised image feature, m the mean of the training pictures, S the covariance of pictures within their classes, divided by
    its mean eigenvalue, and e[g,c] the features of the mixture's experts (see :class:`~promptmix.methods.mixture.Mixture`):

    - ``u = normalise(W (v - m))`` with ``W = whitening * (S + whitening)^-1``: directions in which pictures of one class differ,
      which is style, shrink;
    - ``v' = normalise(u + A u)``, A learnt from 0 on and held near it by ``consistency_weight * mean(1 - <v', u>)``;
    - class features ``normalise(e[g,c] - mean over training classes of q[g,c])``, with q the prototypes;
    - logits: those of the mixture of v' and these features, ``scale`` times as large and routed by v, and
      ``memory_weight * sum of exp(-memory_sharpness * (1 - <v, k>))`` over the training pictures k of the class.

    Every number was chosen on pictures in pairs of styles the bundled backbone was pretrained on, none on its unseen styles.

    Differences from the paper and the reference code: there is no paper. Of the mixture of prompts (arXiv 2409.12011) are the
    experts, the router and the losses; the votes are Tip-Adapter's (arXiv 2207.09519); whitening within classes is Fisher's.
    """

    name = "promptmix"
    config_class: ClassVar[type[MethodConfig]] = PromptMixConfig

    shrinking: Tensor
    picture_mean: Tensor
    class_mean: Tensor

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(config, backbone, class_names, seed, more_class_names)
        assert isinstance(config, PromptMixConfig)
        self._options = config
        width, num_experts = backbone.config.embedding_width, len(self.groups)
        if config.whitening is not None:
            self.register_buffer("shrinking", torch.eye(width))
        if config.centring:
            self.register_buffer("picture_mean", torch.zeros(width))
            self.register_buffer("class_mean", torch.zeros(num_experts, width))
        if config.memory_weight > 0:
            self._hold_entries(torch.zeros(0, width), torch.zeros(0, dtype=torch.long))

    @classmethod
    def default_recipe(cls, shots: int | None) -> Recipe:
        return Recipe(rate=0.03, epochs=20, clip=1.0)

    @torch.no_grad()
    def start_from(self, features: Float[Tensor, "image view embedding"], labels: Int[Tensor, "image"]) -> None:
        pictures, labels = features[:, 0].to(self._backbone.device), labels.to(self._backbone.device)
        if self._options.whitening is not None:
            self.shrinking.copy_(shrinking_within_classes(pictures, labels, len(self.class_names), self._options.whitening))
        if self._options.centring:
            self.picture_mean.copy_(pictures.mean(dim=0))
            self.class_mean.copy_(self._prototypes[:, : len(self.class_names)].mean(dim=1))
        if self._options.memory_weight > 0:
            self._hold_entries(pictures.clone(), labels.clone())

    def _before_map(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image embedding"]:
        if self._options.centring:
            image_features = image_features - self.picture_mean
        if self._options.whitening is not None:
            image_features = image_features @ self.shrinking.T
        return functional.normalize(image_features, dim=-1)

    @property
    def _scale(self) -> float:
        return self._options.scale * self._backbone.logit_scale

    def _compared(self, features: Float[Tensor, "expert class embedding"]) -> Float[Tensor, "expert class embedding"]:
        if not self._options.centring:
            return features
        return functional.normalize(features - self.class_mean[:, None], dim=-1)

    def _votes(self) -> Memory | None:
        options = self._options
        if options.memory_weight == 0 or len(self.keys) == 0:
            return None
        return Memory(
            keys=self.keys.clone(), labels=self.labels.clone(), alpha=options.memory_weight, beta=options.memory_sharpness
        )

    def classifier(self) -> Classifier:
        # Everything before the last normalisation is one affine map: u + A u with u = W (v - m), but for a factor.
        identity = torch.eye(self._backbone.config.embedding_width, device=self._backbone.device)
        whole = identity if self.image_map is None else identity + self.image_map.detach()
        if self._options.whitening is not None:
            whole = whole @ self.shrinking
        moves = self.image_map is not None or self._options.whitening is not None or self._options.centring
        return dataclasses.replace(
            super().classifier(),
            image_map=whole - identity if moves else None,
            image_shift=-(whole @ self.picture_mean) if self._options.centring else None,
            memory=self._votes(),
        )


def shrinking_within_classes(
    features: Float[Tensor, "image embedding"], labels: Int[Tensor, "image"], num_classes: int, whitening: float
) -> Float[Tensor, "embedding embedding"]:
    """``whitening * (S + whitening)^-1``, with S the covariance within classes divided by its mean eigenvalue.

    The identity where no class has two different pictures, so that nothing is known of how pictures of one class differ.
    """
    # In double precision, which not every device has.
    pictures, classes = features.cpu().double(), labels.cpu()
    width = pictures.shape[1]
    sums = pictures.new_zeros(num_classes, width).index_add(0, classes, pictures)
    counts = torch.bincount(classes, minlength=num_classes).clamp_min(1)
    deviations = pictures - (sums / counts[:, None])[classes]
    eigenvalues, directions = torch.linalg.eigh(deviations.T @ deviations)
    # What is 0 comes out as a little above or below.
    eigenvalues = eigenvalues.where(eigenvalues > width * torch.finfo(torch.float64).eps * eigenvalues[-1], 0)
    mean = float(eigenvalues.mean())
    if mean <= 1e-12:
        return torch.eye(width, device=features.device)
    factors = whitening / (eigenvalues / mean + whitening)
    shrinking: Tensor = (directions * factors) @ directions.T
    return shrinking.to(features)
