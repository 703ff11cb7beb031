"""CLIP's byte-pair tokenizer, read from ``tokenizer.json`` with the ``tokenizers`` library."""

from __future__ import annotations

import functools
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from promptmix.errors import BackboneError

__all__ = ["END_OF_TEXT", "START_OF_TEXT", "Tokenizer"]

START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """Text to token numbers. Start and end tokens are never added here: layouts place them.

    Raises:
        BackboneError: the file is missing, unreadable or has no start or end token.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise BackboneError(f"no tokenizer at {path}; a backbone folder needs tokenizer.json")
        try:
            self._tokenizer = _Tokenizer.from_file(str(path))
        except Exception as problem:  # the library raises a bare Exception
            raise BackboneError(f"{path} is not a tokenizer file: {problem}") from problem
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.start_token = self._special(START_OF_TEXT, path)
        self.end_token = self._special(END_OF_TEXT, path)
        self.vocabulary_size = self._tokenizer.get_vocab_size()
        self.encode = functools.lru_cache(maxsize=65536)(self._encode)

    def _special(self, token: str, path: Path) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise BackboneError(f"{path} has no token {token!r}; only CLIP tokenizers are supported")
        return int(number)

    def _encode(self, text: str) -> tuple[int, ...]:
        """Token numbers of ``text`` without start and end tokens; a special token written in the text is spelt out."""
        for special in (START_OF_TEXT, END_OF_TEXT):
            text = text.replace(special, special.strip("<|>"))
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def token(self, number: int) -> str:
        """The text of one token, for people."""
        return str(self._tokenizer.id_to_token(number)).replace("</w>", "")
