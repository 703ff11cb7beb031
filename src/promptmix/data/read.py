"""Pictures from wherever they lie, through one face: folders, tables, tar files, data sets of Hugging Face."""

from __future__ import annotations

import glob
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from promptmix.data import datasets_hub, listing, shards, tables
from promptmix.data.classes import ClassList, number_in, read_classes_file
from promptmix.data.datasets_hub import HUB_PREFIX
from promptmix.data.images import PICTURE_SUFFIXES, StoredPicture, file_state
from promptmix.data.listing import Listing, labelled_parts, named_part
from promptmix.data.records import PARTS, PictureSet, Record, check_class_names, class_key
from promptmix.data.sources import (
    has_folders_of_pictures,
    iter_pictures,
    list_pictures,
    loose_pictures,
    part_folders,
    read_folder,
)
from promptmix.errors import ConfigError, DataError, did_you_mean, listed
from promptmix.runtime import short_hash

__all__ = [
    "Columns",
    "iter_any_pictures",
    "list_any_pictures",
    "part_to_measure",
    "read_parts",
    "read_pictures",
    "state_of_sources",
]

_logger = logging.getLogger(__name__)

Columns: TypeAlias = listing.Columns


def read_parts(
    source: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    columns: Columns | None = None,
    classes_file: str | Path | None = None,
) -> dict[str, PictureSet]:
    """The labelled pictures of a source by part: ``train``, ``val``, ``test``, in this order, those that are there.

    All parts have the same classes in the same order; a source that is not split is all ``train``. A source is

    - a folder with one sub-folder a class, or with train/, val/ and test/ that are such folders;
    - a table that lists pictures: .csv, .tsv, .jsonl, .ndjson, .parquet;
    - a .tar file, a pattern such as ``shards/{0000..0003}.tar`` or ``shards/*.tar``, or a folder of .tar files (of a folder that
      has folders of pictures too, the tar files are left out, with a warning);
    - a folder written by the ``save_to_disk`` of Hugging Face, or ``hf:owner/name``, a data set on their hub.

    Args:
        class_names: the classes and their order, of a model for example; a class may have no picture.
        columns: which columns of a table, fields of JSON or features of a data set hold picture and label.
        classes_file: names, order and labels of the classes; see :func:`~promptmix.data.classes.read_classes_file`.

    Raises:
        DataError: the source is missing or is none of these, or its pictures, labels or classes cannot be used.
        ConfigError: the source is an empty text, a column is asked for that is not there, or a package is missing.
    """
    source = str(source)
    _refuse_empty(source)
    classes = None if classes_file is None else read_classes_file(classes_file)
    _warn_of_both(source)
    known = (class_names or ()) if classes is None else classes.labels()
    there = _listing(source, columns, labelled=True, known=known)
    if there is not None:
        return labelled_parts(there, source, class_names=class_names, classes=classes)
    if columns is not None and columns != Columns():
        raise ConfigError(f"{source} has no columns; name columns only of a table, of JSON in tar files or of a data set")
    return _read_folders(Path(source).expanduser(), class_names, classes)


def read_pictures(
    source: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    part: str | None = None,
    columns: Columns | None = None,
    classes_file: str | Path | None = None,
) -> PictureSet:
    """The labelled pictures of one part of a source, or of all of a source that is not split; see :func:`read_parts`.

    Raises:
        DataError: there is no such part, or several and none is named; else as :func:`read_parts`.
        ConfigError: as :func:`read_parts`.
    """
    parts = read_parts(source, class_names=class_names, columns=columns, classes_file=classes_file)
    if part is None and len(parts) > 1:
        raise DataError(f"{source} has the parts {', '.join(parts)}; say which one")
    return parts[_present(parts, part, source) if part is not None else next(iter(parts))]


def part_to_measure(parts: dict[str, PictureSet], part: str | None, source: str | Path) -> str:
    """The part of a source to measure on: the one asked for, else the test part, else the only one.

    Raises:
        DataError: there is no such part, or it is not clear which one is meant.
    """
    if part is not None:
        return _present(parts, part, source)
    if "test" in parts or len(parts) == 1:
        return "test" if "test" in parts else next(iter(parts))
    raise DataError(f"{source} has the parts {', '.join(parts)} but no test part; say which one with --part")


def list_any_pictures(sources: str | Path | Sequence[str | Path], columns: Columns | None = None) -> list[Path | StoredPicture]:
    """The pictures that a person means, labelled or not, in their order and without repeats: files, patterns, folders, and every
    source of :func:`read_parts` in all its parts.

    Raises:
        DataError: a source is missing or matches nothing; the message names it.
        ConfigError: a source is an empty text, a column is asked for that is not there, or a package is missing.
    """
    sources = _sources(sources)
    found: list[Path | StoredPicture] = []
    for is_file, group in itertools.groupby(sources, key=lambda source: _kind(str(source)) == "files"):
        if is_file:
            found += list_pictures(list(group))
            continue
        for source in group:
            there = _listing(str(source), columns, labelled=False)
            assert there is not None
            found += (one.picture for one in there.pictures)
    return list(dict.fromkeys(found)) if found else list(list_pictures(list(sources)))


def iter_any_pictures(
    sources: str | Path | Sequence[str | Path], columns: Columns | None = None
) -> Iterator[Path | StoredPicture]:
    """The pictures of :func:`list_any_pictures` one after the other, so that their number is not limited by memory.

    What is listed twice in a table or lies twice in an archive comes twice. What names no picture in its place (an empty cell, a tar
    file that is damaged) comes as one that cannot be read.

    Raises:
        DataError, ConfigError: as :func:`list_any_pictures`, where the source is reached.
    """
    names = [str(source) for source in _sources(sources)]
    if not names:
        yield from iter_pictures(names)
    for kind, group in itertools.groupby(names, key=_kind):
        if kind == "files":
            yield from iter_pictures(list(group))
            continue
        for source in group:
            if kind == "hub":
                yield from datasets_hub.iter_hub(source, columns)
            elif kind == "saved":
                yield from datasets_hub.iter_saved(Path(source).expanduser(), columns)
            elif kind == "shards":
                yield from shards.iter_shards(shards.find_shards(source))
            else:
                yield from tables.iter_table(Path(source), columns)


def state_of_sources(sources: Sequence[str]) -> str:
    """Hash of the names, sizes and times of the files that sources keep their pictures in: tables, tar files, saved data sets.
    Of folders, and of data sets on the hub, it says nothing.

    Raises:
        DataError: a source is missing.
    """
    said = []
    for source in sources:
        _refuse_empty(source)
        kind, path = _kind(source), Path(source).expanduser()
        files: Sequence[Path] = ()
        if kind == "table":
            files = [path]
        elif kind == "shards":
            files = shards.find_shards(source)
        elif kind == "saved":
            files = sorted(one for one in path.rglob("*.arrow") if one.is_file())
        said += [f"{file} {file_state(file)}" for file in files]
    return short_hash(*said)


def _sources(sources: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    """A list of sources, each of which names something."""
    if isinstance(sources, str | Path):
        sources = [sources]
    for source in sources:
        _refuse_empty(str(source))
        _warn_of_both(str(source))
    return sources


def _refuse_empty(source: str) -> None:
    if not source.strip():  # which would mean the current folder
        raise ConfigError(f"{source!r} is no source of pictures; name one, or write . for the current folder")


def _kind(source: str) -> str:
    """``hub``, ``saved``, ``shards`` or ``table``; ``files`` for whatever else, which may be nothing at all."""
    if source.startswith(HUB_PREFIX):
        return "hub"
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        if datasets_hub.is_saved_data_set(path):
            return "saved"
        return "shards" if _is_folder_of_shards(path) else "files"
    if suffix == ".tar" or shards.is_compressed_tar(path.name):
        return "shards"
    return "table" if suffix in tables.TABLE_SUFFIXES and not glob.has_magic(source) else "files"


def _is_folder_of_shards(folder: Path) -> bool:
    """Whether tar files lie in a folder and no folders of pictures: who unpacked an archive where it lies has both."""
    try:
        tar_files = shards.find_shards(str(folder))
        return bool(tar_files) and not has_folders_of_pictures(folder, {one.parent for one in tar_files})
    except (OSError, DataError):  # reading it as a folder of pictures says what is wrong
        return False


def _warn_of_both(source: str) -> None:
    """Say what is left out of a folder that holds both tar files and pictures."""
    folder = Path(source).expanduser()
    kind = _kind(source) if folder.is_dir() else ""
    if kind not in ("files", "shards"):
        return
    try:
        tar_files = shards.find_shards(source)
    except OSError:  # reading it says what is wrong
        return
    if kind == "files" and tar_files:
        few = listed(map(str, tar_files), 3)
        _logger.warning("%s holds folders of pictures, so the tar files in it were left out: %s", source, few)
    beside = [picture for inside in {one.parent for one in tar_files} for picture in loose_pictures(inside)]
    if kind == "shards" and beside:
        _logger.warning("%s: %d pictures lie beside the tar files; left out", source, len(beside))


def _listing(source: str, columns: Columns | None, *, labelled: bool, known: Sequence[str] = ()) -> Listing | None:
    """What a source lists, or None where it is to be read as a folder."""
    kind = _kind(source)
    if kind == "hub":
        return datasets_hub.list_hub(source, columns, labelled=labelled)
    if kind == "saved":
        return datasets_hub.list_saved(Path(source).expanduser(), columns, labelled=labelled)
    if kind == "shards":
        return shards.list_shards(shards.find_shards(source), columns, labelled=labelled, known=known)
    if kind == "table":
        return tables.list_table(Path(source), columns, labelled=labelled)
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() == ".zip":
        raise DataError(f"{source} is a zip file, in which pictures are not read; promptmix data unpack it, and give the folder")
    if path.is_file() and path.suffix.lower() not in PICTURE_SUFFIXES and labelled:
        raise DataError(
            f"{source} is a file of no kind that lists pictures; give a folder with one sub-folder a class, a table"
            f" ({', '.join(sorted(tables.TABLE_SUFFIXES))}), a .tar, or hf:owner/name"
        )
    return None


def _read_folders(folder: Path, class_names: Sequence[str] | None, classes: ClassList | None) -> dict[str, PictureSet]:
    folders = (part_folders(folder) if folder.is_dir() else {}) or {"train": folder}
    names = class_names if classes is None else _folder_labels(classes, folders)
    parts: dict[str, PictureSet] = {}
    for part in PARTS:
        if part in folders:
            read = read_folder(folders[part], names)
            names = read.class_names
            if classes is not None:
                read = _renamed(read, classes, class_names)
            parts[part] = PictureSet(root=folder, class_names=read.class_names, records=read.records)
    return parts


def _folder_labels(classes: ClassList, folders: dict[str, Path]) -> list[str]:
    """The names that class folders may have: the labels, and of places in the list those that are the name of a folder."""
    labels = [label for label in classes.labels() if not (classes.counts_places and number_in(label) is not None)]
    there = {path.name for folder in folders.values() if folder.is_dir() for path in folder.iterdir()}
    return labels + sorted(
        name for name in there if classes.counts_places and number_in(name) is not None and classes.place(name) is not None
    )


def _renamed(pictures: PictureSet, classes: ClassList, class_names: Sequence[str] | None) -> PictureSet:
    """Pictures by the classes that their labels mean, in the order of the classes or of these names."""
    names = classes.names if class_names is None else check_class_names(class_names)
    label_of = {class_key(name): label for label, name in enumerate(names)}
    records = []
    for record in pictures.records:
        place = classes.place(pictures.class_names[record.label])
        assert place is not None
        label = label_of.get(class_key(classes.names[place]))
        if label is None:
            raise DataError(
                f"{record.picture}: {classes.names[place]!r} is not a known class{did_you_mean(classes.names[place], names)}"
            )
        records.append(Record(picture=record.picture, label=label))
    records.sort(key=lambda record: record.label)
    return PictureSet(root=pictures.root, class_names=names, records=tuple(records))


def _present(parts: dict[str, PictureSet], part: str, source: str | Path) -> str:
    asked = named_part(part, str(source))
    if asked not in parts:
        raise DataError(f"{source} has no {asked} part; it has {', '.join(parts)}")
    return asked
