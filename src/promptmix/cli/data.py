"""promptmix data: the options of its verbs. What they do is in data_verbs.py, imported when one is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptmix.cli.guard import guarded
from promptmix.cli.options import SOURCES, Classes, ImageColumn, Json, LabelColumn, SkipBad

__all__ = ["data_app"]

data_app = typer.Typer(help="Check, split and unpack pictures before anything is learnt from them.", no_args_is_help=True)


@data_app.command("check", epilog="Example: promptmix data check photos/ --test other/ --shots 16")
@guarded
def data_check(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    test: Annotated[str | None, typer.Option(help="Test pictures, as SOURCE, where they are not a part of it.")] = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    classes: Classes = None,
    backbone: Annotated[str | None, typer.Option(help="The backbone to train with; only its words and sizes are used.")] = None,
    shots: Annotated[int | None, typer.Option(help="As you would tell train.")] = None,
    hold_out: Annotated[float, typer.Option(help="As you would tell train.")] = 0.2,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="As you would tell train.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 4 also for test pictures in training and for pictures in two classes.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Find unreadable and doubtful pictures, copies, leaks, uneven classes and bad names; exit with 4 where training would stop."""
    from promptmix.cli import data_verbs as verb

    verb.check(source, test, image_column, label_column, classes, backbone, shots, hold_out, skip_bad, strict, json_output)


@data_app.command("split", epilog="Example: promptmix data split photos/ --out split.json --shots 16 --seed 1")
@guarded
def data_split(
    source: Annotated[str, typer.Argument(help=SOURCES)],
    out: Annotated[Path, typer.Option(help="Split file to write, for train --split.")],
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    classes: Classes = None,
    shots: Annotated[int | None, typer.Option(help="Different pictures of each class to learn from; the rest tests.")] = None,
    hold_out: Annotated[
        float | None, typer.Option(help="Share of each class to test on; 0.2, unless there is a test part.")
    ] = None,
    val: Annotated[float, typer.Option(help="Share of each class to choose options on.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 1,
    skip_bad: SkipBad = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    json_output: Json = False,
) -> None:
    """Settle in a file who trains and who tests; pictures that look the same stay on one side."""
    from promptmix.cli import data_verbs as verb

    verb.split(source, out, image_column, label_column, classes, shots, hold_out, val, seed, skip_bad, overwrite, json_output)


@data_app.command("unpack", epilog="Example: promptmix data unpack photos.tar --out photos")
@guarded
def data_unpack(
    archives: Annotated[list[Path], typer.Argument(help="tar (also gz, bz2, xz) and zip files, or a folder of such.")],
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    names: Annotated[
        Path | None,
        typer.Option(
            help="CSV: first column a picture's file name without ending, column 'name' its class, which becomes a folder."
        ),
    ] = None,
    max_gigabytes: Annotated[float, typer.Option(help="The most that may come out.")] = 20.0,
    json_output: Json = False,
) -> None:
    """Unpack archives of pictures, whoever made them: nothing is written outside the folder, nothing there is overwritten."""
    from promptmix.cli import data_verbs as verb

    verb.unpack(archives, out, names, max_gigabytes, json_output)
