"""Where pictures come from: a folder with one sub-folder a class, or a list of files, patterns and folders."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from promptmix.data.images import PICTURE_SUFFIXES
from promptmix.data.records import PART_NAMES, PictureSet, Record, check_class_names, class_key, natural_key, parts_among
from promptmix.errors import DataError, did_you_mean

__all__ = ["has_folders_of_pictures", "iter_pictures", "list_pictures", "loose_pictures", "part_folders", "read_folder"]

_logger = logging.getLogger(__name__)

_NEVER_OURS = frozenset({"__MACOSX", "@eaDir"})  # what archives from macOS and network drives leave behind
_START_OF_RUN = 200  # bytes of run.json, which begins with what it is


def read_folder(folder: Path, class_names: Sequence[str] | None = None) -> PictureSet:
    """The pictures of a folder with one sub-folder a class; pictures may lie deeper inside a class.

    Hidden files and files that are no pictures by their name are passed over; a link is followed, but never round in a circle.

    Args:
        class_names: the order of the classes; folders are matched to them without regard to case, ``_`` and white space, and a
            class without a folder has no picture. None: the names of the folders, 2 before 10.

    Raises:
        DataError: the folder is missing, unreadable, empty, has no class folders or only one, is split into train and test,
            or a class folder is not a known class, holds no picture or
            leads back up.
    """
    folder = Path(folder).expanduser()
    if not folder.exists():
        raise DataError(f"there is no folder {folder}; check the path")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; give a folder with one sub-folder a class")
    class_folders, files = _visible(folder)
    loose = [path for path in files if _is_picture(path)]
    if not class_folders and loose:
        raise DataError(f"{folder} holds {len(loose)} pictures but no class folders; put those of each class into a sub-folder")
    if not class_folders:
        raise DataError(f"{folder} is empty; it should hold one sub-folder a class, with pictures in each")
    parts = part_folders(folder)
    if parts:
        there = ", ".join(sorted(path.name for path in parts.values()))
        raise DataError(
            f"{folder} is split into {there}; give one of these folders, such as {parts.get('train') or next(iter(parts.values()))}"
        )
    for class_folder in class_folders:
        if folder.resolve().is_relative_to(class_folder.resolve()):
            raise DataError(f"{class_folder} is a link back to {folder}, so it would be a class of all pictures; remove the link")
    if loose:
        _logger.warning("%s: %d pictures lie beside the class folders and belong to no class; left out", folder, len(loose))

    class_folders.sort(key=lambda path: natural_key(path.name))
    if class_names is None and len(class_folders) == 1:
        only = class_folders[0]
        deeper = f"; is {only} the folder you mean?" if len(_visible(only)[0]) > 1 else "; add a folder for each further class"
        raise DataError(f"{folder} holds only one class folder ({only.name!r}){deeper}")
    names = check_class_names([path.name for path in class_folders] if class_names is None else class_names)
    labels = {class_key(name): label for label, name in enumerate(names)}

    records: list[Record] = []
    folder_of: dict[int, Path] = {}
    for class_folder in class_folders:
        label = labels.get(class_key(class_folder.name))
        if label is None:
            raise DataError(f"{class_folder} is not a known class{did_you_mean(class_folder.name, names)}")
        if label in folder_of:
            raise DataError(f"{folder_of[label]} and {class_folder} are the same class {names[label]!r}; merge the two folders")
        folder_of[label] = class_folder
        pictures = _pictures_below(class_folder)
        if not pictures:
            raise DataError(f"class folder {class_folder} holds no picture (jpg, png, webp, ...); add some or remove the folder")
        records += [Record(picture=path, label=label) for path in pictures]
    records.sort(key=lambda record: record.label)  # stable: within a class the pictures stay sorted
    return PictureSet(root=folder, class_names=names, records=tuple(records))


def list_pictures(sources: str | Path | Sequence[str | Path]) -> list[Path]:
    """The picture files that a person means, in their order and without repeats.

    Each source is a file (taken whatever its suffix), a folder (all pictures in it and deeper) or a pattern with ``*``, ``?``,
    ``[...]`` or ``**``. A file that has just this name wins over the pattern.

    Raises:
        DataError: a source matches nothing; the message names it.
    """
    return list(iter_pictures(sources))


def iter_pictures(sources: str | Path | Sequence[str | Path]) -> Iterator[Path]:
    """The same files one after the other: of what is in folders, no more than the names in one of them are in memory at a time.

    Raises:
        DataError: as :func:`list_pictures`; for a folder that cannot be read, or holds nothing, once its turn has come.
    """
    if isinstance(sources, str | Path):
        sources = [sources]
    if not sources:
        raise DataError("no picture was given; name picture files, a folder or a pattern such as 'photos/*.jpg'")
    paths = [Path(source).expanduser() for source in sources]
    for source, path in zip(sources, paths, strict=True):
        if not (path.exists() or path.is_symlink() or glob.has_magic(str(path))):
            raise DataError(f"there is no picture, folder or pattern {str(source)!r}; check the path")
    # A folder's real name, so that a circle of links repeats nothing; the file's own: a link to a picture counts.
    folders: set[str] = set()
    files: set[str] = set()
    for source, path in zip(sources, paths, strict=True):
        matches = [path] if path.exists() or path.is_symlink() else _matching(str(path))
        found = False
        for match in matches:
            if match.is_dir():
                for picture in _walk(match, folders, files):
                    found = True
                    if picture is not None:
                        yield picture
                continue
            found = True
            parent = os.path.realpath(match.parent)
            name = os.path.join(parent, match.name)
            if name in files or (parent in folders and _is_ours(match.name) and _is_picture(match)):
                continue
            files.add(name)
            yield match
        if not found:
            raise DataError(f"no picture matches {str(source)!r}; pictures end in .jpg, .png, .webp and the like")


def _matching(pattern: str) -> list[Path]:
    matches: list[Path] = []
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if "**" not in pattern if path.is_dir() else _is_picture(path):
            matches.append(path)
    return matches


def part_folders(folder: Path) -> dict[str, Path]:
    """The sub-folders of a folder that is split into train, val and test, by part; empty where it is not.

    Raises:
        DataError: two sub-folders are the same part, such as val/ and validation/, or a folder cannot be read.
    """
    folders = {path.name: path for path in _visible(folder)[0]}
    inside = {
        name: [path.name for path in _visible(path)[0]] if name.casefold() in PART_NAMES else [] for name, path in folders.items()
    }
    return {part: folders[name] for name, part in parts_among(inside, folder).items()}


def has_folders_of_pictures(folder: Path, not_in: Collection[Path] = ()) -> bool:
    """Whether a picture lies in a sub-folder, at any depth; of the sub-folders ``not_in`` only what is deeper counts.

    Raises:
        DataError: a folder cannot be read.
    """
    return any(has_folders_of_pictures(inside) if inside in not_in else _pictures_below(inside) for inside in _visible(folder)[0])


def loose_pictures(folder: Path) -> list[Path]:
    """The pictures right in a folder, sorted.

    Raises:
        DataError: it cannot be read.
    """
    return [path for path in _visible(folder)[1] if _is_picture(path)]


def _is_picture(path: Path | str) -> bool:
    return os.path.splitext(path)[1].lower() in PICTURE_SUFFIXES


def _is_ours(name: str) -> bool:
    return not name.startswith(".") and name not in _NEVER_OURS


def _visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """The sub-folders of a folder and all else in it, without what is hidden and runs of training; both sorted."""
    folders, others = _names(folder)
    return sorted(folder / name for name in folders), sorted(folder / name for name in others)


def _names(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the same, in no order."""
    folders: list[str] = []
    others: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_ours(entry.name):
                    if not _is_folder(entry):
                        others.append(entry.name)
                    elif not _is_run(folder / entry.name):
                        folders.append(entry.name)
    except OSError as problem:
        raise DataError(f"{folder} cannot be read: {problem.strerror}; change its rights or leave it out") from problem
    return folders, others


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_run(folder: Path) -> bool:
    """Whether a training run was written here: its folder is no class, wherever it was put."""
    try:
        with (folder / "run.json").open("rb") as file:
            return b'"promptmix-run"' in file.read(_START_OF_RUN)
    except OSError:
        return False


def _pictures_below(folder: Path) -> list[Path]:
    """Pictures in a folder and deeper, sorted by path. A link back to where the walk came from is not followed."""
    return [picture for picture in _walk(folder, set(), set()) if picture is not None]


def _walk(folder: Path, seen: set[str], but: Collection[str]) -> Iterator[Path | None]:
    """The pictures of :func:`_pictures_below` one after the other; None for one that is left out.

    Args:
        seen: real names of folders that were walked before, which stand for a picture that is left out; those walked here are added.
        but: pictures to leave out, by the real name of their folder and their own.
    """
    top = os.path.realpath(folder)
    walked: set[str] = set()
    # A folder is sorted with the "/" that follows it in the paths of its pictures, so that these come sorted.
    pending: list[tuple[Path, str, Iterator[str]]] = [(folder.parent, "", iter([folder.name + "/"]))]
    while pending:
        current, real, names = pending[-1]
        name = next(names, None)
        if name is None:
            pending.pop()
        elif not name.endswith("/"):
            yield None if but and os.path.join(real, name) in but else current / name
        else:
            inside = folder if len(pending) == 1 else current / name[:-1]
            real = os.path.realpath(inside)
            leads_above = top != real and top.startswith(real.rstrip(os.sep) + os.sep)
            if real in seen:
                yield None
            if real in seen or real in walked or leads_above:
                continue
            walked.add(real)
            folders, others = _names(inside)
            both = [f"{one}/" for one in folders] + [one for one in others if _is_picture(one)]
            pending.append((inside, real, iter(sorted(both))))
    seen |= walked
