"""ProGrad beyond what every method does: the start of its context, and the projection of the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.errors import ConfigError
from promptmix.methods.coop import CoOp
from promptmix.methods.prograd import ProGrad
from promptmix.prompts.soft_prompt import context_from_words
from promptmix.runtime import torch_generator
from promptmix.structs import Batch, StepOutput

CLASSES = ("anchor", "cat", "snowflake", "umbrella", "skull")
# From a start at random the two gradients contradict one another on some batches, and on others not.
RANDOM_START = {"words": None, "context_tokens": 4}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


def built(backbone: Backbone, options: dict[str, object]) -> ProGrad:
    return ProGrad(ProGrad.parse_options(options), backbone, CLASSES)


def batch(seed: int) -> Batch:
    generator = torch_generator(seed, "prograd")
    features = functional.normalize(torch.randn(5, 128, generator=generator), dim=-1)
    return Batch(image_features=features, labels=torch.randint(len(CLASSES), (5,), generator=generator))


def gradients(method: ProGrad, of: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of the loss, of the guide, and what is handed to the optimizer."""
    output = method.training_step(of)
    of_loss, of_guide = (
        torch.autograd.grad(scalar, method.context, retain_graph=True)[0]
        for scalar in (output.loss, output.guides["distillation"])
    )
    method.context.grad = None
    method.backward(output)
    assert method.context.grad is not None
    return of_loss, of_guide, method.context.grad


def test_words_start_the_last_vectors_and_nothing_the_others(backbone: Backbone) -> None:
    context = built(backbone, {"words": "many small", "context_tokens": 6}).context
    tower, tokenizer = backbone.require_text()
    words = context_from_words(tower, tokenizer, "many small")
    assert torch.equal(context[-len(words) :], words)
    assert torch.equal(context[: -len(words)], torch.zeros(6 - len(words), tower.config.width))


def test_more_words_than_vectors_are_refused(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match=r"'a photo of a', 4 tokens, more than context_tokens=3"):
        built(backbone, {"context_tokens": 3})


def test_a_step_never_goes_against_zero_shot(backbone: Backbone) -> None:
    method = built(backbone, RANDOM_START)
    contradicted = 0
    for seed in range(8):
        of_loss, of_guide, given = gradients(method, batch(seed))
        product = sum(float(one) * float(other) for one, other in zip(of_loss.flatten(), of_guide.flatten(), strict=True))
        if product >= 0:
            assert torch.equal(given, of_loss)
        else:
            contradicted += 1
            square = sum(float(one) ** 2 for one in of_guide.flatten())
            torch.testing.assert_close(given, of_loss - product / square * of_guide, rtol=1e-4, atol=1e-7)
            assert float((given * of_guide).sum()) == pytest.approx(0, abs=1e-4 * float(of_loss.norm() * of_guide.norm()))
    assert 0 < contradicted < 8


def test_half_a_projection_takes_half_away(backbone: Backbone) -> None:
    whole, half = (built(backbone, {**RANDOM_START, "projection": projection}) for projection in (1.0, 0.5))
    for seed in range(8):
        of_loss, _, projected = gradients(whole, batch(seed))
        _, _, halfway = gradients(half, batch(seed))
        torch.testing.assert_close(halfway, (of_loss + projected) / 2, rtol=1e-4, atol=1e-7)


def test_each_parameter_is_projected_by_itself(backbone: Backbone) -> None:
    method = built(backbone, RANDOM_START)
    method.other = nn.Parameter(torch.tensor([1.0, 2.0]))
    up = torch.ones_like(method.context)
    # The context is pulled two ways; what the guide says of the other parameter agrees, and outweighs it.
    loss = (method.context * up).sum() + 100 * method.other.sum()
    guide = -(method.context * up).sum() + 100 * method.other.sum()
    method.backward(StepOutput(loss=loss, logits=torch.zeros(1, 2), terms={"all": loss}, guides={"distillation": guide}))
    assert method.context.grad is not None and method.other.grad is not None
    torch.testing.assert_close(method.context.grad, torch.zeros_like(up), rtol=0, atol=1e-5)
    assert torch.equal(method.other.grad, torch.tensor([100.0, 100.0]))


def test_a_guide_that_says_nothing_changes_nothing(backbone: Backbone) -> None:
    method = built(backbone, RANDOM_START)
    output = method.training_step(batch(0))
    silent = StepOutput(loss=output.loss, logits=output.logits, terms=output.terms, guides={"distillation": 0 * output.loss})
    expected = torch.autograd.grad(output.loss, method.context, retain_graph=True)[0]
    method.backward(silent)
    assert method.context.grad is not None
    assert torch.equal(method.context.grad, expected)


def test_the_guide_is_no_part_of_the_loss(backbone: Backbone) -> None:
    method = built(backbone, RANDOM_START)
    coop = CoOp(CoOp.parse_options({"context_tokens": 4}), backbone, CLASSES)
    with torch.no_grad():
        coop.context.copy_(method.context)
    ours, theirs = method.training_step(batch(0)), coop.training_step(batch(0))
    assert torch.equal(ours.loss, theirs.loss)
    assert ours.terms.keys() == {"classification"}


def test_the_guide_is_the_divergence_from_zero_shot_at_a_temperature(backbone: Backbone) -> None:
    method, of = built(backbone, {**RANDOM_START, "temperature": 5.0, "template": "a drawing of the {}."}), batch(0)
    output = method.training_step(of)
    teacher = (method._logits(of.image_features, method._teacher) / 5).softmax(dim=1)
    student = (output.logits / 5).log_softmax(dim=1)
    entropy = -(teacher * teacher.log()).sum(dim=1).mean()
    divergence = functional.kl_div(student, teacher, reduction="batchmean")
    torch.testing.assert_close(output.guides["distillation"], 25 * (divergence + entropy))


def test_classes_in_chunks_give_the_same_gradient(backbone: Backbone) -> None:
    """Where there are many classes, what is computed again must serve both passes backwards."""
    whole, chunked = built(backbone, RANDOM_START), built(backbone, RANDOM_START)
    chunked._packed = chunked._prompt.lay_out(CLASSES, max_rows=2)
    for seed in range(4):
        for ours, theirs in zip(gradients(chunked, batch(seed)), gradients(whole, batch(seed)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
