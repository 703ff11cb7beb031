"""Template groups found automatically: templates that say nearly the same to the text tower belong together."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn import functional

from promptmix.backbones.base import AnyTextTower
from promptmix.backbones.tokenizer import Tokenizer
from promptmix.errors import ConfigError
from promptmix.prompts.hard import encode_templates
from promptmix.prompts.templates import Template, TemplateGroup

__all__ = ["group_templates"]


def group_templates(
    tower: AnyTextTower, tokenizer: Tokenizer, templates: Sequence[Template], class_names: Sequence[str], num_groups: int
) -> tuple[TemplateGroup, ...]:
    """Cluster templates by what they add to the classes' features.

    A template is described by its features over the classes less the mean of all templates (what is left is the wording, not
    the class). Groups come in the order of their first template, and so do the templates in a group.

    Args:
        num_groups: how many groups to make, 1 to the number of different templates.

    Raises:
        ConfigError: more groups are asked for than there are different templates.
    """
    distinct = list(dict.fromkeys(templates))
    if num_groups > len(distinct):
        raise ConfigError(f"{num_groups} groups cannot be made of {len(distinct)} templates; ask for fewer or write more")
    if num_groups == 1 or len(distinct) == 1:
        return (TemplateGroup(templates=tuple(distinct)),)
    from sklearn.cluster import AgglomerativeClustering  # slow to import, for the few who ask for found groups

    features = encode_templates(tower, tokenizer, distinct, class_names)
    wording = functional.normalize((features - features.mean(dim=0)).mean(dim=1), dim=-1)
    labels = AgglomerativeClustering(n_clusters=num_groups, metric="cosine", linkage="average").fit_predict(wording.cpu().numpy())
    order = dict.fromkeys(int(label) for label in labels)
    return tuple(
        TemplateGroup(templates=tuple(template for template, label in zip(distinct, labels, strict=True) if label == group))
        for group in order
    )
