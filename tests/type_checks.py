"""How the tests check the types and shapes in the package's signatures: every one on every call, no longer than it takes."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any

import beartype
import jaxtyping

__all__ = ["install", "types_checked"]

_jaxtyped = jaxtyping.jaxtyped
# As for mypy, a whole number may stand where a float is asked for.
types_checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))


def install(package: str) -> None:
    """Have every module of the package that is imported from here on check what its functions and dataclasses are given."""
    jaxtyping.jaxtyped = checked  # type: ignore[assignment] # what the modules are decorated with
    jaxtyping.install_import_hook(package, "tests.type_checks.types_checked")


def checked(wanted: Any = None, *, typechecker: Callable[[Any], Any] = types_checked) -> Any:
    """As jaxtyping's own, which binds and checks all arguments several times a call; where no shape is named, once will do."""
    if wanted is None:
        return lambda wanted: checked(wanted, typechecker=typechecker)
    if inspect.isclass(wanted):
        if dataclasses.is_dataclass(wanted) and "__init__" in vars(wanted):
            wanted.__init__ = checked(wanted.__init__, typechecker=typechecker)  # type: ignore[method-assign]
        return wanted
    # The arguments of a generator are to be checked when it is called, not when it is first asked. What beartype itself decorates it
    # remembers for ever: a function within a function would be kept with all that it closes over.
    if not inspect.isfunction(wanted) or inspect.isgeneratorfunction(wanted) or "<locals>" in wanted.__qualname__:
        return _jaxtyped(wanted, typechecker=typechecker)
    try:
        hints = typing.get_type_hints(wanted, include_extras=True)
        if not any(map(_names_a_shape, hints.values())):
            return typechecker(wanted)
    except Exception:  # names that only mypy sees, and hints that it alone understands, pass for anything
        pass
    return _jaxtyped(wanted, typechecker=typechecker)


def _names_a_shape(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_names_a_shape, hint if isinstance(hint, list) else typing.get_args(hint)))
