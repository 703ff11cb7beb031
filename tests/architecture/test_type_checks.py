"""The tests check the types and shapes in the package's signatures; here the check itself is checked."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from promptmix.nn.router import mixture_logits
from promptmix.runtime import derive_seed


def test_a_wrong_type_does_not_pass() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        derive_seed("0", "shuffle")


def test_dimensions_that_disagree_do_not_pass() -> None:
    image_features, class_features, weights = torch.zeros(2, 4), torch.zeros(3, 5, 4), torch.zeros(2, 3)
    assert mixture_logits(image_features, class_features, weights, 1.0).shape == (2, 5)
    with pytest.raises(jaxtyping.TypeCheckError):
        mixture_logits(image_features, class_features, weights[:1], 1.0)
    with pytest.raises(jaxtyping.TypeCheckError):
        mixture_logits(image_features.long(), class_features, weights, 1.0)
