"""What every kind of source is read into, pictures with the labels that stand beside them, and how that becomes sets of classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from promptmix.data.classes import ClassList, number_in
from promptmix.data.images import StoredPicture
from promptmix.data.records import PART_NAMES, PARTS, PictureSet, Record, check_class_names, class_key, natural_key
from promptmix.errors import ConfigError, DataError, did_you_mean

__all__ = ["Columns", "Listed", "Listing", "labelled_parts", "named_part", "pick_column"]

_logger = logging.getLogger(__name__)

_LONGEST_SHOWN = 200  # characters of a value in a message

_USUAL = {
    "image": (
        *("image", "picture", "img", "image_path", "picture_path", "image_file", "path", "filepath", "file_path"),
        *("file_name", "filename", "file"),
    ),
    # Names before what may be numbers.
    "label": (
        ("class_name", "label_name", "category_name", "class", "label", "category", "target", "cls", "labels", "fine_label", "y")
    ),
    "part": ("split", "part"),
}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a table, fields of JSON or features of a data set; None: known by their usual names."""

    image: str | None = None
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A picture as a source lists it.

    Attributes:
        label: a name or a number; None where the source has none.
        part: train, val or test; None where the source is not split.
        where: where people find it in the source, such as ``pets.csv line 3``.
    """

    picture: Path | StoredPicture
    label: str | int | None
    part: str | None
    where: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The pictures of a source, in its order.

    Attributes:
        class_names: the source's own order of classes, where it has one.
    """

    root: Path
    pictures: Sequence[Listed]
    class_names: tuple[str, ...] | None = None


def pick_column(what: str, asked: str | None, there: Sequence[str], source: object) -> str | None:
    """The column for ``what`` (image, label or part): the one asked for, else the first with a usual name, else None.

    Raises:
        ConfigError: there is no such column as was asked for.
    """
    if asked is not None:
        if asked not in there:
            raise ConfigError(f"{source} has no column {asked!r}{did_you_mean(asked, there)}")
        return asked
    by_name = {name.strip().casefold(): name for name in reversed(there)}
    return next((by_name[usual] for usual in _USUAL[what] if usual in by_name), None)


def named_part(name: str, where: str) -> str:
    """train, val or test, by any of the names these have.

    Raises:
        DataError: the name is none of them.
    """
    part = PART_NAMES.get(name.strip().casefold())
    if part is None:
        raise DataError(f"{where}: {name[:_LONGEST_SHOWN]!r} is no part{did_you_mean(name, PARTS)}")
    return part


def labelled_parts(
    listing: Listing, source: str, *, class_names: Sequence[str] | None = None, classes: ClassList | None = None
) -> dict[str, PictureSet]:
    """The parts of a listing as labelled pictures of the same classes; all is ``train`` where the source is not split.

    A picture that is listed twice with one label counts once.

    Args:
        class_names: the classes and their order, of a model for example; labels must be among them.
        classes: what the labels mean. Without it labels are names, and the classes are those of the train part, sorted, or in
            the source's own order.

    Raises:
        DataError: a picture has no label, two labels or two parts, a label is no known class, or labels are numbers and
            nothing says what they mean.
    """
    if not listing.pictures:
        raise DataError(f"{source} holds no pictures")
    split = any(one.part is not None for one in listing.pictures)
    for one in listing.pictures:
        if one.label is None:
            raise DataError(f"{one.where} has no label; give it one or leave the picture out")
        if split and one.part is None:
            raise DataError(f"{one.where} is in no part, but others are; write train, val or test beside it")
    if classes is None:
        classes = _classes_of(listing, source, class_names)
    names = classes.names if class_names is None else check_class_names(class_names)
    label_of = {class_key(name): label for label, name in enumerate(names)}
    records: dict[str, list[Record]] = {}
    seen: dict[Path | StoredPicture, tuple[int, str, str]] = {}
    repeated = 0
    for one in listing.pictures:
        assert one.label is not None
        place = classes.place(one.label)
        label = None if place is None else label_of.get(class_key(classes.names[place]))
        if label is None:
            hint = classes.hint(one.label) if place is None else did_you_mean(classes.names[place], names)
            raise DataError(f"{one.where}: label {repr(one.label)[:_LONGEST_SHOWN]} is not a known class{hint}")
        part = one.part or "train"
        first_label, first_part, first_where = seen.setdefault(one.picture, (label, part, one.where))
        if first_label != label:
            raise DataError(
                f"{one.where}: {one.picture} is {names[label]!r} here but {names[first_label]!r} in {first_where}; a picture has one class"
            )
        if first_part != part:
            raise DataError(
                f"{one.where}: {one.picture} is in part {part} here but in {first_part} in {first_where}; leave one out"
            )
        if first_where != one.where:
            repeated += 1
            continue
        records.setdefault(part, []).append(Record(picture=one.picture, label=label))
    if repeated:
        _logger.warning("%s: %d pictures are listed more than once; each counts once", source, repeated)
    return {
        part: PictureSet(root=listing.root, class_names=names, records=tuple(records[part])) for part in PARTS if part in records
    }


def _classes_of(listing: Listing, source: str, class_names: Sequence[str] | None) -> ClassList:
    """The classes of a source for which no list was given."""
    labels = {one.label: one.where for one in listing.pictures}
    numbers = {label: where for label, where in labels.items() if label is not None and number_in(label) is not None}
    if numbers and (len(numbers) == len(labels) or any(isinstance(label, int) for label in numbers)):
        label, where = next(iter(numbers.items()))
        raise DataError(
            f"{where}: label {repr(label)[:_LONGEST_SHOWN]} is a number, which means nothing to a text tower; name the classes in their order with --classes FILE"
        )
    if class_names is not None:
        return ClassList(dict.fromkeys(check_class_names(class_names), ()), numbers=False)
    learnt = {str(one.label) for one in listing.pictures if one.part == "train"} or {str(label) for label in labels}
    if listing.class_names is not None:
        named = [name for name in listing.class_names if name in learnt]
        if len(named) < len(listing.class_names):
            _logger.warning(
                "%s: %d classes have no picture to learn from; left out", source, len(listing.class_names) - len(named)
            )
    else:
        named = sorted(learnt, key=natural_key)
    try:
        check_class_names(named)
    except DataError as problem:
        raise DataError(f"{source}: {problem}") from problem
    return ClassList(dict.fromkeys(named, ()), numbers=False)
