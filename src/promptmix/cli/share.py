"""promptmix share"""

from __future__ import annotations

import json
from pathlib import Path

from promptmix.backbones.registry import load_backbone
from promptmix.errors import CheckpointError
from promptmix.model_folder import SavedModel, model_path, read_model
from promptmix.model_hub import public_model, push_model, write_public


def share(
    folder: Path,
    name: str,
    private: bool | None,
    revision: str | None,
    message: str | None,
    backbone: str | None,
    out: Path | None,
    json_output: bool,
) -> None:
    model, place = read_model(folder), model_path(folder)
    public = public_model(model, None if backbone is None else _found_by_others(model, backbone))
    if out is not None:
        write_public(out, public, name, place)
        print(json.dumps({"folder": str(out)}) if json_output else f"{out} holds what would go to {name}; nothing was sent")
        return
    pushed = push_model(public, name, private=private, revision=revision, message=message, own_folder=place)
    if json_output:
        print(json.dumps({"model": pushed, "url": f"https://huggingface.co/{pushed.partition('@')[0]}"}))
        return
    print(f"shared as {pushed}   next: promptmix predict hf://{pushed.partition('@')[0]} PICTURE ...")


def _found_by_others(model: SavedModel, name: str) -> str:
    """The name of a backbone, with the exact commit, once it has proved to be the model's."""
    backbone = load_backbone(name, with_text=False, device="cpu")
    if backbone.fingerprint != model.backbone_fingerprint:
        raise CheckpointError(
            f"the model was trained on backbone {model.backbone_name!r} ({model.backbone_fingerprint}), but {name!r} is"
            f" {backbone.fingerprint}; name the right one, or leave --backbone out"
        )
    return backbone.name
