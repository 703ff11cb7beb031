"""A fitted classifier as tensors: what it says, and that it is read back strictly."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from promptmix.nn.classifier import Classifier, Memory, Router, move_features
from promptmix.nn.router import expert_products
from promptmix.runtime import torch_generator

EXPERTS, CLASSES, WIDTH = 3, 4, 6


def drawn(*shape: int, purpose: str) -> Tensor:
    return torch.randn(*shape, generator=torch_generator(0, purpose))


FEATURES = functional.normalize(drawn(EXPERTS, CLASSES, WIDTH, purpose="features"), dim=-1)
IMAGES = functional.normalize(drawn(5, WIDTH, purpose="images"), dim=-1)
ROUTER = Router(weight=drawn(EXPERTS, WIDTH, purpose="weight"), bias=drawn(EXPERTS, purpose="bias"), top_k=2)
EVERYTHING = Classifier(
    class_features=FEATURES,
    scale=3.3,
    router=ROUTER,
    image_map=0.3 * drawn(WIDTH, WIDTH, purpose="map"),
    renormalise=True,
)
ROUTER_OF_ONE = {"router.weight": torch.zeros(1, WIDTH), "router.bias": torch.zeros(1), "router.top_k": torch.tensor(1)}
MEMORY = Memory(
    keys=functional.normalize(drawn(7, WIDTH, purpose="keys"), dim=-1),
    labels=torch.tensor([0, 3, 3, 1, 0, 2, 1]),
    alpha=1.7,
    beta=2.5,
)
REMEMBERING = Classifier(class_features=FEATURES[:1], scale=3.3, memory=MEMORY)
PROBE = Classifier(class_features=FEATURES[:1], scale=1.0, class_bias=drawn(CLASSES, purpose="class bias"))


def test_the_image_side_moves_and_stays_normalised() -> None:
    matrix = drawn(WIDTH, WIDTH, purpose="map")
    for moved, image in zip(move_features(IMAGES, matrix), IMAGES, strict=True):
        torch.testing.assert_close(moved, functional.normalize(image + matrix @ image, dim=0))
    torch.testing.assert_close(move_features(IMAGES, torch.zeros(WIDTH, WIDTH)), IMAGES)


def test_routing_looks_at_the_feature_before_it_is_moved() -> None:
    assert EVERYTHING.image_map is not None
    torch.testing.assert_close(EVERYTHING.expert_weights(IMAGES), ROUTER.weights(IMAGES))
    moved = move_features(IMAGES, EVERYTHING.image_map)
    mixed = torch.einsum("bg,gcd->bcd", ROUTER.weights(IMAGES), FEATURES)
    expected = 3.3 * torch.einsum("bd,bcd->bc", moved, functional.normalize(mixed, dim=-1))
    torch.testing.assert_close(EVERYTHING.logits(IMAGES), expected)


def test_what_needs_no_picture_is_calculated_once_and_anew_for_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(class_features: Tensor) -> Tensor:
        calls.append(class_features.shape[1])
        return expert_products(class_features)

    monkeypatch.setattr("promptmix.nn.classifier.expert_products", counted)
    everything = dataclasses.replace(EVERYTHING)
    whole = everything.logits(IMAGES)
    torch.testing.assert_close(torch.cat([everything.logits(image) for image in IMAGES.split(2)]), whole)
    assert calls == [CLASSES]
    torch.testing.assert_close(everything.select([2, 0]).logits(IMAGES), whole[:, [2, 0]])
    turned = everything.with_classes(FEATURES.flip(1)).logits(IMAGES)
    torch.testing.assert_close(turned, whole.flip(1))
    assert calls == [CLASSES, 2, CLASSES]


def test_a_probe_adds_its_bias() -> None:
    assert PROBE.class_bias is not None
    torch.testing.assert_close(PROBE.logits(IMAGES), IMAGES @ FEATURES[0].T + PROBE.class_bias)
    assert torch.equal(PROBE.expert_weights(IMAGES), torch.ones(5, 1))


@pytest.mark.parametrize(
    "classifier",
    [
        EVERYTHING,
        PROBE,
        REMEMBERING,
        Classifier(class_features=FEATURES[:1], scale=100.0),
        dataclasses.replace(EVERYTHING, image_map=None),
        dataclasses.replace(EVERYTHING, memory=MEMORY),
    ],
)
def test_what_is_written_is_read(classifier: Classifier) -> None:
    again = Classifier.from_tensors(classifier.tensors())
    assert again.scale == classifier.scale
    assert again.renormalise == classifier.renormalise
    assert (again.router is None) == (classifier.router is None)
    assert torch.equal(again.logits(IMAGES), classifier.logits(IMAGES))


def test_other_classes_keep_all_else() -> None:
    more = torch.cat([FEATURES, FEATURES[:, :1]], dim=1)
    wider = EVERYTHING.with_classes(more)
    assert wider.logits(IMAGES).shape == (5, CLASSES + 1)
    torch.testing.assert_close(wider.logits(IMAGES)[:, :CLASSES], EVERYTHING.logits(IMAGES))
    torch.testing.assert_close(wider.logits(IMAGES)[:, CLASSES], EVERYTHING.logits(IMAGES)[:, 0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"surprise": torch.zeros(1)}, "unknown tensor surprise"),
        ({"class_features": None}, "class_features is missing"),
        ({"scale": None}, "scale is missing"),
        ({"router.bias": None}, r"router\.bias is missing"),
        ({"router.weight": None}, r"router\.weight is missing"),
        ({"router.top_k": None}, r"router\.top_k is missing"),
        ({"class_features": torch.zeros(CLASSES, WIDTH)}, r"class_features has shape \(4, 6\)"),
        ({"class_features": torch.zeros(0, CLASSES, WIDTH)}, r"class_features has shape \(0, 4, 6\)"),
        ({"router.weight": torch.zeros(2, WIDTH)}, r"router\.weight is \(2, 6\), not \(3, 6\)"),
        ({"router.bias": torch.zeros(2)}, r"router\.bias is \(2,\), not \(3,\)"),
        ({"image_map": torch.zeros(2, 2)}, r"image_map is \(2, 2\), not \(6, 6\)"),
        ({"class_bias": torch.zeros(3)}, r"class_bias is \(3,\), not \(4,\)"),
        ({"scale": torch.zeros(2)}, r"scale is \(2,\), not \(\)"),
        ({"router.top_k": torch.tensor(0)}, r"router\.top_k is 0"),
        ({"router.top_k": torch.zeros(2)}, r"router\.top_k is \(2,\), not \(\)"),
        ({"router.top_k": torch.tensor(4)}, r"router\.top_k is 4, but there are 3 experts"),
        ({"router.weight": None, "router.bias": None}, r"router\.weight is missing"),
    ],
)
def test_reading_is_strict(change: dict[str, Any], words: str) -> None:
    tensors = {name: tensor for name, tensor in {**EVERYTHING.tensors(), **change}.items() if tensor is not None}
    with pytest.raises(ValueError, match=words):
        Classifier.from_tensors(tensors)


def test_half_a_router_is_refused_for_one_expert_too() -> None:
    one = {"class_features": FEATURES[:1], "scale": torch.tensor(1.0)}
    assert Classifier.from_tensors(one).router is None
    for name, tensor in ROUTER_OF_ONE.items():
        with pytest.raises(ValueError, match=r"tensor router\..* is missing"):
            Classifier.from_tensors({**one, name: tensor})
    assert Classifier.from_tensors({**one, **ROUTER_OF_ONE}).router is not None


def voted(image: Tensor, keys: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The votes, one entry after another."""
    votes = torch.zeros(num_classes)
    for key, label in zip(keys, labels, strict=True):
        votes[label] += MEMORY.alpha * torch.exp(-MEMORY.beta * (1 - image @ key))
    return votes


def test_remembered_pictures_vote_for_their_classes() -> None:
    for image, logits in zip(IMAGES, REMEMBERING.logits(IMAGES), strict=True):
        torch.testing.assert_close(logits, 3.3 * FEATURES[0] @ image + voted(image, MEMORY.keys, MEMORY.labels, CLASSES))


def test_they_are_compared_with_the_feature_before_it_is_moved() -> None:
    with_both = dataclasses.replace(EVERYTHING, memory=MEMORY)
    torch.testing.assert_close(with_both.logits(IMAGES) - EVERYTHING.logits(IMAGES), MEMORY.logits(IMAGES, CLASSES))


def test_many_pictures_are_compared_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = REMEMBERING.logits(IMAGES)
    monkeypatch.setattr("promptmix.nn.classifier._MOST_AFFINITIES", 2 * len(MEMORY.keys))
    torch.testing.assert_close(REMEMBERING.logits(IMAGES), whole)
    assert REMEMBERING.logits(IMAGES[:0]).shape == (0, CLASSES)


def test_entries_follow_their_classes() -> None:
    kept = REMEMBERING.select([3, 0])
    assert kept.memory is not None
    assert kept.memory.labels.tolist() == [1, 0, 0, 1]
    torch.testing.assert_close(kept.logits(IMAGES), REMEMBERING.logits(IMAGES)[:, [3, 0]])
    # Classes 2, a new one, 0.
    other = REMEMBERING.with_classes(torch.stack([FEATURES[0, 2], FEATURES[1, 0], FEATURES[0, 0]])[None], [2, None, 0])
    logits = other.logits(IMAGES)
    torch.testing.assert_close(logits[:, [0, 2]], REMEMBERING.logits(IMAGES)[:, [2, 0]])
    torch.testing.assert_close(logits[:, 1], 3.3 * IMAGES @ FEATURES[1, 0])
    # Where it is not said which classes they are, all of them are new.
    torch.testing.assert_close(REMEMBERING.with_classes(FEATURES[:1]).logits(IMAGES), 3.3 * IMAGES @ FEATURES[0].T)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory.keys": None}, r"memory\.keys is missing"),
        ({"memory.labels": None}, r"memory\.labels is missing"),
        ({"memory.alpha": None}, r"memory\.alpha is missing"),
        ({"memory.beta": None}, r"memory\.beta is missing"),
        ({"memory.keys": torch.zeros(7, 2)}, r"memory\.keys is \(7, 2\), not \(7, 6\)"),
        ({"memory.labels": torch.zeros(3, dtype=torch.long)}, r"memory\.keys is \(7, 6\), not \(3, 6\)"),
        ({"memory.labels": torch.zeros(7, 1, dtype=torch.long)}, r"memory\.labels is \(7, 1\), not \(7,\)"),
        ({"memory.labels": torch.zeros(7)}, r"memory\.labels must be whole numbers from 0 to 3"),
        ({"memory.labels": torch.tensor([0, 1, 2, 3, 4, 0, 0])}, r"memory\.labels must be whole numbers from 0 to 3"),
        ({"memory.labels": torch.full((7,), -1)}, r"memory\.labels must be whole numbers from 0 to 3"),
        ({"memory.beta": torch.zeros(1)}, r"memory\.beta is \(1,\), not \(\)"),
    ],
)
def test_half_a_memory_is_refused(change: dict[str, Any], words: str) -> None:
    tensors = {name: tensor for name, tensor in {**REMEMBERING.tensors(), **change}.items() if tensor is not None}
    with pytest.raises(ValueError, match=words):
        Classifier.from_tensors(tensors)
