"""Tip-Adapter and Tip-Adapter-F: training pictures that vote for their classes, beside hard prompts (arXiv 2207.09519)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.data.sampling import hold_out_shots
from promptmix.methods.base import MethodConfig, Recipe
from promptmix.methods.remembered import RemembersPictures
from promptmix.nn.classifier import Classifier, Memory
from promptmix.prompts.hard import ensemble_features
from promptmix.prompts.templates import parse_template
from promptmix.structs import Batch, StepOutput

__all__ = ["BestVotes", "TipAdapter", "TipAdapterConfig", "TipAdapterF", "best_votes"]

_ALPHA, _BETA = 1.0, 5.5  # the paper's, where nothing can be held out to choose on
_MOST_LOGITS = 2**24  # candidate x image x class, at a time

_Number = Annotated[float, Field(ge=0, le=1000)]


class TipAdapterConfig(MethodConfig):
    """Options of Tip-Adapter and of Tip-Adapter-F."""

    template: str = "a photo of a {}."
    alpha: _Number | tuple[_Number, _Number] = Field(
        default=(0.1, 30.0), description="weight of the votes: a number, or the range to choose it from on held-out shots"
    )
    beta: _Number | tuple[_Number, _Number] = Field(
        default=(0.5, 30.0), description="how fast a vote falls with the distance: a number, or the range to choose it from"
    )
    candidates: int = Field(default=21, ge=2, le=1000, description="values to try of each, in equal ratios over its range")

    @field_validator("alpha", "beta")
    @classmethod
    def _a_range_rises(cls, value: float | tuple[float, float]) -> float | tuple[float, float]:
        if isinstance(value, tuple) and not 0 < value[0] < value[1]:
            raise ValueError(f"a range goes from a number above 0 to a higher one, not from {value[0]} to {value[1]}")
        return value


class _Voting(RemembersPictures):
    """What the two have in common: the training pictures as keys, and the choice of alpha and beta."""

    config_class: ClassVar[type[MethodConfig]] = TipAdapterConfig
    learns_from_views: ClassVar[bool] = True

    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        class_names: Sequence[str],
        seed: int = 0,
        more_class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(config, backbone, class_names, seed, more_class_names)
        assert isinstance(config, TipAdapterConfig)
        self._config, self._note = config, ""
        self._hold_entries(torch.zeros(0, backbone.config.embedding_width), torch.zeros(0, dtype=torch.long))
        self.register_buffer("alpha", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("beta", torch.tensor(0.0, dtype=torch.float64))

    @functools.cached_property
    def _text(self) -> Float[Tensor, "class embedding"]:
        return self.encode_classes(self.class_names)[0]

    @classmethod
    def options_as_learnt(cls, options: Mapping[str, Any], learnt: Mapping[str, Tensor]) -> dict[str, Any]:
        return {**options, "alpha": float(learnt["alpha"]), "beta": float(learnt["beta"])}

    def notes(self) -> list[str]:
        return [self._note] if self._note else []

    @torch.no_grad()
    def _remember(self, features: Float[Tensor, "image view embedding"], labels: Int[Tensor, "image"], seed: int) -> None:
        """Make the pictures the keys, and choose alpha and beta on some that are left out of the keys for that."""
        features, labels = features.to(self._backbone.device), labels.to(self._backbone.device)
        keys = functional.normalize(features.mean(dim=1), dim=-1)
        learnt_from, held_out = hold_out_shots(labels.tolist(), self.class_names, seed)
        alphas, betas = (self._candidates(option) for option in (self._config.alpha, self._config.beta))
        alpha, beta = float(alphas[0]), float(betas[0])
        if len(alphas) * len(betas) > 1 and held_out:
            best = best_votes(
                keys[learnt_from],
                labels[learnt_from],
                self._text,
                self._backbone.logit_scale,
                features[held_out, 0],
                labels[held_out],
                alphas,
                betas,
            )
            alpha, beta = best.alpha, best.beta
            self._note = (
                f"chose alpha={alpha:g}, beta={beta:g} on {len(held_out)} held-out training pictures ({100 * best.accuracy:.1f} %"
                " of them right)"
            )
        elif len(alphas) * len(betas) > 1:
            alpha, beta = (
                float(default) if isinstance(asked, tuple) else asked
                for default, asked in ((_ALPHA, self._config.alpha), (_BETA, self._config.beta))
            )
            self._note = f"one picture a class, so none could be held out: alpha={alpha:g}, beta={beta:g} were taken unseen"
        self._hold_entries(keys, labels.clone())
        self.alpha.fill_(alpha)
        self.beta.fill_(beta)

    def _candidates(self, option: float | tuple[float, float]) -> Float[Tensor, "candidate"]:
        if isinstance(option, tuple):
            lowest, highest = (math.log10(end) for end in option)
            return torch.logspace(lowest, highest, self._config.candidates, dtype=torch.float64)
        return torch.tensor([option], dtype=torch.float64)

    @torch.no_grad()
    def encode_classes(self, class_names: Sequence[str]) -> Float[Tensor, "expert class embedding"]:
        tower, tokenizer = self._backbone.require_text()
        return ensemble_features(tower, tokenizer, [parse_template(self._config.template)], class_names)[None]

    def _classifier(self, keys: Float[Tensor, "entry embedding"]) -> Classifier:
        memory = None
        if len(keys) > 0:
            memory = Memory(keys=keys, labels=self.labels.clone(), alpha=float(self.alpha), beta=float(self.beta))
        return Classifier(class_features=self._text[None].clone(), scale=self._backbone.logit_scale, memory=memory)

    def classifier(self) -> Classifier:
        return self._classifier(self.keys.detach().clone())


class TipAdapter(_Voting):
    """Hard prompts, and training pictures that vote for their classes; nothing is trained.

    ``logits = s * v t' + alpha * exp(-beta * (1 - v K')) L`` with s = exp(logit_scale), t the class features of a template, K the
    normalised mean of each training picture's views and L its class. alpha and beta are those of a grid that do best on a quarter of
    the shots, which are left out of K for the choice, and in it afterwards; of equally many right, the lower cross-entropy.

    Differences from the paper and the reference code:

    - alpha and beta are chosen on held-out shots; the reference chooses them on a validation set, and for ImageNet on the test set;
    - the views are the test view and the augmented ones, their mean is of normalised features; the reference has ten augmented
      views and takes the mean before it normalises;
    - s is the backbone's own; the reference always takes 100, which is CLIP's.
    """

    name = "tip-adapter"
    learns: ClassVar[Literal["nothing", "by gradient", "in closed form"]] = "in closed form"

    def fit_features(self, features: Float[Tensor, "image view embedding"], labels: Int[Tensor, "image"], seed: int) -> None:
        self._remember(features, labels, seed)


class TipAdapterF(_Voting):
    """Tip-Adapter whose keys are then trained, by the cross-entropy of its logits.

    alpha and beta are chosen as for Tip-Adapter, before the training, and hold in it. Chosen after it, on pictures whose own entries
    are left out, they would be chosen on pictures whose labels the other keys have learnt, and would do worse.

    Differences from the paper and the reference code: those of Tip-Adapter; the reference trains with an alpha and beta given for each
    data set, keeps the epoch that does best on the test set, and then chooses alpha and beta anew. Here the last epoch is kept.
    """

    name = "tip-adapter-f"
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
        self._seed = seed

    def _hold_keys(self, keys: Float[Tensor, "entry embedding"]) -> None:
        self.keys = nn.Parameter(keys)

    @classmethod
    def default_recipe(cls, shots: int | None) -> Recipe:
        return Recipe(optimizer="adamw", rate=1e-3, epsilon=1e-4, weight_decay=0.01, schedule="step", batch_size=256, epochs=20)

    def start_from(self, features: Float[Tensor, "image view embedding"], labels: Int[Tensor, "image"]) -> None:
        self._remember(features, labels, self._seed)

    def training_step(self, batch: Batch) -> StepOutput:
        logits = self._classifier(self.keys).logits(batch.image_features)
        loss = functional.cross_entropy(logits, batch.labels)
        return StepOutput(loss=loss, logits=logits, terms={"classification": loss})


@dataclasses.dataclass(frozen=True, kw_only=True)
class BestVotes:
    """The alpha and beta that did best, and the share of pictures told right with them."""

    alpha: float
    beta: float
    accuracy: float


def best_votes(
    keys: Float[Tensor, "entry embedding"],
    entry_labels: Int[Tensor, "entry"],
    text: Float[Tensor, "class embedding"],
    scale: float,
    image_features: Float[Tensor, "image embedding"],
    labels: Int[Tensor, "image"],
    alphas: Float[Tensor, "alpha"],
    betas: Float[Tensor, "beta"],
) -> BestVotes:
    """Try every alpha with every beta on pictures whose entries are not among the keys: the most right, then the lowest cross-entropy."""
    num_classes, weights = len(text), alphas.to(text)[:, None, None]
    right = torch.zeros(len(betas), len(alphas), dtype=torch.float64)
    loss = torch.zeros_like(right)
    size = max(1, _MOST_LOGITS // (len(alphas) * num_classes))
    for images, truths in zip(image_features.split(size), labels.split(size), strict=True):
        zero_shot = scale * images @ text.T
        for place, beta in enumerate(betas.tolist()):
            votes = Memory(keys=keys, labels=entry_labels, alpha=1.0, beta=beta).logits(images, num_classes)
            logits = zero_shot + weights * votes  # alpha, image, class
            right[place] += (logits.argmax(dim=2) == truths).sum(dim=1).cpu()
            log_shares = logits.double().log_softmax(dim=2)
            loss[place] -= log_shares.gather(2, truths.expand(len(alphas), -1)[..., None]).sum(dim=(1, 2)).cpu()
    # A picture more outweighs any difference of the cross-entropy, which is brought below 1.
    best = int((right - loss / (1 + loss.max())).argmax())
    row, column = divmod(best, len(alphas))
    return BestVotes(alpha=float(alphas[column]), beta=float(betas[row]), accuracy=float(right.flatten()[best]) / len(labels))
