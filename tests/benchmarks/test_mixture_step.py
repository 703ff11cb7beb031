"""The step that is timed: the textbook's is the same, and its matrix products are counted as one would by hand."""

from __future__ import annotations

import pytest
import torch
from benchmarks.mixture_step import CONTESTANTS, MixtureStep, Size, class_names, contestant, random_backbone, templates
from benchmarks.textbook import TextbookTower

from promptmix.backbones.base import Backbone
from promptmix.backbones.configs import TextConfig
from promptmix.prompts.encoder import PackedPrompts

WIDTH, MLP, LAYERS, EMBEDDING = 32, 48, 3, 24


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    config = TextConfig(
        width=WIDTH,
        layers=LAYERS,
        heads=2,
        mlp_width=MLP,
        context_length=77,
        vocabulary_size=49408,
        activation="quick_gelu",
        layer_norm_epsilon=1e-5,
        start_token=49406,
        end_token=49407,
    )
    return random_backbone(config, EMBEDDING, torch.device("cpu"))


def test_the_textbook_has_the_same_loss_and_gradients(backbone: Backbone) -> None:
    step = MixtureStep(Size(experts=3, classes=5, pictures=7, context=2), backbone=backbone)
    step.step(step.loss)  # away from the start, where the correction is 0
    torch.testing.assert_close(step.textbook_loss(), step.loss(), rtol=1e-5, atol=1e-5)
    ours, textbook = step.gradients(step.loss), step.gradients(step.textbook_loss)
    assert set(ours) == {"contexts", "router_weight", "router_bias", "correction"}
    for name, gradient in ours.items():
        assert float(gradient.norm()) > 0
        assert float((gradient - textbook[name]).norm() / gradient.norm()) < 1e-4, name


def test_both_encode_the_classes_once_for_all_terms_of_the_loss(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    encode, forward = PackedPrompts.encode, TextbookTower.forward

    def counted_encode(self: PackedPrompts, *arguments: torch.Tensor) -> torch.Tensor:
        rows.append(self.num_rows)
        return encode(self, *arguments)

    def counted_forward(self: TextbookTower, embeddings: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        rows.append(len(embeddings))
        return forward(self, embeddings, ends)

    monkeypatch.setattr(PackedPrompts, "encode", counted_encode)
    monkeypatch.setattr(TextbookTower, "forward", counted_forward)
    step = MixtureStep(Size(experts=3, classes=5), backbone=backbone)
    step.step(step.loss)
    assert rows == [15]
    step.step(step.textbook_loss)
    assert rows == [15, 5, 5, 5]


def test_the_products_of_a_small_step_are_those_counted_by_hand(backbone: Backbone) -> None:
    # One expert of two vectors, two classes of two and three words: [start v v] once, then [w w . end] and [w w w . end].
    step = MixtureStep(Size(experts=1, classes=2, pictures=4, context=2), backbone=backbone)
    tokens, rows = 3 + 4 + 5, 2
    projections = 2 * tokens * (4 * WIDTH * WIDTH + 2 * WIDTH * MLP)
    last = 2 * tokens * 2 * WIDTH * WIDTH + 2 * rows * (2 * WIDTH * WIDTH + 2 * WIDTH * MLP)
    read_out = 2 * rows * WIDTH * EMBEDDING
    # Queries and what they see: the prefix 1 + 2 + 3; a row sees the prefix and itself so far. The short row's padded query sees what
    # its end sees.
    pairs = 6 + (4 + 5 + 6 + 7 + 7) + (4 + 5 + 6 + 7 + 8)
    ends = 7 + 8
    attention = 2 * 2 * WIDTH * ((LAYERS - 1) * pairs + ends)
    frozen = (LAYERS - 1) * projections + last + read_out
    # Cosines of pictures and classes, of classes and prototypes, and the router: forward, and backward to what is learnt.
    losses = 2 * 2 * EMBEDDING * (4 * 2 + 2 * 2 + 4 * 1)
    assert step.flops() == 2 * frozen + 3 * attention + losses


@pytest.mark.parametrize("name", [name for name, one in CONTESTANTS.items() if not one.compiled])
def test_every_way_to_take_the_step_learns(backbone: Backbone, name: str) -> None:
    # A backbone of its own: the tower is changed where it calculates in bf16.
    own = random_backbone(backbone.config.text, EMBEDDING, torch.device("cpu"))  # type: ignore[arg-type]
    take = contestant(name, MixtureStep(Size(experts=3, classes=5), backbone=own, precision=CONTESTANTS[name].precision))
    losses = [take() for _ in range(5)]
    assert losses[-1] < losses[0]


def test_names_and_templates_are_all_different() -> None:
    assert len(set(class_names(2000))) == 2000
    assert len({words for (words,) in templates(32, 4)}) == 32
    assert [len(words.split()) for (words,) in templates(2, 7)] == [8, 8]
    with pytest.raises(ValueError, match="names for 4608 classes, not for 5000"):
        class_names(5000)
    with pytest.raises(ValueError, match="words for 48 experts, not for 49"):
        templates(49, 4)
