"""The pages say what the code does: every option with its default, every link and every file that is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from promptmix.methods.base import Recipe
from promptmix.methods.registry import METHODS, method_class

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def section(title: str) -> str:
    """What the pages say of a method, or of the recipe: from its heading to the next one of another method."""
    others = "|".join(re.escape(name) for name in METHODS if name != title)
    for page in [*sorted((ROOT / "docs" / "methods").glob("*.md")), ROOT / "docs" / "methods.md"]:
        text = page.read_text(encoding="utf-8")
        found = re.search(rf"^##? {re.escape(title)}(?=[:\n]).*?(?=^##? (?:{others}):|\Z)", text, re.MULTILINE | re.DOTALL)
        if found:
            return found[0]
    raise AssertionError(f"no page has a heading {title}")


@pytest.mark.parametrize(
    ("title", "config"), [*((name, method_class(name).config_class) for name in METHODS), ("The recipe", Recipe)]
)
def test_every_option_is_on_the_page_with_its_default(title: str, config: type[BaseModel]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", section(title), re.MULTILINE)
    defaults = {name: field.get_default(call_default_factory=True) for name, field in config.model_fields.items()}
    assert rows == [(name, json.dumps(default)) for name, default in defaults.items()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_project_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:src|tests|tools|benchmarks|recipes|requirements|docs)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    for name in named:
        assert (ROOT / name).exists(), f"{page.name} names {name}"
