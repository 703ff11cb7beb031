"""One soft prompt: a context round each class name, shared by all classes or one row for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from promptmix.backbones.base import AnyTextTower
from promptmix.backbones.tokenizer import Tokenizer
from promptmix.errors import ConfigError
from promptmix.prompts.assemble import Slots, assemble_row, class_tokens, context_vector, embeddings_to_learn
from promptmix.prompts.encoder import Prompts, lay_out_prompts

__all__ = ["ClassNamePosition", "SoftPrompt", "context_from_words"]

ClassNamePosition = Literal["end", "middle", "front"]


class SoftPrompt:
    """Lays one soft prompt out for a tower: ``[start] context  class name . [end]``. It owns no parameters: methods own the context.

    Args:
        length: context vectors in a sequence.
        class_name_position: the class name behind the context, in the middle (``length // 2`` vectors before it) or in front.
        class_specific: each class has context vectors of its own, one class after another in one table.
        further_tokens: words that stay as they are, between the context vectors before the class name and the name.
    """

    def __init__(
        self,
        tower: AnyTextTower,
        tokenizer: Tokenizer,
        length: int,
        class_name_position: ClassNamePosition = "end",
        class_specific: bool = False,
        further_tokens: Sequence[int] = (),
    ) -> None:
        self._tower, self._tokenizer, self._length = tower, tokenizer, length
        self._further_tokens = further_tokens
        self._front = {"end": length, "middle": length // 2, "front": 0}[class_name_position]
        self._class_specific = class_specific

    def lay_out(self, class_names: Sequence[str], copies: int = 1, max_rows: int = 1024) -> Prompts:
        """A sequence for every class, with a fixed full stop at the end.

        Args:
            copies: all sequences so many times, copy by copy, each copy with context vectors of its own: one copy's after another's.
            max_rows: the most sequences encoded at a time.

        Raises:
            DataError: a class name is too long for the tower's context; the message names it.
        """
        names = class_tokens(self._tokenizer, class_names, after_a_space=self._front > 0)
        rows = []
        for number in range(copies * len(names)):
            copy, place = divmod(number, len(names))
            first = self._length * (number if self._class_specific else copy)
            vectors = tuple(context_vector(one) for one in range(first, first + self._length))
            slots = Slots(before=(*vectors[: self._front], *self._further_tokens), after=vectors[self._front :])
            rows.append(assemble_row(self._tokenizer, slots, names[place], period=True))
        groups = [copy for copy in range(copies) for _ in names]
        return lay_out_prompts(self._tower, rows, groups, list(class_names) * copies, max_rows)


def context_from_words(tower: AnyTextTower, tokenizer: Tokenizer, words: str) -> Float[Tensor, "token width"]:
    """Context vectors that start as the embeddings of some words, one vector a token.

    Raises:
        ConfigError: the words have no token.
    """
    tokens = tokenizer.encode(words)
    if not tokens:
        raise ConfigError("option words holds no word; leave it out, or set it to null for a random start")
    return embeddings_to_learn(tower, tokens)
