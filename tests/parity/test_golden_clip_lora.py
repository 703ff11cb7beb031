"""CLIP-LoRA against the published code: features of both towers, loss, and the gradient of every A and B."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tests.parity.golden import close, encoded, golden_backbone, read_case, same_gradient
from torch import Tensor

from promptmix.backbones.base import Backbone
from promptmix.methods.clip_lora import ClipLora
from promptmix.structs import Batch

TOWERS = ("vision", "text")
PROJECTIONS = ("q", "k", "v")


@pytest.fixture(scope="module")
def backbone(shared: Path) -> Backbone:
    # The reference's cosines count 100 times, whatever the backbone says.
    return dataclasses.replace(golden_backbone(shared), logit_scale=100.0)


def stacked(golden: dict[str, Tensor], tower: str, matrix: str, before: str = "") -> Tensor:
    """The reference's tensors of one tower as ours: block, projection, and the matrix."""
    blocks = range(2 if tower == "vision" else 3)
    return torch.stack(
        [
            torch.stack([golden[f"{before}{tower}.{block}.{projection}.{matrix}"] for projection in PROJECTIONS])
            for block in blocks
        ]
    )


def test_clip_lora(shared: Path, backbone: Backbone) -> None:
    facts, golden = read_case(shared, "clip_lora/qkv_rank2")
    asked = facts["hyperparameters"]
    options = {
        "template": facts["templates"][0],
        "rank": asked["rank"],
        "alpha": asked["alpha"],
        "dropout": asked["dropout"],
        "projections": asked["projections"],
        "towers": asked["encoder"],
    }
    config = ClipLora.parse_options(options)
    assert config.model_copy(update={"dropout": 0.25}) == ClipLora.parse_options({})
    method = ClipLora(config, backbone, facts["class_names"])
    method.load_learnt_state(
        {f"{tower}.{ours}": stacked(golden, tower, theirs) for tower in TOWERS for ours, theirs in (("down", "A"), ("up", "B"))}
    )
    features = encoded(method._changed, golden["images"])
    close(features, golden["image_features"])
    close(encoded(method.backbone, golden["images"]), golden["image_features"])
    close(method._class_features(0)[0], golden["text_features"])
    close(method.encode_classes(facts["class_names"])[0], golden["text_features"])

    output = method.training_step(Batch(image_features=features, labels=golden["labels"].long()))
    torch.testing.assert_close(output.logits, golden["logits"], rtol=1e-4, atol=2e-5)
    close(output.loss, golden["loss"])
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in method.named_parameters()}
    for tower in TOWERS:
        for ours, theirs in (("down", "A"), ("up", "B")):
            mine, all_of_them = gradients[f"{tower}.{ours}"], stacked(golden, tower, theirs, "grad.")
            assert mine is not None
            for block in range(len(mine)):
                for place in range(len(PROJECTIONS)):
                    same_gradient(mine[block, place], all_of_them[block, place])
