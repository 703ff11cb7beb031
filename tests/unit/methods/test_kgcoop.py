"""KgCoOp beyond what every method does: what it is held near, and how strongly."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.errors import ConfigError
from promptmix.methods.kgcoop import KgCoOp
from promptmix.methods.registry import build_method
from promptmix.runtime import torch_generator
from promptmix.structs import Batch

CLASSES = ("anchor", "cat", "snowflake")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


def batch() -> Batch:
    features = functional.normalize(torch.randn(5, 128, generator=torch_generator(0, "kgcoop")), dim=-1)
    return Batch(image_features=features, labels=torch.tensor([0, 1, 2, 1, 0]))


def test_words_that_are_the_template_start_it_where_it_is_held(backbone: Backbone) -> None:
    method = build_method("kgcoop", {}, backbone, CLASSES)
    zero_shot = build_method("zero-shot", {"template": "a photo of a {}."}, backbone, CLASSES)
    torch.testing.assert_close(method.encode_classes(CLASSES), zero_shot.encode_classes(CLASSES))
    assert float(method.training_step(batch()).terms["knowledge"].detach()) == pytest.approx(0, abs=1e-5)


def test_the_pull_is_the_mean_angle_to_the_hard_prompt(backbone: Backbone) -> None:
    template = "a drawing of the {}, in ink."
    method = build_method("kgcoop", {"template": template, "weight": 3.0}, backbone, CLASSES)
    output = method.training_step(batch())
    learnt = method.encode_classes(CLASSES)[0]
    hard = build_method("zero-shot", {"template": template}, backbone, CLASSES).encode_classes(CLASSES)[0]
    apart = [1 - float(learnt[number] @ hard[number]) for number in range(len(CLASSES))]
    assert min(apart) > 0.01
    assert float(output.terms["knowledge"].detach()) == pytest.approx(3 * sum(apart) / len(CLASSES), rel=1e-4)


def test_without_a_pull_it_is_coop(backbone: Backbone) -> None:
    methods = [
        build_method(name, {"words": "a photo of a", **options}, backbone, CLASSES)
        for name, options in (("kgcoop", {"weight": 0.0}), ("coop", dict[str, float]()))
    ]
    for method in methods:
        method.backward(method.training_step(batch()))
    ours, theirs = (dict(method.named_parameters())["context"].grad for method in methods)
    assert ours is not None and theirs is not None
    torch.testing.assert_close(ours, theirs)


def test_a_template_without_a_place_for_the_name_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match=r"has no \{\}"):
        build_method("kgcoop", {"template": "a photo"}, backbone, CLASSES)


def test_words_without_a_word_are_refused(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="set it to null for a random start"):
        build_method("kgcoop", {"words": " "}, backbone, CLASSES)


def test_the_published_recipe() -> None:
    recipe = KgCoOp.default_recipe(16)
    assert (recipe.rate, recipe.batch_size, recipe.epochs) == (0.002, 128, 100)
