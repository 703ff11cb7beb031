"""Hard prompts: class features from templates as they are written, through the same encoder, without gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from promptmix.backbones.base import AnyTextTower
from promptmix.backbones.tokenizer import Tokenizer
from promptmix.prompts.assemble import framed
from promptmix.prompts.encoder import Prompts, lay_out_prompts
from promptmix.prompts.templates import Template, TemplateGroup

__all__ = ["encode_templates", "ensemble_features", "lay_out_templates", "prototypes"]


@torch.no_grad()
def encode_templates(
    tower: AnyTextTower, tokenizer: Tokenizer, templates: Sequence[Template], class_names: Sequence[str], max_rows: int = 2048
) -> Float[Tensor, "template class embedding"]:
    """Normalised features of every template filled with every class name.

    Raises:
        DataError: a filled template is too long for the tower's context; the message names the class.
    """
    laid_out = lay_out_templates(tower, tokenizer, templates, class_names, max_rows)
    return functional.normalize(laid_out.encode(), dim=-1).view(len(templates), len(class_names), -1)


def lay_out_templates(
    tower: AnyTextTower,
    tokenizer: Tokenizer,
    templates: Sequence[Template],
    class_names: Sequence[str],
    max_rows: int = 1024,
    split: bool = True,
) -> Prompts:
    """Every template filled with every class name, a row each: all classes of the first template, then of the second.

    Args:
        max_rows, split: as for :class:`~promptmix.prompts.encoder.PackedPrompts`.

    Raises:
        DataError: a filled template is too long for the tower's context; the message names the class.
    """
    rows = [
        framed(tokenizer, tokenizer.encode(template.fill(name.replace("_", " "))))
        for template in templates
        for name in class_names
    ]
    groups = [number for number in range(len(templates)) for _ in class_names]
    return lay_out_prompts(tower, rows, groups, list(class_names) * len(templates), max_rows, split)


def ensemble_features(
    tower: AnyTextTower, tokenizer: Tokenizer, templates: Sequence[Template], class_names: Sequence[str]
) -> Float[Tensor, "class embedding"]:
    """The normalised mean over templates of the normalised features."""
    return functional.normalize(encode_templates(tower, tokenizer, templates, class_names).mean(dim=0), dim=-1)


def prototypes(
    tower: AnyTextTower, tokenizer: Tokenizer, groups: Sequence[TemplateGroup], class_names: Sequence[str], period: bool
) -> Float[Tensor, "expert class embedding"]:
    """For each group and class the normalised mean over the group's templates of the normalised features.

    With ``period`` every template ends with exactly one full stop, whether or not it was written with one.
    """
    flat = [template for group in groups for template in group.templates]
    if period:
        flat = [template.with_period() for template in flat]
    features = encode_templates(tower, tokenizer, flat, class_names)
    sizes = [len(group.templates) for group in groups]
    return functional.normalize(torch.stack([part.mean(dim=0) for part in features.split(sizes)]), dim=-1)
