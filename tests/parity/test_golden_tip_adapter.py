"""Tip-Adapter and Tip-Adapter-F against the published code, on tiny random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tests.parity.golden import close, encoded, golden_backbone, read_case, same_gradient
from torch import Tensor
from torch.nn import functional

from promptmix.methods.base import Method
from promptmix.methods.registry import build_method, method_class
from promptmix.structs import Batch
from promptmix.training.optim import build_optimizer, set_rates


def remembering(shared: Path, name: str) -> tuple[Method, dict[str, Tensor]]:
    """A method with the case's pictures as keys, and the case; the factor of the cosines is 100 there, whatever the backbone's."""
    facts, golden = read_case(shared, "tip_adapter/two_shots")
    backbone = dataclasses.replace(golden_backbone(shared), logit_scale=100.0)
    asked = facts["hyperparameters"]
    method = build_method(name, {"alpha": asked["alpha"], "beta": asked["beta"]}, backbone, facts["class_names"])
    numbers = {name: torch.tensor(asked[name], dtype=torch.float64) for name in ("alpha", "beta")}
    method.load_learnt_state({"keys": golden["cache_keys"], "labels": golden["support_labels"].long(), **numbers})
    close(encoded(backbone, golden["images"]), golden["image_features"])
    return method, golden


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f"])
def test_the_logits(shared: Path, name: str) -> None:
    method, golden = remembering(shared, name)
    classifier = method.classifier()
    images = golden["image_features"]
    close(method.encode_classes(method.class_names)[0].T, golden["text_classifier"])
    close(dataclasses.replace(classifier, memory=None).logits(images), golden["zero_shot_logits"])
    close(classifier.logits(images), golden["tip_logits"])


def test_the_keys_are_means_of_the_views(shared: Path) -> None:
    """The published code takes the mean before it normalises. Of views whose features are as long as each other, the two are one."""
    method, golden = remembering(shared, "tip-adapter")
    vision = method.backbone.vision
    assert vision is not None
    views = torch.stack([vision(passed.float()) for passed in golden["support_views"]], dim=1)
    close(functional.normalize(views.mean(dim=1), dim=-1), golden["cache_keys"])
    labels = golden["support_labels"].long()
    same_length = functional.normalize(views, dim=-1)
    method.fit_features(same_length, labels, 0)
    state = method.learnt_state()
    close(state["keys"], functional.normalize(same_length.mean(dim=1), dim=-1))
    assert torch.equal(state["labels"], labels)
    # Features of equal length point nearly the same way in the mean as these do.
    assert float((state["keys"] * golden["cache_keys"]).sum(dim=-1).min()) > 0.999


def test_a_step_of_training_the_keys(shared: Path) -> None:
    method, golden = remembering(shared, "tip-adapter-f")
    output = method.training_step(Batch(image_features=golden["image_features"], labels=golden["labels"].long()))
    close(output.logits, golden["tip_logits"])
    close(output.loss, golden["loss"])
    recipe = method_class("tip-adapter-f").default_recipe(None)
    optimizer = build_optimizer(method, recipe)
    set_rates(optimizer, recipe, epoch=0, progress=0.0)
    output.loss.backward()
    (keys,) = method.parameters()
    same_gradient(keys.grad, golden["grad.cache_keys"])
    optimizer.step()
    close(keys.detach(), golden["cache_keys_after_step"])
