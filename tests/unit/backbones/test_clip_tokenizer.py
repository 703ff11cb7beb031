"""CLIP's tokenizer as we build it from merges, against the transformers library, on awkward strings."""

# ruff: noqa: RUF001 - awkward strings are meant to be awkward

from __future__ import annotations

from pathlib import Path

import pytest

from promptmix.backbones.clip_tokenizer import CLIP_VOCABULARY_SIZE, bundled_clip_tokenizer, merges_file_tokenizer
from promptmix.errors import BackboneError

AWKWARD = [
    *("", " ", "  \t\n ", "a", "A photo of a cat.", "a photo of a  cat", " a photo", "photo ", "PHOTO", "ﬁne ligature", "don't", "DON'T"),
    *("it's we're I've I'll I'd I'm", "'s", "''s", "rock'n'roll", "don’t", "l'été", "naïve café", "cafe\u0301", "ÅNGSTRÖM", "Ångström", "ß", "ẞ"),
    *("İstanbul", "ıI", "ﬀ", "½ cup", "10²", "x₂", "1234567890", "12ab34", "3.14", "1,000,000", "50%", "$5.00", "№ 5", "1st 2nd", "C++", "C#"),
    *("a_b_c", "snake_case_name", "kebab-case", "e-mail@example.com", "http://example.com/a?b=c&d=e", "a/b\\c", "<b>bold</b>", "&amp;", "a&b"),
    *("(parentheses)", "[brackets]", "{}", "{name}", "a photo of a {}.", "...", "?!", "!!!", "--", "—", "“quoted”", "«guillemets»", "`code`"),
    *("日本語", "写真の猫", "한국어", "ไทย", "العربية", "עברית", "हिन्दी", "Ελληνικά", "Русский язык", "ქართული", "中文 mixed English"),
    *("🙂", "🙂🙂", "👩‍🚀", "👍🏽", "🇩🇪", "❤️", "★☆", "♞ knight", "→ arrow", "∑∫√", "α β γ", "µm", "Ω", "°C", "™ ® ©"),
    *("\u200bzero width", "non\u00a0breaking", "soft\u00adhyphen", "tab\tbetween", "new\nline", "\r\n", "\x00", "\x07bell", "\ufeffmark", "\u2028"),
    *("supercalifragilisticexpialidocious", "x" * 200, "ab" * 100, "a " * 90, "pneumonoultramicroscopicsilicovolcanoconiosis"),
    *("Yorkshire terrier", "Boeing 737-800", "2012 BMW M3 Coupe", "centered satellite photo", "jpeg corrupted", "close-up"),
]  # fmt: skip


def test_there_are_a_hundred_strings() -> None:
    assert len(set(AWKWARD)) >= 100


def test_the_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the transformers library is for development only")
    ours = bundled_clip_tokenizer()
    assert ours.get_vocab_size() == CLIP_VOCABULARY_SIZE
    ours.model.save(str(tmp_path))
    theirs = transformers.CLIPTokenizer(vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt"))
    for text in AWKWARD:
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text, add_special_tokens=False).ids == expected, text


def test_known_numbers_of_the_published_vocabulary() -> None:
    # As printed in the README and the notebook of github.com/openai/CLIP and in CoOp's code for its initial words.
    tokenizer = bundled_clip_tokenizer()
    assert tokenizer.encode("a photo of a", add_special_tokens=False).ids == [320, 1125, 539, 320]
    assert tokenizer.encode("a diagram", add_special_tokens=False).ids == [320, 22697]
    assert [tokenizer.token_to_id(token) for token in ("<|startoftext|>", "<|endoftext|>")] == [49406, 49407]


def test_no_text_is_unknown() -> None:
    tokenizer = bundled_clip_tokenizer()
    for text in AWKWARD:
        assert 49407 not in tokenizer.encode(text, add_special_tokens=False).ids


def test_a_merges_file_makes_the_same_tokenizer(tmp_path: Path) -> None:
    bundled_clip_tokenizer().model.save(str(tmp_path))
    again = merges_file_tokenizer(tmp_path / "merges.txt")
    assert again.get_vocab() == bundled_clip_tokenizer().get_vocab()
    for content in ("one\n", "a b c\n", "a  b\n"):
        (tmp_path / "wrong.txt").write_text(content)
        with pytest.raises(BackboneError, match=r"wrong\.txt is no list of merges"):
            merges_file_tokenizer(tmp_path / "wrong.txt")
