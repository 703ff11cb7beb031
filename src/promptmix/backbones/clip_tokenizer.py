"""CLIP's byte-pair tokenizer built from its merges, for backbones whose files hold no ``tokenizer.json``.

``clip_merges.txt.gz`` holds the 48,894 merges of OpenAI's tokenizer (MIT licence, see NOTICE): every CLIP with a vocabulary of 49,408
tokens was trained with them.
"""

from __future__ import annotations

import gzip
import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from promptmix.backbones.tokenizer import END_OF_TEXT, START_OF_TEXT
from promptmix.errors import BackboneError

__all__ = ["CLIP_VOCABULARY_SIZE", "bundled_clip_tokenizer", "byte_pair_tokenizer", "clip_dress", "merges_file_tokenizer"]

CLIP_VOCABULARY_SIZE = 49408
_END_OF_WORD = "</w>"
_SPECIAL = [START_OF_TEXT, END_OF_TEXT]


def bundled_clip_tokenizer() -> LibraryTokenizer:
    """OpenAI's tokenizer, from the merges that ship with the package."""
    packed = (importlib.resources.files("promptmix.backbones") / "clip_merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    return byte_pair_tokenizer([_pair(line) for line in lines])


def merges_file_tokenizer(path: Path) -> LibraryTokenizer:
    """The tokenizer of a ``merges.txt`` as transformers writes it: a line of version, then two pieces a line.

    Raises:
        BackboneError: the file is no list of merges.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return byte_pair_tokenizer([_pair(line) for line in lines if line and not line.startswith("#version")])
    except (ValueError, OSError) as problem:
        raise BackboneError(f"{path} is no list of merges: {problem}") from problem


def byte_pair_tokenizer(merges: Sequence[tuple[str, str]]) -> LibraryTokenizer:
    """A tokenizer whose tokens are all bytes, all bytes that end a word, the merged pieces, and the start and the end of a text.

    No text is unknown to it, because every byte has a token.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(byte + _END_OF_WORD for byte in alphabet), *("".join(merge) for merge in merges), *_SPECIAL]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    model = models.BPE(vocab=vocabulary, merges=list(merges), unk_token=_SPECIAL[1], end_of_word_suffix=_END_OF_WORD)
    tokenizer = clip_dress(model)
    tokenizer.add_special_tokens(_SPECIAL)
    return tokenizer


def clip_dress(model: models.BPE) -> LibraryTokenizer:
    """What CLIP does round its byte pairs: lower case, single spaces, words apart from digits and signs, bytes as letters."""
    words = Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer = LibraryTokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(line: str) -> tuple[str, str]:
    first, separator, second = line.partition(" ")
    if not separator or not second or " " in second:
        raise ValueError(f"{line[:40]!r} is not two pieces with a space between them")
    return first, second
