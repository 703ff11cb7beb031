"""One soft prompt: as its words where it starts from words, and a context of its own for each class where that is asked for."""

from __future__ import annotations

import pytest
import torch

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.errors import ConfigError, DataError
from promptmix.prompts.hard import lay_out_templates
from promptmix.prompts.soft_prompt import ClassNamePosition, SoftPrompt, context_from_words
from promptmix.prompts.templates import parse_template

NAMES = ("umbrella", "red_fox", "black chess king")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


@pytest.mark.parametrize(
    ("position", "template"), [("end", "a photo of a {}."), ("middle", "a photo {} of a."), ("front", "{} a photo of a.")]
)
def test_it_starts_as_its_words(position: ClassNamePosition, template: str, backbone: Backbone) -> None:
    tower, tokenizer = backbone.require_text()
    context = context_from_words(tower, tokenizer, "a photo of a")
    soft = SoftPrompt(tower, tokenizer, len(context), position).lay_out(NAMES).encode(context)
    hard = lay_out_templates(tower, tokenizer, [parse_template(template)], NAMES).encode()
    torch.testing.assert_close(soft, hard)


def test_the_larger_half_of_an_odd_context_stands_behind_the_name(backbone: Backbone) -> None:
    tower, tokenizer = backbone.require_text()
    context = context_from_words(tower, tokenizer, "photo of a")
    soft = SoftPrompt(tower, tokenizer, 3, "middle").lay_out(NAMES).encode(context)
    hard = lay_out_templates(tower, tokenizer, [parse_template("photo {} of a.")], NAMES).encode()
    torch.testing.assert_close(soft, hard)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_a_class_may_have_a_context_of_its_own(position: ClassNamePosition, backbone: Backbone) -> None:
    tower, tokenizer = backbone.require_text()
    contexts = [context_from_words(tower, tokenizer, words) for words in ("a photo of", "a drawing of", "many small red")]
    own = SoftPrompt(tower, tokenizer, 3, position, class_specific=True).lay_out(NAMES).encode(torch.cat(contexts))
    shared = SoftPrompt(tower, tokenizer, 3, position).lay_out(NAMES)
    for number, context in enumerate(contexts):
        torch.testing.assert_close(own[number], shared.encode(context)[number])


def test_a_context_from_words_is_a_copy(backbone: Backbone) -> None:
    tower, tokenizer = backbone.require_text()
    context = context_from_words(tower, tokenizer, "photo")
    before = context.clone()
    context += 1
    assert torch.equal(context_from_words(tower, tokenizer, "photo"), before)


@pytest.mark.parametrize("words", ["", "  "])
def test_words_without_a_token_are_refused(words: str, backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="holds no word"):
        context_from_words(*backbone.require_text(), words)


def test_a_context_that_leaves_no_room_for_a_name_is_refused(backbone: Backbone) -> None:
    tower, tokenizer = backbone.require_text()
    prompt = SoftPrompt(tower, tokenizer, tower.config.context_length - 3)
    with pytest.raises(DataError, match="umbrella"):
        prompt.lay_out(["umbrella"])
