"""CLIP's and SigLIP's tokenizers, read from ``tokenizer.json`` with the ``tokenizers`` library."""

from __future__ import annotations

import functools
import re
import string
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer

from promptmix.backbones.configs import AnyTextConfig, SiglipTextConfig
from promptmix.errors import BackboneError

__all__ = ["END_OF_TEXT", "START_OF_TEXT", "Tokenizer"]

START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Tokenizer:
    """Text to token numbers. Start and end tokens are never added here: layouts place them.

    Args:
        path: the file.
        config: of the text tower. SigLIP's says which tokens end and pad a text and what is done to it first; CLIP's tokens have
            names, so that nothing is needed of its config.
        ready: the tokenizer itself, where ``path`` is not a ``tokenizer.json``.

    Attributes:
        start_token: None for SigLIP, whose texts have none.

    Raises:
        BackboneError: the file is missing, unreadable or has no start or end token.
    """

    def __init__(self, path: Path, config: AnyTextConfig | None = None, ready: _Tokenizer | None = None) -> None:
        if ready is None and not path.is_file():
            raise BackboneError(f"no tokenizer at {path}; a backbone folder needs tokenizer.json")
        try:
            self._tokenizer = _Tokenizer.from_file(str(path)) if ready is None else ready
        except Exception as problem:  # the library raises a bare Exception
            raise BackboneError(f"{path} is not a tokenizer file: {problem}") from problem
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._siglip = config if isinstance(config, SiglipTextConfig) else None
        self.start_token: int | None = None
        if self._siglip is None:
            self.start_token, self.end_token = self._special(START_OF_TEXT, path), self._special(END_OF_TEXT, path)
            special = [START_OF_TEXT, END_OF_TEXT]
        else:
            self.end_token = self._siglip.end_token
            special = [token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special]
            for number in (self._siglip.end_token, self._siglip.pad_token):
                if self._tokenizer.id_to_token(number) not in special:
                    raise BackboneError(
                        f"{path}: token {number}, which ends or pads texts, is not one of the special added_tokens"
                    )
        self._specials = re.compile("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)))
        self.vocabulary_size = self._tokenizer.get_vocab_size()
        self.encode = functools.lru_cache(maxsize=65536)(self._encode)

    def _special(self, token: str, path: Path) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise BackboneError(f"{path} has no token {token!r}, so it is no CLIP tokenizer")
        return int(number)

    def _encode(self, text: str) -> tuple[int, ...]:
        """Token numbers of ``text`` without start and end tokens; a special token written in the text is spelt out.

        A space in front says that the text follows another word. CLIP's tokenizer ignores it, SigLIP 2's does not.
        """
        if self._siglip is not None and self._siglip.lower_case:
            text = text.lower()
        text = self._specials.sub(lambda found: found[0].strip("<|/>"), text)
        if self._siglip is not None and self._siglip.remove_punctuation:
            text = " ".join(text.translate(_NO_PUNCTUATION).split())
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def token(self, number: int) -> str:
        """The text of one token, for people."""
        return str(self._tokenizer.id_to_token(number)).replace("</w>", "").replace("▁", "")
