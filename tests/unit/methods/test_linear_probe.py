"""The linear probe beyond what every method does."""

from __future__ import annotations

import logging

import pytest
import torch

from promptmix.backbones.registry import load_backbone
from promptmix.methods.registry import build_method


@pytest.mark.parametrize(("iterations", "told"), [(1, True), (500, False)])
def test_a_probe_that_stops_short_says_so_in_one_line(iterations: int, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    method = build_method(
        "linear-probe", {"max_iterations": iterations}, load_backbone("bundled", device="cpu"), ["cat", "anchor"]
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
