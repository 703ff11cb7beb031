"""The words a class is known by: its name, other names for the same thing, and what it looks like."""

from __future__ import annotations

from pydantic import Field

from promptmix.config import StrictModel

__all__ = ["ClassWords"]


class ClassWords(StrictModel):
    """What the text tower is told of a class.

    Attributes:
        name: under which it is answered.
        synonyms: other names. The class features are the mean over name and synonyms, brought back to length 1.
        description: what follows the name in the prompt, after a comma: ``okapi, a forest animal with striped legs``.
    """

    name: str
    synonyms: tuple[str, ...] = Field(default=(), max_length=20)
    description: str | None = Field(default=None, max_length=200)

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but the name."""
        return not self.synonyms and self.description is None

    def texts(self) -> tuple[str, ...]:
        """What stands in the place of the class name in the prompts, one text for the name and one for each synonym."""
        first = self.name if self.description is None else f"{self.name}, {self.description}"
        return first, *self.synonyms
