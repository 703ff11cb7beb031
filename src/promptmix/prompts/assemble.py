"""From words and context vectors to sequences: the one place where prompts are put together.

``[start] before  class name  after  [.] [end]``, with no start where the tower's texts have none, in the notation of
``promptmix.prompts.layout``: tokens are values >= 0, context vector k is -1-k.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from promptmix.backbones.base import AnyTextTower
from promptmix.backbones.tokenizer import Tokenizer
from promptmix.errors import DataError

__all__ = ["Slots", "assemble_row", "class_tokens", "context_vector", "embeddings_to_learn", "framed"]


@dataclass(frozen=True, kw_only=True)
class Slots:
    """What stands before and after a class name: tokens and context vectors, in order."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


def context_vector(number: int) -> int:
    """How context vector ``number`` is written in a sequence."""
    return -1 - number


def class_tokens(tokenizer: Tokenizer, class_names: Sequence[str], after_a_space: bool = False) -> list[tuple[int, ...]]:
    """Tokens of each class name; "_" reads as a space.

    Args:
        after_a_space: a name follows other words, which for some tokenizers makes other tokens of it than at the beginning.

    Raises:
        DataError: a name has no tokens at all.
    """
    space = " " if after_a_space else ""
    tokens = [tokenizer.encode(space + name.replace("_", " ")) for name in class_names]
    for name, row in zip(class_names, tokens, strict=True):
        if not row:
            raise DataError(f"class name {name!r} has no letters that the tokenizer knows; choose another")
    return tokens


def assemble_row(tokenizer: Tokenizer, slots: Slots, name: tuple[int, ...], period: bool) -> list[int]:
    """One whole sequence; with ``period`` a fixed full stop stands directly before the end token."""
    stop = tokenizer.encode(".") if period else ()
    return framed(tokenizer, [*slots.before, *name, *slots.after, *stop])


def framed(tokenizer: Tokenizer, tokens: Iterable[int]) -> list[int]:
    """Tokens between the start token, where there is one, and the end token."""
    start = () if tokenizer.start_token is None else (tokenizer.start_token,)
    return [*start, *tokens, tokenizer.end_token]


def embeddings_to_learn(tower: AnyTextTower, tokens: Sequence[int]) -> Float[Tensor, "token width"]:
    """The embeddings of some tokens, to start context vectors from: copies, and in float32 at least, whatever the tower is in."""
    numbers = torch.tensor(list(tokens), dtype=torch.long, device=tower.position_embedding.device)
    embeddings: Tensor = tower.token_embedding(numbers)
    return embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32), copy=True)
