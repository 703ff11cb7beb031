"""Where batches come from: a table of cached features, or the pictures themselves.

The batches of an epoch are a pure function of (seed, epoch), so a run can stop and go on at any step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.backbones.preprocess import resize_and_crop
from promptmix.data.images import PictureSource, open_picture
from promptmix.data.transforms import Augmentation, augmented_view
from promptmix.runtime import numpy_generator, torch_generator
from promptmix.structs import Batch

__all__ = ["CachedFeed", "Feed", "LiveFeed", "num_steps"]


def num_steps(num_pictures: int, batch_size: int) -> int:
    """Steps in an epoch: the last, partial batch is dropped only when there is at least one full batch."""
    return max(1, num_pictures // batch_size)


@runtime_checkable
class Feed(Protocol):
    """What the training loop asks for."""

    num_pictures: int

    def batches(self, epoch: int, batch_size: int, first_step: int) -> Iterator[Batch]:
        """The epoch's batches in order, from step ``first_step`` on."""


class CachedFeed:
    """Batches from a table of features with several views of each picture; a random view each time."""

    def __init__(self, features: Float[Tensor, "image view embedding"], labels: Int[Tensor, "image"], seed: int) -> None:
        self._features, self._labels, self._seed = features, labels, seed
        self.num_pictures = len(labels)

    def batches(self, epoch: int, batch_size: int, first_step: int) -> Iterator[Batch]:
        generator = torch_generator(self._seed, f"order of epoch {epoch}")
        order = torch.randperm(self.num_pictures, generator=generator)
        views = torch.randint(self._features.shape[1], (self.num_pictures,), generator=generator)
        for step in range(first_step, num_steps(self.num_pictures, batch_size)):
            rows = order[step * batch_size : (step + 1) * batch_size]
            yield Batch(image_features=self._features[rows, views[rows]], labels=self._labels[rows])


class LiveFeed:
    """Batches encoded from the pictures as they are needed, each time a new random view, with a graph into the image tower.

    For methods that tune the image tower: their features change at every step, so nothing can be cached.
    """

    def __init__(
        self,
        backbone: Backbone,
        pictures: Sequence[PictureSource],
        labels: Int[Tensor, "image"],
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self._backbone, self._pictures, self._labels = backbone, pictures, labels
        self._augmentation, self._seed = augmentation, seed
        self.num_pictures = len(labels)

    def batches(self, epoch: int, batch_size: int, first_step: int) -> Iterator[Batch]:
        generator = torch_generator(self._seed, f"order of epoch {epoch}")
        order = torch.randperm(self.num_pictures, generator=generator)
        # As often as among cached views, the view is the test view.
        is_plain = (torch.randint(1 + self._augmentation.views, (self.num_pictures,), generator=generator) == 0).tolist()
        preprocess = self._backbone.config.preprocess
        for step in range(first_step, num_steps(self.num_pictures, batch_size)):
            rows = order[step * batch_size : (step + 1) * batch_size]
            views = []
            for row in rows.tolist():
                picture = open_picture(self._pictures[row])
                generator_of_view = numpy_generator(self._seed, f"view of picture {row} in epoch {epoch}")
                views.append(
                    resize_and_crop(picture, preprocess)
                    if is_plain[row]
                    else augmented_view(picture, preprocess.crop, self._augmentation, generator_of_view)
                )
            features = self._backbone.encode_pixels(torch.from_numpy(np.stack(views)))
            yield Batch(image_features=features, labels=self._labels[rows])
