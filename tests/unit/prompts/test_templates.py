"""Templates are parsed once: the name at the start, in the middle, at the end; with spaces, full stops and braces as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import load_backbone
from promptmix.errors import ConfigError
from promptmix.prompts.assemble import assemble_row, class_tokens
from promptmix.prompts.bank import PromptBank
from promptmix.prompts.encoder import PackedPrompts
from promptmix.prompts.templates import bank_names, load_bank, parse_groups, parse_template


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("bundled", device="cpu")


@pytest.mark.parametrize(
    "text",
    ["{} texture.", "a photo of a {}.", "a {} in a video game.", "{}", "{}.", "a photo of a {}, a type of flower.", "({})"],
)
def test_filling_gives_the_text_as_written(text: str) -> None:
    template = parse_template(text)
    assert template.fill("red fox") == text.replace("{}", "red fox")
    assert template.text == text


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a  photo   of a {}.", "a photo of a {}."),
        ("  a {}  ", "a {}"),
        ("a {}  in  snow .", "a {} in snow ."),
        ("{}\ttexture", "{} texture"),
    ],
)
def test_double_spaces_are_one(written: str, meant: str) -> None:
    assert parse_template(written) == parse_template(meant)
    assert parse_template(written).fill("cat") == meant.replace("{}", "cat")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a photo", "no {}"),
        ("a {} and a {}", "2 times {}"),
        ("a {name}", "no {}"),
        ("a {} {name}", "other braces"),
        ("{} " + "very " * 100 + "long", "at most 300"),
    ],
)
def test_what_is_no_template_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_template(text)


@pytest.mark.parametrize("text", ["a photo of a {}.", "a photo of a {}", "{} texture.", "{}", "{}.", "a {} in snow ."])
def test_exactly_one_full_stop_or_none(text: str) -> None:
    template = parse_template(text)
    assert template.with_period().text.endswith(".")
    assert not template.with_period().text.endswith("..")
    assert template.with_period() == template.with_period().with_period()
    assert not template.without_period().text.endswith(".")


def test_groups_are_checked() -> None:
    assert [group.name for group in parse_groups(["a {}.", ["the {}.", "one {}."]])] == ["a {}.", "the {}."]
    for groups, words in (([], "no template groups"), ([[]], "empty"), ([["a {}."], ["a {}."]], "the same")):
        with pytest.raises(ConfigError, match=words):
            parse_groups(groups)


@pytest.mark.parametrize("name", bank_names())
def test_every_bank_in_the_package_is_whole(name: str) -> None:
    groups = load_bank(name)
    assert len(groups) >= 4
    texts = [template.text for group in groups for template in group.templates]
    assert len(texts) == len(set(texts))


def test_a_bank_from_a_file_is_the_same_as_written_out(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("groups:\n  - ['a {}.', 'the {}.']\n  - many {}.\n")
    assert load_bank(str(tmp_path / "mine.yaml")) == parse_groups([["a {}.", "the {}."], "many {}."])


@pytest.mark.parametrize(
    "text", ["{} texture.", "a close-up photo of a {}.", "a {} in a video game.", "a pixelated photo of the {}."]
)
@pytest.mark.parametrize("period", [False, True])
def test_a_soft_prompt_starts_as_its_words(text: str, period: bool, backbone: Backbone) -> None:
    tower, tokenizer = backbone.require_text()
    template = parse_template(text)
    bank = PromptBank(tower, tokenizer, [template], period)
    names = ("red_fox", "umbrella")
    soft = bank.lay_out(names).encode(bank.starting_contexts())
    # Counted in tokens, not words: with the learnt vectors at their start the features are those of the text itself.
    hard = template.with_period() if period else template.without_period()
    rows = [[tokenizer.start_token, *tokenizer.encode(hard.fill(name.replace("_", " "))), tokenizer.end_token] for name in names]
    slots = bank.slots[0]
    assert [len(assemble_row(tokenizer, slots, name, period)) for name in class_tokens(tokenizer, names)] == [
        len(row) for row in rows
    ]
    torch.testing.assert_close(soft, PackedPrompts(tower, rows, [0, 0]).encode(), rtol=1e-4, atol=1e-5)
