"""promptmix classes: the options of its verbs. What they do is in classes_verbs.py, imported when one is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptmix.cli.guard import guarded
from promptmix.cli.options import BackboneOption, Description, Json, Synonyms

__all__ = ["classes_app"]

classes_app = typer.Typer(help="List a model's classes, or change them by name; nothing is retrained.", no_args_is_help=True)


@classes_app.command("list", epilog="Example: promptmix classes list model")
@guarded
def classes_list(
    model: Annotated[Path, typer.Argument(help="Model or run folder, or hf://owner/name[@revision] on the hub.")],
    json_output: Json = False,
) -> None:
    """Print a model's classes, one a line."""
    from promptmix.cli import classes_verbs as verb

    verb.list_classes(model, json_output)


@classes_app.command("add", epilog="Example: promptmix classes add model okapi quokka")
@guarded
def classes_add(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    names: Annotated[list[str], typer.Argument(help="Class names.")],
    synonyms: Synonyms = None,
    description: Description = None,
    backbone: BackboneOption = None,
) -> None:
    """Add classes by name."""
    if (synonyms or description) and len(names) > 1:
        raise typer.BadParameter("--synonym and --description are of one class; add the classes one by one")
    from promptmix.cli import classes_verbs as verb

    verb.add(model, names, synonyms or [], description, backbone)


@classes_app.command("rename", epilog="Example: promptmix classes rename model cat 'house cat'")
@guarded
def classes_rename(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    old: Annotated[str, typer.Argument(help="The class as it is called now.")],
    new: Annotated[str, typer.Argument(help="Its new name.")],
    synonyms: Synonyms = None,
    description: Description = None,
    backbone: BackboneOption = None,
) -> None:
    """Give a class another name; what is known of it by name is made anew."""
    from promptmix.cli import classes_verbs as verb

    verb.rename(model, old, new, synonyms or [], description, backbone)


@classes_app.command("remove", epilog="Example: promptmix classes remove model okapi")
@guarded
def classes_remove(
    model: Annotated[Path, typer.Argument(help="Model or run folder.")],
    names: Annotated[list[str], typer.Argument(help="Class names.")],
) -> None:
    """Remove classes by name."""
    from promptmix.cli import classes_verbs as verb

    verb.remove(model, names)
