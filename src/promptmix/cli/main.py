"""The command line: verbs, exit codes, one-line errors. Each verb's work is in its own file, imported when it is called.

Exit codes: 0 done, 1 failed, 2 usage, 3 bad config, 4 bad or missing data, 5 backbone or model problem, 6 out of memory,
130 interrupted (a checkpoint was written).
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from promptmix.errors import PromptMixError

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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="Keep image features on disk (PROMPTMIX_CACHE says where).")]
BackboneOption = Annotated[str | None, typer.Option(help="Where the model's backbone lies now, if elsewhere.")]


@app.command(epilog="Example: promptmix train photos/ --out model --shots 16")
def train(
    source: Annotated[Path, typer.Argument(help="Folder with one sub-folder of pictures a class.")],
    out: Annotated[Path, typer.Option(help="Run folder to write; the model is in its model/.")],
    test: Annotated[
        Path | None, typer.Option(help="Folder of test pictures; without it some training pictures are held out.")
    ] = None,
    method: Annotated[str, typer.Option(help="mocoop, coop, linear-probe, zero-shot or ensemble.")] = "mocoop",
    backbone: Annotated[str, typer.Option(help="'bundled' (pictograms, not photographs) or a folder with a CLIP.")] = "bundled",
    shots: Annotated[int | None, typer.Option(help="Pictures of each class to learn from; the rest is measured on.")] = None,
    hold_out: Annotated[float, typer.Option(help="Share held out to measure on, without --shots and --test.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 1,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training pictures.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any option: method.top_k=3, recipe.rate=0.01.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away the run that is there.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read.")] = False,
    device: Device = "auto",
    cache: Cache = True,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn from a folder of pictures, measure beside zero-shot, save a model."""
    from promptmix.cli import train as verb

    verb.train(
        source,
        out,
        test,
        method,
        backbone,
        shots,
        hold_out,
        seed,
        epochs,
        settings or [],
        resume,
        overwrite,
        skip_bad,
        device,
        cache,
        json_output,
        quiet,
    )


@app.command("eval", epilog="Example: promptmix eval model photos/test")
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    source: Annotated[Path, typer.Argument(help="Folder with one sub-folder of pictures a class.")],
    backbone: BackboneOption = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read.")] = False,
    device: Device = "auto",
    cache: Cache = True,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model on labelled pictures, beside zero-shot on the same pictures."""
    from promptmix.cli import evaluate as verb

    verb.evaluate(model, source, backbone, skip_bad, device, cache, json_output, quiet)


@app.command(epilog="Example: promptmix predict model new/*.jpg --csv")
def predict(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    sources: Annotated[list[str], typer.Argument(help="Pictures, patterns or folders.")],
    csv_output: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
    top: Annotated[int, typer.Option(min=1, help="Classes to list in JSON.")] = 5,
    backbone: BackboneOption = None,
    device: Device = "auto",
    cache: Cache = True,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON line a picture on stdout.")] = False,
    quiet: Quiet = False,
) -> None:
    """Say what is on pictures: class, probability, and the prompts that answered."""
    from promptmix.cli import predict as verb

    verb.predict(model, sources, csv_output, top, backbone, device, cache, json_output, quiet)


@app.command(epilog="Example: promptmix info bundled")
def info(
    what: Annotated[str, typer.Argument(help="'bundled', a backbone folder, a model folder or a run folder.")] = "bundled",
    json_output: Json = False,
) -> None:
    """Show what a backbone or a model is."""
    from promptmix.cli import info as verb

    verb.info(what, json_output)


@classes_app.command("list", epilog="Example: promptmix classes list model")
def classes_list(model: Annotated[Path, typer.Argument(help="Model or run folder.")], json_output: Json = False) -> None:
    """Print a model's classes, one a line."""
    from promptmix.cli import classes as verb

    verb.list_classes(model, json_output)


@classes_app.command("add", epilog="Example: promptmix classes add model okapi quokka")
def classes_add(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    names: Annotated[list[str], typer.Argument(help="Class names.")],
    backbone: BackboneOption = None,
) -> None:
    """Add classes by name."""
    from promptmix.cli import classes as verb

    verb.add(model, names, backbone)


@classes_app.command("remove", epilog="Example: promptmix classes remove model okapi")
def classes_remove(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    names: Annotated[list[str], typer.Argument(help="Class names.")],
) -> None:
    """Remove classes by name."""
    from promptmix.cli import classes as verb

    verb.remove(model, names)


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="promptmix: %(message)s", stream=sys.stderr)
    _settings["debug"] = debug


_settings = {"debug": False}


def run() -> None:
    """Entry point: any error of ours becomes one line on stderr and its exit code."""
    try:
        app()
    except PromptMixError as problem:
        if _settings["debug"]:
            raise
        sys.stderr.write(f"promptmix: {problem}\n")
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("promptmix: interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except MemoryError:
        sys.stderr.write("promptmix: out of memory; use fewer classes, experts or a smaller batch size\n")
        sys.exit(6)
