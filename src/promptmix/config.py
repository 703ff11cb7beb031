"""Strict parsing: plain mappings and dotted overrides into the frozen configs that live beside their code.

All problems of a config come in one error, each with where it is and the nearest valid name.
"""

from __future__ import annotations

import difflib
import json
import numbers
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from promptmix.errors import ConfigError

__all__ = ["StrictModel", "apply_overrides", "parse_config", "read_yaml"]


class StrictModel(BaseModel):
    """Base of all configs: frozen, unknown keys refused, no number from a text, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def parse_config(kind: type[Model], values: Mapping[str, Any], what: str) -> Model:
    """Validate ``values`` as a ``kind``; ``what`` says in the error what is being read ("options of method mocoop").

    Raises:
        ConfigError: every unknown key, wrong type and wrong value, in one line.
    """
    try:
        # From JSON, so that a list is a fine tuple and a whole number a fine float, while "3" is still no number.
        return kind.model_validate_json(json.dumps(dict(values), default=_plain))
    except ValidationError as problem:
        raise ConfigError(f"{what}: " + "; ".join(_problems(problem, kind, values))) from problem
    except (TypeError, ValueError, RecursionError) as problem:
        raise ConfigError(f"{what}: {problem}") from problem


def _plain(value: Any) -> Any:
    """What JSON does not know but means a plain value: numpy's numbers, and paths."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(
        f"a value of type {type(value).__name__} is no option; use texts, numbers, true and false, lists and mappings"
    )


def _problems(problem: ValidationError, kind: type[BaseModel], values: Mapping[str, Any]) -> list[str]:
    """One description for each place where something is wrong."""
    unknown: list[str] = []
    wrong: dict[str, list[Any]] = {}
    for error in problem.errors():
        if error["type"] == "json_invalid":
            return ["a text holds a character that is not UTF-8"]
        place = _place(error, values)
        if error["type"] != "extra_forbidden":
            # An option of several kinds, such as a number or one of some words, has an error for each of them.
            wrong.setdefault(place, []).append(error)
            continue
        known = list(_model_at(kind, error["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        unknown.append(f"unknown option {place!r}, {hint}")
    return [_describe(place, errors) for place, errors in wrong.items()] + unknown


def _place(error: Any, values: Mapping[str, Any]) -> str:
    """Where an error is, as a person writes it: pydantic also names which of several kinds it tried."""
    parts: list[str] = []
    current: Any = values
    for part in error["loc"]:
        inside = part in current if isinstance(current, Mapping) else isinstance(current, list | tuple) and isinstance(part, int)
        if inside or error["type"] == "missing":
            parts.append(str(part))
            current = current[part] if inside else None
    return ".".join(parts)


def _model_at(kind: type[BaseModel], path: Iterable[str | int]) -> type[BaseModel]:
    for part in path:
        field = kind.model_fields.get(str(part))
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            kind = field.annotation
    return kind


def _describe(place: str, errors: list[Any]) -> str:
    given = errors[0].get("input")
    first, *others = (error["msg"].removeprefix("Value error, ") for error in errors)
    demand = " or ".join([f"{first[0].lower()}{first[1:]}", *(other.removeprefix("Input should be ") for other in others)])
    choices = [
        choice.strip("' ")
        for error in errors
        if error["type"] == "literal_error"
        for choice in str(error["ctx"]["expected"]).replace(" or ", ", ").split(",")
    ]
    near = difflib.get_close_matches(given, choices, n=1, cutoff=0.5) if isinstance(given, str) else []
    hint = f", did you mean {near[0]!r}?" if near else ""
    shown = repr(given)
    return f"{place} is {shown if len(shown) <= 100 else shown[:97] + '...'}: {demand}{hint}"


class _Loader(yaml.SafeLoader):
    """Plain YAML in which ``1e-3`` is a number, as everywhere else (YAML 1.1 asks for ``1.0e-3``), and a date is a text."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


def apply_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``values`` with ``a.b=value`` texts laid over it; values are read as YAML.

    Raises:
        ConfigError: an override has no "=", an empty name, or reaches into something that is not a mapping.
    """
    import copy

    result = copy.deepcopy(dict(values))
    for override in overrides:
        name, equals, text = override.partition("=")
        parts = name.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"--set {override!r} is not of the form name=value, for example --set method.top_k=3")
        try:
            value = yaml.load(text, _Loader)
        except (yaml.YAMLError, ValueError, RecursionError) as problem:
            raise ConfigError(
                f"--set {override!r}: the value is not YAML; put a text with braces or brackets in quotes"
            ) from problem
        target = result
        for part in parts[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {override!r}: {part} has no options of its own")
        target[parts[-1]] = value
    return result


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigError: the file is missing, is not YAML or holds something else.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as problem:
        raise ConfigError(f"config file {path} cannot be read: {problem.strerror}") from problem
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise ConfigError(f"config file {path} is not YAML: {' '.join(str(problem).split())}") from problem
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path} holds no options (name: value)")
    return content
