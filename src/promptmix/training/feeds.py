"""Where batches come from: a table of cached features, or the pictures themselves.

The batches of an epoch are a pure function of (seed, epoch), so a run can stop and go on at any step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.backbones.preprocess import View, resize_and_crop
from promptmix.data.images import PictureSource, open_picture
from promptmix.data.transforms import Augmentation
from promptmix.distributed.rows import own_share, split_rows
from promptmix.features.reading import augmented, reading_threads, reads_ahead
from promptmix.methods.base import Method
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
    is_live: bool
    """Whether the pictures are encoded anew at each step, so that an image tower can be tuned."""

    @property
    def state(self) -> dict[str, Any]:
        """What, with the place, determines all batches to come; in every checkpoint."""

    def batches(self, epoch: int, batch_size: int, first_step: int) -> Iterator[Batch]:
        """The epoch's batches in order, from step ``first_step`` on."""


class CachedFeed:
    """Batches from a table of features with several views of each picture; a random view each time."""

    is_live = False

    def __init__(self, features: Float[Tensor, "image view embedding"], labels: Int[Tensor, "image"], seed: int) -> None:
        self._features, self._labels, self._seed = features, labels, seed
        self.num_pictures = len(labels)

    @property
    def state(self) -> dict[str, Any]:
        return {"kind": "cached", "seed": self._seed, "pictures": self.num_pictures, "views": self._features.shape[1]}

    def batches(self, epoch: int, batch_size: int, first_step: int) -> Iterator[Batch]:
        generator = torch_generator(self._seed, f"order of epoch {epoch}")
        order = torch.randperm(self.num_pictures, generator=generator)
        views = torch.randint(self._features.shape[1], (self.num_pictures,), generator=generator)
        for step in range(first_step, num_steps(self.num_pictures, batch_size)):
            rows = order[step * batch_size : (step + 1) * batch_size]
            number = epoch * num_steps(self.num_pictures, batch_size) + step
            features = self._features[rows, views[rows]]
            yield Batch(image_features=features, labels=self._labels[rows], frozen_features=features, number=number)


class LiveFeed:
    """Batches encoded from the pictures as they are needed, each time a new random view, with a graph into an image tower that is tuned.

    For methods that tune the image tower, whose features change at every step, and for views that are drawn anew: nothing is cached.

    Args:
        method: encodes the pictures.
        backbone: untouched, as it was before the method.
    """

    is_live = True

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        pictures: Sequence[PictureSource],
        labels: Int[Tensor, "image"],
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self._method, self._backbone = method, backbone
        self._pictures, self._labels = pictures, labels
        self._augmentation, self._seed = augmentation, seed
        self.num_pictures = len(labels)

    @property
    def state(self) -> dict[str, Any]:
        views = self._augmentation.model_dump()
        return {"kind": "live", "seed": self._seed, "pictures": self.num_pictures, "views": views}

    def batches(self, epoch: int, batch_size: int, first_step: int) -> Iterator[Batch]:
        generator = torch_generator(self._seed, f"order of epoch {epoch}")
        order = torch.randperm(self.num_pictures, generator=generator)
        # As often as among cached views, the view is the test view.
        is_plain = (torch.randint(1 + self._augmentation.views, (self.num_pictures,), generator=generator) == 0).tolist()
        with reading_threads() as readers:

            def start(step: int) -> list[Future[View]]:
                """Let the readers make the views of a step that this rank encodes."""
                rows = order[step * batch_size : (step + 1) * batch_size]
                return [
                    readers.submit(self._view, row, epoch, is_plain[row]) for row in rows[own_share(len(rows)).places].tolist()
                ]

            last = num_steps(self.num_pictures, batch_size)
            upcoming: list[Future[View]] = []
            for step in range(first_step, last):
                views = [view.result() for view in upcoming or start(step)]
                ahead = reads_ahead(self._backbone.device) and step + 1 < last
                upcoming = start(step + 1) if ahead else []
                rows, number = order[step * batch_size : (step + 1) * batch_size], epoch * last + step
                frozen = self._frozen_features(views, len(rows)) if self._method.needs_frozen_features else None
                features = self._features(views, len(rows), number)
                yield Batch(image_features=features, labels=self._labels[rows], frozen_features=frozen, number=number)

    def _features(self, views: list[View], total: int, number: int) -> Float[Tensor, "image embedding"]:
        """Of all ``total`` pictures of step ``number``, from the views of this rank's share."""
        share = own_share(total)

        def encode() -> Float[Tensor, "own_image embedding"]:
            return self._method.encode_training_pixels(torch.from_numpy(np.stack(views)), number, share)

        # Any parameter may have a part in the image side, and what has none gets nothing from it.
        learnt = self._method.parameters() if self._method.tunes_image_tower else ()
        return split_rows(encode, total, self._backbone.config.embedding_width, self._backbone.device, learnt)

    @torch.no_grad()
    def _frozen_features(self, views: list[View], total: int) -> Float[Tensor, "image embedding"]:
        def encode() -> Float[Tensor, "own_image embedding"]:
            return self._backbone.encode_pixels(torch.from_numpy(np.stack(views)))

        return split_rows(encode, total, self._backbone.config.embedding_width, self._backbone.device, ())

    def _view(self, row: int, epoch: int, is_plain: bool) -> View:
        picture = open_picture(self._pictures[row])
        preprocess = self._backbone.config.preprocess
        if is_plain:
            return resize_and_crop(picture, preprocess)
        generator = numpy_generator(self._seed, f"view of picture {row} in epoch {epoch}")
        return augmented(picture, self._augmentation, generator, preprocess)
