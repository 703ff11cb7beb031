"""Strict parsing: plain mappings and dotted overrides into the frozen configs that live beside their code.

All problems of a config come in one error, each with where it is and the nearest valid name.
"""

from __future__ import annotations

import difflib
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
        return kind.model_validate_json(_to_json(values))
    except ValidationError as problem:
        raise ConfigError(f"{what}: " + "; ".join(_describe(error, kind) for error in problem.errors())) from problem
    except TypeError as problem:
        raise ConfigError(f"{what}: {problem}") from problem


def _to_json(values: Mapping[str, Any]) -> str:
    import json

    return json.dumps(dict(values))


def _describe(error: Any, kind: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), list(kind.model_fields), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(kind.model_fields)}"
        return f"unknown option {place!r}, {hint}"
    given = error.get("input")
    hint = ""
    if error["type"] == "literal_error" and isinstance(given, str):
        allowed = [choice.strip("' ") for choice in str(error["ctx"]["expected"]).replace(" or ", ", ").split(",")]
        near = difflib.get_close_matches(given, allowed, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]!r}?" if near else ""
    return f"{place} is {given!r}: {error['msg'][0].lower()}{error['msg'][1:]}{hint}"


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
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise ConfigError(f"config file {path} is not YAML: {' '.join(str(problem).split())}") from problem
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path} holds no options (name: value)")
    return content
