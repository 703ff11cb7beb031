"""Small frozen records that cross layers, and the legend of dimensions.

Dimension names used in shapes everywhere:

==============  =====================================================================
``image``       B: pictures of a batch
``class``       C: class names, in the person's order
``expert``      G: experts, one soft prompt each, one a group of templates
``view``        V: views of one picture, the test view first, then augmented ones
``embedding``   D: width of the joint space of pictures and texts
``width``       width of a tower's hidden states
``row``         sequences given to the text tower
``source``      vectors a sequence may be made of: token embeddings and learnt contexts
==============  =====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Batch", "StepOutput"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a method learns from: normalised image features and the index of each picture's class.

    Attributes:
        frozen_features: of the same views by the untouched image tower, for methods that ask for them.
        number: the step's place in the whole run, from 0; what a step draws at random depends on the seed and this number.
    """

    image_features: Float[Tensor, "image embedding"]
    labels: Int[Tensor, "image"]
    frozen_features: Float[Tensor, "image embedding"] | None = None
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What one training step gives: ``loss`` is the weighted sum of the named ``terms``.

    Attributes:
        guides: scalars that are no part of the loss, for a method whose gradient is steered by them.
    """

    loss: Float[Tensor, ""]
    logits: Float[Tensor, "image class"]
    terms: dict[str, Float[Tensor, ""]]
    guides: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
