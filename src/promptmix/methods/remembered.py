"""Training pictures that are remembered, for the methods in which they vote for their classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from promptmix.errors import CheckpointError
from promptmix.methods.base import Method

__all__ = ["RemembersPictures"]


class RemembersPictures(Method):
    """Holds a key and a label for each remembered picture; how many there are is no option, but saved with them.

    Attributes:
        keys: their image features; ``labels`` their classes.
    """

    keys: Tensor
    labels: Tensor

    def _hold_entries(self, keys: Float[Tensor, "entry embedding"], labels: Int[Tensor, "entry"]) -> None:
        """Remember these, in place of any others."""
        self._hold_keys(keys)
        self.register_buffer("labels", labels)

    def _hold_keys(self, keys: Float[Tensor, "entry embedding"]) -> None:
        self.register_buffer("keys", keys)

    def load_learnt_state(self, tensors: Mapping[str, Tensor]) -> None:
        if {"keys", "labels"} <= self.state_dict().keys() & tensors.keys():
            keys, labels = tensors["keys"], tensors["labels"]
            if labels.dtype != torch.int64 or not bool(((labels >= 0) & (labels < len(self.class_names))).all()):
                raise CheckpointError(f"saved labels of method {self.name} go beyond the {len(self.class_names)} classes")
            if keys.ndim == 2 and labels.shape == keys.shape[:1]:
                room = self.keys.detach().new_zeros(len(keys), self.keys.shape[1])
                self._hold_entries(room, self.labels.new_zeros(len(keys)))
        super().load_learnt_state(tensors)
