"""What every method in the table must do, whatever it is."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.errors import CheckpointError, ConfigError
from promptmix.inference.predictor import add_classes
from promptmix.methods.base import Method, Recipe
from promptmix.methods.registry import METHODS, build_method, method_class
from promptmix.model_folder import SavedModel, read_model, write_model
from promptmix.runtime import torch_generator
from promptmix.structs import Batch
from promptmix.training.feeds import CachedFeed
from promptmix.training.loop import train

CLASSES = ("anchor", "cat", "snowflake", "umbrella")
PICTURES = 24

# Every method as it comes, and with options that give it other parameters or another classifier.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS},
    "coop, class-specific": ("coop", {"class_specific": True, "words": "a photo of a"}),
    "coop, words in the middle": ("coop", {"words": "a photo of a", "class_name_position": "middle"}),
    "mocoop, image side": ("mocoop", {"preset": "image_side"}),
    "mocoop, found groups": ("mocoop", {"bank": "styles", "regroup": 3, "top_k": 9}),
    "mocoop, one expert": ("mocoop", {"groups": [["a photo of a {}."]]}),
    "mocoop, renormalised": ("mocoop", {"mixture": "renormalised", "correction": False, "period": False}),
    "mocoop, hard prompts for added classes": ("mocoop", {"added_classes": "prototypes"}),
    "mocoop, no words round the name": ("mocoop", {"groups": [["{}."], ["many {}."]]}),
}


# These refuse classes that are added later, for a reason.
KNOW_THEIR_CLASSES_ONLY = {
    "linear-probe": "pictures of",
    "coop, class-specific": "class-specific contexts belong to the classes",
}


def learns(variant: str) -> str:
    return method_class(VARIANTS[variant][0]).learns


EVERY = pytest.mark.parametrize("name", VARIANTS)
EVERY_METHOD = pytest.mark.parametrize("name", METHODS)
LEARNING = pytest.mark.parametrize("name", [name for name in VARIANTS if learns(name) != "nothing"])
TAKES_NEW_CLASSES = pytest.mark.parametrize("name", [name for name in VARIANTS if name not in KNOW_THEIR_CLASSES_ONLY])
BY_GRADIENT = pytest.mark.parametrize("name", [name for name in VARIANTS if learns(name) == "by gradient"])


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


def table(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features with something to learn: a random direction for each class, and noise."""
    generator = torch_generator(seed, "contract features")
    labels = torch.arange(PICTURES) % len(CLASSES)
    centres = torch.randn(len(CLASSES), 128, generator=generator)
    return functional.normalize(centres[labels] + 0.5 * torch.randn(PICTURES, 128, generator=generator), dim=-1), labels


def untrained(name: str, backbone: Backbone, seed: int = 1, classes: tuple[str, ...] = CLASSES) -> Method:
    method, options = VARIANTS[name]
    return build_method(method, options, backbone, classes, seed)


def fitted(
    name: str,
    backbone: Backbone,
    seed: int = 1,
    classes: tuple[str, ...] = CLASSES,
    labels: Tensor | None = None,
    epochs: int = 2,
) -> Method:
    method = untrained(name, backbone, seed, classes)
    features, own_labels = table()
    labels = own_labels if labels is None else labels
    if method.learns == "by gradient":
        train(
            method, Recipe(epochs=epochs, rate=0.05, batch_size=8, warmup_epochs=0), CachedFeed(features[:, None], labels, seed)
        )
    elif method.learns == "in closed form":
        method.fit_features(features, labels, seed)
    return method


def logits_of(method: Method) -> Tensor:
    return method.classifier().logits(table(1)[0])


def saved(method: Method, backbone: Backbone) -> SavedModel:
    return SavedModel(
        method=method.name,
        options=method.saved_options(),
        class_names=method.class_names,
        trained_class_names=method.class_names,
        more_class_names=(),
        backbone_name=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        expert_names=method.expert_names,
        classifier=method.classifier(),
        learnt=method.learnt_state(),
        training={},
    )


@EVERY
def test_saved_options_make_the_same_method_again(name: str, backbone: Backbone) -> None:
    first = fitted(name, backbone)
    written = json.loads(json.dumps(first.saved_options()))
    again = build_method(first.name, written, backbone, CLASSES)
    again.load_learnt_state(first.learnt_state())
    assert again.saved_options() == first.saved_options()
    assert again.expert_names == first.expert_names
    assert torch.equal(logits_of(again), logits_of(first))


@EVERY_METHOD
def test_a_preset_is_known_or_refused(name: str) -> None:
    kind = method_class(name)
    for preset, options in kind.presets.items():
        assert kind.parse_options({"preset": preset}) == kind.parse_options(options)
    with pytest.raises(ConfigError, match="no preset 'surprise'"):
        kind.parse_options({"preset": "surprise"})


@EVERY_METHOD
def test_an_unknown_option_is_refused_with_the_nearest(name: str) -> None:
    known = next(iter(method_class(name).config_class.model_fields))
    with pytest.raises(ConfigError, match=f"did you mean '{known}'"):
        method_class(name).parse_options({known + "x": 1})


@EVERY_METHOD
@pytest.mark.parametrize("classes", [[], ["cat"]])
def test_one_class_is_nothing_to_tell_apart(name: str, classes: list[str], backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="at least two"):
        build_method(name, {}, backbone, classes)


@EVERY
def test_all_parameters_are_on_the_device_of_the_backbone(name: str, backbone: Backbone) -> None:
    if name == "mocoop, found groups":
        return  # the search for groups needs numbers, which the device below has not
    # A device that every machine has. It holds no numbers, but refuses to calculate with tensors that lie elsewhere, as a GPU does.
    elsewhere = torch.device("meta")
    moved = dataclasses.replace(backbone, text=copy.deepcopy(backbone.text), vision=copy.deepcopy(backbone.vision)).to(elsewhere)
    method = untrained(name, moved)
    assert {value.device for value in method.state_dict().values()} <= {elsewhere}
    assert method.classifier().logits(table()[0].to(elsewhere)).shape == (PICTURES, len(CLASSES))
    if name not in KNOW_THEIR_CLASSES_ONLY:
        assert method.encode_classes(["skull"]).device == elsewhere


@EVERY
def test_training_leaves_the_backbone_alone(name: str, backbone: Backbone) -> None:
    towers = {"text": backbone.text, "vision": backbone.vision}
    before = {
        f"{part}.{key}": value.clone() for part, tower in towers.items() if tower for key, value in tower.state_dict().items()
    }
    method = fitted(name, backbone)
    for part, tower in towers.items():
        assert tower is not None
        for key, parameter in tower.named_parameters():
            assert not parameter.requires_grad, key
            assert parameter.grad is None, key
        for key, value in tower.state_dict().items():
            assert torch.equal(value, before[f"{part}.{key}"]), key
    assert all(parameter.requires_grad for parameter in method.parameters())
    assert method.num_learnt_parameters == sum(value.numel() for value in method.learnt_state().values())
    assert (method.num_learnt_parameters == 0) == (method.learns == "nothing")


@LEARNING
def test_learning_changes_every_parameter(name: str, backbone: Backbone) -> None:
    before, trained = untrained(name, backbone).learnt_state(), fitted(name, backbone).learnt_state()
    # A router over one expert has nothing to decide, so its gradient is 0; weight decay alone moves it.
    assert [key for key in trained if torch.equal(trained[key], before[key])] == []


@LEARNING
def test_loading_is_strict(name: str, backbone: Backbone) -> None:
    method = fitted(name, backbone)
    state = method.learnt_state()
    first = next(iter(state))
    with pytest.raises(CheckpointError, match=f"lack {first}"):
        method.load_learnt_state({key: value for key, value in state.items() if key != first})
    with pytest.raises(CheckpointError, match="surprise"):
        method.load_learnt_state({**state, "surprise": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=rf"{first} is \(7, 7, 7\)"):
        method.load_learnt_state({**state, first: torch.zeros(7, 7, 7)})


@EVERY
def test_a_saved_model_gives_the_same_logits_to_the_bit(name: str, backbone: Backbone, tmp_path: Path) -> None:
    method = fitted(name, backbone)
    expected = logits_of(method)
    # Names of several lengths, so that in the file the tensors do not all lie where a processor likes them best.
    for length in range(4):
        names = (*CLASSES[:-1], CLASSES[-1] + length * "s")
        write_model(tmp_path / str(length), dataclasses.replace(saved(method, backbone), class_names=names))
        assert torch.equal(read_model(tmp_path / str(length)).classifier.logits(table(1)[0]), expected), length


@TAKES_NEW_CLASSES
def test_a_saved_model_takes_the_same_new_classes(name: str, backbone: Backbone, tmp_path: Path) -> None:
    model = saved(fitted(name, backbone), backbone)
    write_model(tmp_path / "model", model)
    added, again = (add_classes(one, ["skull"], backbone) for one in (model, read_model(tmp_path / "model")))
    assert again.class_names == added.class_names
    assert torch.equal(again.classifier.logits(table(1)[0]), added.classifier.logits(table(1)[0]))


@BY_GRADIENT
def test_the_classifier_says_what_training_saw(name: str, backbone: Backbone) -> None:
    method = fitted(name, backbone)
    features, labels = table()
    output = method.training_step(Batch(image_features=features, labels=labels))
    torch.testing.assert_close(method.classifier().logits(features), output.logits.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.loss, torch.stack(list(output.terms.values())).sum())


@BY_GRADIENT
def test_a_step_changes_nothing_and_says_the_same_again(name: str, backbone: Backbone) -> None:
    method = fitted(name, backbone)
    features, labels = table()
    batch = Batch(image_features=features, labels=labels)
    before = method.learnt_state()
    first, second = method.training_step(batch), method.training_step(batch)
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.logits, second.logits)
    assert all(torch.equal(value, before[key]) for key, value in method.learnt_state().items())
    assert torch.equal(features, table()[0])
    assert torch.equal(labels, table()[1])


@BY_GRADIENT
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_size_of_a_batch_changes_no_logit(name: str, size: int, backbone: Backbone) -> None:
    method = fitted(name, backbone)
    features, labels = table()
    whole = method.training_step(Batch(image_features=features, labels=labels))
    part = method.training_step(Batch(image_features=features[:size], labels=labels[:size]))
    torch.testing.assert_close(part.logits, whole.logits[:size], rtol=1e-4, atol=1e-4)
    assert bool(torch.isfinite(part.loss))


@EVERY
def test_a_classifier_and_a_state_stay_as_they_were(name: str, backbone: Backbone) -> None:
    method = fitted(name, backbone)
    classifier, state = method.classifier(), method.learnt_state()
    logits, kept = classifier.logits(table(1)[0]), {key: value.clone() for key, value in state.items()}
    assert not logits.requires_grad
    with torch.no_grad():
        for value in method.state_dict().values():
            value.add_(1.0)
    assert torch.equal(classifier.logits(table(1)[0]), logits)
    assert all(torch.equal(state[key], kept[key]) for key in state)


@EVERY_METHOD
def test_a_method_learns_in_the_one_way_it_names(name: str, backbone: Backbone) -> None:
    method = untrained(name, backbone)
    features, labels = table()
    if method.learns != "by gradient":
        with pytest.raises(NotImplementedError, match="by gradient"):
            method.training_step(Batch(image_features=features, labels=labels))
    if method.learns != "in closed form":
        with pytest.raises(NotImplementedError, match="closed form"):
            method.fit_features(features, labels, 0)


@EVERY
def test_a_seed_says_it_all(name: str, backbone: Backbone) -> None:
    assert torch.equal(logits_of(fitted(name, backbone, seed=0)), logits_of(fitted(name, backbone, seed=0)))


@BY_GRADIENT
def test_another_seed_is_another_run(name: str, backbone: Backbone) -> None:
    assert not torch.equal(logits_of(fitted(name, backbone, seed=0)), logits_of(fitted(name, backbone, seed=1)))


@EVERY
def test_global_randomness_is_left_alone(name: str, backbone: Backbone) -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # what is checked
    fitted(name, backbone)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@EVERY
def test_the_order_of_the_classes_means_nothing(name: str, backbone: Backbone) -> None:
    order = [2, 0, 3, 1]
    place = torch.tensor([order.index(label) for label in range(4)])
    turned = fitted(name, backbone, classes=tuple(CLASSES[one] for one in order), labels=place[table()[1]], epochs=1)
    # The same sums in another order: equal up to rounding, which training carries along.
    torch.testing.assert_close(logits_of(turned), logits_of(fitted(name, backbone, epochs=1))[:, order], rtol=1e-2, atol=1e-2)


@EVERY
def test_an_underscore_in_a_name_reads_as_a_space(name: str, backbone: Backbone) -> None:
    spaced, joined = ((one, "cat", "gear", "skull") for one in ("white king", "white_king"))
    assert torch.equal(logits_of(fitted(name, backbone, classes=spaced)), logits_of(fitted(name, backbone, classes=joined)))


@EVERY
def test_classes_are_added_without_a_change_to_the_others_or_refused_with_a_reason(name: str, backbone: Backbone) -> None:
    model = saved(fitted(name, backbone), backbone)
    features = table(1)[0]
    if name in KNOW_THEIR_CLASSES_ONLY:
        with pytest.raises(ConfigError, match=KNOW_THEIR_CLASSES_ONLY[name]):
            add_classes(model, ["skull"], backbone)
        return
    added = add_classes(model, ["skull", "heart"], backbone)
    logits = added.classifier.logits(features)
    torch.testing.assert_close(logits[:, :4], model.classifier.logits(features), rtol=1e-5, atol=1e-5)
    # A class is what its name says, whichever classes it is added with.
    alone = add_classes(model, ["heart"], backbone).classifier.logits(features)
    torch.testing.assert_close(logits[:, 5], alone[:, 4], rtol=1e-4, atol=1e-4)
