"""Strict parsing: what is refused and in which words, overrides, YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import Field, ValidationError

from promptmix.config import StrictModel, apply_overrides, parse_config, read_yaml
from promptmix.errors import ConfigError


class Inner(StrictModel):
    views: int = Field(default=4, ge=0)
    flip: float = 0.5


class Outer(StrictModel):
    name: str = "first"
    rate: float = Field(default=1.0, gt=0)
    steps: int = 3
    kind: Literal["mean", "median"] = "mean"
    temperature: float | Literal["scale"] = "scale"
    words: tuple[str, ...] = ()
    inner: Inner = Inner()


def problem_of(values: Mapping[str, Any]) -> str:
    """What is said of options that cannot be used: one line, which says what was read."""
    with pytest.raises(ConfigError) as caught:
        parse_config(Outer, values, "options of something")
    message = str(caught.value)
    assert message.startswith("options of something: ")
    assert "\n" not in message
    return message


def test_plain_values_become_a_frozen_config() -> None:
    parsed = parse_config(
        Outer, {"rate": 2, "words": ["a", "b"], "inner": {"views": 0}, "temperature": 3, "kind": "median"}, "options"
    )
    assert parsed == Outer(rate=2.0, words=("a", "b"), inner=Inner(views=0), temperature=3.0, kind="median")
    assert isinstance(parsed.rate, float)
    assert parse_config(Outer, {}, "options") == Outer()
    with pytest.raises(ValidationError, match="frozen"):
        parsed.rate = 3.0
    assert parse_config(Outer, parsed.model_dump(mode="json"), "options") == parsed


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": "3"}, ("steps is '3'", "valid integer")),
        ({"steps": 3.0}, ("steps is 3.0", "valid integer")),
        ({"steps": True}, ("steps is True", "valid integer")),
        ({"steps": None}, ("steps is None", "valid integer")),
        ({"rate": "1e-3"}, ("rate is '1e-3'", "valid number")),
        ({"rate": 0}, ("rate is 0", "greater than 0")),
        ({"rate": float("nan")}, ("rate is nan", "finite")),
        ({"rate": float("inf")}, ("rate is inf", "finite")),
        ({"name": 3}, ("name is 3", "valid string")),
        ({"name": "\udcff"}, ("UTF-8",)),
        ({"words": "ab"}, ("words is 'ab'", "array")),
        ({"words": ["a", 3]}, ("words.1 is 3", "valid string")),
        ({"kind": "meen"}, ("kind is 'meen'", "'mean' or 'median'", "did you mean 'mean'?")),
        ({"temperature": "scal"}, ("temperature is 'scal'", "valid number", "'scale'", "did you mean 'scale'?")),
        ({"inner": {"views": -1}}, ("inner.views is -1", "greater than or equal to 0")),
        ({"inner": 3}, ("inner is 3",)),
        ({"stepz": 3}, ("unknown option 'stepz'", "did you mean 'steps'?")),
        ({"zzzzzz": 3}, ("unknown option 'zzzzzz'", "known: name, rate, steps")),
        ({"inner": {"view": 3}}, ("unknown option 'inner.view'", "did you mean 'views'?")),
        ({"name": object()}, ("object",)),
    ],
)
def test_what_does_not_fit_is_refused_in_words(values: Mapping[str, Any], words: tuple[str, ...]) -> None:
    message = problem_of(values)
    for word in words:
        assert word in message


def test_all_problems_come_in_one_error() -> None:
    message = problem_of({"steps": "3", "kind": "meen", "inner": {"views": -1, "flop": 0.1}, "rat": 1})
    for words in ("steps is '3'", "kind is 'meen'", "inner.views is -1", "'inner.flop'", "'rat', did you mean 'rate'?"):
        assert message.count(words) == 1
    assert message.count(";") == 4


def test_values_without_an_end_are_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    problem_of({"words": circle})
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    problem_of({"words": deep})


def test_numbers_of_numpy_and_paths_are_plain_values() -> None:
    values = {"rate": np.float32(0.5), "steps": np.int64(7), "name": Path("a") / "b"}
    assert parse_config(Outer, values, "options") == Outer(rate=0.5, steps=7, name="a/b")
    assert "steps is 7.5" in problem_of({"steps": np.float64(7.5)})


def test_overrides_are_laid_over_a_copy() -> None:
    given = {"method": "coop", "recipe": {"epochs": 3, "rate": 0.1}, "words": ["a"]}
    laid = apply_overrides(given, ["recipe.epochs=5", "recipe.clip=1e-3", "inner.deep.er=yes", "words=[b, 'c d']", "method="])
    assert laid == {
        "method": None,
        "recipe": {"epochs": 5, "rate": 0.1, "clip": 0.001},
        "inner": {"deep": {"er": True}},
        "words": ["b", "c d"],
    }
    assert given == {"method": "coop", "recipe": {"epochs": 3, "rate": 0.1}, "words": ["a"]}
    assert apply_overrides({}, ["a=1", "a=2"]) == {"a": 2}  # the last one counts
    assert apply_overrides({}, ["a=b=c"]) == {"a": "b=c"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3.5", 3.5),
        ("1e-3", 0.001),
        ("-1E5", -100000.0),
        ("e5", "e5"),
        ("'3'", "3"),
        ("null", None),
        ("off", False),
        ("2020-01-01", "2020-01-01"),
        ("{a: 1}", {"a": 1}),
        ("a photo of a", "a photo of a"),
    ],
)
def test_values_of_overrides_are_yaml(text: str, value: object) -> None:
    read = apply_overrides({}, [f"a={text}"])["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("epochs", "name=value"),
        ("=3", "name=value"),
        ("recipe.=3", "name=value"),
        ("recipe..epochs=3", "name=value"),
        ("method.name=coop", "method has no options of its own"),
        ("a=[1", "not YAML"),
        ("a=b: c: d", "not YAML"),
        ("a=!!python/object/apply:os.getcwd []", "not YAML"),
        ("a=" + "[" * 3000, "not YAML"),
        ("a=x\x00y", "not YAML"),
        ("a=0x_", "not YAML"),
    ],
)
def test_overrides_that_cannot_be_read_are_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"method": "coop"}, [override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_yaml_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("# how\nmethod: mocoop\nrecipe:\n  rate: 3e-2\nday: 2020-01-01\nname: 日本\n", encoding="utf-8")
    assert read_yaml(path) == {"method": "mocoop", "recipe": {"rate": 0.03}, "day": "2020-01-01", "name": "日本"}
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- a\n- b\n", "holds no options"),
        (b"mocoop", "holds no options"),
        (b"a: [1", "not YAML"),
        (b"a: \xff\xfe", "not YAML"),
        (b"a: !!python/name:os.system", "not YAML"),
        (b"\x89PNG\r\n\x1a\n\x00", "not YAML"),
        (b"a: " + b"[" * 3000, "not YAML"),
        (b"a: 0b_", "not YAML"),  # a number in base 2 without a digit
    ],
)
def test_a_file_of_something_else_is_one_clear_error(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert "recipe.yaml" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_yaml(path)
