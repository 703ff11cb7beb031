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

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Batch", "StepOutput"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a method learns from: normalised image features and the index of each picture's class."""

    image_features: Float[Tensor, "image embedding"]
    labels: Int[Tensor, "image"]


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What one training step gives: ``loss`` is the weighted sum of the named ``terms``."""

    loss: Float[Tensor, ""]
    logits: Float[Tensor, "image class"]
    terms: dict[str, Float[Tensor, ""]]
