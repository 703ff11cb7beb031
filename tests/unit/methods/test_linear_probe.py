"""The linear probe beyond what every method does."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from promptmix.backbones.registry import load_backbone
from promptmix.errors import ConfigError
from promptmix.inference.predictor import add_classes, remove_classes
from promptmix.methods.base import Method
from promptmix.methods.linear_probe import RegressionFromStart
from promptmix.methods.registry import build_method
from promptmix.model_folder import SavedModel
from promptmix.runtime import numpy_generator, torch_generator


@pytest.mark.parametrize("start", ["zero", "text"])
@pytest.mark.parametrize(("iterations", "told"), [(1, True), (500, False)])
def test_a_probe_that_stops_short_says_so_in_one_line(
    start: str, iterations: int, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    method = build_method(
        "linear-probe",
        {"max_iterations": iterations, "start": start},
        load_backbone("bundled", device="cpu"),
        ["cat", "anchor"],
    )
    features = torch.nn.functional.normalize(torch.eye(128)[:12] + torch.eye(128)[torch.arange(12) % 2], dim=-1)
    with caplog.at_level(logging.WARNING, "promptmix"):
        method.fit_features(features[:, None], torch.arange(12) % 2, 0)
    assert [record.getMessage().startswith("the linear probe had not converged") for record in caplog.records] == [True] * told


def test_two_classes_have_opposite_logits() -> None:
    method = build_method("linear-probe", {}, load_backbone("bundled", device="cpu"), ["cat", "anchor"])
    features = torch.nn.functional.normalize(torch.eye(128)[:12] + torch.eye(128)[torch.arange(12) % 2], dim=-1)
    method.fit_features(features[:, None], torch.arange(12) % 2, 0)
    logits = method.classifier().logits(features)
    torch.testing.assert_close(logits[:, 0], -logits[:, 1])
    assert logits.argmax(dim=1).tolist() == [number % 2 for number in range(12)]


CLASSES = ("anchor", "cat", "snowflake", "umbrella")


def drawn(per_class: int = 4, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch_generator(0, "probe features")
    labels = torch.arange(4 * per_class) % 4
    centres = torch.randn(4, 128, generator=generator)
    features = centres[labels] + noise * torch.randn(len(labels), 128, generator=generator)
    return torch.nn.functional.normalize(features, dim=-1), labels


def from_text(labels: Tensor | None = None, **options: Any) -> Method:
    method = build_method("linear-probe", {"start": "text", **options}, load_backbone("bundled", device="cpu"), CLASSES)
    features, own = drawn()
    labels = own if labels is None else labels
    method.fit_features(features[: len(labels), None], labels, 0)
    return method


def saved(method: Method) -> SavedModel:
    return SavedModel(
        method=method.name,
        options=method.saved_options(),
        class_names=CLASSES,
        trained_class_names=CLASSES,
        more_class_names=(),
        backbone_name=method.backbone.name,
        backbone_fingerprint=method.backbone.fingerprint,
        expert_names=method.expert_names,
        classifier=method.classifier(),
        learnt=method.learnt_state(),
        training={},
    )


@pytest.mark.parametrize("strength", [0.1, 1.0, 100.0])
def test_from_zero_it_is_the_library_s_regression(strength: float) -> None:
    features, labels = drawn()
    table = features.double().numpy()
    ours = RegressionFromStart(np.zeros((4, 128)), C=strength, tol=1e-8).fit(table, labels.numpy())
    theirs = LogisticRegression(C=strength, fit_intercept=False, tol=1e-8, max_iter=5000).fit(table, labels.numpy())
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-3, atol=1e-4)
    assert np.array_equal(ours.predict(table), theirs.predict(table))


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_at_its_end_the_penalty_pulls_to_the_start_as_hard_as_the_pictures_pull_away(strength: float) -> None:
    features, labels = drawn()
    table = features.double()
    start = numpy_generator(0, "start").standard_normal((4, 128))
    fitted = RegressionFromStart(start, C=strength, tol=1e-9).fit(table.numpy(), labels.numpy())
    weights = torch.from_numpy(fitted.coef_).requires_grad_(True)
    (strength * torch.nn.functional.cross_entropy(table @ weights.T, labels, reduction="sum")).backward()
    assert weights.grad is not None
    np.testing.assert_allclose(fitted.coef_ - start, -weights.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_labels_may_be_any_whole_numbers_and_a_copy_learns_the_same() -> None:
    features, labels = drawn()
    table, start = features.double().numpy(), np.zeros((4, 128))
    first = RegressionFromStart(start, C=2.0).fit(table, labels.numpy())
    second = clone(first).fit(table, 3 * labels.numpy() + 5)
    np.testing.assert_array_equal(first.coef_, second.coef_)
    assert np.array_equal(second.predict(table), 3 * first.predict(table) + 5)


def test_without_a_fit_and_with_a_strong_pull_it_is_zero_shot() -> None:
    features, _ = drawn()
    backbone = load_backbone("bundled", device="cpu")
    zero_shot = build_method("zero-shot", {}, backbone, CLASSES).classifier().logits(features)
    untrained = build_method("linear-probe", {"start": "text"}, backbone, CLASSES)
    torch.testing.assert_close(untrained.classifier().logits(features), zero_shot)
    torch.testing.assert_close(from_text(strengths=(1e-6,)).classifier().logits(features), zero_shot, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(from_text().classifier().logits(features), zero_shot, atol=0.1)


def test_a_class_without_pictures_or_known_by_name_alone_has_the_weights_of_its_text() -> None:
    backbone = load_backbone("bundled", device="cpu")
    text = build_method("zero-shot", {}, backbone, (*CLASSES, "skull")).encode_classes((*CLASSES, "skull"))[0]
    _, labels = drawn()
    method = from_text(labels.clamp_max(2))  # no umbrella
    weights = method.encode_classes((*CLASSES, "skull"))[0]
    torch.testing.assert_close(weights[3:], text[3:])
    assert not any(torch.allclose(weights[place], text[place], atol=1e-4) for place in range(3))
    added = add_classes(saved(method), ["skull"], backbone)
    torch.testing.assert_close(added.classifier.class_features[0], weights)


def test_classes_go_and_come_back_as_they_were() -> None:
    backbone = load_backbone("bundled", device="cpu")
    model = saved(from_text())
    back = add_classes(remove_classes(model, ["cat"]), ["cat"], backbone)
    assert back.class_names == ("anchor", "snowflake", "umbrella", "cat")
    features, _ = drawn()
    torch.testing.assert_close(back.classifier.logits(features), model.classifier.logits(features)[:, [0, 2, 3, 1]])


def test_from_zero_it_says_what_to_do_instead() -> None:
    method = build_method("linear-probe", {}, load_backbone("bundled", device="cpu"), CLASSES)
    with pytest.raises(ConfigError, match=r"saw pictures of.*method\.start=text"):
        method.encode_classes(["skull"])
