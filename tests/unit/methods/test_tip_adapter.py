"""Tip-Adapter beyond what every method does: what it remembers, and how alpha and beta are chosen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.sampling import hold_out_shots
from promptmix.errors import CheckpointError, ConfigError
from promptmix.methods.base import Method
from promptmix.methods.registry import build_method, method_class
from promptmix.methods.tip_adapter import best_votes
from promptmix.nn.classifier import Classifier, Memory
from promptmix.runtime import torch_generator

CLASSES = ("anchor", "cat", "snowflake")
NUMBERS = {"alpha": 2.0, "beta": 3.0}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


def drawn(per_class: int, views: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch_generator(seed, "tip features")
    labels = torch.arange(3 * per_class) % 3
    centres = torch.randn(3, 128, generator=torch_generator(0, "tip centres"))
    pictures = centres[labels] + 0.8 * torch.randn(len(labels), 128, generator=generator)
    noise = 0.3 * torch.randn(len(labels), views, 128, generator=generator)
    return functional.normalize(pictures[:, None] + noise, dim=-1), labels


def remembered(method: Method) -> Memory:
    classifier = method.classifier()
    assert isinstance(classifier, Classifier)
    assert classifier.memory is not None
    return classifier.memory


def learnt(name: str, backbone: Backbone, options: dict[str, object], per_class: int = 4) -> Method:
    method = build_method(name, options, backbone, CLASSES, 1)
    features, labels = drawn(per_class)
    if name == "tip-adapter":
        method.fit_features(features, labels, 1)
    else:
        method.start_from(features, labels)
    return method


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f"])
def test_every_picture_is_remembered_as_the_mean_of_its_views(name: str, backbone: Backbone) -> None:
    memory = remembered(learnt(name, backbone, {}))
    features, labels = drawn(4)
    torch.testing.assert_close(memory.keys, functional.normalize(features.sum(dim=1), dim=-1))
    assert torch.equal(memory.labels, labels)


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f"])
def test_before_it_has_seen_pictures_it_is_zero_shot(name: str, backbone: Backbone) -> None:
    images = drawn(2)[0][:, 0]
    zero_shot = build_method("zero-shot", {}, backbone, CLASSES).classifier().logits(images)
    torch.testing.assert_close(build_method(name, {}, backbone, CLASSES).classifier().logits(images), zero_shot)


def test_numbers_that_are_given_are_taken_and_need_no_note(backbone: Backbone) -> None:
    method = learnt("tip-adapter", backbone, NUMBERS)
    assert (remembered(method).alpha, remembered(method).beta) == (2.0, 3.0)
    assert method.notes() == []


def test_with_one_picture_a_class_the_papers_numbers_stand_and_a_note_says_so(backbone: Backbone) -> None:
    method = learnt("tip-adapter", backbone, {}, per_class=1)
    assert (remembered(method).alpha, remembered(method).beta) == (1.0, 5.5)
    assert method.notes() == ["one picture a class, so none could be held out: alpha=1, beta=5.5 were taken unseen"]
    half = learnt("tip-adapter", backbone, {"beta": 2.0}, per_class=1)
    assert (remembered(half).alpha, remembered(half).beta) == (1.0, 2.0)


def test_a_number_beside_a_range_stands(backbone: Backbone) -> None:
    method = learnt("tip-adapter", backbone, {"beta": 2.0, "alpha": (0.5, 8.0)})
    assert remembered(method).beta == 2.0
    assert 0.5 <= remembered(method).alpha <= 8.0 + 1e-9
    (note,) = method.notes()
    assert "beta=2 on 3 held-out training pictures" in note


def by_hand(
    keys: Tensor, entry_labels: Tensor, text: Tensor, scale: float, images: Tensor, labels: Tensor, alpha: float, beta: float
) -> tuple[int, float]:
    """How many are right, and the mean cross-entropy, picture by picture and entry by entry."""
    right, loss = 0, 0.0
    for image, label in zip(images, labels, strict=True):
        logits = scale * text @ image
        for key, entry_label in zip(keys, entry_labels, strict=True):
            logits[entry_label] += alpha * torch.exp(-beta * (1 - image @ key))
        right += int(logits.argmax() == label)
        loss -= float(logits.log_softmax(dim=0)[label])
    return right, loss / len(labels)


@pytest.mark.parametrize("block", [2**24, 18])
def test_the_best_of_the_grid_is_that_of_trying_one_by_one(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptmix.methods.tip_adapter._MOST_LOGITS", block)
    generator = torch_generator(0, "grid")
    text = functional.normalize(torch.randn(3, 128, generator=generator), dim=-1)
    (features, labels), (tested, truths) = drawn(3), drawn(5, seed=1)
    keys, images = features[:, 0], tested[:, 0]
    alphas, betas = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64), torch.tensor([0.5, 4.0], dtype=torch.float64)
    tried = {
        (alpha, beta): by_hand(keys, labels, text, 20.0, images, truths, alpha, beta)
        for alpha in alphas.tolist()
        for beta in betas.tolist()
    }
    assert len({right for right, _ in tried.values()}) > 1
    expected = max(tried, key=lambda pair: (tried[pair][0], -tried[pair][1]))
    found = best_votes(keys, labels, text, 20.0, images, truths, alphas, betas)
    assert (found.alpha, found.beta) == expected
    assert found.accuracy == pytest.approx(tried[expected][0] / len(truths))


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f"])
def test_the_choice_sees_no_entry_of_what_it_is_made_on(name: str, backbone: Backbone) -> None:
    features, labels = drawn(4)
    learnt_from, held_out = hold_out_shots(labels.tolist(), CLASSES, 1)
    method = learnt(name, backbone, {"candidates": 5})
    keys = functional.normalize(features.mean(dim=1), dim=-1)
    alphas, betas = (torch.logspace(*ends, 5, base=10, dtype=torch.float64) for ends in ((-1, 1.4771213), (-0.30103, 1.4771213)))
    best = best_votes(
        keys[learnt_from],
        labels[learnt_from],
        method.encode_classes(CLASSES)[0],
        backbone.logit_scale,
        features[held_out, 0],
        labels[held_out],
        alphas,
        betas,
    )
    assert (remembered(method).alpha, remembered(method).beta) == pytest.approx((best.alpha, best.beta), rel=1e-5)
    assert len(remembered(method).keys) == len(labels)  # for the choice alone


def test_only_the_keys_are_trained(backbone: Backbone) -> None:
    method = learnt("tip-adapter-f", backbone, NUMBERS)
    assert [name for name, _ in method.named_parameters()] == ["keys"]
    assert set(method.learnt_state()) == {"keys", "labels", "alpha", "beta"}
    recipe = method_class("tip-adapter-f").recipe_for(16, {})
    assert (recipe.optimizer, recipe.rate, recipe.epsilon, recipe.batch_size, recipe.epochs) == ("adamw", 1e-3, 1e-4, 256, 20)


def test_a_saved_label_must_be_one_of_the_classes(backbone: Backbone) -> None:
    method = learnt("tip-adapter", backbone, NUMBERS)
    state = method.learnt_state()
    with pytest.raises(CheckpointError, match="labels of method tip-adapter go beyond the 3 classes"):
        method.load_learnt_state({**state, "labels": state["labels"] + 1})


@pytest.mark.parametrize("option", [{"alpha": (3.0, 1.0)}, {"beta": (0.0, 1.0)}, {"alpha": -1.0}, {"beta": (1.0, 2.0, 3.0)}])
def test_a_range_that_is_none_is_refused_in_one_line(option: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        method_class("tip-adapter").parse_options(option)
    assert "\n" not in str(caught.value)
    assert next(iter(option)) in str(caught.value)
