"""Our numbers against those of the published code of each method, on tiny random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.parity.golden import close, encoded, golden_backbone, read_case, same_gradient
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.configs import ModifiedResNetConfig
from promptmix.backbones.vision_resnet import ModifiedResNet
from promptmix.methods.base import Recipe
from promptmix.methods.coop import CoOp
from promptmix.methods.mocoop import MixtureOfPrompts
from promptmix.nn.router import router_target
from promptmix.structs import Batch
from promptmix.training.optim import rate_at


@pytest.fixture(scope="module")
def backbone(shared: Path) -> Backbone:
    return golden_backbone(shared)


@pytest.mark.parametrize("case", ["satellite_6_experts", "flowers_4_experts"])
def test_mixture_as_released(shared: Path, backbone: Backbone, case: str) -> None:
    facts, golden = read_case(shared, f"mocoop/{case}")
    groups, templates = [], list(facts["templates"])
    for size in facts["group_sizes"]:
        groups.append(templates[:size])
        templates = templates[size:]
    options = {"preset": "as_released", "groups": groups}
    method = MixtureOfPrompts(MixtureOfPrompts.parse_options(options), backbone, facts["class_names"])
    contexts = [
        golden[f"context_{side}.{expert}"]
        for expert in range(len(groups))
        for side in ("before", "after")
        if f"context_{side}.{expert}" in golden
    ]
    assert method.correction is not None
    with torch.no_grad():
        method.contexts.copy_(torch.cat(contexts))
        method.router_weight.copy_(golden["gate.weight"])
        method.router_bias.copy_(golden["gate.bias"])
        method.correction.copy_(golden["w"][0])

    features, labels = encoded(backbone, golden["images"]), golden["labels"].long()
    close(features, golden["image_features"])
    close(method.encode_classes(facts["class_names"]), golden["expert_text_features"])
    close(method._prototypes, golden["prototypes"])
    router_logits = functional.linear(features, method.router_weight, method.router_bias)
    close(router_logits, golden["gate_logits"])
    chosen = method.classifier().expert_weights(features) > 0
    assert torch.equal(chosen.nonzero()[:, 1].view(-1, 2), golden["topk_indices"].long().sort(dim=1).values)
    close(router_target(features, golden["prototypes"], labels, 2, 10.0), golden["gate_target"])

    output = method.training_step(Batch(image_features=features, labels=labels))
    close(output.logits, golden["logits"])
    close(output.terms["classification"], golden["loss_classification"])
    close(output.terms["text"] / 5, golden["loss_text"])
    close(output.terms["router"], golden["loss_gate"])
    close(output.loss, golden["loss_total"])
    output.loss.backward()
    contexts_gradient = [
        golden[f"grad.context_{side}.{expert}"]
        for expert in range(len(groups))
        for side in ("before", "after")
        if f"grad.context_{side}.{expert}" in golden
    ]
    assert method.contexts.grad is not None
    start = 0
    for part in contexts_gradient:
        same_gradient(method.contexts.grad[start : start + len(part)], part)
        start += len(part)
    assert start == len(method.contexts)
    same_gradient(method.router_weight.grad, golden["grad.gate.weight"])
    same_gradient(method.router_bias.grad, golden["grad.gate.bias"])
    same_gradient(method.correction.grad, golden["grad.w"])


@pytest.mark.parametrize("case", ["end", "end_class_specific", "front", "middle"])
def test_coop(shared: Path, backbone: Backbone, case: str) -> None:
    facts, golden = read_case(shared, f"coop/{case}")
    asked = facts["hyperparameters"]
    options = {
        "context_tokens": asked["context_tokens"],
        "class_name_position": asked["class_token_position"],
        "class_specific": asked["class_specific_contexts"],
    }
    method = CoOp(CoOp.parse_options(options), backbone, facts["class_names"])
    with torch.no_grad():
        method.context.copy_(golden["context"])
    features = encoded(backbone, golden["images"])
    close(features, golden["image_features"])
    close(method.encode_classes(facts["class_names"])[0], golden["text_features"])
    output = method.training_step(Batch(image_features=features, labels=golden["labels"].long()))
    close(output.logits, golden["logits"])
    close(output.loss, golden["loss"])
    output.loss.backward()
    same_gradient(method.context.grad, golden["grad.context"])


def test_modified_resnet(shared: Path) -> None:
    _, golden = read_case(shared, "vision_resnet/features")
    weights = load_file(shared / "golden" / "vision_resnet" / "weights.safetensors")
    tower = ModifiedResNet(ModifiedResNetConfig(image_size=64, width=16, layers=(1, 1, 1, 1), heads=8), 64).eval()
    missing = tower.load_state_dict(
        {name.removeprefix("visual."): value.float() for name, value in weights.items()}, strict=False
    )
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    close(tower(golden["images"]), golden["image_features"])


@pytest.mark.parametrize("case", ["lr0.0025_epochs20_warmup1", "lr0.002_epochs10_warmup1", "lr0.032_epochs25_warmup3"])
def test_learning_rates(shared: Path, case: str) -> None:
    facts, _ = read_case(shared, f"lr_schedule/{case}")
    asked = facts["hyperparameters"]
    recipe = Recipe(rate=asked["learning_rate"], epochs=asked["epochs"], warmup_epochs=asked["warmup_epochs"])
    assert [rate_at(recipe, epoch) for epoch in range(recipe.epochs)] == pytest.approx(facts["learning_rate"], rel=1e-12)
    assert [rate_at(recipe, epoch, 0.1) for epoch in range(recipe.epochs)] == pytest.approx(
        facts["learning_rate_group2"], rel=1e-12
    )
