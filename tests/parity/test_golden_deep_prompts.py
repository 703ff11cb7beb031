"""MaPLe and PromptSRC against the published code: features of both towers, losses, the gradient of every prompt, the last mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from tests.parity.golden import close, encoded, golden_backbone, read_case, same_gradient
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.vision_transformer import VisionTransformer
from promptmix.methods.base import Method
from promptmix.methods.maple import MaPLe
from promptmix.methods.promptsrc import PromptSRC
from promptmix.structs import Batch
from promptmix.training.optim import averaging_weight


@pytest.fixture(scope="module")
def backbone(shared: Path) -> Backbone:
    return golden_backbone(shared)


def of_blocks(name: str, blocks: int, first: int = 0) -> list[str]:
    """The reference's names of the tensors of some blocks, from the first that has one."""
    return [name.format(block) for block in range(first, blocks)]


def together(golden: Mapping[str, Tensor], names: Sequence[str], before: str = "") -> Tensor:
    """The reference's tensors as one of ours, which has a block a row."""
    return torch.stack([golden[before + name] for name in names])


def prompted(backbone: Backbone, images: Tensor) -> Tensor:
    """Features by a tower with learnt tokens; the pictures are pre-processed already."""
    assert isinstance(backbone.vision, VisionTransformer) and backbone.vision_prompts
    return functional.normalize(backbone.vision(images, backbone.vision_prompts), dim=-1)


def check_gradients(method: Method, golden: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> None:
    """Every gradient of the reference, block by block, by the names it has for each of our parameters."""
    gradients = {name: parameter.grad for name, parameter in method.named_parameters()}
    assert gradients.keys() == names.keys()
    assert {name for name in golden if name.startswith("grad.")} == {f"grad.{name}" for some in names.values() for name in some}
    for ours, theirs in names.items():
        whole = gradients[ours]
        assert whole is not None
        for mine, name in zip(whole if ours != "context" else [whole], theirs, strict=True):
            same_gradient(mine, golden[f"grad.{name}"])


@pytest.mark.parametrize("case", ["depth1_context2", "depth3_context2"])
def test_maple(shared: Path, backbone: Backbone, case: str) -> None:
    facts, golden = read_case(shared, f"maple/{case}")
    asked = facts["hyperparameters"]
    options = {"context_tokens": asked["context_tokens"], "words": asked["context_init"], "depth": asked["prompt_depth"]}
    config = MaPLe.parse_options(options)
    assert config.model_copy(update={"depth": 9}) == MaPLe.parse_options({})
    method = MaPLe(config, backbone, facts["class_names"])
    # The image tower has two blocks: the reference's map for a third one, which has no gradient, is none of ours.
    depth, in_vision = asked["prompt_depth"], min(asked["prompt_depth"], 2)
    names = {
        "context": ["context"],
        "deep_contexts": of_blocks("deep_context.{}", depth, first=1),
        "projection_weight": of_blocks("projection.{}.weight", in_vision),
        "projection_bias": of_blocks("projection.{}.bias", in_vision),
    }
    names = {ours: theirs for ours, theirs in names.items() if theirs}
    learnt = {ours: together(golden, theirs) for ours, theirs in names.items()}
    method.load_learnt_state({**learnt, "context": golden["context"]})

    features = prompted(method._prompted, golden["images"])
    close(features, golden["image_features"])
    close(prompted(method.backbone, golden["images"]), golden["image_features"])
    close(method.encode_classes(facts["class_names"])[0], golden["text_features"])
    output = method.training_step(Batch(image_features=features, labels=golden["labels"].long()))
    close(output.logits, golden["logits"])
    close(output.loss, golden["loss"])
    output.loss.backward()
    check_gradients(method, golden, names)


@pytest.mark.parametrize("case", ["depth1", "depth3_2"])
def test_promptsrc(shared: Path, backbone: Backbone, case: str) -> None:
    facts, golden = read_case(shared, f"promptsrc/{case}")
    asked = facts["hyperparameters"]
    options = {
        "text_tokens": asked["text_context_tokens"],
        "vision_tokens": asked["vision_context_tokens"],
        "words": asked["context_init"],
        "text_depth": asked["text_depth"],
        "vision_depth": asked["vision_depth"],
        "text_weight": asked["text_loss_weight"],
        "image_weight": asked["image_loss_weight"],
        "logits_weight": asked["logits_loss_weight"],
        "templates": facts["templates"],
    }
    method = PromptSRC(PromptSRC.parse_options(options), backbone, facts["class_names"])
    names = {
        "context": ["context"],
        "deep_contexts": of_blocks("deep_context.{}", asked["text_depth"], first=1),
        "vision_prompts": of_blocks("vision_context.{}", asked["vision_depth"]),
    }
    names = {ours: theirs for ours, theirs in names.items() if theirs}
    learnt = {ours: together(golden, theirs) for ours, theirs in names.items()}
    method.load_learnt_state({**learnt, "context": golden["context"]})

    close(method._frozen_text_features, golden["teacher_text_features"])
    frozen = encoded(backbone, golden["images"])
    close(frozen, golden["teacher_image_features"])
    close(backbone.logit_scale * frozen @ method._frozen_text_features.T, golden["teacher_logits"])
    features = prompted(method._prompted, golden["images"])
    close(features, golden["image_features"])
    close(prompted(method.backbone, golden["images"]), golden["image_features"])
    close(method.encode_classes(facts["class_names"])[0], golden["text_features"])
    output = method.training_step(Batch(image_features=features, labels=golden["labels"].long(), frozen_features=frozen))
    close(output.logits, golden["logits"])
    close(output.terms["classification"], golden["loss_classification"])
    close(output.terms["text"] / 25, golden["loss_text"])
    close(output.terms["image"] / 10, golden["loss_image"])
    # The other direction differs by a tenth of it, which is less than what is allowed elsewhere.
    torch.testing.assert_close(output.terms["logits"], golden["loss_logits"], rtol=1e-4, atol=0)
    close(output.loss, golden["loss"])
    output.loss.backward()
    check_gradients(method, golden, names)


@pytest.mark.parametrize("case", ["depth1", "depth3_2"])
def test_the_last_mean_of_promptsrc(shared: Path, case: str) -> None:
    facts, golden = read_case(shared, f"promptsrc/{case}")
    recipe, asked = PromptSRC.default_recipe(16), facts["hyperparameters"]["aggregation"]
    assert (recipe.epochs, recipe.averaging) == (asked["epochs"], "gaussian")
    assert (recipe.averaging_mean, recipe.averaging_deviation) == (asked["mean"], asked["std"])
    every = [averaging_weight(recipe, epoch, recipe.epochs) for epoch in range(recipe.epochs)]
    weights = torch.tensor(every, dtype=torch.float64) / sum(every)
    torch.testing.assert_close(weights, golden["aggregation_weights"], rtol=1e-9, atol=1e-15)
    mean = torch.einsum("e,eij->ij", weights.float(), golden["aggregation_sequence"])
    close(mean, golden["aggregation_result"])
