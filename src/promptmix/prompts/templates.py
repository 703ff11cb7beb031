"""Templates ("a photo of a {}."), groups of one meaning, and the banks that ship with the package.

A template is parsed once, here. Everything after this file counts tokens of the real tokenizer, never words.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from promptmix.errors import ConfigError, did_you_mean

__all__ = ["Template", "TemplateGroup", "bank_names", "flat_templates", "load_bank", "parse_groups", "parse_template"]

_LONGEST_TEMPLATE = 300  # characters; a context holds 77 tokens


@dataclass(frozen=True)
class Template:
    """A text with one place for a class name.

    ``before`` and ``after`` carry no white space at their ends; whether a space parts them from the name stands beside them.
    """

    before: str
    after: str
    space_before: bool = True
    space_after: bool = False

    @property
    def text(self) -> str:
        return self.fill("{}")

    def fill(self, class_name: str) -> str:
        """The text with a class name in its place."""
        left = " " if self.before and self.space_before else ""
        right = " " if self.after and self.space_after else ""
        return f"{self.before}{left}{class_name}{right}{self.after}"

    def without_period(self) -> Template:
        """The same template with no full stop at its end."""
        return dataclasses.replace(self, after=self.after.removesuffix(".").rstrip())

    def with_period(self) -> Template:
        """The same template with exactly one full stop at its end."""
        plain = self.without_period()
        return dataclasses.replace(plain, after=f"{plain.after}.", space_after=self.space_after and plain.after != "")


@dataclass(frozen=True, kw_only=True)
class TemplateGroup:
    """Templates of one meaning. The first starts the group's expert; all of them make its prototypes."""

    templates: tuple[Template, ...]

    @property
    def name(self) -> str:
        """The group as people see it: its first template."""
        return self.templates[0].text


def parse_template(text: str) -> Template:
    """Parse a text with exactly one ``{}``.

    Raises:
        ConfigError: no place for the class name, more than one, other braces, or a text that is far too long.
    """
    if not isinstance(text, str):
        raise ConfigError(f"a template is a text with one {{}}, not {text!r}")
    places = text.count("{}")
    if places != 1:
        found = "no {}" if places == 0 else f"{places} times {{}}"
        raise ConfigError(f"template {text!r} has {found}; write it with exactly one {{}} where the class name goes")
    if any(brace in text.replace("{}", "") for brace in "{}"):
        raise ConfigError(f"template {text!r} has other braces; only {{}} is understood")
    if len(text) > _LONGEST_TEMPLATE:
        raise ConfigError(f"a template has {len(text)} characters; at most {_LONGEST_TEMPLATE} are allowed: {text[:40]!r} ...")
    left, right = text.split("{}")
    before, after = " ".join(left.split()), " ".join(right.split())
    # White space beside nothing parts nothing, so that equal templates are equal.
    return Template(before, after, before != "" and left != left.rstrip(), after != "" and right != right.lstrip())


def parse_groups(groups: Sequence[Sequence[str] | str]) -> tuple[TemplateGroup, ...]:
    """Groups of templates; a bare text is a group of one.

    Raises:
        ConfigError: there is no group, a group is empty, or two groups start with the same template.
    """
    parsed: list[TemplateGroup] = []
    for group in groups:
        texts = [group] if isinstance(group, str) else list(group)
        if not texts:
            raise ConfigError("a group of templates is empty; remove it or write a template in it")
        parsed.append(TemplateGroup(templates=tuple(parse_template(text) for text in texts)))
    if not parsed:
        raise ConfigError("there are no template groups; name a bank or write at least one group")
    starts = [group.templates[0] for group in parsed]
    for start in starts:
        if starts.count(start) > 1:
            raise ConfigError(f"two groups start with {start.text!r}; their experts would be the same")
    return tuple(parsed)


def bank_names() -> list[str]:
    """Names of the template banks in the package."""
    folder = importlib.resources.files("promptmix.prompts") / "banks"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_bank(name: str) -> tuple[TemplateGroup, ...]:
    """The groups of a bank by name, or of a YAML file by path (``groups:`` a list of lists of templates).

    Raises:
        ConfigError: no such bank or file, or the file does not hold groups.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"no template file at {path}")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise ConfigError(f"template file {path} cannot be read as text: {' '.join(str(problem).split())}") from problem
    else:
        if name not in bank_names():
            raise ConfigError(f"no template bank is called {name!r}{did_you_mean(name, bank_names())}, or a path to a .yaml file")
        text = (importlib.resources.files("promptmix.prompts") / "banks" / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        raise ConfigError(f"template bank {name} is not YAML: {' '.join(str(problem).split())}") from problem
    if not isinstance(content, dict) or not isinstance(content.get("groups"), list):
        raise ConfigError(f"template bank {name} needs a key 'groups' with a list of lists of templates")
    for group in content["groups"]:
        if not isinstance(group, str) and not (isinstance(group, list) and all(isinstance(text, str) for text in group)):
            raise ConfigError(f"template bank {name}: a group is a list of texts such as 'a photo of a {{}}.', not {group!r}")
    return parse_groups(content["groups"])


def flat_templates(bank: str, written: Sequence[str] | None) -> list[Template]:
    """All templates of a bank, whatever their groups, or those that are written out in its place.

    Raises:
        ConfigError: as for :func:`load_bank` and :func:`parse_template`.
    """
    if written is not None:
        return [parse_template(text) for text in written]
    return [template for group in load_bank(bank) for template in group.templates]
