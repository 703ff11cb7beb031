"""What a set of labelled pictures is, and what a class may be called."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptmix.data.images import PictureSource, StoredPicture
from promptmix.errors import DataError, listed

__all__ = [
    "PARTS",
    "PART_NAMES",
    "LabelledPictures",
    "PictureSet",
    "Record",
    "check_class_names",
    "class_key",
    "clean_class_name",
    "natural_key",
    "parts_among",
]

PARTS = ("train", "val", "test")
PART_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""The part that a folder, a column or a data set means by a name."""

_logger = logging.getLogger(__name__)

_LONGEST_NAME = 200  # characters; no text tower reads more than about 75 tokens


@dataclass(frozen=True, kw_only=True)
class Record:
    """One labelled picture; ``label`` is the index of its class in the set's ``class_names``."""

    picture: Path | StoredPicture
    label: int


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """Labelled pictures below one folder. Name, label and row of a class are one thing: its place in ``class_names``.

    Raises:
        DataError: a record's label is no index into ``class_names``.
    """

    root: Path
    class_names: tuple[str, ...]
    records: tuple[Record, ...]

    def __post_init__(self) -> None:
        for record in self.records:
            if not 0 <= record.label < len(self.class_names):
                raise DataError(f"{record.picture} has label {record.label}, but labels go from 0 to {len(self.class_names) - 1}")

    def __len__(self) -> int:
        return len(self.records)

    @property
    def labels(self) -> tuple[int, ...]:
        """The class index of each picture, in the order of the records."""
        return tuple(record.label for record in self.records)

    @property
    def pictures(self) -> tuple[Path | StoredPicture, ...]:
        """Where each picture lies, in the order of the records."""
        return tuple(record.picture for record in self.records)

    def counts(self) -> tuple[int, ...]:
        """How many pictures each class has, in class order; 0 for a class without a picture."""
        found = Counter(self.labels)
        return tuple(found[label] for label in range(len(self.class_names)))

    def subset(self, record_indices: Sequence[int]) -> PictureSet:
        """The records at these places, in this order; the classes stay as they are."""
        records = tuple(self.records[index] for index in record_indices)
        return PictureSet(root=self.root, class_names=self.class_names, records=records)

    def only_classes(self, indices: Sequence[int]) -> PictureSet:
        """Only these classes, numbered 0, 1, ... in the given order; the kept records stay in theirs.

        Raises:
            DataError: an index is given twice or is not that of a class.
        """
        for index in indices:
            if not 0 <= index < len(self.class_names):
                raise DataError(f"there is no class number {index}; classes are numbered 0 to {len(self.class_names) - 1}")
        new_labels = {index: place for place, index in enumerate(indices)}
        if len(new_labels) != len(indices):
            raise DataError(f"a class number is given twice in {list(indices)}; give each class once")
        return PictureSet(
            root=self.root,
            class_names=tuple(self.class_names[index] for index in indices),
            records=tuple(
                Record(picture=record.picture, label=new_labels[record.label])
                for record in self.records
                if record.label in new_labels
            ),
        )


@dataclass(frozen=True, kw_only=True)
class LabelledPictures:
    """Pictures with the index of each one's class.

    Attributes:
        description: what they are, for people; printed wherever a number was measured on them.
        how: how they were chosen, with no word of where they lie, for people who are given the model; None where nobody said.
    """

    pictures: Sequence[PictureSource]
    labels: Sequence[int]
    class_names: tuple[str, ...]
    description: str
    how: str | None = None

    @staticmethod
    def of(pictures: PictureSet, description: str, how: str | None = None) -> LabelledPictures:
        return LabelledPictures(
            pictures=pictures.pictures,
            labels=pictures.labels,
            class_names=pictures.class_names,
            description=description,
            how=how,
        )

    def subset(self, places: Sequence[int]) -> LabelledPictures:
        """Some of the pictures, with all class names."""
        return LabelledPictures(
            pictures=[self.pictures[place] for place in places],
            labels=[self.labels[place] for place in places],
            class_names=self.class_names,
            description=f"{len(places)} of {self.description}",
        )


def clean_class_name(name: str) -> str:
    """The name as it goes into a prompt: ``_`` is a space, white space is single and only inside; case is kept."""
    return " ".join(name.replace("_", " ").split())


def class_key(name: str) -> str:
    """Equal for names that mean the same class: cleaned, without case and invisible signs, and whichever way accents are encoded."""
    if not name.isascii():
        name = "".join(character for character in name if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFC", clean_class_name(name)).casefold()


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts digits by their number and letters without case: ``b2`` before ``B10``."""
    pieces = re.split("([0-9]+)", name.casefold())
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)], name


def parts_among(folders: Mapping[str, Collection[str]], source: object) -> dict[str, str]:
    """The part that each folder is, of folders with the names of the folders inside them; empty where they are classes.

    Folders called train and test are parts where there are folders in train; with other folders beside them only where two of
    them hold folders of the same names. Without a train folder they are parts where there is no other folder, and folders in
    each.

    Raises:
        DataError: two folders are the same part, such as val and validation.
    """
    named = {name: PART_NAMES[name.casefold()] for name in folders if name.casefold() in PART_NAMES}
    inside: dict[str, set[str]] = {}
    for name, part in named.items():
        inside.setdefault(part, set()).update(map(class_key, folders[name]))
    are_all = len(named) == len(folders) and all(folders.values())
    if not are_all and not inside.get("train"):
        return {}
    if len(named) < len(folders) and not any(inside["train"] & classes for part, classes in inside.items() if part != "train"):
        return {}
    first: dict[str, str] = {}
    for name, part in named.items():
        if first.setdefault(part, name) != name:
            raise DataError(f"{source}: {first[part]} and {name} are both the {part} part; merge them or take one away")
    if len(named) < len(folders):
        others = listed(name for name in folders if name not in named)
        _logger.warning("%s: these folders are not train, val or test: %s; left out", source, others)
    return named


def check_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """The cleaned names, in the given order.

    Raises:
        DataError: there are fewer than two names, or one is empty, longer than 200 characters, holds a character that cannot
            be printed, or means the same class as another.
    """
    if isinstance(names, str):
        raise DataError(f"class names must be a list of names, not the text {names!r}; write [{names!r}, ...]")
    if not names:
        raise DataError("no class names were given; a classifier needs at least two")
    originals: dict[str, str] = {}
    cleaned_names: list[str] = []
    for original in names:
        if not isinstance(original, str):
            raise DataError(f"class name {original!r} is not text; write class names as text")
        cleaned = clean_class_name(original)
        if not class_key(cleaned):
            raise DataError(f"class name {original[:200]!r} is empty; give it letters or digits")
        if len(cleaned) > _LONGEST_NAME:
            raise DataError(f"class name {cleaned[:40]!r}... has {len(cleaned)} characters; at most {_LONGEST_NAME} are allowed")
        # Cc are control characters, Cs what is left of bytes that are not UTF-8.
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in cleaned):
            raise DataError(f"class name {original!r} holds a control character; rename the class")
        key = class_key(cleaned)
        if key in originals:
            raise DataError(f"class names {originals[key]!r} and {original!r} are the same name; rename one or merge the two")
        originals[key] = original
        cleaned_names.append(cleaned)
    if len(cleaned_names) == 1:
        raise DataError(f"only one class ({cleaned_names[0]!r}); a classifier needs at least two to tell apart")
    return tuple(cleaned_names)
