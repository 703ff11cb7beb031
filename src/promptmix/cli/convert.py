"""promptmix convert"""

from __future__ import annotations

import json
from pathlib import Path

from promptmix.backbones.registry import load_backbone
from promptmix.data.classes import read_classes_file
from promptmix.data.read import read_parts
from promptmix.inference.coop_checkpoint import convert_checkpoint, read_checkpoint
from promptmix.model_folder import refuse_overwrite, write_model


def convert(file: Path, backbone: str, classes: Path, out: Path, position: str, overwrite: bool, json_output: bool) -> None:
    refuse_overwrite(out, overwrite)
    checkpoint = read_checkpoint(file)
    model = convert_checkpoint(checkpoint, load_backbone(backbone, device="cpu"), _class_names(classes), position)
    write_model(out, model, overwrite=overwrite)
    notes = model.training["notes"]
    if json_output:
        print(json.dumps({"model": str(out), "classes": len(model.class_names), "options": model.options, "notes": notes}))
        return
    own = "one for each class" if model.options["class_specific"] else "shared by all classes"
    print(f"{model.options['context_tokens']} context vectors, {own}, from {file}; {len(model.class_names)} classes")
    for note in notes:
        print(f"note: {note}")
    print(f"model: {out}   next: promptmix eval {out} SOURCE says whether it does what it did there")


def _class_names(place: Path) -> tuple[str, ...]:
    """The classes in the order of a file, or those that a folder of pictures has."""
    if place.expanduser().is_dir():
        return next(iter(read_parts(place).values())).class_names
    return tuple(read_classes_file(place).names)
