"""The layouts in which people keep the benchmarks of the field: a split file, lists of file names, folders of classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from promptmix.data.records import PARTS, Record, check_class_names, class_key
from promptmix.data.sources import loose_pictures
from promptmix.errors import DataError, listed

__all__ = [
    "Listed",
    "names_kept_apart",
    "read_class_folders",
    "read_split_file",
    "read_variant_lists",
]

_Key = TypeVar("_Key", bound=Hashable)

_SPLIT_FILE = TypeAdapter(dict[Literal["train", "val", "test"], list[tuple[str, int, str]]])
_SYNSET = re.compile("n[0-9]{8}")
_NUMBER = re.compile("[0-9]{1,9}")

# What a synset is called where another class has the same name; the lists that go round repeat one or the other of these pairs.
_OWN_NAMES = {
    "n02012849": "crane bird",
    "n03126707": "construction crane",
    "n03710721": "tank suit",  # beside n03710637, maillot
    "n04008634": "projectile",  # beside n03773504, missile
    "n04355933": "sunglass",  # beside n04356056, sunglasses
}


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What a data set lists: its classes in label order, and the pictures of its parts.

    Attributes:
        notes: what a person should know who reads a number measured on these pictures.
    """

    class_names: tuple[str, ...]
    parts: dict[str, tuple[Record, ...]]
    notes: tuple[str, ...] = ()


def read_split_file(file: Path, content: bytes, image_folder: Path) -> Listed:
    """A JSON object of the lists ``train``, ``val`` and ``test`` with a ``[path below image_folder, label, class name]`` a picture.

    The pictures keep the order of the file, on which the published few-shot samples depend.

    Args:
        file: where the content was read, for messages.

    Raises:
        DataError: the content has another form, a path leads out of the folder, a picture is listed twice, a label has two names or
            none.
    """
    try:
        rows = _SPLIT_FILE.validate_json(content, strict=True)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{file} is not a split file: {where}: {first['msg']}; fetch it again") from problem
    name_of: dict[int, str] = {}
    for part_rows in rows.values():
        for _, label, name in part_rows:
            if name_of.setdefault(label, name) != name:
                raise DataError(f"{file}: label {label} is called {name_of[label]!r} and {name!r}; a label has one name")
    for label in range(len(name_of)):
        if label not in name_of:
            raise DataError(f"{file}: no picture has label {label}, so it has no name; labels go up from 0 without a gap")
    apart = names_kept_apart({label: name_of[label] for label in range(len(name_of))})
    _check_paths(file, [(relative, part) for part in PARTS if part in rows for relative, _, _ in rows[part]])
    return Listed(
        class_names=check_class_names(list(apart.values())),
        parts={
            part: tuple(Record(picture=image_folder / relative, label=label) for relative, label, _ in rows[part])
            for part in PARTS
            if part in rows
        },
        notes=_told_apart(name_of, apart),
    )


def read_variant_lists(folder: Path, image_folder: Path) -> Listed:
    """FGVC Aircraft: ``variants.txt`` names a class a line, ``images_variant_{train,val,test}.txt`` a picture and its class a line.

    Raises:
        DataError: a file cannot be read, a name leads out of the folder, a picture is listed twice, or its class is not in
            ``variants.txt``.
    """
    variants = _lines(folder / "variants.txt")
    class_names = check_class_names(variants)
    label_of = {variant: label for label, variant in enumerate(variants)}
    parts: dict[str, tuple[Record, ...]] = {}
    paths: list[tuple[str, str]] = []
    for part in PARTS:
        file = folder / f"images_variant_{part}.txt"
        records: list[Record] = []
        for line in _lines(file):
            name, _, variant = line.partition(" ")
            if variant.strip() not in label_of:
                raise DataError(
                    f"{file}: {line!r} names no class of variants.txt; a line is the number of a picture and its class"
                )
            records.append(Record(picture=image_folder / f"{name}.jpg", label=label_of[variant.strip()]))
            paths.append((f"{name}.jpg", part))
        parts[part] = tuple(records)
    _check_paths(folder / "images_variant_*.txt", paths)
    return Listed(class_names=class_names, parts=parts)


def read_class_folders(folders: Mapping[str, Path], names_file: Path, *, numbered_among: int | None = None) -> Listed:
    """ImageNet and its kin: for each part a folder with one sub-folder a class, called by its synset, such as ``n01440764``.

    Classes are those that have a folder, in order of their synsets; names are told apart among all of ``names_file``, so that a
    class has the same name in a set that holds only some of them. Files beside the class folders are passed over.

    Args:
        folders: for each part its folder.
        names_file: a synset and its name a line.
        numbered_among: class folders are called by the place of their synset among this many, from 0, as in ImageNetV2.

    Raises:
        DataError: a folder or the names cannot be read, parts differ in their classes, a folder is no class or two are the same, or
            there are not as many names as classes are numbered.
    """
    names = _synset_names(names_file)
    if numbered_among is not None and len(names) != numbered_among:
        raise DataError(
            f"{names_file} names {len(names)} classes, but folders are numbered among {numbered_among}; fetch it again"
        )
    apart = names_kept_apart(names)
    # The synset that a folder stands for, by what the folder is called.
    synset_called = {synset: synset for synset in names}
    if numbered_among is not None:
        synset_called = {str(number): synset for number, synset in enumerate(names)}
    class_folders: dict[str, dict[str, Path]] = {}
    notes: list[str] = []
    for part, folder in folders.items():
        inside = _folders_in(folder)
        pattern = _SYNSET if numbered_among is None else _NUMBER
        of_classes = [path for path in inside if pattern.fullmatch(path.name)]
        if not of_classes:
            example = folder / ("n01440764" if numbered_among is None else "0")
            raise DataError(f"{folder} has no class folders; it should hold one a class, such as {example}")
        others = [path.name for path in inside if not pattern.fullmatch(path.name)]
        notes += [f"folders in {folder} that are no classes were left out: {listed(others, 3)}"] if others else []
        class_folders[part] = {}
        for path in of_classes:
            synset = synset_called.get(path.name if numbered_among is None else str(int(path.name)))
            if synset is None:
                raise DataError(f"{path} is no class that {names_file} names; fetch the names again, or take the folder away")
            if synset in class_folders[part]:
                raise DataError(f"{class_folders[part][synset]} and {path} are the same class; take one away")
            class_folders[part][synset] = path
    first = next(iter(class_folders))
    synsets = sorted(class_folders[first])
    for part, folder_of in class_folders.items():
        differing = sorted(set(synsets) ^ set(folder_of))
        if differing:
            raise DataError(f"{folders[first]} and {folders[part]} have not the same classes: {listed(differing, 3)}")
    return Listed(
        class_names=check_class_names([apart[synset] for synset in synsets]),
        parts={
            part: tuple(
                Record(picture=picture, label=label)
                for label, synset in enumerate(synsets)
                for picture in loose_pictures(folder_of[synset])
            )
            for part, folder_of in class_folders.items()
        },
        notes=(*notes, *_told_apart({synset: names[synset] for synset in synsets}, apart)),
    )


def names_kept_apart(names: Mapping[_Key, str]) -> dict[_Key, str]:
    """The names with those changed that several classes have: rows of a classifier are told apart by their names.

    The synsets of ImageNet that are known to share a name get their own (``crane bird`` and ``construction crane``, ``projectile``
    beside ``missile``). Else the first class keeps the name, and the others get a number behind it: ``missile 2``.
    """
    times = Counter(map(class_key, names.values()))
    taken = set(times)
    plain: set[str] = set()  # shared names that a class has kept
    apart: dict[_Key, str] = {}
    for key, name in names.items():
        own = _OWN_NAMES.get(str(key))
        if times[class_key(name)] == 1:
            apart[key] = name
        elif own is not None and class_key(own) not in taken:
            apart[key] = own
        elif class_key(name) not in plain:
            plain.add(class_key(name))
            apart[key] = name
        else:
            number = 2
            while class_key(f"{name} {number}") in taken:
                number += 1
            apart[key] = f"{name} {number}"
        taken.add(class_key(apart[key]))
    return apart


def _told_apart(names: Mapping[_Key, str], apart: Mapping[_Key, str]) -> tuple[str, ...]:
    """The note on classes whose name was changed; empty where none was."""
    changed = [f"{key} {name!r} is called {apart[key]!r}" for key, name in names.items() if apart[key] != name]
    return (f"classes of the same name are told apart: {', '.join(changed)}",) if changed else ()


def _synset_names(file: Path) -> dict[str, str]:
    """The name of each synset, in order of the synsets, which is that of ImageNet's labels."""
    names: dict[str, str] = {}
    for line in _lines(file):
        synset, *name = line.split(maxsplit=1)
        if not _SYNSET.fullmatch(synset) or not name:
            raise DataError(f"{file}: {line[:80]!r} is no synset with a name behind it, such as 'n01440764 tench'")
        if synset in names:
            raise DataError(f"{file} names {synset} twice; leave one line")
        names[synset] = name[0]
    return dict(sorted(names.items()))


def _lines(file: Path) -> list[str]:
    """The lines of a text file that hold something."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as problem:
        raise DataError(f"{file} cannot be read: {problem.strerror}; check the path") from problem
    except UnicodeDecodeError as problem:
        raise DataError(f"{file} is not a text file in UTF-8; fetch it again") from problem
    return [line.strip() for line in text.splitlines() if line.strip()]


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as problem:
        raise DataError(f"{folder} cannot be read: {problem.strerror}; check the path") from problem


def _check_paths(source: Path, paths: Iterable[tuple[str, str]]) -> None:
    """Refuse paths, each with its part, that leave the folder or are listed twice: what is trained on must not be tested on."""
    part_of: dict[str, str] = {}
    for relative, part in paths:
        if ".." in re.split(r"[/\\]", relative) or relative.startswith(("/", "\\")) or PurePath(relative).drive:
            raise DataError(f"{source}: picture path {relative!r} leads out of the folder; use relative ones without '..'")
        if relative in part_of:
            raise DataError(f"{source}: picture {relative!r} is listed twice ({part_of[relative]} and {part}); list it once")
        part_of[relative] = part
