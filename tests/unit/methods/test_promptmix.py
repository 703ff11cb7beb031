"""promptmix beyond what every method does: the image side that is known in closed form, the votes, and each part by itself."""

from __future__ import annotations

import itertools
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
from promptmix.inference.predictor import Predictor, add_classes, remove_classes
from promptmix.methods.base import Method, Recipe
from promptmix.methods.promptmix import PromptMix, shrinking_within_classes
from promptmix.methods.registry import build_method
from promptmix.model_folder import SavedModel, read_model, write_model
from promptmix.nn.classifier import Classifier
from promptmix.runtime import torch_generator
from promptmix.structs import Batch
from promptmix.training.feeds import CachedFeed
from promptmix.training.loop import train

CLASSES = ("anchor", "cat", "snowflake")
WIDTH = 128
PARTS: dict[str, Any] = {"image_side": "none", "whitening": None, "centring": False, "memory_weight": 0.0}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


def drawn(per_class: int, seed: int = 0, num_classes: int = len(CLASSES)) -> tuple[Tensor, Tensor]:
    """Normalised features with something to learn, and their labels."""
    generator = torch_generator(seed, "promptmix features")
    labels = torch.arange(num_classes * per_class) % num_classes
    centres = torch.randn(num_classes, WIDTH, generator=torch_generator(0, "promptmix centres"))
    return functional.normalize(centres[labels] + torch.randn(len(labels), WIDTH, generator=generator), dim=-1), labels


def trained(backbone: Backbone, options: dict[str, Any], per_class: int = 5) -> PromptMix:
    method = build_method("promptmix", {"groups": [["a photo of a {}."], ["many {}."]], **options}, backbone, CLASSES, 1)
    assert isinstance(method, PromptMix)
    features, labels = drawn(per_class)
    method.start_from(features[:, None], labels)
    train(method, Recipe(epochs=2, rate=0.05, batch_size=6, warmup_epochs=0), CachedFeed(features[:, None], labels, 1))
    return method


def classifier_of(method: Method) -> Classifier:
    classifier = method.classifier()
    assert isinstance(classifier, Classifier)
    return classifier


def saved(method: Method, backbone: Backbone) -> SavedModel:
    return SavedModel(
        method=method.name,
        options=method.saved_options(),
        class_names=CLASSES,
        trained_class_names=CLASSES,
        more_class_names=(),
        backbone_name=backbone.name,
        backbone_fingerprint=backbone.fingerprint,
        expert_names=method.expert_names,
        classifier=classifier_of(method),
        learnt=method.learnt_state(),
        training={},
    )


@pytest.mark.parametrize("whitening", [0.3, 20.0])
def test_whitening_is_that_of_a_computation_picture_by_picture(whitening: float) -> None:
    generator = torch_generator(0, "covariance")
    labels = torch.tensor([0, 2, 2, 0, 2, 3, 0])  # no picture of class 1, one of class 3
    features = functional.normalize(torch.randn(len(labels), 4, generator=generator), dim=-1)
    within = np.zeros((4, 4))
    for number in range(4):
        pictures = [features[row].numpy().astype(np.float64) for row in range(len(labels)) if labels[row] == number]
        for picture in pictures:
            away = picture - sum(pictures) / len(pictures)
            for one, other in itertools.product(range(4), range(4)):
                within[one, other] += away[one] * away[other]
    within /= np.linalg.eigvalsh(within).mean()
    expected = whitening * np.linalg.inv(within + whitening * np.eye(4))
    np.testing.assert_allclose(shrinking_within_classes(features, labels, 4, whitening).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_whitening_by_hand_shrinks_the_one_direction_in_which_pictures_of_a_class_differ() -> None:
    features = torch.tensor([[0.6, 0.8], [0.6, -0.8], [-0.6, 0.8], [-0.6, -0.8]])
    # Within classes 4 * 0.64 along the second direction and 0 along the first: 2 and 0 beside their mean; so 3 / (2 + 3) and 1.
    shrinking = shrinking_within_classes(features, torch.tensor([0, 0, 1, 1]), 2, 3.0)
    torch.testing.assert_close(shrinking, torch.tensor([[1.0, 0.0], [0.0, 0.6]]))


def test_whitening_does_not_mind_the_unit_of_the_features_and_fades_out_as_its_number_grows() -> None:
    features, labels = drawn(4)
    whole = shrinking_within_classes(features, labels, 3, 2.0)
    torch.testing.assert_close(shrinking_within_classes(7 * features, labels, 3, 2.0), whole, rtol=1e-4, atol=1e-6)
    distances = [
        float((shrinking_within_classes(features, labels, 3, number) - torch.eye(WIDTH)).norm()) for number in (0.1, 2, 50, 1e6)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-3


def test_however_small_its_number_whitening_leaves_the_directions_in_which_classes_alone_differ() -> None:
    features, labels = drawn(2)
    shrinking = shrinking_within_classes(features, labels, 3, 1e-30)
    deviations = features[:3] - features[3:]  # the only two of each class
    torch.testing.assert_close(deviations @ shrinking, torch.zeros(3, WIDTH), atol=1e-5, rtol=0)
    torch.testing.assert_close(shrinking.trace(), torch.tensor(WIDTH - 3.0))


@pytest.mark.parametrize("per_class", [1, 3])
def test_of_equal_pictures_nothing_is_known_and_nothing_shrinks(per_class: int) -> None:
    features, labels = drawn(1)
    again = features.repeat(per_class, 1), labels.repeat(per_class)
    assert torch.equal(shrinking_within_classes(*again, 3, 20.0), torch.eye(WIDTH))


@pytest.mark.parametrize("whitening", [20.0, None])
@pytest.mark.parametrize("centring", [True, False])
@pytest.mark.parametrize("image_side", ["linear", "none"])
def test_one_map_says_what_the_image_side_computes_step_by_step(
    whitening: float | None, centring: bool, image_side: str, backbone: Backbone
) -> None:
    method = trained(backbone, {"whitening": whitening, "centring": centring, "image_side": image_side})
    classifier = classifier_of(method)
    pictures, (seen, labels) = drawn(9, seed=5)[0], drawn(5)
    mean = seen.mean(dim=0) if centring else torch.zeros(WIDTH)
    shrinking = torch.eye(WIDTH) if whitening is None else shrinking_within_classes(seen, labels, 3, whitening)
    before = functional.normalize((pictures - mean) @ shrinking.T, dim=-1)
    learnt = torch.zeros(WIDTH, WIDTH) if method.image_map is None else method.image_map.detach()
    assert (learnt.norm() > 0) == (image_side == "linear")
    expected = functional.normalize(before + before @ learnt.T, dim=-1)

    moved = pictures
    if classifier.image_map is not None:
        moved = pictures + pictures @ classifier.image_map.T
        moved = functional.normalize(moved if classifier.image_shift is None else moved + classifier.image_shift, dim=-1)
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-6)
    assert (classifier.image_shift is not None) == centring
    moves = centring or whitening is not None or image_side == "linear"
    assert (classifier.image_map is not None) == moves


def test_classes_are_compared_from_their_own_mean_and_experts_chosen_by_the_feature_as_it_came(backbone: Backbone) -> None:
    method = trained(backbone, {"top_k": 1})
    classifier, plain = classifier_of(method), classifier_of(trained(backbone, {"top_k": 1, "centring": False}))
    assert torch.equal(method.class_mean, method._prototypes.mean(dim=1))
    assert not torch.allclose(classifier.class_features, plain.class_features, atol=0.1)
    expected = functional.normalize(method._encode(method._packed).detach() - method.class_mean[:, None], dim=-1)
    torch.testing.assert_close(classifier.class_features, expected)
    images = drawn(4, seed=3)[0]
    routed = functional.linear(images, method.router_weight, method.router_bias).argmax(dim=1)
    assert torch.equal(classifier.expert_weights(images), functional.one_hot(routed, 2).float())


def test_pictures_vote_for_their_own_class_alone(backbone: Backbone) -> None:
    method = trained(backbone, {"memory_weight": 2.0, "memory_sharpness": 4.0})
    mute = build_method("promptmix", {**method.saved_options(), "memory_weight": 0.0}, backbone, CLASSES)
    mute.load_learnt_state({name: value for name, value in method.learnt_state().items() if name not in ("keys", "labels")})
    images, (keys, labels) = drawn(3, seed=2)[0], drawn(5)
    votes = classifier_of(method).logits(images) - classifier_of(mute).logits(images)
    for row, image in enumerate(images):
        for number in range(len(CLASSES)):
            expected = sum(
                2.0 * float(torch.exp(-4.0 * (1 - image @ key)))
                for key, label in zip(keys, labels, strict=True)
                if label == number
            )
            assert float(votes[row, number].detach()) == pytest.approx(expected, abs=1e-4)


def test_a_class_known_by_its_name_alone_gets_no_vote(backbone: Backbone) -> None:
    method, mute = (trained(backbone, {"memory_weight": weight}) for weight in (3.0, 0.0))
    images = drawn(3, seed=2)[0]
    names = ["heart", "cat", "skull", "anchor"]
    classifiers = [one.classifier_for(names) for one in (method, mute)]
    votes = classifiers[0].logits(images) - classifiers[1].logits(images)
    torch.testing.assert_close(votes[:, [0, 2]], torch.zeros(len(images), 2))
    own = classifier_of(method).logits(images) - classifier_of(mute).logits(images)
    torch.testing.assert_close(votes[:, [1, 3]], own[:, [1, 0]], rtol=1e-4, atol=1e-4)
    assert float(own.min()) > 0


def test_while_it_learns_no_picture_votes(backbone: Backbone) -> None:
    features, labels = drawn(5)
    batch = Batch(image_features=features, labels=labels)
    method, mute = (trained(backbone, {"memory_weight": weight}) for weight in (3.0, 0.0))
    assert torch.equal(method.training_step(batch).logits, mute.training_step(batch).logits)
    assert all(torch.equal(value, method.learnt_state()[name]) for name, value in mute.learnt_state().items())


def test_a_saved_model_says_the_same_whatever_classes_are_added_and_removed(backbone: Backbone, tmp_path: Path) -> None:
    method, images = trained(backbone, {}), drawn(3, seed=2)[0]
    write_model(tmp_path / "model", saved(method, backbone))
    model = read_model(tmp_path / "model")

    def said(one: SavedModel) -> Tensor:
        return Predictor(one, backbone=backbone).classifier.logits(images)

    expected = classifier_of(method).logits(images)
    assert torch.equal(said(model), expected)
    more = add_classes(model, ["skull", "heart"], backbone)
    named = method.classifier_for([*CLASSES, "skull", "heart"]).logits(images)
    torch.testing.assert_close(said(more), named, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(said(more)[:, :3], expected, rtol=1e-5, atol=1e-5)
    fewer = remove_classes(more, ["cat", "skull"])
    assert fewer.class_names == ("anchor", "snowflake", "heart")
    torch.testing.assert_close(said(fewer), named[:, [0, 2, 4]], rtol=1e-5, atol=1e-5)
    # What comes back has its pictures again: their votes are part of what it says.
    again = add_classes(fewer, ["cat"], backbone)
    torch.testing.assert_close(said(again), named[:, [0, 2, 4, 1]], rtol=1e-5, atol=1e-5)
    write_model(tmp_path / "again", again)
    assert torch.equal(said(read_model(tmp_path / "again")), said(again))


@pytest.mark.parametrize("name", ["mocoop", "promptmix"])
def test_a_step_on_sampled_classes_is_the_step_of_a_method_that_has_these_alone(name: str, backbone: Backbone) -> None:
    names = ["anchor", "cat", "snowflake", "skull", "heart", "gear", "leaf"]
    options = {"groups": [["a photo of a {}."], ["many {}."]]}
    every, sampled = (build_method(name, {**options, **more}, backbone, names, 1) for more in ({}, {"sampled_classes": 4}))
    assert (every.text_encodings_per_step, sampled.text_encodings_per_step) == (14, 8)
    features, labels = drawn(2, num_classes=2)
    batch = Batch(image_features=features, labels=labels * 3, number=5)
    output = sampled.training_step(batch)
    asked = [place for place in range(7) if bool(output.logits[:, place].isfinite().all())]
    assert len(asked) == 4
    assert {0, 3} <= set(asked)
    alone = build_method(name, options, backbone, [names[place] for place in asked], 1)
    renumbered = torch.tensor([asked.index(label) for label in (labels * 3).tolist()])
    expected = alone.training_step(Batch(image_features=features, labels=renumbered, number=5))
    torch.testing.assert_close(output.logits[:, asked], expected.logits, rtol=1e-4, atol=1e-4)
    assert output.terms.keys() == expected.terms.keys()
    for term, value in expected.terms.items():
        torch.testing.assert_close(output.terms[term], value, rtol=1e-4, atol=1e-5)
    sampled.backward(output)
    alone.backward(expected)
    for (what, ours), (_, theirs) in zip(sampled.named_parameters(), alone.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=what)
    # Another step draws other classes, the same step the same ones, and as many as there are is all of them.
    again, other = (sampled.training_step(Batch(image_features=features, labels=labels * 3, number=step)) for step in (5, 6))
    assert torch.equal(again.logits, output.logits)
    assert not torch.equal(other.logits.isfinite(), output.logits.isfinite())
    whole = build_method(name, {**options, "sampled_classes": 7}, backbone, names, 1)
    assert torch.equal(whole.training_step(batch).logits, every.training_step(batch).logits)


@pytest.mark.parametrize("left_out", [*([part] for part in PARTS), [*PARTS]], ids=", ".join)
def test_each_part_may_be_left_out(left_out: list[str], backbone: Backbone) -> None:
    method = trained(backbone, {part: PARTS[part] for part in left_out})
    held = {"image_map": "image_side", "shrinking": "whitening", "picture_mean": "centring", "class_mean": "centring"}
    held |= {"keys": "memory_weight", "labels": "memory_weight"}
    state = method.learnt_state()
    assert {name for name in held if name in state} == {name for name, part in held.items() if part not in left_out}
    again = build_method("promptmix", method.saved_options(), backbone, CLASSES)
    again.load_learnt_state(state)
    images = drawn(3, seed=2)[0]
    assert torch.equal(classifier_of(again).logits(images), classifier_of(method).logits(images))
    features, labels = drawn(5)
    terms = method.training_step(Batch(image_features=features, labels=labels)).terms
    assert ("consistency" in terms) == ("image_side" not in left_out)


def test_without_its_parts_it_is_the_mixture_of_prompts(backbone: Backbone) -> None:
    both = {"groups": [["a photo of a {}."], ["many {}."]], "top_k": 1, "mixture": "mean_logits"}
    features, labels = drawn(5)
    learnt = []
    for name, options in (("promptmix", {**both, **PARTS, "scale": 1.0}), ("mocoop", both)):
        method = build_method(name, options, backbone, CLASSES, 1)
        method.start_from(features[:, None], labels)
        train(method, Recipe(epochs=2, rate=0.05, batch_size=6), CachedFeed(features[:, None], labels, 1))
        learnt.append(method.learnt_state())
    assert learnt[0].keys() == learnt[1].keys()
    for name in learnt[0]:
        torch.testing.assert_close(learnt[0][name], learnt[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixture", ["renormalised", "mean_logits"])
def test_the_scale_is_a_factor_of_the_cosines_and_neither_of_the_votes_nor_of_the_text_loss(
    mixture: str, backbone: Backbone
) -> None:
    features, labels = drawn(5)
    once, twice = (build_method("promptmix", {"scale": scale, "mixture": mixture}, backbone, CLASSES, 1) for scale in (0.4, 0.8))
    for method in (once, twice):
        method.start_from(features[:, None], labels)
    batch = Batch(image_features=features, labels=labels)
    outputs = [method.training_step(batch) for method in (once, twice)]
    torch.testing.assert_close(2 * outputs[0].logits, outputs[1].logits)
    assert torch.equal(outputs[0].terms["text"], outputs[1].terms["text"])
    cosines, votes = outputs[0].logits.detach(), classifier_of(once).logits(features) - outputs[0].logits.detach()
    torch.testing.assert_close(classifier_of(twice).logits(features), 2 * cosines + votes, rtol=1e-4, atol=1e-4)
    assert float(cosines.abs().max()) <= 0.4 * backbone.logit_scale


def test_a_map_that_has_learnt_nothing_pays_nothing_for_consistency(backbone: Backbone) -> None:
    method = build_method("promptmix", {}, backbone, CLASSES, 1)
    features, labels = drawn(5)
    method.start_from(features[:, None], labels)
    batch = Batch(image_features=features, labels=labels)
    assert float(method.training_step(batch).terms["consistency"].detach()) == pytest.approx(0.0, abs=1e-5)
    assert float(trained(backbone, {}).training_step(batch).terms["consistency"].detach()) > 1e-4


def test_one_picture_a_class_is_enough(backbone: Backbone) -> None:
    method = trained(backbone, {}, per_class=1)
    assert torch.equal(method.shrinking, torch.eye(WIDTH))
    features, labels = drawn(1)
    logits = classifier_of(method).logits(features)
    assert torch.equal(logits.argmax(dim=1), labels)
    assert bool(torch.isfinite(logits).all())


def test_a_picture_that_is_the_mean_of_all_has_a_finite_loss(backbone: Backbone) -> None:
    method = build_method("promptmix", {}, backbone, CLASSES, 1)
    features = drawn(1)[0][:1].repeat(3, 1)
    method.start_from(features[:, None], torch.arange(3))
    output = method.training_step(Batch(image_features=features, labels=torch.arange(3)))
    method.backward(output)
    assert bool(torch.isfinite(output.loss))
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in method.parameters() if parameter.grad is not None)


def test_what_it_starts_from_is_the_test_view_and_is_copied(backbone: Backbone) -> None:
    features, labels = drawn(5)
    views = torch.stack([features, features.flip(1), -features], dim=1)
    method, plain = (build_method("promptmix", {}, backbone, CLASSES, 1) for _ in range(2))
    method.start_from(views, labels)
    plain.start_from(features[:, None].clone(), labels.clone())
    views.zero_()
    labels.zero_()
    assert all(torch.equal(value, plain.learnt_state()[name]) for name, value in method.learnt_state().items())


@pytest.mark.parametrize("label", [-1, 3])
def test_a_saved_label_must_be_one_of_the_classes(label: int, backbone: Backbone) -> None:
    method = trained(backbone, {})
    state = method.learnt_state()
    state["labels"][2] = label
    with pytest.raises(CheckpointError, match="labels of method promptmix go beyond the 3 classes"):
        method.load_learnt_state(state)


def test_saved_labels_must_be_whole_and_as_many_as_the_keys(backbone: Backbone) -> None:
    method = trained(backbone, {})
    state = method.learnt_state()
    with pytest.raises(CheckpointError, match="labels of method promptmix"):
        method.load_learnt_state({**state, "labels": torch.full((15,), torch.nan)})
    with pytest.raises(CheckpointError, match=r"labels is \(14,\)"):
        method.load_learnt_state({**state, "labels": state["labels"][1:]})
    with pytest.raises(CheckpointError, match=r"keys is \(15, 7\).* \(15, 128\)"):
        method.load_learnt_state({**state, "keys": state["keys"][:, :7]})
    with pytest.raises(CheckpointError, match="lack labels"):
        method.load_learnt_state({name: value for name, value in state.items() if name != "labels"})
    mute = build_method("promptmix", {**method.saved_options(), "memory_weight": 0.0}, backbone, CLASSES)
    with pytest.raises(CheckpointError, match="have keys, which these options give no place"):
        mute.load_learnt_state(state)


def test_as_many_pictures_are_loaded_as_were_saved(backbone: Backbone) -> None:
    few, many = trained(backbone, {}, per_class=1), trained(backbone, {}, per_class=5)
    few.load_learnt_state(many.learnt_state())
    memory = classifier_of(few).memory
    assert memory is not None
    assert len(memory.keys) == 15
    images = drawn(3, seed=2)[0]
    assert torch.equal(classifier_of(few).logits(images), classifier_of(many).logits(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"whitening": 0}, "whitening is 0"),
        ({"whitening": -1.0}, "whitening is -1"),
        ({"scale": 0}, "scale is 0"),
        ({"memory_weight": -1}, "memory_weight is -1"),
        ({"memory_sharpness": 0}, "memory_sharpness is 0"),
        ({"image_rate": 0}, "image_rate is 0"),
        ({"visual_layer_norms": True}, "unknown option 'visual_layer_norms'"),
    ],
)
def test_what_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PromptMix.parse_options(options)
