"""Options that a person leaves open, chosen on held-out shots: never on test pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptmix.data.sampling import hold_out_shots
from promptmix.errors import ConfigError

__all__ = ["Choice", "choose_options"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and on what grounds.

    Attributes:
        options: the candidate that did best.
        candidates: all that were tried.
        accuracies: of each candidate, in their order, on the held-out shots; shares from 0 to 1.
        num_held_out: how many pictures these were measured on.
    """

    options: Mapping[str, Any]
    candidates: tuple[Mapping[str, Any], ...]
    accuracies: tuple[float, ...]
    num_held_out: int

    def note(self) -> str:
        """The choice in words."""
        tried = ", ".join(
            f"{_written(candidate)} {100 * accuracy:.1f} %"
            for candidate, accuracy in zip(self.candidates, self.accuracies, strict=True)
        )
        return f"chose {_written(self.options)} on {self.num_held_out} held-out training pictures ({tried})"


def choose_options(
    candidates: Sequence[Mapping[str, Any]],
    labels: Sequence[int],
    class_names: Sequence[str],
    seed: int,
    fit: Callable[[Mapping[str, Any], list[int], list[int]], float],
) -> Choice:
    """Try every candidate on three quarters of the shots of each class and measure it on the rest.

    The same seed holds out the same pictures, so a run that is resumed chooses again what it chose before: the search itself is not
    kept but repeated, from image features that are cached. A run that is finished searches no more.

    Args:
        candidates: options to lay over the others; of equally good ones the first is taken, so put the simplest first.
        labels: the class of each training picture.
        fit: given a candidate, the places to learn from and those to measure on, returns the accuracy there.

    Raises:
        ConfigError: a class has one picture only, so that none can be held out.
    """
    for label, name in enumerate(class_names):
        if (count := list(labels).count(label)) < 2:
            raise ConfigError(
                f"class {name!r} has {count} training picture, so none can be held out to choose options on;"
                " add pictures or say which option to take"
            )
    learnt_from, held_out = hold_out_shots(labels, class_names, seed)
    accuracies = tuple(fit(candidate, learnt_from, held_out) for candidate in candidates)
    best = max(range(len(candidates)), key=lambda place: accuracies[place])
    return Choice(options=candidates[best], candidates=tuple(candidates), accuracies=accuracies, num_held_out=len(held_out))


def _written(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
