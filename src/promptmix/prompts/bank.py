"""A bank of soft prompts: for each expert a row of learnt vectors before and after the class name, started from words."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from promptmix.backbones.base import AnyTextTower
from promptmix.backbones.tokenizer import Tokenizer
from promptmix.prompts.assemble import Slots, assemble_row, class_tokens, context_vector, embeddings_to_learn
from promptmix.prompts.encoder import Prompts, lay_out_prompts
from promptmix.prompts.templates import Template

__all__ = ["PromptBank"]


class PromptBank:
    """Lays soft prompts out for a tower. It owns no parameters: methods own the context vectors, one table for all experts.

    Args:
        starts: for each expert the template whose words start it, counted in tokens of the tower's own tokenizer.
        period: put a fixed full stop before the end token. The templates' own full stop never becomes a context vector.

    Attributes:
        slots: for each expert, which context vectors stand before and after the class name.
    """

    def __init__(self, tower: AnyTextTower, tokenizer: Tokenizer, starts: Sequence[Template], period: bool) -> None:
        self._tower, self._tokenizer, self._period = tower, tokenizer, period
        self._start_tokens: list[int] = []
        self._spaced: list[bool] = []
        self.slots: list[Slots] = []
        for start in starts:
            plain = start.without_period()
            space = " " if plain.after and plain.space_after else ""
            self.slots.append(Slots(before=self._add(plain.before), after=self._add(space + plain.after)))
            self._spaced.append(bool(self.slots[-1].before) and plain.space_before)

    def _add(self, text: str) -> tuple[int, ...]:
        tokens = self._tokenizer.encode(text)
        first = len(self._start_tokens)
        self._start_tokens.extend(tokens)
        return tuple(context_vector(number) for number in range(first, first + len(tokens)))

    def starting_contexts(self) -> Float[Tensor, "context width"]:
        """The token embeddings of the starting words, for all experts one after another."""
        return embeddings_to_learn(self._tower, self._start_tokens)

    def lay_out(self, class_names: Sequence[str], max_rows: int = 1024) -> Prompts:
        """Sequences of every expert for every class, expert by expert.

        Raises:
            DataError: a class name is too long for the tower's context; the message names it.
        """
        names = {spaced: class_tokens(self._tokenizer, class_names, spaced) for spaced in set(self._spaced)}
        rows = [
            assemble_row(self._tokenizer, slots, name, self._period)
            for slots, spaced in zip(self.slots, self._spaced, strict=True)
            for name in names[spaced]
        ]
        groups = [expert for expert in range(len(self.slots)) for _ in class_names]
        return lay_out_prompts(self._tower, rows, groups, list(class_names) * len(self.slots), max_rows)
