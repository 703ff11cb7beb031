"""What every method in the table must do, whatever it is."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import signal
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.backbone_files import write_with_vision_transformer
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.data.pictograms import draw_set
from promptmix.data.transforms import Augmentation
from promptmix.errors import CheckpointError, ConfigError, InterruptedRun
from promptmix.inference.predictor import Predictor, add_classes
from promptmix.methods.base import Method, Recipe
from promptmix.methods.registry import METHODS, build_method, method_class
from promptmix.model_folder import SavedModel, read_model, write_model
from promptmix.nn.classifier import Classifier
from promptmix.runtime import torch_generator
from promptmix.structs import Batch
from promptmix.training.feeds import CachedFeed, Feed, LiveFeed
from promptmix.training.loop import StepReport, train

CLASSES = ("anchor", "cat", "snowflake", "umbrella")
PICTURES = 24

# Every method as it comes, and with options that give it other parameters or another classifier.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS},
    "linear-probe, from texts": ("linear-probe", {"start": "text"}),
    "tip-adapter, given numbers": ("tip-adapter", {"alpha": 2.0, "beta": 3.0}),
    # Texts tell nothing of the table below, so a chosen alpha would be so large that nothing is left to learn.
    "tip-adapter-f": ("tip-adapter-f", {"alpha": 1.0}),
    "coop, class-specific": ("coop", {"class_specific": True, "words": "a photo of a"}),
    "coop, words in the middle": ("coop", {"words": "a photo of a", "class_name_position": "middle"}),
    "kgcoop, random start": ("kgcoop", {"words": None}),
    "prograd, random start": ("prograd", {"words": None, "context_tokens": 3}),
    "lasp, as released": ("lasp", {"preset": "as_released"}),
    "lasp, noise and a random start": ("lasp", {"noise_deviation": 0.05, "words": None}),
    "maple, shallow": ("maple", {"depth": 1, "words": None}),
    "promptsrc, of two depths": ("promptsrc", {"text_depth": 3, "vision_depth": 1, "vision_tokens": 2, "logits_weight": 0.0}),
    "clip-lora, no dropout": ("clip-lora", {"dropout": 0.0, "rank": 3, "projections": ["v", "q"]}),
    "clip-lora, image tower": ("clip-lora", {"towers": "vision"}),
    "clip-lora, text tower": ("clip-lora", {"towers": "text"}),
    "mocoop, image side": ("mocoop", {"preset": "image_side"}),
    "mocoop, found groups": ("mocoop", {"bank": "styles", "regroup": 3, "top_k": 9}),
    "mocoop, one expert": ("mocoop", {"groups": [["a photo of a {}."]]}),
    "mocoop, renormalised": ("mocoop", {"mixture": "renormalised", "correction": False, "period": False}),
    "mocoop, hard prompts for added classes": ("mocoop", {"added_classes": "prototypes"}),
    "mocoop, no words round the name": ("mocoop", {"groups": [["{}."], ["many {}."]]}),
    "mocoop, as released": ("mocoop", {"preset": "as_released"}),
    "promptmix, bare": ("promptmix", {"image_side": "none", "whitening": None, "centring": False, "memory_weight": 0.0}),
    "promptmix, all experts answer": ("promptmix", {"top_k": 64, "mixture": "mean_logits"}),
}

# These tune CLIP's vision transformer, which the bundled backbone has not.
NEED_A_VISION_TRANSFORMER = {
    "lasp, as released",
    "maple",
    "maple, shallow",
    "promptsrc",
    "promptsrc, of two depths",
    "clip-lora",
    "clip-lora, no dropout",
    "clip-lora, image tower",
    "mocoop, as released",
}

# What these tune would be rounded away in half precision.
NEED_FLOAT32 = NEED_A_VISION_TRANSFORMER | {"clip-lora, text tower"}

# These refuse classes that are added later, for a reason.
KNOW_THEIR_CLASSES_ONLY = {
    "linear-probe": "pictures of",
    "coop, class-specific": "class-specific contexts belong to the classes",
}

# Their training pictures vote for their classes, but not while they are trained on: there each would vote for itself.
VOTE_ONLY_AT_PREDICTION = {"promptmix", "promptmix, all experts answer"}


def learns(variant: str) -> str:
    return method_class(VARIANTS[variant][0]).learns


EVERY = pytest.mark.parametrize("name", VARIANTS)
EVERY_METHOD = pytest.mark.parametrize("name", METHODS)
LEARNING = pytest.mark.parametrize("name", [name for name in VARIANTS if learns(name) != "nothing"])
TAKES_NEW_CLASSES = pytest.mark.parametrize("name", [name for name in VARIANTS if name not in KNOW_THEIR_CLASSES_ONLY])
BY_GRADIENT = pytest.mark.parametrize("name", [name for name in VARIANTS if learns(name) == "by gradient"])


@pytest.fixture(scope="module")
def bundled() -> Backbone:
    return load_backbone("bundled", device="cpu")


@pytest.fixture(scope="module")
def with_vision_transformer(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tmp_path_factory.mktemp("backbone")
    write_with_vision_transformer(folder)
    return load_backbone(str(folder), device="cpu")


@pytest.fixture(scope="module")
def rounded(with_vision_transformer: Backbone) -> dict[str, Backbone]:
    """The two backbones in half precision, by their names."""
    names = ("bundled", with_vision_transformer.name)
    return {name: load_backbone(name, device="cpu", precision="bf16") for name in names}


@pytest.fixture
def backbone(name: str, bundled: Backbone, with_vision_transformer: Backbone) -> Backbone:
    """One that the variant under test works with."""
    return with_vision_transformer if name in NEED_A_VISION_TRANSFORMER else bundled


LABELS = torch.arange(PICTURES) % len(CLASSES)


def table(seed: int = 0) -> Tensor:
    """Features with something to learn: a random direction for each class, and noise."""
    generator = torch_generator(seed, "contract features")
    centres = torch.randn(len(CLASSES), 128, generator=generator)
    return functional.normalize(centres[LABELS] + 0.5 * torch.randn(PICTURES, 128, generator=generator), dim=-1)


@functools.cache
def pictures(seed: int = 0) -> tuple[Image.Image, ...]:
    """Pictures of the same labels, for methods that tune the image tower."""
    drawn = draw_set(CLASSES, ("photo", "neon"), PICTURES // (2 * len(CLASSES)), seed)
    of_class = {name: [one.image for one in drawn if one.class_name == name] for name in CLASSES}
    return tuple(of_class[CLASSES[label]][place // len(CLASSES)] for place, label in enumerate(LABELS.tolist()))


def pixels(seed: int = 0) -> Tensor:
    """The same pictures as an image tower of 64 pixels is shown them."""
    return torch.from_numpy(np.stack([np.asarray(picture.convert("RGB")) for picture in pictures(seed)]))


def feed_of(method: Method, backbone: Backbone, labels: Tensor, seed: int) -> Feed:
    """What a method is trained from: live pictures where it tunes the image tower, else the table."""
    if method.tunes_image_tower:
        return LiveFeed(method, backbone, pictures(), labels, Augmentation(), seed)
    return CachedFeed(table()[:, None], labels, seed)


def batch_of(method: Method, backbone: Backbone, size: int = PICTURES) -> Batch:
    """The first ``size`` pictures, or rows of the table, as that feed would give them."""
    if not method.tunes_image_tower:
        features = frozen = table()[:size]
    else:
        features, frozen = method.encode_training_pixels(pixels()[:size], 0), backbone.encode_pixels(pixels()[:size])
    return Batch(image_features=features, labels=LABELS[:size], frozen_features=frozen)


def new_features(method: Method) -> Tensor:
    """What a trained method is asked about: new rows of the table, or new pictures as its own image tower sees them."""
    if not method.tunes_image_tower:
        return table(1)
    with torch.no_grad():
        return method.backbone.encode_pixels(pixels(1))


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
    checkpoint_path: Path | None = None,
    on_step: Callable[[StepReport], None] | None = None,
) -> Method:
    method = untrained(name, backbone, seed, classes)
    labels = LABELS if labels is None else labels
    if method.learns == "by gradient":
        recipe = Recipe(epochs=epochs, rate=0.05, batch_size=8, warmup_epochs=0)
        method.start_from(table()[:, None], labels)
        feed = feed_of(method, backbone, labels, seed)
        train(method, recipe, feed, checkpoint_path=checkpoint_path, on_step=on_step)
    elif method.learns == "in closed form":
        method.fit_features(table()[:, None], labels, seed)
    return method


_FITTED: dict[str, Method] = {}


def fitted_before(name: str, backbone: Backbone) -> Method:
    """The same with nothing said: a copy of one that is trained once for all tests that only look at what has been learnt."""
    if name not in _FITTED:
        _FITTED[name] = fitted(name, backbone)
    shared = (backbone, backbone.text, backbone.vision, backbone.tokenizer)
    return copy.deepcopy(_FITTED[name], {id(part): part for part in shared})


def logits_of(method: Method) -> Tensor:
    return method.classifier().logits(new_features(method))


def said(model: SavedModel, features: Tensor, backbone: Backbone) -> Tensor:
    """The logits of a saved model, which may need the text tower for them."""
    return Predictor(model, backbone=backbone).classifier.logits(features)


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
        classifier=classifier if isinstance(classifier := method.classifier(), Classifier) else None,
        learnt=method.learnt_state(),
        training={},
    )


@EVERY
def test_saved_options_make_the_same_method_again(name: str, backbone: Backbone) -> None:
    first = fitted_before(name, backbone)
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


@pytest.mark.parametrize("name", sorted(NEED_A_VISION_TRANSFORMER))
def test_a_backbone_without_the_tower_to_tune_is_refused(name: str, bundled: Backbone) -> None:
    with pytest.raises(ConfigError, match=r"vision transformer.* bundled"):
        untrained(name, bundled)


@EVERY
def test_all_parameters_are_on_the_device_of_the_backbone(name: str, backbone: Backbone) -> None:
    if name == "mocoop, found groups":
        return  # the search for groups needs numbers, which the device below has not
    # A device that every machine has. It holds no numbers, but refuses to calculate with tensors that lie elsewhere, as a GPU does.
    elsewhere = torch.device("meta")
    moved = dataclasses.replace(backbone, text=copy.deepcopy(backbone.text), vision=copy.deepcopy(backbone.vision)).to(elsewhere)
    method = untrained(name, moved)
    assert {value.device for value in method.state_dict().values()} <= {elsewhere}
    assert method.classifier().logits(table().to(elsewhere)).shape == (PICTURES, len(CLASSES))
    if name not in KNOW_THEIR_CLASSES_ONLY:
        assert method.classifier_for(["skull", "heart"]).logits(table().to(elsewhere)).device == elsewhere


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
    before, trained = untrained(name, backbone).learnt_state(), fitted_before(name, backbone).learnt_state()
    # A router over one expert has nothing to decide, so its gradient is 0; weight decay alone moves it.
    assert [key for key in trained if torch.equal(trained[key], before[key])] == []


@LEARNING
def test_loading_is_strict(name: str, backbone: Backbone) -> None:
    method = fitted_before(name, backbone)
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
    method = fitted_before(name, backbone)
    features, expected = new_features(method), logits_of(method)
    # Names of several lengths, so that in the file the tensors do not all lie where a processor likes them best.
    for length in range(4):
        names = (*CLASSES[:-1], CLASSES[-1] + length * "s")
        model = dataclasses.replace(saved(method, backbone), class_names=names)
        write_model(tmp_path / str(length), model)
        if model.classifier is None:  # the names themselves are encoded
            expected = said(model, features, backbone)
        assert torch.equal(said(read_model(tmp_path / str(length)), features, backbone), expected), length


@TAKES_NEW_CLASSES
def test_a_saved_model_takes_the_same_new_classes(name: str, backbone: Backbone, tmp_path: Path) -> None:
    model = saved(fitted_before(name, backbone), backbone)
    write_model(tmp_path / "model", model)
    added, again = (add_classes(one, ["skull"], backbone) for one in (model, read_model(tmp_path / "model")))
    assert again.class_names == added.class_names
    assert torch.equal(said(again, table(1), backbone), said(added, table(1), backbone))


@BY_GRADIENT
def test_prediction_sees_pictures_as_training_did(name: str, backbone: Backbone, tmp_path: Path) -> None:
    method = fitted_before(name, backbone).eval()  # so that nothing is dropped at random
    write_model(tmp_path / "model", saved(method, backbone))
    # As the predictor has it: the text tower is not there, unless it has to be.
    pictures_only = backbone if method.needs_text_to_predict else dataclasses.replace(backbone, text=None, tokenizer=None)
    seeing = Predictor(read_model(tmp_path / "model"), backbone=pictures_only).backbone
    with torch.no_grad():
        trained, seen, frozen = (
            encode(pixels())
            for encode in (lambda some: method.encode_training_pixels(some, 0), seeing.encode_pixels, backbone.encode_pixels)
        )
    torch.testing.assert_close(seen, trained)
    assert seeing.fingerprint == method.backbone.fingerprint
    # A tower of its own never has the features, nor the place in the cache, of the one it came from.
    assert torch.allclose(seen, frozen) != method.tunes_image_tower
    assert (seeing.fingerprint == backbone.fingerprint) != method.tunes_image_tower


@BY_GRADIENT
def test_the_classifier_says_what_training_saw(name: str, backbone: Backbone) -> None:
    method = fitted_before(name, backbone).eval()  # so that nothing is dropped at random
    batch = batch_of(method, backbone)
    output = method.training_step(batch)
    classifier = method.classifier()
    if name in VOTE_ONLY_AT_PREDICTION:
        assert isinstance(classifier, Classifier)
        assert classifier.memory is not None
        classifier = dataclasses.replace(classifier, memory=None)
    said = classifier.logits(batch.image_features.detach())
    torch.testing.assert_close(said, output.logits.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.loss, torch.stack(list(output.terms.values())).sum())


@BY_GRADIENT
def test_a_step_changes_nothing_and_says_the_same_again(name: str, backbone: Backbone) -> None:
    method = fitted_before(name, backbone)
    batch = batch_of(method, backbone)
    given, before = batch.image_features.detach().clone(), method.learnt_state()
    first, second = method.training_step(batch), method.training_step(batch)
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.logits, second.logits)
    assert all(torch.equal(value, before[key]) for key, value in method.learnt_state().items())
    assert torch.equal(batch.image_features, given)
    assert torch.equal(batch.labels, torch.arange(PICTURES) % len(CLASSES))


@BY_GRADIENT
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_size_of_a_batch_changes_no_logit(name: str, size: int, backbone: Backbone) -> None:
    method = fitted_before(name, backbone).eval()  # so that nothing is dropped at random
    whole = method.training_step(batch_of(method, backbone))
    part = method.training_step(batch_of(method, backbone, size))
    torch.testing.assert_close(part.logits, whole.logits[:size], rtol=1e-4, atol=1e-4)
    assert bool(torch.isfinite(part.loss))


@EVERY
def test_a_classifier_and_a_state_stay_as_they_were(name: str, backbone: Backbone) -> None:
    method = fitted_before(name, backbone)
    classifier, state = method.classifier(), method.learnt_state()
    logits, kept = classifier.logits(table(1)), {key: value.clone() for key, value in state.items()}
    assert not logits.requires_grad
    with torch.no_grad():
        for value in method.state_dict().values():
            value.add_(1)
    assert torch.equal(classifier.logits(table(1)), logits)
    assert all(torch.equal(state[key], kept[key]) for key in state)


@EVERY_METHOD
def test_a_method_learns_in_the_one_way_it_names(name: str, backbone: Backbone) -> None:
    method = untrained(name, backbone)
    if method.learns != "by gradient":
        with pytest.raises(NotImplementedError, match="by gradient"):
            method.training_step(batch_of(method, backbone))
    if method.learns != "in closed form":
        with pytest.raises(NotImplementedError, match="closed form"):
            method.fit_features(table()[:, None], LABELS, 0)


@EVERY
def test_a_seed_says_it_all(name: str, backbone: Backbone) -> None:
    assert torch.equal(logits_of(fitted(name, backbone, seed=0)), logits_of(fitted(name, backbone, seed=0)))


@BY_GRADIENT
def test_another_seed_is_another_run(name: str, backbone: Backbone) -> None:
    assert not torch.equal(logits_of(fitted(name, backbone, seed=0)), logits_of(fitted_before(name, backbone)))


@BY_GRADIENT
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(name: str, backbone: Backbone, tmp_path: Path) -> None:
    taken: list[int] = []

    def stop_in_the_second_epoch(report: StepReport) -> None:
        taken.append(report.done)
        if taken == [1, 2, 3, 4]:
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(InterruptedRun):
        fitted(name, backbone, checkpoint_path=path, on_step=stop_in_the_second_epoch)
    resumed = fitted(name, backbone, checkpoint_path=path, on_step=stop_in_the_second_epoch)
    assert taken == [1, 2, 3, 4, 5, 6]
    whole = fitted_before(name, backbone)
    state = whole.learnt_state()
    assert [key for key, value in resumed.learnt_state().items() if not torch.equal(value, state[key])] == []
    assert torch.equal(logits_of(resumed), logits_of(whole))


@LEARNING
def test_in_half_precision_it_learns_nearly_the_same_or_says_what_it_needs(
    name: str, backbone: Backbone, rounded: dict[str, Backbone]
) -> None:
    half = rounded[backbone.name]
    if name in NEED_FLOAT32:
        with pytest.raises(ConfigError, match=r"^[^\n]* needs --precision fp32$"):
            untrained(name, half)
        return
    exact, near = (fitted(name, one, epochs=1) for one in (backbone, half))
    # What is learnt is as exact as ever, whatever the towers are in.
    kinds = [{key: value.dtype for key, value in method.learnt_state().items()} for method in (exact, near)]
    assert kinds[0] == kinds[1]
    expected, said = logits_of(exact), logits_of(near)
    assert said.dtype == torch.float32
    assert torch.equal(said, expected) == (name == "linear-probe")  # the one that uses no text
    assert float((said - expected).norm()) < 0.1 * float(expected.norm())


class MemoryMeter(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive; ``most`` is the most at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._alive:
                    self._alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._alive.pop, storage._cdata)
        self.most = max(self.most, sum(self._alive.values()))
        return result


COLOURS = ("red", "blue", "green", "black", "white", "golden", "silver", "pink", "orange", "purple", "grey", "brown")
THINGS = (
    *("apple", "boat", "car", "dog", "engine", "flag", "gate", "hat", "island", "jar", "key", "lamp", "moon", "nail", "owl"),
    *("pipe", "queen", "rope", "ship", "tree", "urn", "vase", "web", "yard", "zoo"),
)


@EVERY
def test_hundreds_of_classes_are_no_trouble(name: str, backbone: Backbone) -> None:
    names = tuple(f"{colour} {thing}" for colour in COLOURS for thing in THINGS)
    labels = torch.arange(len(names))
    features = functional.normalize(torch.randn(len(names), 1, 128, generator=torch_generator(0, "many classes")), dim=-1)
    with MemoryMeter() as meter:
        method = untrained(name, backbone, classes=names)
        if method.learns == "by gradient":
            method.start_from(features, labels)
            batch = dataclasses.replace(batch_of(method, backbone, 4), labels=torch.tensor([0, 299, 150, 7]))
            output = method.training_step(batch)
            method.backward(output)
            assert output.logits.shape == (4, 300)
            gradients = [parameter.grad for parameter in method.parameters()]
            assert all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients)
        elif method.learns == "in closed form":
            method.fit_features(features, labels, 1)
        logits = method.classifier().logits(features[:4, 0])
        assert logits.shape == (4, 300)
        assert bool(torch.isfinite(logits).all())
        if name not in KNOW_THEIR_CLASSES_ONLY:
            few = method.classifier_for(["blue unicorn", names[299], names[7]]).logits(features[:4, 0])
            torch.testing.assert_close(few[:, 1:], logits[:, [299, 7]], rtol=1e-4, atol=1e-3)
    # Encoded in one piece, the 1,500 prompts of mocoop's five experts would take more.
    assert meter.most < 170 * 2**20


@EVERY
def test_what_it_is_given_stays_as_it_was_and_may_change_afterwards(name: str, backbone: Backbone) -> None:
    kind, options = VARIANTS[name]
    classes, more, given = list(CLASSES), ["skull"], copy.deepcopy(options)
    features, labels = table()[:, None].repeat(1, 2, 1), LABELS.clone()
    method = build_method(kind, given, backbone, classes, 1, more)
    if method.learns == "by gradient":
        method.start_from(features, labels)
        batch = batch_of(method, backbone)
        kept = {field: copy.deepcopy(value) for field, value in vars(batch).items() if field != "image_features"}
        seen = batch.image_features.detach().clone()
        method.backward(method.training_step(batch))
        assert torch.equal(batch.image_features, seen)
        assert all(torch.equal(torch.as_tensor(getattr(batch, field)), torch.as_tensor(value)) for field, value in kept.items())
    elif method.learns == "in closed form":
        method.fit_features(features, labels, 1)
    assert (classes, more, given) == (list(CLASSES), ["skull"], options)
    assert torch.equal(features, table()[:, None].repeat(1, 2, 1))
    assert torch.equal(labels, LABELS)

    said, state, written = logits_of(method), method.learnt_state(), method.saved_options()
    if name not in KNOW_THEIR_CLASSES_ONLY:
        wanted = ["heart", *CLASSES]
        method.classifier_for(wanted)
        assert wanted == ["heart", *CLASSES]
    loaded = {key: value.clone() for key, value in state.items()}
    method.load_learnt_state(loaded)
    for value in (*loaded.values(), features, labels):
        value.zero_()
    classes[0], more[0] = "gear", "gear"
    given.clear()
    assert method.class_names == CLASSES
    assert method.more_class_names == ("skull",)
    assert method.saved_options() == written
    assert torch.equal(logits_of(method), said)


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
    turned = fitted(name, backbone, classes=tuple(CLASSES[one] for one in order), labels=place[LABELS], epochs=1)
    # The same sums in another order: equal up to rounding, which training carries along.
    torch.testing.assert_close(logits_of(turned), logits_of(fitted(name, backbone, epochs=1))[:, order], rtol=1e-2, atol=1e-2)


@EVERY
def test_an_underscore_in_a_name_reads_as_a_space(name: str, backbone: Backbone) -> None:
    spaced, joined = ((one, "cat", "gear", "skull") for one in ("white king", "white_king"))
    assert torch.equal(logits_of(fitted(name, backbone, classes=spaced)), logits_of(fitted(name, backbone, classes=joined)))


@EVERY
def test_classes_are_added_without_a_change_to_the_others_or_refused_with_a_reason(name: str, backbone: Backbone) -> None:
    model = saved(fitted_before(name, backbone), backbone)
    features = table(1)
    if name in KNOW_THEIR_CLASSES_ONLY:
        with pytest.raises(ConfigError, match=KNOW_THEIR_CLASSES_ONLY[name]):
            add_classes(model, ["skull"], backbone)
        return
    added = add_classes(model, ["skull", "heart"], backbone)
    logits = said(added, features, backbone)
    torch.testing.assert_close(logits[:, :4], said(model, features, backbone), rtol=1e-5, atol=1e-5)
    # A class is what its name says, whichever classes it is added with.
    alone = said(add_classes(model, ["heart"], backbone), features, backbone)
    torch.testing.assert_close(logits[:, 5], alone[:, 4], rtol=1e-4, atol=1e-4)
