"""The command line: verbs and their options. Each verb's work is in its own file, imported when it is called.

Exit codes: 0 done, 1 failed, 2 usage, 3 bad config, 4 bad or missing data, 5 backbone or model problem, 6 out of memory,
130 interrupted (a checkpoint was written).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import promptmix
from promptmix.cli.guard import guarded

__all__ = ["app", "run"]

app = typer.Typer(
    name="promptmix",
    help="Adapt a frozen vision-language model to your own picture classes, by learning a mixture of prompts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
classes_app = typer.Typer(help="List a model's classes, or change them by name; nothing is retrained.", no_args_is_help=True)
app.add_typer(classes_app, name="classes")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="Keep image features on disk (PROMPTMIX_CACHE says where).")]
BackboneOption = Annotated[str | None, typer.Option(help="Where the model's backbone lies now, if elsewhere.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read, and say which.")]


@app.command(epilog="Example: promptmix demo --out promptmix-demo")
@guarded
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write tables, plots, pictures and the model to.")] = Path("promptmix-demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the demo that is there.")] = False,
    cache: Cache = True,
    json_output: Json = False,
) -> None:
    """Train, compare and draw on bundled parts: offline, under a minute."""
    from promptmix.cli import demo as verb

    verb.demo(out, overwrite, cache, json_output)


@app.command(epilog="Example: promptmix train photos/ --out model --shots 16")
@guarded
def train(
    source: Annotated[Path, typer.Argument(help="Folder with one sub-folder of pictures a class.")],
    out: Annotated[Path, typer.Option(help="Run folder to write; the model is in its model/.")],
    test: Annotated[
        Path | None, typer.Option(help="Folder of test pictures; without it some training pictures are held out.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with method, options and recipe; see recipes/.")] = None,
    method: Annotated[str | None, typer.Option(help="mocoop (the default), coop, linear-probe, zero-shot or ensemble.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="'bundled' (the default: pictograms, not photographs) or a folder with a CLIP.")
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Pictures of each class to learn from; the rest is measured on.")] = None,
    hold_out: Annotated[float, typer.Option(help="Share held out to measure on, without --shots and --test.")] = 0.2,
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice; 1 unless told otherwise.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training pictures.")] = None,
    more_classes: Annotated[
        list[str] | None,
        typer.Option("--more-class", help="A class name without pictures, for method.text_classes=all; repeatable."),
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any option: method.top_k=3, recipe.rate=0.01.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run; where there is none, start one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away the run that is there.")] = False,
    skip_bad: SkipBad = False,
    device: Annotated[str | None, typer.Option(help="auto (the default), cpu, cuda or mps.")] = None,
    cache: Cache = True,
    json_output: Json = False,
) -> None:
    """Learn from a folder of pictures, measure beside zero-shot, save a model."""
    if resume and overwrite:
        raise typer.BadParameter("--resume goes on with a run and --overwrite throws it away; give one of them")
    from promptmix.cli import train as verb

    verb.train(
        source,
        out,
        test,
        config,
        method,
        backbone,
        shots,
        hold_out,
        seed,
        epochs,
        more_classes or [],
        settings or [],
        resume,
        overwrite,
        skip_bad,
        device,
        cache,
        json_output,
    )


@app.command("eval", epilog="Example: promptmix eval model photos/test")
@guarded
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    source: Annotated[Path, typer.Argument(help="Folder with one sub-folder of pictures a class.")],
    backbone: BackboneOption = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    cache: Cache = True,
    json_output: Json = False,
) -> None:
    """Measure a model on labelled pictures, beside zero-shot on the same pictures."""
    from promptmix.cli import evaluate as verb

    verb.evaluate(model, source, backbone, skip_bad, device, cache, json_output)


@app.command(epilog="Example: promptmix predict model new/*.jpg --csv")
@guarded
def predict(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    sources: Annotated[list[str], typer.Argument(help="Pictures, patterns or folders.")],
    csv_output: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
    top: Annotated[int, typer.Option(min=1, help="Classes to list in JSON.")] = 5,
    backbone: BackboneOption = None,
    device: Device = "auto",
    cache: Cache = True,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON line a picture on stdout.")] = False,
) -> None:
    """Say what is on pictures: class, probability, and the prompts that answered."""
    if csv_output and json_output:
        raise typer.BadParameter("stdout is either --csv or --json; give one of them")
    from promptmix.cli import predict as verb

    verb.predict(model, sources, csv_output, top, backbone, device, cache, json_output)


@app.command(epilog="Example: promptmix info bundled")
@guarded
def info(
    what: Annotated[str, typer.Argument(help="'bundled', a backbone folder, a model folder or a run folder.")] = "bundled",
    json_output: Json = False,
) -> None:
    """Show what a backbone or a model is."""
    from promptmix.cli import info as verb

    verb.info(what, json_output)


@classes_app.command("list", epilog="Example: promptmix classes list model")
@guarded
def classes_list(model: Annotated[Path, typer.Argument(help="Model or run folder.")], json_output: Json = False) -> None:
    """Print a model's classes, one a line."""
    from promptmix.cli import classes as verb

    verb.list_classes(model, json_output)


@classes_app.command("add", epilog="Example: promptmix classes add model okapi quokka")
@guarded
def classes_add(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    names: Annotated[list[str], typer.Argument(help="Class names.")],
    backbone: BackboneOption = None,
) -> None:
    """Add classes by name."""
    from promptmix.cli import classes as verb

    verb.add(model, names, backbone)


@classes_app.command("remove", epilog="Example: promptmix classes remove model okapi")
@guarded
def classes_remove(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    names: Annotated[list[str], typer.Argument(help="Class names.")],
) -> None:
    """Remove classes by name."""
    from promptmix.cli import classes as verb

    verb.remove(model, names)


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"promptmix {promptmix.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Adapt a frozen vision-language model to your own picture classes, by learning a mixture of prompts."""


def run() -> None:
    """Entry point of the command ``promptmix``."""
    app(prog_name="promptmix")
