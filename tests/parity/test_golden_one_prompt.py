"""KgCoOp, ProGrad and LASP against the published code of each: features, losses and every gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.parity.golden import close, encoded, golden_backbone, read_case, same_gradient

from promptmix.backbones.base import Backbone
from promptmix.methods.base import Recipe
from promptmix.methods.kgcoop import KgCoOp
from promptmix.methods.lasp import Lasp
from promptmix.methods.prograd import ProGrad
from promptmix.structs import Batch
from promptmix.training.optim import build_optimizer


@pytest.fixture(scope="module")
def backbone(shared: Path) -> Backbone:
    return golden_backbone(shared)


def test_kgcoop(shared: Path, backbone: Backbone) -> None:
    facts, golden = read_case(shared, "kgcoop/pets_template")
    asked = facts["hyperparameters"]
    options = {"words": asked["context_init"], "template": facts["templates"][0], "weight": asked["weight"]}
    method = KgCoOp(KgCoOp.parse_options(options), backbone, facts["class_names"])
    assert method.context.shape == golden["context"].shape
    with torch.no_grad():
        method.context.copy_(golden["context"])
    features = encoded(backbone, golden["images"])
    close(features, golden["image_features"])
    close(method._teacher, golden["teacher_text_features"])
    close(method.encode_classes(facts["class_names"])[0], golden["text_features"])
    output = method.training_step(Batch(image_features=features, labels=golden["labels"].long()))
    close(output.logits, golden["logits"])
    close(output.terms["classification"], golden["loss_classification"])
    close(output.terms["knowledge"] / asked["weight"], golden["score"])
    close(output.loss, golden["loss"])
    method.backward(output)
    same_gradient(method.context.grad, golden["grad.context"])


@pytest.mark.parametrize("case", ["negative_cosine", "positive_cosine"])
def test_prograd(shared: Path, backbone: Backbone, case: str) -> None:
    facts, golden = read_case(shared, f"prograd/{case}")
    asked = facts["hyperparameters"]
    options = {
        "context_tokens": asked["context_tokens"],
        "template": facts["templates"][0],
        "projection": asked["projection_lambda"],
        "temperature": asked["temperature"],
    }
    method = ProGrad(ProGrad.parse_options(options), backbone, facts["class_names"])
    assert method.context.shape == golden["context"].shape
    with torch.no_grad():
        method.context.copy_(golden["context"])
    features = encoded(backbone, golden["images"])
    close(features, golden["image_features"])
    close(method._teacher, golden["teacher_text_features"])
    close(method._logits(features, method._teacher), golden["teacher_logits"])
    close(method.encode_classes(facts["class_names"])[0], golden["text_features"])
    output = method.training_step(Batch(image_features=features, labels=golden["labels"].long()))
    close(output.logits, golden["logits"])
    close(output.loss, golden["loss_classification"])
    close(output.guides["distillation"], golden["loss_kl"])
    of_loss, of_guide = (
        torch.autograd.grad(scalar, method.context, retain_graph=True)[0]
        for scalar in (output.loss, output.guides["distillation"])
    )
    same_gradient(of_loss, golden["grad_classification.context"])
    same_gradient(of_guide, golden["grad_kl.context"])
    cosine = torch.nn.functional.cosine_similarity(of_loss.flatten(), of_guide.flatten(), dim=0)
    close(cosine, golden["cosine"])
    assert (float(cosine) < 0) == (case == "negative_cosine")
    method.backward(output)
    same_gradient(method.context.grad, golden["grad.context"])
    step = asked["optimizer"]
    recipe = Recipe(rate=step["learning_rate"], momentum=step["momentum"], weight_decay=step["weight_decay"])
    build_optimizer(method, recipe).step()
    close(method.context, golden["context_after_step"])


@pytest.mark.parametrize("case", ["base_classes", "noise", "virtual_classes_layernorm"])
def test_lasp_as_released(shared: Path, backbone: Backbone, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, golden = read_case(shared, f"lasp/{case}")
    asked, names = facts["hyperparameters"], facts["class_names"]
    assert facts["all_class_names"][: len(names)] == names
    options = {
        "preset": "as_released",
        "words": asked["context_init"],
        "templates": facts["templates"],
        "text_weight": asked["text_loss_weight"],
        "noise_deviation": asked["noise_std"] if asked["noise_used"] else 0.0,
        "noise_probability": asked["noise_probability"],
        "visual_layer_norms": asked["train_vision_layernorm"],
    }
    method = Lasp(Lasp.parse_options(options), backbone, names, more_class_names=facts["all_class_names"][len(names) :])
    assert method.context.shape == golden["context"].shape
    with torch.no_grad():
        method.context.copy_(golden["context"])
        method.correction.copy_(golden["w"][0])
    if asked["noise_used"]:  # the reference's own, in the place of ours
        monkeypatch.setattr(method, "_noise", lambda number: golden["noise"])

    tuned = backbone if method._tuned is None else method._tuned
    features = encoded(tuned, golden["images"])
    close(features, golden["image_features"])
    close(method._references, golden["reference_text_features"])
    close(method.encode_classes(names)[0], golden["text_features"])
    close(method.encode_classes(facts["all_class_names"])[0], golden["text_features_all"])
    output = method.training_step(Batch(image_features=features, labels=golden["labels"].long()))
    close(output.logits, golden["logits"])
    close(output.terms["classification"], golden["loss_classification"])
    close(output.terms["text"] / asked["text_loss_weight"], golden["loss_text"])
    close(output.loss, golden["loss"])
    method.backward(output)
    same_gradient(method.context.grad, golden["grad.context"])
    same_gradient(method.correction.grad, golden["grad.w"])

    theirs = {name.removeprefix("grad.visual.") for name in golden if name.startswith("grad.visual.")}
    if not asked["train_vision_layernorm"]:
        assert theirs == set() and method._tuned is None
        return
    ours = {"ln_1": "attention_norm", "ln_2": "mlp_norm"}
    for name in theirs:
        _, _, block, norm, leaf = name.split(".")  # transformer.resblocks.0.ln_1.weight
        same_gradient(method.visual_norms[f"blocks/{block}/{ours[norm]}/{leaf}"].grad, golden[f"grad.visual.{name}"])
    assert len(theirs) == len(method.visual_norms)
