"""Routing and mixing against loops one can read, and what must hold whatever the numbers are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from promptmix.nn.classifier import Classifier, Router
from promptmix.nn.router import mixture_logits, router_target, routing_weights

IMAGES, EXPERTS, CLASSES, WIDTH = 7, 5, 4, 16


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("top_k", [1, 2, 5, 9])
def test_weights_are_a_softmax_over_the_largest(top_k: int) -> None:
    logits = torch.randn(IMAGES, EXPERTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = routing_weights(logits, top_k)
    for row, weight in zip(logits.tolist(), weights, strict=True):
        kept = sorted(range(EXPERTS), key=lambda expert: -row[expert])[:top_k]
        total = sum(torch.tensor(row[expert]).exp() for expert in kept)
        for expert in range(EXPERTS):
            expected = torch.tensor(row[expert]).exp() / total if expert in kept else torch.tensor(0.0)
            assert float(weight[expert]) == pytest.approx(float(expected), rel=1e-6)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(IMAGES, dtype=torch.float64))


@pytest.mark.parametrize("renormalise", [False, True])
def test_the_mixture_is_the_weighted_mean_of_the_class_features(renormalise: bool) -> None:
    images, features = unit(IMAGES, WIDTH), unit(EXPERTS, CLASSES, WIDTH, seed=2)
    weights = routing_weights(torch.randn(IMAGES, EXPERTS, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), 2)
    logits = mixture_logits(images, features, weights, 10.0, renormalise)
    for image in range(IMAGES):
        for class_ in range(CLASSES):
            mean = torch.stack([weights[image, expert] * features[expert, class_] for expert in range(EXPERTS)]).sum(dim=0)
            if renormalise:
                mean = functional.normalize(mean, dim=-1)
            torch.testing.assert_close(logits[image, class_], 10.0 * images[image] @ mean)


@pytest.mark.parametrize("renormalise", [False, True])
def test_nothing_grows_with_images_and_classes_and_pairs_of_experts(renormalise: bool) -> None:
    images, features = unit(40, WIDTH), unit(EXPERTS, 30, WIDTH, seed=2)
    weights = routing_weights(torch.randn(40, EXPERTS, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), 2)
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            if isinstance(made, Tensor):
                sizes.append(made.numel())
            return made

    with Watch():
        mixture_logits(images, features, weights, 10.0, renormalise)
    assert max(sizes) == 40 * EXPERTS * 30


def test_the_order_of_the_experts_means_nothing() -> None:
    images, features, order = unit(IMAGES, WIDTH), unit(EXPERTS, CLASSES, WIDTH, seed=2), torch.tensor([3, 1, 4, 0, 2])
    scores = torch.randn(IMAGES, EXPERTS, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    straight = mixture_logits(images, features, routing_weights(scores, 2), 1.0)
    turned = mixture_logits(images, features[order], routing_weights(scores[:, order], 2), 1.0)
    torch.testing.assert_close(straight, turned)


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_what_is_said_of_a_picture_does_not_depend_on_its_batch(batch: int) -> None:
    router = Router(weight=unit(EXPERTS, WIDTH, seed=4), bias=torch.zeros(EXPERTS, dtype=torch.float64), top_k=2)
    classifier = Classifier(class_features=unit(EXPERTS, CLASSES, WIDTH, seed=2), scale=30.0, router=router)
    images = unit(IMAGES, WIDTH)
    parts = torch.cat([classifier.logits(part) for part in images.split(batch)])
    torch.testing.assert_close(parts, classifier.logits(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("with_labels", [True, False])
def test_the_target_raises_the_groups_that_fit_best(with_labels: bool) -> None:
    images, prototypes = unit(IMAGES, WIDTH), unit(EXPERTS, CLASSES, WIDTH, seed=5)
    labels = torch.arange(IMAGES) % CLASSES
    target = router_target(images, prototypes, labels if with_labels else None, 2, 10.0)
    for image in range(IMAGES):
        words = prototypes[:, labels[image]] if with_labels else prototypes.mean(dim=1)
        fit = words @ images[image]
        best = sorted(range(EXPERTS), key=lambda expert: -float(fit[expert]))[:2]
        raised = torch.stack([fit[expert] + (10.0 if expert in best else 0.0) for expert in range(EXPERTS)])
        torch.testing.assert_close(target[image], raised.exp() / raised.exp().sum())
        assert float(target[image, best].sum()) > 0.999


@pytest.mark.parametrize("renormalise", [False, True])
def test_gradients_are_those_of_the_weighted_mean(renormalise: bool) -> None:
    images, features = unit(IMAGES, WIDTH).requires_grad_(), unit(EXPERTS, CLASSES, WIDTH, seed=2).requires_grad_()
    scores = unit(IMAGES, EXPERTS, seed=3).requires_grad_()
    direction = unit(IMAGES, CLASSES, seed=6)
    weights = routing_weights(scores, 2)
    mean = torch.einsum("bg,gcd->bcd", weights, features)
    plain = 10.0 * torch.einsum("bd,bcd->bc", images, functional.normalize(mean, dim=-1) if renormalise else mean)
    wanted = (images, features, scores)
    ours = torch.autograd.grad(mixture_logits(images, features, weights, 10.0, renormalise), wanted, direction, retain_graph=True)
    for mine, theirs in zip(ours, torch.autograd.grad(plain, wanted, direction), strict=True):
        torch.testing.assert_close(mine, theirs)
    # Experts that do not answer have no say, so the router's scores for them do not move.
    assert torch.equal(ours[2] != 0, weights > 0)


@pytest.mark.parametrize("top_k", [1, 5, 9])
def test_the_target_may_raise_as_many_as_there_are(top_k: int) -> None:
    images, prototypes = unit(IMAGES, WIDTH), unit(EXPERTS, CLASSES, WIDTH, seed=5)
    before = images.clone(), prototypes.clone()
    labels = torch.arange(IMAGES) % CLASSES
    target = router_target(images, prototypes, labels, top_k, 10.0)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(IMAGES, dtype=torch.float64))
    assert int((target > 0.01).sum(dim=1).min()) == min(top_k, EXPERTS)
    assert torch.equal(images, before[0])
    assert torch.equal(prototypes, before[1])
