"""Options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "SOURCES",
    "Abstain",
    "BackboneOption",
    "Cache",
    "Classes",
    "Description",
    "Device",
    "ImageColumn",
    "Json",
    "LabelColumn",
    "LabelSets",
    "Precision",
    "SkipBad",
    "Synonyms",
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option(help="What the backbone calculates in: auto (fp32), fp32, bf16 or fp16.")]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="Keep image features on disk (PROMPTMIX_CACHE says where).")]
BackboneOption = Annotated[str | None, typer.Option(help="Where the model's backbone lies now, if elsewhere.")]
SOURCES = "Folder with one sub-folder a class or with train/ and test/; table; .tar; saved data set; or hf:owner/name."
ImageColumn = Annotated[str | None, typer.Option(help="Column of a table or data set that holds the pictures or their paths.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of a table or data set that holds the labels.")]
Classes = Annotated[
    Path | None, typer.Option("--classes", help="File with the classes in their order, a line each, or YAML 'label: name'.")
]
Abstain = Annotated[
    str | None, typer.Option(help="When to answer 'none of these': precision=0.95 (of the answers) or coverage=0.9 (answered).")
]
LabelSets = Annotated[float | None, typer.Option(help="Label sets that hold the true class so often, such as 0.9.")]
Synonyms = Annotated[list[str] | None, typer.Option("--synonym", help="Another name for the class; repeatable.")]
Description = Annotated[str | None, typer.Option(help="What follows the name in the prompts, after a comma.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read, and say which.")]
