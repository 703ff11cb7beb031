"""What every source file keeps to: it says what it is for, names what it offers, does not print, unpickle or seed for all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "promptmix"
FILES = sorted(SOURCE.rglob("*.py"))
# A package's __init__ may be empty; the verbs of the command line are found by their file.
MODULES = [path for path in FILES if path.name != "__init__.py"]
LIBRARY = [path for path in FILES if path.relative_to(SOURCE).parts[0] != "cli"]

PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"torch.load", "torch.save", "torch.jit.load", "np.load", "numpy.load", "eval", "exec"}
GLOBAL_RANDOMNESS = {
    "torch.manual_seed",
    "torch.seed",
    "torch.random.manual_seed",
    "random.seed",
    "np.random.seed",
    "numpy.random.seed",
}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def calls(tree: ast.AST) -> set[str]:
    """Dotted names of everything called in a file, as they are written there."""
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def top_level_imports(tree: ast.AST) -> set[str]:
    """First parts of the names of all modules imported, anywhere in a file."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.append(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_there_is_source_to_look_at() -> None:
    assert len(MODULES) > 20


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_only_the_command_line_prints(path: Path) -> None:
    assert "print" not in calls(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_pickled_or_evaluated(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert top_level_imports(tree) & PICKLERS == set()
    assert calls(tree) & UNSAFE_CALLS == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_global_randomness(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert calls(tree) & GLOBAL_RANDOMNESS == set()
    # A generator of one's own is the value that randomness has to be; everything else in that module is shared.
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names if alias.name == "random"]
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "random"
        for alias in node.names
    }
    assert not imports
    assert names <= {"Random"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", [path for path in MODULES if path in LIBRARY], ids=name_of)
def test_a_module_names_what_it_offers(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    offered = [
        ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]
    ]
    assert len(offered) == 1, "one __all__ for each module"
    assert len(offered[0]) == len(set(offered[0]))
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    assigned = {ast.unparse(node.target) for node in body if isinstance(node, ast.AnnAssign)}
    assigned |= {ast.unparse(target) for node in body if isinstance(node, ast.Assign) for target in node.targets}
    assert set(offered[0]) <= defined | assigned


def test_the_searches_find_what_they_look_for() -> None:
    tree = ast.parse("import a.b\nfrom pickle import loads\ndef f():\n    import torch\n    return torch.load(print(1))\n")
    assert calls(tree) == {"torch.load", "print"}
    assert top_level_imports(tree) == {"a", "pickle", "torch"}
