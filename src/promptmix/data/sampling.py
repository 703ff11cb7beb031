"""Few-shot subsets, held-out pictures and base / new classes: all pure functions of pictures and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from promptmix.data.records import PictureSet, Record
from promptmix.errors import ConfigError, DataError
from promptmix.runtime import numpy_generator

__all__ = [
    "Sampled",
    "SampledAsPublished",
    "base_new_split",
    "hold_out",
    "hold_out_shots",
    "sample_shots",
    "sample_shots_as_published",
]

_HELD_OUT_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A few-shot subset. ``short_classes`` maps the name of each class that had too few pictures to how many it had."""

    pictures: PictureSet
    short_classes: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class SampledAsPublished(Sampled):
    """As :class:`Sampled`; ``validation`` holds the few validation pictures that were drawn with them, if there were any."""

    validation: PictureSet | None


def sample_shots(pictures: PictureSet, shots: int, seed: int) -> Sampled:
    """``shots`` pictures of every class, class by class; a class with fewer gives all it has.

    Subsets of one seed are nested: that of 1 shot lies inside that of 2 shots. What a class gives depends on nothing but the
    seed, its name and its own pictures, in whatever order these are listed.

    Raises:
        ConfigError: ``shots`` is below 1.
    """
    if shots < 1:
        raise ConfigError(f"shots is {shots}; it must be at least 1")
    shuffled = _shuffled_by_class(pictures, seed, "shots")
    return Sampled(
        pictures=pictures.subset([index for indices in shuffled for index in indices[:shots]]),
        short_classes={
            name: len(indices) for name, indices in zip(pictures.class_names, shuffled, strict=True) if len(indices) < shots
        },
    )


def sample_shots_as_published(
    pictures: PictureSet, shots: int, seed: int, validation: PictureSet | None = None
) -> SampledAsPublished:
    """The pictures that the published code of the field draws with this seed, file by file and in its order.

    They come label by label, in the order in which labels first appear among the pictures; a class with fewer than ``shots`` gives all
    it has, in their order. Of ``validation``, ``min(shots, 4)`` of each class are drawn after them. What is drawn depends on the
    order of the pictures, which must be that of the official split, and on all classes: choose base or new classes afterwards. Subsets
    of one seed are not nested.

    Raises:
        ConfigError: ``shots`` is below 1 or the seed negative.
    """
    if shots < 1:
        raise ConfigError(f"shots is {shots}; it must be at least 1")
    if seed < 0:  # Random takes the absolute value, and -1 would be 1 without a word
        raise ConfigError(f"the seed is {seed}; published samples have seeds from 0")
    generator = Random(seed)
    counts = zip(pictures.class_names, pictures.counts(), strict=True)
    return SampledAsPublished(
        pictures=_drawn(pictures, shots, generator),
        validation=None if validation is None else _drawn(validation, min(shots, 4), generator),
        short_classes={name: count for name, count in counts if count < shots},
    )


def hold_out(pictures: PictureSet, per_class: int, seed: int) -> tuple[PictureSet, PictureSet]:
    """Training and validation pictures: up to ``per_class`` of each class are held out, and at least one stays for training.

    Both keep the order of ``pictures``.

    Raises:
        ConfigError: ``per_class`` is negative.
    """
    if per_class < 0:
        raise ConfigError(f"the number of pictures to hold out per class is {per_class}; it must be 0 or more")
    held_out = {
        index
        for indices in _shuffled_by_class(pictures, seed, "hold out")
        for index in indices[: min(per_class, max(0, len(indices) - 1))]
    }
    return (
        pictures.subset([index for index in range(len(pictures)) if index not in held_out]),
        pictures.subset([index for index in range(len(pictures)) if index in held_out]),
    )


def hold_out_shots(labels: Sequence[int], class_names: Sequence[str], seed: int) -> tuple[list[int], list[int]]:
    """The places of the shots to learn from and of those held out to choose options on, both rising.

    A quarter of each class's shots is held out, at least one of two or more; a class of one shot keeps it.
    """
    members: list[list[int]] = [[] for _ in class_names]
    for place, label in enumerate(labels):
        members[label].append(place)
    learnt_from: list[int] = []
    held_out: list[int] = []
    for name, places in zip(class_names, members, strict=True):
        numpy_generator(seed, f"held-out shots of {name}").shuffle(places)
        count = max(1, int(_HELD_OUT_SHARE * len(places))) if len(places) > 1 else 0
        held_out += places[:count]
        learnt_from += places[count:]
    return sorted(learnt_from), sorted(held_out)


def base_new_split(num_classes: int) -> tuple[range, range]:
    """Indices of the base classes (the first half, the larger one where the number is odd) and of the new classes.

    Raises:
        DataError: there are fewer than two classes.
    """
    if num_classes < 2:
        raise DataError(f"{num_classes} classes cannot be split into base and new classes; at least 2 are needed")
    num_base = (num_classes + 1) // 2
    return range(num_base), range(num_base, num_classes)


def _drawn(pictures: PictureSet, per_class: int, generator: Random) -> PictureSet:
    members: dict[int, list[int]] = {}
    for index, label in enumerate(pictures.labels):
        members.setdefault(label, []).append(index)
    return pictures.subset(
        [
            index
            for indices in members.values()
            for index in (generator.sample(indices, per_class) if len(indices) >= per_class else indices)
        ]
    )


def _shuffled_by_class(pictures: PictureSet, seed: int, purpose: str) -> list[list[int]]:
    """For each class the indices of its records, in an order drawn for this class alone."""
    members: list[list[int]] = [[] for _ in pictures.class_names]
    for index, record in enumerate(pictures.records):
        members[record.label].append(index)
    shuffled: list[list[int]] = []
    for name, indices in zip(pictures.class_names, members, strict=True):
        indices.sort(key=lambda index: _known_as(pictures.records[index]))
        order = numpy_generator(seed, f"{purpose} {name}").permutation(len(indices))
        shuffled.append([indices[place] for place in order])
    return shuffled


def _known_as(record: Record) -> str:
    return record.picture.as_posix() if isinstance(record.picture, Path) else str(record.picture)
