"""Arrows between modules: floors, methods that do not know each other, a package that is quick to import."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import promptmix
from promptmix.methods.registry import METHODS

SOURCE = Path(__file__).resolve().parents[2] / "src" / "promptmix"
METHOD_FILES = sorted(path for path in (SOURCE / "methods").glob("*.py") if path.stem not in {"__init__", "base", "registry"})
METHOD_MODULES = {row.partition(":")[0] for row in METHODS.values()}  # the other files are what methods share


def imported_modules(path: Path) -> set[str]:
    """Full names of all modules, and of all names, that a file imports, anywhere in it."""
    package = ("promptmix", *path.relative_to(SOURCE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def test_imports_point_down_only(repo_root: Path) -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    linter = subprocess.run(command, cwd=repo_root, capture_output=True, text=True)
    assert linter.returncode == 0, linter.stdout + linter.stderr


@pytest.mark.parametrize("path", METHOD_FILES, ids=lambda path: path.stem)
def test_a_method_knows_no_other_method(path: Path) -> None:
    assert imported_modules(path) & METHOD_MODULES - {f"promptmix.methods.{path.stem}"} == set()


def test_relative_imports_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "methods").mkdir()
    path = tmp_path / "methods" / "one.py"
    path.write_text(
        "from . import two\nfrom .three import Three\nfrom ..nn import losses\ndef late():\n    import promptmix.methods.four\n"
    )
    assert imported_modules(path) >= {
        "promptmix.methods.two",
        "promptmix.methods.three",
        "promptmix.nn.losses",
        "promptmix.methods.four",
    }


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ["torch", "numpy", "typer", "pydantic", "PIL", "matplotlib", "sklearn", "huggingface_hub", "yaml"]
    code = f"import sys, json, promptmix; print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []


@pytest.mark.parametrize("name", promptmix.__all__)
def test_public_names_resolve(name: str) -> None:
    value = getattr(promptmix, name)
    assert name in dir(promptmix)
    assert name == "__version__" or value.__name__ == name


def test_public_names_are_the_table() -> None:
    assert set(promptmix.__all__) == {"__version__", *promptmix._PUBLIC_NAMES}


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'PromptClasifier'"):
        _ = promptmix.PromptClasifier
