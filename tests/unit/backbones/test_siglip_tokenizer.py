"""What is done to a text before SigLIP's tokenizer sees it, on a tokenizer that does none of it itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from promptmix.backbones.configs import SiglipTextConfig
from promptmix.backbones.tokenizer import Tokenizer

WORDS = ("<pad>", "</s>", "<unk>", "a", "photo", "of", "the", "anchor", "its", "it's", "anchor.", "A", "Photo", "ANCHOR.")


def tokenizer(folder: Path, lower_case: bool, remove_punctuation: bool) -> Tokenizer:
    """Whole words as they are written: any change of a text shows."""
    library = tokenizers.Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens(["<pad>", "</s>", "<unk>"])
    library.save(str(folder / "tokenizer.json"))
    config = SiglipTextConfig(
        width=8, layers=1, heads=1, mlp_width=8, context_length=16, vocabulary_size=len(WORDS), activation="gelu_pytorch_tanh",
        layer_norm_epsilon=1e-6, end_token=1, pad_token=0, lower_case=lower_case, remove_punctuation=remove_punctuation,
    )  # fmt: skip
    return Tokenizer(folder / "tokenizer.json", config)


@pytest.mark.parametrize(
    ("text", "lower_case", "remove_punctuation", "expected"),
    [
        ("A Photo of the ANCHOR.", True, True, ["a", "photo", "of", "the", "anchor"]),
        ("A Photo of the ANCHOR.", True, False, ["a", "photo", "of", "the", "anchor."]),
        ("A Photo of the ANCHOR.", False, False, ["A", "Photo", "of", "the", "ANCHOR."]),
        ("it's", True, True, ["its"]),
        ("it's", True, False, ["it's"]),
        ("  a   photo ", True, True, ["a", "photo"]),
        (".", True, True, []),
    ],
)
def test_case_and_punctuation(text: str, lower_case: bool, remove_punctuation: bool, expected: list[str], tmp_path: Path) -> None:
    numbers = tokenizer(tmp_path, lower_case, remove_punctuation).encode(text)
    assert [WORDS[number] for number in numbers] == expected


def test_a_special_token_written_in_a_text_is_spelt_out(tmp_path: Path) -> None:
    numbers = tokenizer(tmp_path, True, False).encode("a </s> photo")
    assert 1 not in numbers
