"""All that can be found out about a person's pictures before anything is learnt from them."""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from promptmix.data.check_names import Encode, check_names
from promptmix.data.duplicates import Sketch, look_alikes, sketch
from promptmix.data.findings import LEVELS, Finding, Item
from promptmix.data.images import StoredPicture, content_key, open_picture
from promptmix.data.read import Columns, read_parts
from promptmix.data.records import PictureSet, Record, class_key, clean_class_name
from promptmix.data.sources import list_pictures, part_folders
from promptmix.errors import DataError, listed

__all__ = ["Look", "Report", "check_pictures", "look_at", "read_leniently", "same_pictures"]

_MOST_READERS = 4
_PICTURES_AT_ONCE = 256
_TINY = 32  # pixels of the short side
_HUGE = 25_000_000  # pixels
_LONG = 3  # times as long as wide
_UNBALANCED, _VERY_UNBALANCED = 3, 10  # largest to smallest class
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at a picture shows; ``problem`` says why it cannot be read, else the other facts are there.

    Attributes:
        content: its content key.
        size: width and height as the file has them.
        traits: what is special about the file: ``frames``, ``transparent``, ``cmyk``, ``deep``, ``turned``.
    """

    problem: str = ""
    content: str = ""
    size: tuple[int, int] = (0, 0)
    traits: tuple[str, ...] = ()
    sketch: Sketch | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found.

    Attributes:
        counts: for each part how many pictures it has.
        class_names: of the training part.
        findings: the most serious first.
    """

    counts: dict[str, int]
    class_names: tuple[str, ...]
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """The whole report as plain values."""
        return {
            "pictures": self.counts,
            "class_names": list(self.class_names),
            "findings": [{**asdict(finding), "count": len(finding.items)} for finding in self.findings],
        }


def read_leniently(
    source: str | Path, *, columns: Columns | None = None, classes_file: Path | None = None
) -> tuple[dict[str, PictureSet], str]:
    """The parts of a source, as :func:`~promptmix.data.read.read_parts` reads them, and an empty text.

    A folder that it refuses is read as far as it goes, so that all that is wrong can be told at once; with it comes what was
    refused first. Classes may then have no picture, or equal names.

    Raises:
        DataError: the source is no folder with class folders, and cannot be read; also what else :func:`read_parts` raises.
    """
    try:
        return read_parts(source, columns=columns, classes_file=classes_file), ""
    except DataError as problem:
        folder = Path(source).expanduser()
        if classes_file is not None or not folder.is_dir():
            raise
        parts = {part: _all_of(inside, folder) for part, inside in (part_folders(folder) or {"train": folder}).items()}
        if not parts.get("train", ()):
            raise
        return parts, str(problem)


def _all_of(folder: Path, root: Path) -> PictureSet:
    class_folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    records: list[Record] = []
    for label, class_folder in enumerate(class_folders):
        with contextlib.suppress(DataError):  # it holds no picture, or cannot be read
            records += [Record(picture=picture, label=label) for picture in list_pictures(class_folder)]
    names = tuple(clean_class_name(path.name) for path in class_folders)
    return PictureSet(root=root, class_names=names, records=tuple(records))


def look_at(
    pictures: Sequence[Path | StoredPicture], on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Look]:
    """Look at each picture once, in several threads; no more pictures than threads are in memory at a time.

    Args:
        on_progress: called now and then with the number of pictures done and of all.
    """
    looks: list[Look] = []
    with (
        # Filters of warnings belong to the whole process, so they are set here and not in the threads.
        warnings.catch_warnings(),
        ThreadPoolExecutor(min(_MOST_READERS, os.cpu_count() or 1), thread_name_prefix="promptmix-check") as readers,
    ):
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for first in range(0, len(pictures), _PICTURES_AT_ONCE):
            looks += readers.map(_look, pictures[first : first + _PICTURES_AT_ONCE])
            on_progress(len(looks), len(pictures))
    return looks


def _look(picture: Path | StoredPicture) -> Look:
    name = str(picture)
    try:
        source: Path | bytes
        if isinstance(picture, Path):
            source = picture
        else:
            source = picture.read()  # once: a row of a table is slow to reach
            name = f"the picture of {len(source)} bytes"
        content = content_key(source)
        image = open_picture(source)
    except DataError as problem:
        return Look(problem=str(problem).removeprefix(str(picture)).removeprefix(name).strip())
    size, traits = _traits(source)
    return Look(content=content, size=size or image.size, traits=traits, sketch=sketch(image))


def _traits(source: Path | bytes) -> tuple[tuple[int, int] | None, tuple[str, ...]]:
    """Size and traits of a picture that is known to be one, from its header."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            traits = {
                "frames": bool(getattr(image, "is_animated", False)),
                "transparent": image.has_transparency_data,
                "cmyk": image.mode == "CMYK",
                "deep": image.mode == "F" or image.mode.startswith("I"),
                "turned": image.getexif().get(_ORIENTATION_TAG, 1) in range(2, 9),
            }
            return image.size, tuple(name for name, has in traits.items() if has)
    except Exception:  # damaged headers raise nearly anything; the pixels were read all the same
        return None, ()


def check_pictures(
    parts: Mapping[str, PictureSet],
    *,
    encode: Encode,
    most_tokens: int,
    input_size: int,
    resize_mode: Literal["short_side", "squash"] = "short_side",
    shots: int | None = None,
    hold_out: float = 0.2,
    skip_bad: bool = False,
    refusal: str = "",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Look at all pictures and names of the parts ``train``, ``val`` and ``test``, of which ``train`` must be there.

    The parts need not have the same classes: where they differ is found too. A class is known by its name, as
    :func:`~promptmix.data.records.class_key` compares names.

    Args:
        encode, most_tokens: see :func:`~promptmix.data.check_names.check_names`.
        input_size: pixels of a side of the backbone's input.
        resize_mode: how a picture comes to this size: ``short_side`` and a square cut from the middle, or ``squash``.
        shots, hold_out: what training would be told.
        skip_bad: pictures that cannot be read would be left out.
        refusal: what :func:`read_leniently` said; it is a finding where no other says why training would stop.
        on_progress: see :func:`look_at`.
    """
    training = parts["train"]
    seen = [
        _Seen(part=name, class_name=part.class_names[record.label], picture=record.picture)
        for name, part in parts.items()
        for record in part.records
    ]
    looks = look_at([one.picture for one in seen], on_progress)
    readable = Counter(
        class_key(one.class_name) for one, look in zip(seen, looks, strict=True) if one.part == "train" and not look.problem
    )
    findings = [
        *_about_classes(training.class_names, readable, shots, None if "test" in parts else hold_out),
        *_about_nesting(training),
        *_about_parts(parts),
        *_about_files(seen, looks, input_size, resize_mode, skip_bad),
        *_about_copies(seen, looks),
        *check_names(training.class_names, encode, most_tokens),
    ]
    if refusal and not any(finding.level == "error" and finding.items for finding in findings):
        findings.append(Finding(kind="refused", level="error", what="the pictures as a whole", items=(Item(detail=refusal),)))
    found = sorted((finding for finding in findings if finding.items), key=lambda finding: LEVELS.index(finding.level))
    return Report(
        counts={name: len(part) for name, part in parts.items()}, class_names=training.class_names, findings=tuple(found)
    )


@dataclass(frozen=True, kw_only=True)
class _Seen:
    part: str
    class_name: str
    picture: Path | StoredPicture


# ------------------------------------------------------------------------------------------------------------- classes


def _about_classes(
    class_names: Sequence[str], readable: Mapping[str, int], shots: int | None, hold_out: float | None
) -> list[Finding]:
    """How many pictures the classes have. ``hold_out``: None where there are test pictures."""
    counts = {name: readable[class_key(name)] for name in class_names}

    def classes(chosen: Callable[[int], bool]) -> tuple[Item, ...]:
        return tuple(Item(classes=(name,), detail=_of(count, "picture")) for name, count in counts.items() if chosen(count))

    findings = [
        Finding(
            kind="too_few_classes",
            level="error",
            what="fewer than two classes",
            advice="a classifier needs at least two to tell apart",
            items=(Item(classes=tuple(class_names)),) if len(class_names) < 2 else (),
        ),
        Finding(
            kind="empty_classes",
            level="error",
            what="classes without a picture that can be read",
            advice="add pictures, or remove the class; names without pictures can be given to train as --more-class",
            items=classes(lambda count: count == 0),
        ),
    ]
    if shots is not None:
        findings.append(
            Finding(
                kind="few_shots",
                level="warning",
                what=f"classes with fewer pictures than --shots {shots}",
                advice="all of them would be learnt from; add some, or ask for fewer shots",
                items=classes(lambda count: 0 < count < shots),
            )
        )
    else:
        findings.append(
            Finding(
                kind="single_pictures",
                level="warning",
                what="classes with only one picture to learn from",
                advice="add some: 16 are plenty, 4 are much better than one",
                items=classes(lambda count: count == 1),
            )
        )
    if hold_out is not None:
        way = f"--shots {shots}" if shots is not None else f"--hold-out {hold_out:g}"

        def left(count: int) -> int:
            return count - shots if shots is not None else math.floor(count * hold_out)

        findings.append(
            Finding(
                kind="unmeasured_classes",
                level="warning",
                what=f"classes of which {way} leaves no picture to measure on",
                advice="add pictures, or give test pictures of your own",
                items=classes(lambda count: count > 0 and left(count) <= 0),
            )
        )
    most, least = max(counts.values(), default=0), min((count for count in counts.values() if count), default=0)
    if least and most >= _UNBALANCED * least and (shots is None or least < shots):
        findings.append(
            Finding(
                kind="unbalanced",
                level="warning" if most >= _VERY_UNBALANCED * least else "note",
                what=f"uneven classes: those with the fewest pictures ({least}) and with the most ({most})",
                advice="large ones may win too often: cut all to one number with --shots, or add pictures to the small ones",
                items=tuple(
                    Item(classes=(name,), detail=_of(count, "picture"))
                    for name, count in sorted(counts.items(), key=lambda entry: entry[1])
                    if count in (least, most)
                ),
            )
        )
    return findings


def _about_nesting(training: PictureSet) -> list[Finding]:
    """Folders of classes taken for classes, such as train/ beside another folder, or one folder for each style."""
    inside: dict[int, set[str]] = {label: set() for label in range(len(training.class_names))}
    for record in training.records:
        if isinstance(record.picture, Path):
            inside[record.label].add(class_key(record.picture.parent.name))
    seen_in = Counter(name for names in inside.values() for name in names)
    shared = {name for name, count in seen_in.items() if count > 1}
    folders = Counter(str(record.picture.parent.parent) for record in training.records if isinstance(record.picture, Path))
    largest = max(folders, key=lambda folder: folders[folder], default="")
    return [
        Finding(
            kind="nested",
            level="serious",
            what="classes that hold folders of the same names, as if those were the classes",
            advice=f"if they are, give one of the folders that hold them, such as {largest} (and test pictures with --test)",
            items=tuple(
                Item(classes=(name,), detail=f"holds {listed(sorted(inside[label] & shared), 3)}")
                for label, name in enumerate(training.class_names)
                if len(inside[label] & shared) > 1
            ),
        )
    ]


def _about_parts(parts: Mapping[str, PictureSet]) -> list[Finding]:
    """Classes that one part has pictures of and another not."""
    with_pictures = {name: {class_key(part.class_names[label]) for label in set(part.labels)} for name, part in parts.items()}
    known = {class_key(name) for name in parts["train"].class_names}
    findings: list[Finding] = []
    for name, part in parts.items():
        if name == "train":
            continue
        findings += [
            Finding(
                kind="unknown_classes",
                level="error",
                what=f"classes of the {name} pictures that the training pictures do not have",
                advice="name the folders alike, or leave these out",
                items=tuple(Item(classes=(one,)) for one in part.class_names if class_key(one) not in known),
            ),
            Finding(
                kind="unmeasured_classes",
                level="warning",
                what=f"classes without {name} pictures",
                advice="their accuracy will not be known",
                items=tuple(
                    Item(classes=(one,)) for one in parts["train"].class_names if class_key(one) not in with_pictures[name]
                ),
            ),
        ]
    return findings


# --------------------------------------------------------------------------------------------------------------- files


def _about_files(
    seen: Sequence[_Seen], looks: Sequence[Look], input_size: int, resize_mode: str, skip_bad: bool
) -> list[Finding]:
    def pictures(chosen: Callable[[Look], bool], detail: Callable[[Look], str] = lambda look: "") -> tuple[Item, ...]:
        return tuple(
            Item(pictures=(str(one.picture),), detail=detail(look)) for one, look in zip(seen, looks, strict=True) if chosen(look)
        )

    def size(look: Look) -> str:
        return f"{look.size[0]} x {look.size[1]}"

    def has(trait: str) -> tuple[Item, ...]:
        return pictures(lambda look: trait in look.traits)

    def short_side(look: Look) -> int:
        return input_size if look.problem else min(look.size)

    tiny = min(_TINY, input_size)
    return [
        Finding(
            kind="unreadable",
            level="warning" if skip_bad else "error",
            what="pictures that cannot be read",
            advice="would be left out" if skip_bad else "mend or remove them, or leave them out with --skip-bad",
            items=pictures(lambda look: bool(look.problem), lambda look: look.problem),
        ),
        Finding(
            kind="tiny",
            level="warning",
            what=f"pictures with a side of less than {tiny} pixels",
            advice="there is little to be seen on them; use larger ones",
            items=pictures(lambda look: short_side(look) < tiny, size),
        ),
        Finding(
            kind="blank",
            level="warning",
            what="pictures nearly of one colour",
            advice="look whether they show what they should",
            items=pictures(lambda look: look.sketch is not None and look.sketch.hash is None),
        ),
        Finding(
            kind="small",
            level="note",
            what=f"pictures smaller than the backbone's input of {input_size} pixels",
            advice="they are enlarged, and look blurred to it",
            items=pictures(lambda look: tiny <= short_side(look) < input_size, size),
        ),
        Finding(
            kind="huge",
            level="note",
            what=f"pictures of more than {_HUGE // 1_000_000} million pixels",
            advice="reading them is slow; smaller copies do as well",
            items=pictures(lambda look: look.size[0] * look.size[1] > _HUGE, size),
        ),
        Finding(
            kind="long",
            level="note",
            what=f"pictures more than {_LONG} times as long as wide",
            advice=(
                "the backbone squeezes them into a square, in which things look wide or tall; cut them to what matters"
                if resize_mode == "squash"
                else "only the square in the middle is seen; cut them yourself if it shows the wrong thing"
            ),
            items=pictures(lambda look: max(look.size) > _LONG * min(look.size), size),
        ),
        Finding(
            kind="frames",
            level="note",
            what="pictures with several frames or pages",
            advice="the first is used",
            items=has("frames"),
        ),
        Finding(
            kind="transparent",
            level="note",
            what="pictures with transparent parts",
            advice="these become white",
            items=has("transparent"),
        ),
        Finding(
            kind="turned",
            level="note",
            what="pictures that the camera marked as turned",
            advice="they are put upright",
            items=has("turned"),
        ),
        Finding(
            kind="cmyk",
            level="note",
            what="pictures in the colours of printers (CMYK)",
            advice="they become RGB; their colours may be slightly off",
            items=has("cmyk"),
        ),
        Finding(
            kind="deep",
            level="note",
            what="pictures in grey with more than 8 bits a pixel",
            advice="they become 8 bits",
            items=has("deep"),
        ),
    ]


# -------------------------------------------------------------------------------------------------------------- copies


def same_pictures(looks: Sequence[Look]) -> tuple[list[list[int]], list[list[int]]]:
    """The places of pictures that are copies: groups of two or more with the same content, and groups of two or more contents
    that look alike. Pictures that cannot be read are in no group."""
    places: dict[str, list[int]] = {}
    for place, look in enumerate(looks):
        if look.content:
            places.setdefault(look.content, []).append(place)
    contents = list(places.values())
    sketched = [(group, one) for group in contents if (one := looks[group[0]].sketch) is not None]
    found = look_alikes([one for _, one in sketched])
    alike = [sorted(place for number in group for place in sketched[number][0]) for group in found]
    return [group for group in contents if len(group) > 1], alike


def _about_copies(seen: Sequence[_Seen], looks: Sequence[Look]) -> list[Finding]:
    copied, alike = same_pictures(looks)
    return [
        Finding(
            kind="leaks",
            level="serious",
            what="pictures that are both in training and in test: the same file",
            advice="take them out of one of the two, else the test measures memory",
            items=_items(seen, copied, "parts"),
        ),
        Finding(
            kind="conflicts",
            level="serious",
            what="pictures that are in two classes: the same file",
            advice="keep each in the class that is right",
            items=_items(seen, copied, "classes"),
        ),
        Finding(
            kind="near_leaks",
            level="serious",
            what="pictures in training that look like one in test: scaled or compressed copies, or of one series",
            advice="look at them; put what belongs together on one side",
            items=_items(seen, alike, "parts"),
        ),
        Finding(
            kind="near_conflicts",
            level="warning",
            what="pictures that look like one in another class",
            advice="look at them; keep each in the class that is right",
            items=_items(seen, alike, "classes"),
        ),
        Finding(
            kind="copies",
            level="warning",
            what="pictures that are there more than once: the same file",
            advice="keep one of each; a copy teaches nothing new, and may be trained on and measured on",
            items=_items(seen, copied, "neither"),
        ),
        Finding(
            kind="near_copies",
            level="warning",
            what="pictures of one class that look the same: scaled or compressed copies, or of one series",
            advice="promptmix data split keeps them on one side",
            items=_items(seen, alike, "neither"),
        ),
    ]


def _items(seen: Sequence[_Seen], groups: Sequence[Sequence[int]], across: str) -> tuple[Item, ...]:
    """The groups that reach across ``"parts"`` or ``"classes"``, or across ``"neither"``."""
    items: list[Item] = []
    for group in groups:
        parts = {seen[place].part for place in group}
        names = {class_key(seen[place].class_name): seen[place].class_name for place in group}
        wanted = {"parts": len(parts) > 1, "classes": len(names) > 1, "neither": len(parts) == 1 and len(names) == 1}
        if wanted[across]:
            classes = tuple(names.values()) if len(names) > 1 else ()
            items.append(Item(pictures=tuple(str(seen[place].picture) for place in group), classes=classes))
    return tuple(items)


def _of(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
