"""Data sets of Hugging Face: saved in a folder, or by name from their hub. Pictures stay in the Arrow files they lie in."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptmix.data.images import FileState, StoredPicture, file_state, refuse_changed
from promptmix.data.listing import Columns, Listed, Listing, pick_column
from promptmix.data.parquet import one_line, plain_values, pyarrow_or_refuse, stored_bytes
from promptmix.data.records import PART_NAMES, PARTS
from promptmix.data.table_rows import label_in
from promptmix.errors import ConfigError, DataError, listed

if TYPE_CHECKING:
    import pyarrow

__all__ = ["HUB_PREFIX", "ArrowPicture", "is_saved_data_set", "iter_hub", "iter_saved", "list_hub", "list_saved"]

_logger = logging.getLogger(__name__)

HUB_PREFIX = "hf:"
_HUB_NAME = re.compile(r"hf:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<configuration>[\w.+-]+))?(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile("[0-9a-f]{40}")
_SECONDS_TO_ANSWER = 10.0


@dataclass(frozen=True, kw_only=True)
class ArrowPicture(StoredPicture):
    """A picture in a row of an Arrow file.

    Attributes:
        file: the Arrow file, in the format of streams.
        column: holds ``{bytes, path}`` or bytes.
        row: its row in the file.
        state: of the file when it was listed.
    """

    name: str
    file: Path
    state: FileState
    column: str
    row: int

    def read(self) -> bytes:
        refuse_changed(self.name, self.file, self.state, file_state(self.file))
        column = _arrow_table(self.file, self.state, os.getpid()).column(self.column)
        return stored_bytes(column[self.row], self.name, self.file.parent)


@lru_cache(maxsize=32)
def _arrow_table(file: Path, state: FileState, process: int) -> pyarrow.Table:
    """The table in a file of this state, mapped and not read; a process opens its own."""
    import pyarrow

    try:
        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all()
    except (pyarrow.ArrowException, OSError) as problem:
        raise DataError(f"{file} cannot be read: {one_line(problem)}") from problem


def is_saved_data_set(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def list_saved(folder: Path, columns: Columns | None = None, *, labelled: bool = True) -> Listing:
    """The pictures of a data set that ``save_to_disk`` wrote; its splits are the parts.

    Raises:
        DataError: the data set is damaged, or has no pictures or labels.
        ConfigError: there is no column of a given name, or the package ``datasets`` is missing.
    """
    return _list(_load_saved(folder), folder, _saved_name(folder), columns or Columns(), labelled)


def iter_saved(folder: Path, columns: Columns | None = None) -> Iterator[ArrowPicture]:
    """The pictures of such a data set one after the other, in all its splits, without labels.

    Raises:
        DataError, ConfigError: as :func:`list_saved`.
    """
    return _iter(_load_saved(folder), folder, _saved_name(folder), columns or Columns())


def _saved_name(folder: Path) -> str:
    return folder.name or "data set"


def _load_saved(folder: Path) -> Any:
    _refuse_missing_package(folder)
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except Exception as problem:  # damaged files make it raise nearly anything
        raise DataError(f"{folder} is no data set that can be read: {one_line(problem)}") from problem


def list_hub(source: str, columns: Columns | None = None, *, labelled: bool = True) -> Listing:
    """The pictures of a data set by its name on the Hugging Face hub, ``hf:owner/name``; it is downloaded and kept in the cache
    of Hugging Face.

    ``hf:owner/name:configuration@revision`` says which configuration and revision. With HF_HUB_OFFLINE=1, and where the hub
    cannot be reached, it is what was downloaded last. Code of a data set is never run. The root of the listing is
    ``hf:owner/name@commit``, without the commit where it is not known.

    Raises:
        DataError: the name is none, there is no such data set, it cannot be reached and was not downloaded, what was downloaded
            is of another commit than was asked for, or it has no pictures or labels.
        ConfigError: there is no column of a given name, or the package ``datasets`` is missing.
    """
    loaded, root, name = _load_hub(source)
    return _list(loaded, root, name, columns or Columns(), labelled)


def iter_hub(source: str, columns: Columns | None = None) -> Iterator[ArrowPicture]:
    """The pictures of such a data set one after the other, in all its splits, without labels.

    Raises:
        DataError, ConfigError: as :func:`list_hub`.
    """
    loaded, root, name = _load_hub(source)
    return _iter(loaded, root, name, columns or Columns())


def _load_hub(source: str) -> tuple[Any, Path, str]:
    """A data set of the hub, the root of its listing, and its name."""
    asked = _HUB_NAME.fullmatch(source)
    if asked is None:
        raise DataError(
            f"{source!r} is no data set; write hf:owner/name, with :configuration or @revision behind it where needed"
        )
    name = asked["name"]
    if Path(name).exists():  # which would be taken instead
        raise DataError(f"{name} lies here, and {source} is on the hub; give the folder itself, or start elsewhere")
    _refuse_missing_package(source)
    import datasets
    import huggingface_hub

    asked_offline = huggingface_hub.constants.HF_HUB_OFFLINE
    no_answer: Exception | None = None
    try:
        if not asked_offline:
            # Asked once and briefly; loading would ask again and again where there is no network.
            try:
                huggingface_hub.HfApi().dataset_info(name, revision=asked["revision"], timeout=_SECONDS_TO_ANSWER)
            except Exception as problem:
                if _is_an_answer(problem):
                    raise
                no_answer = problem
        with _progress_for_people(), contextlib.nullcontext() if no_answer is None else _offline():
            loaded = datasets.load_dataset(name, asked["configuration"], revision=asked["revision"])
    except Exception as problem:  # of the network, of the hub, of the data set: each has its own errors
        offline = " (HF_HUB_OFFLINE is set)" if asked_offline else ""
        raise DataError(
            f"{source} cannot be had{offline}: {one_line(no_answer or problem)}; check name and network, or download it and give its folder"
        ) from problem
    commit = _commit_of(loaded)
    if asked_offline or no_answer is not None:
        _refuse_another_commit(source, asked["revision"], commit)
    if no_answer is not None:
        _logger.warning("%s: the hub does not answer; what was downloaded last is used, %s", source, commit or "commit unknown")
    return loaded, Path(f"{HUB_PREFIX}{name}" + (f"@{commit}" if commit else "")), name


def _is_an_answer(problem: Exception) -> bool:
    """Whether the hub has said no, and not just nothing."""
    status = getattr(getattr(problem, "response", None), "status_code", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)


def _commit_of(loaded: Any) -> str | None:
    """The commit that a downloaded data set is of: the folder that its files are kept in is called by it."""
    splits = loaded.values() if isinstance(loaded, Mapping) else [loaded]
    folders = {Path(one["filename"]).parent.name for data in splits for one in data.cache_files}
    commit = next(iter(folders), "")
    return commit if len(folders) == 1 and _COMMIT.fullmatch(commit) else None


def _refuse_another_commit(source: str, revision: str | None, commit: str | None) -> None:
    """Without the network a data set is what was downloaded last, of whatever revision."""
    if revision is None or revision == commit:
        return
    what = f"what was downloaded last is of {f'commit {commit}' if commit else 'a commit that is not known'}"
    if _COMMIT.fullmatch(revision):
        raise DataError(f"{source}: {what}, and another cannot be had without the network; leave out @{revision} to use it")
    _logger.warning("%s: %s; whether this is %s cannot be known without the network", source, what, revision)


def _refuse_missing_package(source: object) -> None:
    pyarrow_or_refuse(source)
    try:
        import datasets  # noqa: F401
    except ImportError as problem:
        raise ConfigError(f'reading {source} needs a package that is missing; pip install "promptmix[data]"') from problem


@contextlib.contextmanager
def _progress_for_people() -> Iterator[None]:
    """Bars of downloads only where somebody looks at them."""
    import datasets

    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Data sets are taken from the cache, as with HF_HUB_OFFLINE=1."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _list(loaded: Any, root: Path, name: str, columns: Columns, labelled: bool) -> Listing:
    splits = _splits(loaded)
    parts: dict[str, str | None] = {split: PART_NAMES.get(split.casefold()) for split in splits}
    if labelled and len(splits) > 1:
        unknown = [split for split, part in parts.items() if part is None]
        if len(unknown) == len(splits):
            raise DataError(f"{root} has the splits {listed(splits)}; at least one should be called {', '.join(PARTS)}")
        if unknown:
            _logger.warning("%s: these splits are not train, val or test: %s; left out", root, listed(unknown))
        splits = {split: data for split, data in splits.items() if split not in unknown}
    pictures: list[Listed] = []
    class_names: tuple[str, ...] | None = None
    for split, data in splits.items():
        image, label = _columns(data.features, columns, root, labelled)
        names = getattr(data.features[label], "names", None) if label is not None else None
        class_names = class_names or (tuple(names) if names else None)
        labels: list[Any] = []
        for picture in _arrow_pictures(split, data, image, root, name):
            if picture.row == 0 and label is not None:
                table = _arrow_table(picture.file, picture.state, os.getpid())
                labels = plain_values(table.column(label).chunks, label, picture.file)
            found = label_in(labels[picture.row], picture.name, names) if label is not None else None
            pictures.append(Listed(picture=picture, label=found, part=parts[split], where=picture.name))
    return Listing(root=root, pictures=pictures, class_names=class_names)


def _iter(loaded: Any, root: Path, name: str, columns: Columns) -> Iterator[ArrowPicture]:
    for split, data in _splits(loaded).items():
        image, _ = _columns(data.features, columns, root, False)
        yield from _arrow_pictures(split, data, image, root, name)


def _splits(loaded: Any) -> dict[str, Any]:
    return dict(loaded) if isinstance(loaded, Mapping) else {"": loaded}


def _arrow_pictures(split: str, data: Any, image: str, root: Path, name: str) -> Iterator[ArrowPicture]:
    """The rows of a split, file by file."""
    number = 0
    for file in [Path(one["filename"]) for one in data.cache_files]:
        state = file_state(file)
        for row in range(_arrow_table(file, state, os.getpid()).num_rows):
            where = f"{name}/{split}/{number}" if split else f"{name}/{number}"
            yield ArrowPicture(name=where, file=file, state=state, column=image, row=row)
            number += 1
    if number != len(data):
        raise DataError(f"{root}: {len(data)} rows of {number} are chosen; save it anew with flatten_indices().save_to_disk(...)")


def _columns(features: Mapping[str, Any], columns: Columns, root: Path, labelled: bool) -> tuple[str, str | None]:
    import datasets

    there = list(features)
    of_pictures = [name for name, feature in features.items() if _holds_pictures(feature)]
    image = pick_column("image", columns.image, there, root)
    if columns.image is None and image not in of_pictures:
        image = of_pictures[0] if of_pictures else None
    if image is None or image not in of_pictures:
        raise DataError(
            f"{root} has no pictures in {image or 'its columns'} (they are {listed(there)}); say where with --image-column"
        )
    if not labelled:
        return image, None
    # A usual name counts for more than a kind: another column of few values has numbers with names too.
    others = [name for name in there if name != image]
    of_labels = [name for name in others if isinstance(features[name], datasets.ClassLabel | datasets.Value)]
    of_classes = [name for name in others if isinstance(features[name], datasets.ClassLabel)]
    label = pick_column("label", columns.label, of_labels if columns.label is None else others, root)
    if label is None and len(of_classes) == 1:
        label = of_classes[0]
    if label is None:
        raise DataError(
            f"{root} has no column of labels that is known by its name ({listed(there)}); say which with --label-column"
        )
    return image, label


def _holds_pictures(feature: object) -> bool:
    import datasets

    return isinstance(feature, datasets.Image) or (
        isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")
    )
