"""The recipes that ship: every one parses, down to the method's own options."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptmix.config import parse_config, read_yaml
from promptmix.methods.base import Recipe
from promptmix.methods.registry import method_class
from promptmix.training.fit import RunConfig

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses_whole_and_says_how_to_use_it(path: Path) -> None:
    config = parse_config(RunConfig, read_yaml(path), path.name)
    kind = method_class(config.method)
    kind.parse_options(config.options)
    parse_config(Recipe, {**kind.default_recipe(config.shots).model_dump(), **config.recipe}, path.name)
    assert f"--config recipes/{path.name}" in path.read_text(encoding="utf-8")


def test_the_written_out_mixture_is_the_default() -> None:
    path = next(path for path in RECIPES if path.stem == "mocoop")
    config, kind = parse_config(RunConfig, read_yaml(path), path.name), method_class("mocoop")
    assert kind.parse_options(config.options) == kind.parse_options({})
    default = kind.default_recipe(None).model_dump()
    assert {**default, **config.recipe} == default
