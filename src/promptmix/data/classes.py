"""The classes as a person orders and words them: a file with a line a class, or with a label and what it means."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from promptmix.data.records import check_class_names, class_key
from promptmix.errors import DataError, did_you_mean

__all__ = ["ClassList", "number_in", "read_classes_file"]

_NUMBER = re.compile(r"([+-]?[0-9]{1,100})(?:\.0*)?")  # with a point: what becomes of a column of numbers with gaps
_LARGEST_FILE = 10_000_000  # bytes; 100,000 classes with a description each
_SHAPE = "it must hold a list of classes, or for each label a name or a list of names, and nothing deeper"


class ClassList:
    """Classes in their order, and which of them a label means.

    A label is a text (compared without case, ``_`` and repeated white space) or a number. A number is a class's place in the
    list, from 0; where labels of the list are themselves numbers, it is that label.

    Args:
        labels_of: for each class the name that goes into prompts, with all labels that mean it, in order of the classes.
        numbers: whether a number may stand for a place in the list.

    Attributes:
        names: the names that go into prompts.
        counts_places: whether a number stands for a place in the list.

    Raises:
        DataError: there are fewer than two classes, a name cannot be used, or a label means two classes.
    """

    def __init__(self, labels_of: Mapping[str, Sequence[str]], *, numbers: bool = True) -> None:
        self.names = check_class_names(list(labels_of))
        self._places: dict[str, int] = {}
        for place, (name, labels) in enumerate(labels_of.items()):
            for label in (name, *labels):
                number = number_in(label)
                keys = [class_key(label), *([] if number is None else [str(number)])]
                if any(self._places.setdefault(key, place) != place for key in keys):
                    other = next(self._places[key] for key in keys if self._places[key] != place)
                    raise DataError(f"label {label!r} means two classes, {self.names[other]!r} and {name!r}; leave one out")
        self.counts_places = numbers and all(number_in(key) is None for key in self._places)
        if self.counts_places:
            self._places |= {str(place): place for place in range(len(self.names))}

    def labels(self) -> tuple[str, ...]:
        """Every label that means a class, as it is compared."""
        return tuple(self._places)

    def place(self, label: str | int) -> int | None:
        """The place of the class that a label means; None where it means none."""
        number = number_in(label)
        found = self._places.get(class_key(str(label)))
        return found if found is not None or number is None else self._places.get(str(number))

    def hint(self, label: str | int) -> str:
        """The end of an error about a label that means no class."""
        if number_in(label) is not None:
            return f"; numbers go from 0 to {len(self.names) - 1}, or are labels of the list of classes"
        return did_you_mean(str(label), self.names)


def number_in(label: str | int) -> int | None:
    """The whole number that a label is or that its text holds, such as ``"07"``, ``"-1"`` or ``"2.0"``; None of any other label."""
    if isinstance(label, int):
        return label
    found = _NUMBER.fullmatch(label.strip())
    return int(found[1]) if found else None


def read_classes_file(path: str | Path) -> ClassList:
    """The classes of a file, in its order.

    A text file has one class a line. YAML (``.yaml``, ``.yml``) or JSON (``.json``) has either a list of classes, or for each
    label, such as the name of a folder, what it means: the text that goes into prompts, or a list of names, of which the first
    goes into prompts and all count as labels.

    Raises:
        DataError: the file cannot be read, is longer than 10 MB or holds anything else, or its classes cannot be used.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as problem:
        raise DataError(f"classes file {path} cannot be read: {problem.strerror}; check the path") from problem
    if len(content) > _LARGEST_FILE:
        raise DataError(f"classes file {path} has more than {_LARGEST_FILE:,} bytes; is it the list of classes?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"classes file {path} is not UTF-8 (byte {problem.start}); save it as UTF-8") from problem
    try:
        suffix = Path(path).suffix.lower()
        if suffix in (".yaml", ".yml"):
            return ClassList(_labels_of(_yaml_entries(text)))
        if suffix == ".json":
            return ClassList(_labels_of(_json_entries(text)))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        check_class_names(lines)
        return ClassList(dict.fromkeys(lines, ()))
    except DataError as problem:
        raise DataError(f"classes file {path}: {problem}") from problem


def _labels_of(entries: Sequence[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """Of each class the name for prompts and its labels, from labels with what they mean."""
    labels_of: dict[str, list[str]] = {}
    for label, names in entries:
        if names and not label:
            raise DataError(f"a label is empty, that of {', '.join(names)[:200]!r}; write the label that means it")
        name = next(filter(None, names), label)
        if name in labels_of:
            raise DataError(f"class {name!r} is there twice; write all its names as one list")
        labels_of[name] = [label, *filter(None, names)]
    return labels_of


def _yaml_entries(text: str) -> list[tuple[str, list[str]]]:
    """Labels and what they mean. Nodes keep every label as the text it is: ``no`` and ``07`` too."""
    try:
        top = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as problem:
        raise DataError(f"it is not YAML: {' '.join(str(problem).split())[:200]}") from problem
    if isinstance(top, yaml.SequenceNode):
        return [(_yaml_text(node), []) for node in top.value]
    if not isinstance(top, yaml.MappingNode):
        raise DataError(_SHAPE)
    return [
        (_yaml_text(key), [_yaml_text(node) for node in (value.value if isinstance(value, yaml.SequenceNode) else [value])])
        for key, value in top.value
    ]


def _yaml_text(node: object) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise DataError(_SHAPE)
    return "" if node.tag == "tag:yaml.org,2002:null" else str(node.value).strip()


def _json_entries(text: str) -> list[tuple[str, list[str]]]:
    """Labels and what they mean; numbers stay the texts they are, and a key that is there twice is seen twice."""
    try:
        top = json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as problem:
        raise DataError(f"it is not JSON: {problem}") from problem
    if isinstance(top, _Pairs):
        return [(key.strip(), [_json_text(one) for one in (value if type(value) is list else [value])]) for key, value in top]
    if not isinstance(top, list):
        raise DataError(_SHAPE)
    return [(_json_text(one), []) for one in top]


class _Pairs(list[tuple[str, object]]):
    """A JSON object as its keys and values, in order."""


def _json_text(value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise DataError(_SHAPE)
    return (value or "").strip()
