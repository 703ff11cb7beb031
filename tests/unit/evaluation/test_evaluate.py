"""Logits of many pictures: in blocks, and the same."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from promptmix.evaluation import evaluate
from promptmix.evaluation.evaluate import class_logits, predict_features
from promptmix.nn.classifier import Classifier, Router

EXPERTS, CLASSES, WIDTH = 3, 4, 8
MOST = evaluate._MOST_PICTURES


def classifier(made: type[Classifier] = Classifier) -> Classifier:
    generator = torch.Generator().manual_seed(0)
    features = functional.normalize(torch.randn(EXPERTS, CLASSES, WIDTH, generator=generator), dim=-1)
    router = Router(weight=torch.randn(EXPERTS, WIDTH, generator=generator), bias=torch.zeros(EXPERTS), top_k=2)
    return made(class_features=features, scale=20.0, router=router, renormalise=True)


def pictures(count: int) -> Tensor:
    return functional.normalize(torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1)), dim=-1)


def test_logits_of_any_number_of_pictures_are_made_some_at_a_time() -> None:
    sizes: list[int] = []

    class Counting(Classifier):
        def logits(self, image_features: Float[Tensor, "image embedding"]) -> Float[Tensor, "image class"]:
            sizes.append(len(image_features))
            return super().logits(image_features)

    counting = classifier(Counting)
    for count in (1, MOST, 2 * MOST + 3):
        sizes.clear()
        logits = class_logits(counting, pictures(count), torch.device("cpu"))
        assert max(sizes) <= MOST
        assert sum(sizes) == count
        torch.testing.assert_close(logits, classifier().logits(pictures(count)))
    sizes.clear()
    said = predict_features(counting, ["a", "b", "c", "d"], ["x", "y", "z"], pictures(MOST + 1))
    assert sizes == [MOST, 1]
    best = classifier().logits(pictures(MOST + 1)).argmax(dim=1).tolist()
    assert [one.class_name for one in said] == ["abcd"[place] for place in best]


def test_logits_keep_no_graph() -> None:
    assert not class_logits(classifier(), pictures(3).requires_grad_()).requires_grad
