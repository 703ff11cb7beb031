"""Contenders of a comparison: a method with its options, recipe and augmentation, read strictly from a YAML file."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from promptmix.config import StrictModel, apply_overrides, parse_config, read_yaml
from promptmix.data.transforms import Augmentation
from promptmix.errors import ConfigError, did_you_mean, listed
from promptmix.methods.registry import method_class
from promptmix.runtime import short_hash

__all__ = ["Changes", "Contender", "check_contender", "read_contenders", "recipe_sets", "with_overrides"]


class Changes(StrictModel):
    """What a contender does otherwise on one data set."""

    options: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)


class Contender(StrictModel):
    """One row of a table.

    Attributes:
        label: as tables print it; the file's name where the file does not say.
        method, options, recipe, augmentation: as ``promptmix train --config`` has them.
        template_option: the option of the method that takes the template of the data set, where the data set has one of its own.
        by_data: changes for data sets, by their names. A number that used any is marked as one of hand-picked words or lengths.
        new_class_names: tell the method the names of the new classes too; a number that used them is marked.
    """

    label: str = ""
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    augmentation: Augmentation = Augmentation()
    template_option: str | None = None
    by_data: dict[str, Changes] = Field(default_factory=dict)
    new_class_names: bool = False

    @property
    def learns(self) -> str:
        """``nothing``, ``by gradient`` or ``in closed form``."""
        return method_class(self.method).learns

    def options_for(self, data_name: str, template: str | None) -> dict[str, Any]:
        """The method's options on a data set, its own template among them."""
        options = dict(self.options)
        if template is not None and self.template_option is not None:
            options.setdefault(self.template_option, template)
        return {**options, **self._changes(data_name).options}

    def recipe_for(self, data_name: str) -> dict[str, Any]:
        """What to change of the method's recipe on a data set."""
        return {**self.recipe, **self._changes(data_name).recipe}

    def stands_for(self, data_names: Iterable[str]) -> str:
        """Hash of what the options name but do not hold, on any of the data sets: the templates of a bank that lies in a file.

        Raises:
            ConfigError: such a file is missing or damaged.
        """
        kind = method_class(self.method)
        return short_hash(*(kind.parse_options(self.options_for(name, None)).stands_for() for name in data_names))

    def notes_for(self, data_name: str, template: str | None) -> list[str]:
        """What must stand beside a number of this contender on a data set because of its words."""
        notes = []
        changes = self._changes(data_name)
        if changes.options:
            notes.append(f"{listed(changes.options)} picked by hand for {data_name}")
        if changes.recipe:
            notes.append(f"a recipe of its own for {data_name}: {listed(changes.recipe)}")
        chosen = {**self.options, **changes.options}
        if template is not None and self.template_option is not None and self.template_option not in chosen:
            notes.append(f"a template picked by hand for {data_name}: {template!r}")
        return notes

    def _changes(self, data_name: str) -> Changes:
        return self.by_data.get(data_name, Changes())


def recipe_sets() -> list[str]:
    """Names of the sets that ship with the package."""
    return sorted(entry.name for entry in _shipped().iterdir() if entry.is_dir())


def read_contenders(recipes: str, protocol: str, names: Iterable[str] | None, overrides: Iterable[str] = ()) -> list[Contender]:
    """Contenders in the order of their names' mention; without names all of the set, in alphabetical order.

    Args:
        recipes: a set that ships (``field``, ``bundled``), or a folder of YAML files.
        protocol: a set may have a folder for each protocol, beside files that are for all of them.
        names: of files of the set, without their ending; or paths of YAML files.
        overrides: ``a.b=value`` texts for all contenders; see :func:`with_overrides`.

    Raises:
        ConfigError: there is no such set or contender, or a file cannot be used; with the file's name.
    """
    folder = _shipped() / recipes if recipes in recipe_sets() else Path(recipes).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"there is no set of recipes {recipes!r}, nor a folder of that name{did_you_mean(recipes, recipe_sets())}"
        )
    # What is in the protocol's folder goes before what is for all protocols.
    there = {path.stem: path for place in (folder, folder / protocol) if place.is_dir() for path in sorted(place.glob("*.yaml"))}
    spelt = {_as_spelt(name): path for name, path in there.items()}
    wanted = sorted(there) if names is None else list(names)
    if not wanted:
        raise ConfigError(
            f"{recipes} has no recipe for {protocol}; name contenders with --methods, or another set with --recipes"
        )
    found = []
    for name in wanted:
        path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else there.get(name) or spelt.get(_as_spelt(name))
        if path is None:
            raise ConfigError(f"{recipes} has no contender {name!r} for {protocol}{did_you_mean(_as_spelt(name), there)}")
        found.append(read_contender(path))
    found = with_overrides(found, overrides)
    for contender in found:
        if sum(contender.label == other.label for other in found) > 1:
            raise ConfigError(f"two contenders are called {contender.label!r}; give one of their files another label")
    return found


def read_contender(path: Path) -> Contender:
    """One contender from its file.

    Raises:
        ConfigError: the file is missing or says something that cannot be used; with the file's name.
    """
    contender = parse_config(Contender, {"label": path.stem, **read_yaml(path)}, f"contender {path}")
    if not contender.label.strip():
        raise ConfigError(f"contender {path}: its label is empty; give it one, or leave the line out to call it {path.stem!r}")
    check_contender(contender)
    return contender


def check_contender(contender: Contender) -> None:
    """Raise where the method would not take what the contender says, on any data set.

    Raises:
        ConfigError: an unknown method, option or number of the recipe, or a value out of its range.
    """
    try:
        kind = method_class(contender.method)
        if contender.template_option is not None and contender.template_option not in kind.config_class.model_fields:
            raise ConfigError(
                f"template_option is {contender.template_option!r}, which method {kind.name} does not have"
                f"{did_you_mean(contender.template_option, kind.config_class.model_fields)}"
            )
        for data_name in (*contender.by_data, ""):
            kind.parse_options(contender.options_for(data_name, None))
            kind.recipe_for(None, contender.recipe_for(data_name))
    except ConfigError as problem:
        raise ConfigError(f"contender {contender.label!r}: {problem}") from problem


def with_overrides(contenders: list[Contender], overrides: Iterable[str]) -> list[Contender]:
    """The contenders with ``a.b=value`` texts laid over them: ``recipe.`` and ``augmentation.`` for all, ``method.`` for those whose
    method has the option. With another number of epochs the warm-up is again the method's own, which a short run shortens.

    Raises:
        ConfigError: an override is not of this form, no contender has the option, or a value is out of its range.
    """
    overrides = list(overrides)
    for text in overrides:
        name = text.partition("=")[0].strip()
        kind, _, option = name.partition(".")
        if kind not in ("method", "options", "recipe", "augmentation") or not option:
            raise ConfigError(f"--set {text!r}: write method.NAME=, recipe.NAME= or augmentation.NAME=")
        if kind in ("method", "options"):
            known = {
                field: one for one in contenders for field in (*method_class(one.method).config_class.model_fields, "preset")
            }
            if option.partition(".")[0] not in known:
                raise ConfigError(f"--set {text!r}: no contender has the option {option!r}{did_you_mean(option, known)}")
    changed = []
    for contender in contenders:
        fields = method_class(contender.method).config_class.model_fields
        mine = []
        for text in overrides:
            kind, _, rest = text.partition(".")
            if kind not in ("method", "options"):
                mine.append(text)
            elif rest.partition("=")[0].strip().partition(".")[0] in (*fields, "preset"):
                mine.append(f"options.{rest}")
        values = contender.model_dump(mode="json")
        if any(text.partition("=")[0].strip() == "recipe.epochs" for text in mine):
            for recipe in (values["recipe"], *(changes["recipe"] for changes in values["by_data"].values())):
                recipe.pop("warmup_epochs", None)
                recipe.pop("epochs", None)
        for text in mine:
            kind, _, rest = text.partition("=")[0].strip().partition(".")
            # What a person asks for goes before what a file says of a data set.
            for changes in values["by_data"].values():
                changes.get(kind, {}).pop(rest.partition(".")[0], None)
        values = apply_overrides(values, mine)
        changed.append(parse_config(Contender, values, f"contender {contender.label!r}"))
        check_contender(changed[-1])
    return changed


def _as_spelt(name: str) -> str:
    """A name of a recipe without what people write in one way or another."""
    return name.lower().replace("_", "-")


def _shipped() -> Path:
    return Path(str(importlib.resources.files("promptmix.protocols") / "recipes"))
