"""What a model card says: ``README.md`` of a model folder, made from what the model itself tells.

Names come from outside, so that they are shown as code, in which neither Markdown nor HTML means anything, and none goes into the head.
Nothing of a card says where on a machine something lies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import BaseModel, Field, ValidationError

from promptmix.cards.owner import BEGIN, END, with_head
from promptmix.errors import listed, printable
from promptmix.hub_access import is_commit, split_hub_name
from promptmix.nn.calibration import Calibration

__all__ = ["ON_TRAINING_PICTURES", "model_card", "public_backbone_name", "wilson_interval", "without_places"]

ON_TRAINING_PICTURES = "the training pictures themselves"
"""How a run says that it was measured on what it had learnt from; such numbers are no results."""

_MOST_CLASSES, _MOST_GROUPS, _MOST_TEMPLATES = 50, 16, 4
# Those of the hub's list that models have; of others the name alone is told.
_LICENCES = frozenset(
    [
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nc-nd-4.0",
        "gpl-3.0",
        "lgpl-3.0",
        "agpl-3.0",
        "mpl-2.0",
        "openrail",
    ]
)
_PLACE = re.compile(r"(?<!\S)(?!hf:)\S*[/\\~]\S*")


class _Measured(BaseModel):
    num_pictures: int = Field(ge=1)
    accuracy: float = Field(ge=0, le=1)
    accuracy_per_class_mean: float = Field(ge=0, le=1)


class _Origin(BaseModel):
    file: str
    sha256: str


class _Training(BaseModel):
    """What a card tells of a training: all of it optional, because models of any age and origin have a card."""

    num_training_pictures: int | None = None
    trained_how: str | None = None
    shots: int | None = None
    seed: int | None = None
    measured_how: str | None = None
    metrics: _Measured | None = None
    zero_shot: _Measured | None = None
    backbone_licence: str | None = None
    converted_from: _Origin | None = None
    notes: list[str] = []

    @staticmethod
    def of(config: Mapping[str, Any]) -> _Training:
        try:
            return _Training.model_validate(config["training"])
        except ValidationError:
            return _Training()


def model_card(
    config: Mapping[str, Any],
    class_names: Sequence[str],
    calibration: Calibration | None = None,
    place: str | None = None,
    worded: Collection[str] = (),
) -> str:
    """The card of a model, as it is before anyone writes into it.

    Args:
        config: what the model's ``config.json`` holds.
        class_names: the classes it tells apart now.
        place: its name on the hub; None: it lies in a folder.
        worded: classes that were given synonyms or a description, so that they are not as they were when it was measured.
    """
    trained = set(config["trained_class_names"])
    others = [name for name in class_names if name not in trained or name in worded]
    is_as_measured = not others and list(class_names) == config["trained_class_names"]
    head = _head(config, is_as_measured)
    return with_head(head, f"\n{_block(config, class_names, others, is_as_measured, calibration, place)}\n")


def public_backbone_name(name: str) -> str:
    """The name of a backbone without the folder that it lies in on this machine; names on the hub stay."""
    return name if _base_model(name) is not None else Path(name).name


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``count`` pictures of which ``right`` are right (Wilson 1927): never beyond 0 and 1."""
    share, z = right / count, 1.959963984540054
    middle = share + z**2 / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    scale = 1 + z**2 / count
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def without_places(text: str) -> str:
    """A text without paths and file names, which are nobody's business but the owner's."""
    text = re.sub(r"(pictures that cannot be read): .*", r"\1", text, flags=re.DOTALL)
    return _PLACE.sub("(local files)", text)


def _head(config: Mapping[str, Any], is_as_measured: bool) -> dict[str, Any]:
    method = config["method"]
    licence, base = _Training.of(config).backbone_licence, _base_model(config["backbone"]["name"])
    head: dict[str, Any] = {
        "library_name": "promptmix",
        "pipeline_tag": "zero-shot-image-classification" if method == "zero-shot" else "image-classification",
    }
    if licence in _LICENCES:
        head["license"] = licence
    if base is not None:
        head |= {"base_model": base, "base_model_relation": "adapter"}
    head["tags"] = list(dict.fromkeys(["promptmix", "prompt-learning", "few-shot-learning", "clip", method]))
    results = _results(config) if is_as_measured else None
    if results is not None:
        head["model-index"] = [results]
    return head


def _results(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The accuracy in the hub's form; None where there is none that says how good the model is."""
    training = _Training.of(config)
    metrics, how = training.metrics, training.measured_how
    if how in (None, ON_TRAINING_PICTURES) or metrics is None:
        return None
    values = [
        {"type": "accuracy", "name": "top-1 accuracy", "value": metrics.accuracy},
        {"type": "accuracy", "name": "mean accuracy of the classes", "value": metrics.accuracy_per_class_mean},
    ]
    described = {"type": "own-pictures", "name": f"own pictures: {how}"}
    task = {"type": "image-classification", "name": "image classification"}
    return {"name": f"promptmix {config['method']}", "results": [{"task": task, "dataset": described, "metrics": values}]}


def _block(
    config: Mapping[str, Any],
    class_names: Sequence[str],
    others: Sequence[str],
    is_as_measured: bool,
    calibration: Calibration | None,
    place: str | None,
) -> str:
    backbone, training = config["backbone"], _Training.of(config)
    licence = training.backbone_licence
    where = "comes with promptmix" if backbone["name"] == "bundled" else "is not in this folder"
    stated = f"licence of the backbone: {_code(licence)}" if licence else "the licence of the backbone is not known here"
    parts = [
        [f"# {config['method']}: {len(class_names)} classes"],
        [f"Tells pictures of {len(class_names)} classes apart: {_names(class_names)}."],
        [
            f"Method {_code(config['method'])} of promptmix {config['promptmix_version']}, on the frozen backbone"
            f" {_code(public_backbone_name(backbone['name']))} (fingerprint {_code(backbone['fingerprint'])}; {stated}). The backbone"
            f" {where}."
        ],
        _prompts(config["options"]),
        _data(training, len(config["trained_class_names"])),
        _metrics(training, not is_as_measured),
        [] if calibration is None else _calibration(calibration),
        _limits(config, others, calibration),
        _use(place),
    ]
    return "\n".join([BEGIN, *("\n".join([*part, ""]) for part in parts if part), END])


def _prompts(options: Mapping[str, Any]) -> list[str]:
    """Groups of templates, or templates, or the words a prompt started from; nothing where there are none."""
    groups, templates, words = options.get("groups"), options.get("templates"), options.get("words")
    if isinstance(groups, (list, tuple)) and groups and all(map(_are_texts, groups)):
        lines = [f"- {_templates(group)}" for group in groups[:_MOST_GROUPS]]
        more = [f"- and {len(groups) - _MOST_GROUPS} more groups"] if len(groups) > _MOST_GROUPS else []
        said = f"{len(groups)} soft prompts, each started from the first template of its group:"
        return ["## Prompts", "", said, "", *lines, *more]
    if _are_texts(templates):
        return ["## Prompts", "", f"Templates: {_templates(templates)}."]
    return ["## Prompts", "", f"One soft prompt, started from {_code(words)}."] if isinstance(words, str) else []


def _are_texts(value: Any) -> TypeGuard[Sequence[str]]:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(one, str) for one in value)


def _templates(texts: Sequence[str]) -> str:
    return listed((_code(text) for text in texts), _MOST_TEMPLATES)


def _data(training: _Training, num_classes: int) -> list[str]:
    origin, shots, count = training.converted_from, training.shots, training.num_training_pictures
    if origin is not None:
        line = f"Not trained by promptmix: converted from {_code(origin.file)} (sha256 {_code(origin.sha256)})."
    elif count is not None:
        how = training.trained_how or (f"at most {shots} of each class" if shots is not None else None)
        chosen = f" ({_plain(how)})" if how else ""
        line = f"Learnt from {count:,} pictures of {num_classes} classes{chosen}, seed {training.seed}."
    else:
        line = "What it learnt from is not known here."
    notes = [f"- Note: {_plain(without_places(note))}." for note in training.notes]
    return ["## Data", "", line, *(["", *notes] if notes else [])]


def _metrics(training: _Training, are_others: bool) -> list[str]:
    metrics, untrained, how = training.metrics, training.zero_shot, training.measured_how
    if metrics is None or untrained is None:
        return ["## Accuracy", "", "Not measured. `promptmix eval` measures it on labelled pictures."]
    count = f"{metrics.num_pictures:,}"
    lines = [f"Measured on {count} pictures{f': {_plain(how)}' if how else ''}; zero-shot, untrained, on the same pictures."]
    if how == ON_TRAINING_PICTURES:
        lines = [f"Measured on the {count} training pictures themselves, which says little about new ones."]
    if are_others:
        lines.append("**It was measured with its training classes; the classes have changed since.**")
    means = (100 * one.accuracy_per_class_mean for one in (metrics, untrained))
    table = [
        "| | this model | zero-shot |",
        "|---|---:|---:|",
        f"| top-1 accuracy, % [95 % interval] | {_with_interval(metrics)} | {_with_interval(untrained)} |",
        f"| mean accuracy of the classes, % | {' | '.join(f'{mean:.1f}' for mean in means)} |",
    ]
    drawn = (
        "The intervals are Wilson's, over the draw of the measured pictures; other training pictures or seeds would add to them."
    )
    return ["## Accuracy", "", *lines, "", *table, "", drawn]


def _with_interval(metrics: _Measured) -> str:
    low, high = wilson_interval(round(metrics.accuracy * metrics.num_pictures), metrics.num_pictures)
    return f"{100 * metrics.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _calibration(calibration: Calibration) -> list[str]:
    on = "left-out training pictures" if calibration.cross_fitted else "pictures it did not learn from"
    before, after = calibration.before.expected_calibration_error, calibration.after.expected_calibration_error
    lines = [
        f"Probabilities are calibrated on {calibration.num_pictures:,} {on}: temperature {calibration.temperature:.3g},"
        f" expected calibration error {100 * before:.1f} % before and {100 * after:.1f} % after, on these same pictures."
    ]
    if calibration.classes_changed:
        lines.append("**That was so with other classes; the classes have changed since.**")
    if (rule := calibration.abstain) is not None:
        sure = "" if rule.confidence is None else f" with {100 * rule.confidence:g} % confidence"
        lines.append(
            f"- Below a probability of {rule.minimum_probability:.3f} it says `none of these`, for a {rule.target} of"
            f" {100 * rule.wanted:g} %{sure}."
        )
    if (sets := calibration.label_sets) is not None:
        lines.append(f"- Label sets are to hold the true class for {100 * sets.coverage:g} % of the pictures.")
    if calibration.abstain is not None or calibration.label_sets is not None:
        holds = "for new pictures that are like these" if calibration.held_apart else "nearly, and not by proof"
        lines.append(f"- Fitted on {calibration.num_rule_pictures:,} pictures; what is promised here holds {holds}.")
    if calibration.multi_label is not None:
        lines.append("- Each class has a threshold of its own, for several labels on a picture.")
    return ["## Calibration", "", *lines]


def _limits(config: Mapping[str, Any], others: Sequence[str], calibration: Calibration | None) -> list[str]:
    lines = []
    if config["backbone"]["name"] == "bundled":
        lines.append(
            "- The bundled backbone knows drawn pictograms and emoji, not photographs. It is there to try the tools with."
        )
    if calibration is None or calibration.abstain is None:
        lines.append("- It names one of its classes whatever is on the picture, also where none of them is.")
    if calibration is None:
        lines.append("- Its probabilities are not calibrated: do not read them as how often it is right.")
    if others:
        lines.append(f"- Added, renamed or described after its training, and not measured since: {_names(others)}.")
    lines.append("- What was measured holds for pictures like the measured ones; measure it on your own before you rely on it.")
    lines.append("- What the backbone's own training data got wrong, about people above all, is in this model too.")
    return ["## Limits", "", *lines]


def _use(place: str | None) -> list[str]:
    here = "model" if place is None else place
    spelled = "model" if place is None else f"hf://{place}"
    where = ["With this folder as `model`:", ""] if place is None else []
    return [
        "## Use",
        "",
        *where,
        "```python",
        "from promptmix import PromptClassifier",
        "",
        f'classifier = PromptClassifier.from_pretrained("{here}")',
        'classifier.predict(["picture.jpg"])',
        "```",
        "",
        "```sh",
        f"promptmix predict {spelled} picture.jpg",
        "```",
        "",
        "It is read without running any code: numbers from safetensors files, everything else from JSON.",
    ]


def _names(names: Sequence[str]) -> str:
    return listed((_code(name) for name in names), _MOST_CLASSES)


def _code(text: str) -> str:
    """A text from outside as code within a line: the fence is longer than any run of backticks in it."""
    text = printable(" ".join(str(text).split()))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    padding = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def _plain(text: str) -> str:
    """A text from outside as running text, in which no sign of Markdown or HTML has a meaning."""
    text = printable(" ".join(str(text).split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$!#])", r"\\\1", text)


def _base_model(name: str) -> str | None:
    """The repository of a backbone that was taken from the hub: such names end in an exact commit."""
    found = split_hub_name(name)
    return found[0] if found is not None and found[1] is not None and is_commit(found[1]) else None
