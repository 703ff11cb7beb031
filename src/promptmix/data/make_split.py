"""A split of a person's own pictures: who trains and who tests is settled once, and copies of a picture stay on one side."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from promptmix.data.check import look_at, same_pictures
from promptmix.data.records import PARTS, PictureSet, Record
from promptmix.data.sampling import sample_shots
from promptmix.errors import ConfigError, DataError, listed

__all__ = ["Made", "make_split"]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A split, and what became of the pictures that are in no part.

    Attributes:
        parts: train, and val and test where there are any; each picture is in one of them at most.
        unreadable: pictures that cannot be read, each with the reason.
        conflicts: pictures whose very same file lies in another class too: no one knows which is right.
        copies: with shots, pictures that show the same as one that is learnt from; with test pictures that were given, those to
            learn from that show the same as one of these.
        kept_together: how many pictures share a part because they show the same as another in it, of their class or not.
        short_classes: the classes with fewer different pictures than shots, each with how many it has.
    """

    parts: dict[str, PictureSet]
    unreadable: tuple[tuple[str, str], ...]
    conflicts: tuple[str, ...]
    copies: tuple[str, ...]
    kept_together: int
    short_classes: dict[str, int]


def make_split(
    parts: Mapping[str, PictureSet],
    *,
    shots: int | None = None,
    hold_out: float | None = None,
    val: float = 0.0,
    seed: int = 1,
    skip_bad: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Deal the training pictures out to train, val and test; parts that are there already stay as they are.

    With ``shots`` each class gives so many different pictures to learn from, the same that ``promptmix train`` would draw where
    there are no copies; without it all that is not held out. What is held out of a class never exceeds its share.

    Args:
        parts: pictures by part, with the same root and classes; ``train`` must be there.
        hold_out: share of each class's pictures to test on; None: a fifth, or with ``shots`` all that is left.
        val: share of each class's pictures to choose options on.
        skip_bad: leave out pictures that cannot be read, instead of stopping at them.
        on_progress: see :func:`~promptmix.data.check.look_at`.

    Raises:
        ConfigError: a share is not from 0 to below 1, or both together are 1 or more; ``hold_out`` or ``val`` where the source
            has such a part; or ``hold_out`` together with ``shots``.
        DataError: there is no train part, a picture cannot be read (without ``skip_bad``), or a class would have nothing to learn
            from.
    """
    if "train" not in parts:
        raise DataError(f"there are no training pictures to split, only {', '.join(parts)}")
    _check_shares(parts, shots, hold_out, val)
    share = hold_out if hold_out is not None else 0.0 if "test" in parts or shots is not None else 0.2
    rows = [(name, record) for name, part in parts.items() for record in part.records]
    looks = look_at([record.picture for _, record in rows], on_progress)
    unreadable = [(str(record.picture), look.problem) for (_, record), look in zip(rows, looks, strict=True) if look.problem]
    if unreadable and not skip_bad:
        more = f" ({len(unreadable)} such pictures)" if len(unreadable) > 1 else ""
        raise DataError(f"{unreadable[0][0]} {unreadable[0][1]}{more}; pass --skip-bad to leave such pictures out")

    copied, alike = same_pictures(looks)
    conflicting = {place for group in copied if len({rows[place][1].label for place in group}) > 1 for place in group}
    group_of = list(range(len(rows)))
    for group in (*copied, *alike):  # who looks alike comes last: these groups hold whole groups of copies
        for place in group:
            group_of[place] = group[0]
    usable = [place for place, look in enumerate(looks) if not look.problem and place not in conflicting]
    given = {group_of[place] for place in usable if rows[place][0] != "train"}
    copies = [place for place in usable if rows[place][0] == "train" and group_of[place] in given]

    # One picture of each group stands for all of them in its class: the first by name. A group may reach across classes.
    training = parts["train"]
    place_of = {rows[place][1]: place for place in usable if rows[place][0] == "train"}
    members: dict[int, list[Record]] = {}
    for place in usable:
        part, record = rows[place]
        if part == "train" and group_of[place] not in given:
            members.setdefault(group_of[place], []).append(record)
    first_of: dict[tuple[int, int], Record] = {}
    for number, group_records in members.items():
        group_records.sort(key=lambda record: str(record.picture))
        for record in group_records:
            first_of.setdefault((record.label, number), record)
    different = PictureSet(root=training.root, class_names=training.class_names, records=tuple(first_of.values()))
    sampled = None if shots is None else sample_shots(different, shots, seed)
    empty = [name for name, count in zip(different.class_names, different.counts(), strict=True) if count == 0]
    if empty:
        raise DataError(f"no picture is left to learn from for {listed(empty)}; promptmix data check says why")

    dealt: dict[str, list[Record]] = {"train": [], "val": [], "test": []}
    left_out: list[Record] = [rows[place][1] for place in copies]
    in_order = sample_shots(different, len(different), seed).pictures.records
    settled: set[int] = set()  # the groups that have a side
    if sampled is not None:
        dealt["train"] += sampled.pictures.records
        chosen = set(dealt["train"])
        settled = {group_of[place_of[record]] for record in chosen}
        left_out += (record for number in sorted(settled) for record in members[number] if record not in chosen)
    every = Counter(record.label for group_records in members.values() for record in group_records)
    room: dict[str, dict[int, int]] = {"val": {}, "test": {}}
    for label, different_ones in enumerate(different.counts()):
        count = every[label] if shots is None else different_ones
        room["val"][label] = math.floor(count * val)
        # With shots all the others are to test on. Test pictures that were given are enough: what is over is in no part then.
        room["test"][label] = math.floor(count * share) if shots is None else 0 if "test" in parts else every[label]
    for first in reversed(in_order):
        number = group_of[place_of[first]]
        if number in settled:
            continue
        settled.add(number)
        needed = Counter(record.label for record in members[number])
        fits = (name for name in ("val", "test") if all(size <= room[name][label] for label, size in needed.items()))
        part = next(fits, "train")
        if part == "train" and shots is not None:
            continue
        if part != "train":
            for label, size in needed.items():
                room[part][label] -= size
        dealt[part] += members[number]

    unlearnt = {record.label for record in different.records} - {record.label for record in dealt["train"]}
    if unlearnt:
        few = listed(different.class_names[label] for label in sorted(unlearnt))
        raise DataError(
            f"with --hold-out {share} and --val {val} no picture is left to learn from for {few}; give smaller shares"
        )

    made: dict[str, PictureSet] = {}
    for name in PARTS:
        # In the order of the source: jumping from one row group of a table to another unpacks each again and again.
        records = tuple(sorted(dealt[name], key=lambda record: place_of[record]))
        if name in parts and name != "train":
            records = tuple(rows[place][1] for place in usable if rows[place][0] == name)
        if records:
            made[name] = PictureSet(root=training.root, class_names=training.class_names, records=records)
    together = sum(len(group_records) for group_records in members.values() if len(group_records) > 1)
    return Made(
        parts=made,
        unreadable=tuple(unreadable),
        conflicts=tuple(str(rows[place][1].picture) for place in sorted(conflicting)),
        copies=tuple(str(record.picture) for record in left_out),
        kept_together=0 if shots is not None else together,
        short_classes={} if sampled is None else sampled.short_classes,
    )


def _check_shares(parts: Mapping[str, PictureSet], shots: int | None, hold_out: float | None, val: float) -> None:
    for option, share in (("--hold-out", hold_out), ("--val", val)):
        if share is not None and not 0 <= share < 1:
            raise ConfigError(f"{option} {share} is not a share; give a number from 0 to below 1, such as 0.2")
    if shots is not None and shots < 1:
        raise ConfigError(f"--shots {shots} must be at least 1")
    if shots is not None and hold_out is not None:
        raise ConfigError("--shots leaves all other pictures to test on, and --hold-out says how many; give one of them")
    if val + (hold_out or 0) >= 1:
        raise ConfigError(f"--hold-out {hold_out} and --val {val} leave nothing to learn from; together they must be below 1")
    for option, part, asked in (("--hold-out", "test", hold_out is not None), ("--val", "val", val > 0)):
        if asked and part in parts:
            raise ConfigError(f"the pictures have a {part} part already; leave out {option}")
