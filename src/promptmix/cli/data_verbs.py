"""promptmix data: what its verbs do."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path

from promptmix.backbones.base import Backbone
from promptmix.backbones.registry import BUNDLED, load_backbone
from promptmix.cli.output import progress
from promptmix.data.check import Report, check_pictures, read_leniently
from promptmix.data.findings import Finding, Item, Level
from promptmix.data.make_split import make_split
from promptmix.data.read import Columns, part_to_measure, read_parts
from promptmix.data.records import PictureSet
from promptmix.data.splits import is_split_file, write_split
from promptmix.data.unpack import unpack as unpack_archives
from promptmix.errors import ConfigError, DataError, listed, printable
from promptmix.methods.mocoop import MixtureOfPromptsConfig
from promptmix.prompts.assemble import framed
from promptmix.prompts.templates import load_bank

logger = logging.getLogger(__name__)

_EXAMPLES = 5
_LONGEST_CASE = 200  # characters
_HEADINGS: dict[Level, str] = {
    "error": "Training would stop, or could not work",
    "serious": "The numbers could not be trusted",
    "warning": "Worth mending",
    "note": "Good to know",
}


def check(
    source: str,
    test: str | None,
    image_column: str | None,
    label_column: str | None,
    classes: Path | None,
    backbone: str | None,
    shots: int | None,
    hold_out: float,
    skip_bad: bool,
    strict: bool,
    json_output: bool,
) -> None:
    if not 0 <= hold_out < 1:
        raise ConfigError(f"--hold-out {hold_out} is not a share; give a number from 0 to below 1, such as 0.2")
    if shots is not None and shots < 1:
        raise ConfigError(f"--shots {shots} must be at least 1")
    columns = Columns(image=image_column, label=label_column)
    parts, refusal = read_leniently(source, columns=columns, classes_file=classes)
    if "train" not in parts:
        raise DataError(f"{source} has no training pictures, only {', '.join(parts)}")
    if test is not None:
        parts["test"] = _test_pictures(test, parts["train"], columns, classes)
    loaded = load_backbone(backbone or BUNDLED, with_vision=False, device="cpu")
    _, tokenizer = loaded.require_text()
    input_size = loaded.config.preprocess.crop
    with progress() as on_progress:
        report = check_pictures(
            parts,
            encode=tokenizer.encode,
            most_tokens=_room_for_names(loaded),
            input_size=input_size,
            resize_mode=loaded.config.preprocess.resize_mode,
            shots=shots,
            hold_out=hold_out,
            skip_bad=skip_bad,
            refusal=refusal,
            on_progress=lambda done, total: on_progress("pictures", done, total, ""),
        )
    stops = [finding for finding in report.findings if finding.level == "error"]
    if strict:
        stops += [finding for finding in report.findings if finding.level == "serious"]
    if json_output:
        asked = {"source": source, "test": test, "backbone": loaded.name, "input_size": input_size}
        print(json.dumps({**asked, **report.to_json(), "usable": not stops}))
    else:
        _print_report(report, source)
        about = "; it knows drawings, not photographs: --backbone names another" if loaded.name == BUNDLED else ""
        print(f"\nchecked for backbone {loaded.name} ({input_size} x {input_size} pixels){about}")
        if not stops:
            given = "" if test is None else f" --test {shlex.quote(test)}"
            print(f"next: promptmix train {shlex.quote(source)}{given} --out run")
    if stops:
        raise DataError(f"{source}: to be mended first: {listed(finding.what for finding in stops)}")


def split(
    source: str,
    out: Path,
    image_column: str | None,
    label_column: str | None,
    classes: Path | None,
    shots: int | None,
    hold_out: float | None,
    val: float,
    seed: int,
    skip_bad: bool,
    overwrite: bool,
    json_output: bool,
) -> None:
    if out.exists() and not overwrite:
        raise DataError(f"{out} is there already; pass --overwrite to replace it, or choose another --out")
    if out.exists() and not (out.is_file() and is_split_file(out)):
        raise DataError(f"{out} is there already and is no split file, so it is not replaced; choose another --out")
    parts = read_parts(source, columns=Columns(image=image_column, label=label_column), classes_file=classes)
    with progress() as on_progress:
        made = make_split(
            parts,
            shots=shots,
            hold_out=hold_out,
            val=val,
            seed=seed,
            skip_bad=skip_bad,
            on_progress=lambda done, total: on_progress("pictures", done, total, ""),
        )
    for picture, reason in made.unreadable:
        logger.warning("left out %s %s", printable(picture), printable(reason))
    hashed = write_split(out, made.parts)
    counts = {name: len(part) for name, part in made.parts.items()}
    if json_output:
        said = {
            "split": str(out),
            "split_hash": hashed,
            "pictures": counts,
            "unreadable": [{"path": picture, "reason": reason} for picture, reason in made.unreadable],
            "conflicts": made.conflicts,
            "copies": made.copies,
            "kept_together": made.kept_together,
            "short_classes": made.short_classes,
        }
        print(json.dumps(said))
        return
    print(f"{out}: {_counted(counts)}; hash {hashed}")
    if made.kept_together:
        print(f"note: {made.kept_together} pictures that look like another are on its side, whatever their class")
    if made.copies:
        print(f"note: left out {len(made.copies)} pictures that look like one on another side: {_few(made.copies, source)}")
    if made.conflicts:
        print(f"note: left out {len(made.conflicts)} pictures that are in two classes: {_few(made.conflicts, source)}")
    if made.short_classes:
        few = listed(f"{name} ({count})" for name, count in made.short_classes.items())
        print(f"note: classes with fewer than {shots} different pictures, all in train: {few}")
    if "test" not in made.parts:
        print("note: there is no test part, so a run would be measured on its training pictures")
    drawn = "" if shots is None else f" --shots {shots}"
    print(f"next: promptmix train {shlex.quote(source)} --split {shlex.quote(str(out))}{drawn} --out run")


def unpack(archives: list[Path], out: Path, names: Path | None, max_gigabytes: float, json_output: bool) -> None:
    with progress() as on_progress:
        done = unpack_archives(
            archives,
            out,
            names=names,
            max_gigabytes=max_gigabytes,
            on_progress=lambda number, total, name: on_progress("archives", number, total, name),
        )
    if done.unnamed:
        few = listed(map(printable, done.unnamed), 3)
        logger.warning("%s has no row for %d pictures, which were left out: %s", names, len(done.unnamed), few)
    if json_output:
        sources = [str(path) for path in done.sources]
        print(json.dumps({"out": str(out), "files": done.files, "bytes": done.size, "sources": sources}))
        return
    print(f"{out}: {done.files:,} files, {done.size / 1e6:,.1f} MB")
    if not done.sources:
        print("there are no class folders in it: put the pictures of each class into a folder, or name them with --names")
        return
    others = f"   (or another of the {len(done.sources)} folders of classes there)" if len(done.sources) > 1 else ""
    print(f"next: promptmix data check {shlex.quote(str(done.sources[0]))}{others}")


def _test_pictures(test: str, training: PictureSet, columns: Columns, classes: Path | None) -> PictureSet:
    """The pictures to measure on, with the classes of training, or with their own where these are not the same."""
    try:
        parts = read_parts(test, class_names=training.class_names, columns=columns, classes_file=classes)
    except DataError:
        parts, _ = read_leniently(test, columns=columns, classes_file=classes)
    return parts[part_to_measure(parts, None, test)]


def _room_for_names(backbone: Backbone) -> int:
    """Tokens that are left for a class name in the longest of the usual templates."""
    _, tokenizer = backbone.require_text()
    templates = [template for group in load_bank(MixtureOfPromptsConfig().bank) for template in group.templates]
    most = max(len(tokenizer.encode(template.with_period().fill("a"))) for template in templates) - len(tokenizer.encode("a"))
    return backbone.config.text.context_length - len(framed(tokenizer, ())) - most


def _print_report(report: Report, source: str) -> None:
    parts = _counted(report.counts) if len(report.counts) > 1 else f"{sum(report.counts.values()):,}"
    print(f"{source}: {parts} pictures of {len(report.class_names)} classes")
    for level, heading in _HEADINGS.items():
        findings = [finding for finding in report.findings if finding.level == level]
        if findings:
            print(f"\n{heading}:")
        for finding in findings:
            _print_finding(finding, source)
    if not any(finding.level != "note" for finding in report.findings):
        print("\nNothing to mend was found.")


def _print_finding(finding: Finding, source: str) -> None:
    print(f"{len(finding.items):7,}  {finding.what}")
    if finding.advice:
        print(f"         -> {finding.advice}")
    if finding.level == "note":
        return
    for item in finding.items[:_EXAMPLES]:
        print(f"           {_case(item, source, ' ~ ' if finding.kind.startswith('near_') else ' = ')}")
    if len(finding.items) > _EXAMPLES:
        print(f"           and {len(finding.items) - _EXAMPLES:,} more; --json lists all")


def _case(item: Item, source: str, sign: str) -> str:
    pictures = sign.join(_shown(picture, source) for picture in item.pictures)
    text = ": ".join(part for part in (pictures, ", ".join(map(repr, item.classes)), item.detail) if part)
    text = " ".join(printable(text).split())
    return text if len(text) <= _LONGEST_CASE else f"{text[:_LONGEST_CASE]}..."


def _shown(picture: str, source: str) -> str:
    """A picture's path without what all have in common."""
    return picture.removeprefix(f"{Path(source).expanduser()}/")


def _few(pictures: tuple[str, ...], source: str) -> str:
    return listed((printable(_shown(picture, source)) for picture in pictures), 3)


def _counted(counts: dict[str, int]) -> str:
    return " + ".join(f"{count:,} {name}" for name, count in counts.items())
