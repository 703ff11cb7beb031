"""CoCoOp against the published code, on tiny random weights: features, logits, loss and every gradient of a batch."""

from __future__ import annotations

from pathlib import Path

from tests.parity.golden import close, encoded, golden_backbone, read_case, same_gradient

from promptmix.methods.cocoop import CoCoOp
from promptmix.structs import Batch

NAMES = {
    "context": "context",
    "hidden_weight": "meta_net.linear1.weight",
    "hidden_bias": "meta_net.linear1.bias",
    "shift_weight": "meta_net.linear2.weight",
    "shift_bias": "meta_net.linear2.bias",
}


def test_a_step(shared: Path) -> None:
    facts, golden = read_case(shared, "cocoop/words_init")
    backbone = golden_backbone(shared)
    options = {"words": facts["hyperparameters"]["context_init"]}
    method = CoCoOp(CoCoOp.parse_options(options), backbone, facts["class_names"])
    method.load_learnt_state({ours: golden[theirs] for ours, theirs in NAMES.items()})
    features = encoded(backbone, golden["images"])
    close(features, golden["image_features"])
    shift = method.meta_net(features)
    close(shift, golden["context_shift"])
    close(method.prompts.encode(method.context + shift[:, None]), golden["text_features"])
    output = method.training_step(Batch(image_features=features, labels=golden["labels"].long()))
    close(output.logits, golden["logits"])
    close(output.loss, golden["loss"])
    close(method.classifier().logits(features), golden["logits"])
    output.loss.backward()
    for ours, theirs in NAMES.items():
        same_gradient(method.get_parameter(ours).grad, golden[f"grad.{theirs}"])


def test_a_step_of_one_picture_after_another_has_the_same_gradient(shared: Path) -> None:
    facts, golden = read_case(shared, "cocoop/words_init")
    method = CoCoOp(CoCoOp.parse_options({}), golden_backbone(shared), facts["class_names"])
    method.load_learnt_state({ours: golden[theirs] for ours, theirs in NAMES.items()})
    features, labels = golden["image_features"], golden["labels"].long()
    for place in range(len(labels)):
        output = method.training_step(Batch(image_features=features[place : place + 1], labels=labels[place : place + 1]))
        close(output.logits[0], golden["logits"][place])
        (output.loss / len(labels)).backward()
    for ours, theirs in NAMES.items():
        same_gradient(method.get_parameter(ours).grad, golden[f"grad.{theirs}"])
