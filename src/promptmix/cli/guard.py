"""What stands round every verb: the options all verbs have, logs on stderr, and one line and an exit code for any error."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import io
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from promptmix.errors import DataError, InterruptedRun, OutOfMemoryError, PromptMixError, printable
from promptmix.memory import is_out_of_memory

__all__ = ["described", "guarded"]

_logger = logging.getLogger("promptmix")

_BAD_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


def guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with --quiet, --verbose and --debug, which it does not see itself, and with its errors told in one line."""

    def common(
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr, no progress bars.")] = False,
        verbose: Annotated[
            bool, typer.Option("--verbose", "-v", help="Say on stderr what is done and how long it takes.")
        ] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
    ) -> None: ...

    @functools.wraps(verb)
    def called(*, quiet: bool, verbose: bool, debug: bool, **options: Any) -> None:
        if quiet and verbose:
            raise typer.BadParameter("--quiet and --verbose contradict each other; give one of them")
        level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
        with _logs_on_stderr(level):
            sys.exit(_exit_code_of(lambda: verb(**options), debug))

    # Typer reads the options of a command from its signature.
    parts = [inspect.signature(function, eval_str=True).parameters.values() for function in (verb, common)]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for part in parts for parameter in part]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _exit_code_of(work: Callable[[], None], debug: bool) -> int:
    """Do the work; what goes wrong becomes one line on stderr. Usage errors are left to typer, which shows the usage."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal cannot show must not end a run.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        work()
        sys.stdout.flush()
        return 0
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except BrokenPipeError:
        return 0  # whoever read has read enough
    except (Exception, KeyboardInterrupt) as problem:
        if debug:
            traceback.print_exc()
        code, message = described(problem)
        sys.stderr.write(f"promptmix: {printable(' '.join(message.split()))}\n")
        return code
    finally:
        _let_go_of_stdout()


def described(problem: BaseException) -> tuple[int, str]:
    """The exit code of an error, and what to tell the person."""
    text = str(problem)
    if isinstance(problem, PromptMixError):
        return problem.exit_code, text
    if isinstance(problem, KeyboardInterrupt):
        return InterruptedRun.exit_code, "interrupted"
    if is_out_of_memory(problem):
        reason = f" ({text[:200]})" if text else ""
        hint = "close other programs, choose another --device, or train with a smaller --set recipe.batch_size=N"
        return OutOfMemoryError.exit_code, f"out of memory{reason}; {hint}"
    if isinstance(problem, OSError) and problem.errno in _BAD_PLACE:
        place = problem.filename or "the output"
        return DataError.exit_code, f"{place}: {problem.strerror}; free some space or choose a place that can be read and written"
    return (
        PromptMixError.exit_code,
        f"unexpected {type(problem).__name__}: {text}; run again with --debug for the whole traceback",
    )


def _let_go_of_stdout() -> None:
    """Where stdout cannot be written to any more, forget what is left for it: Python would complain at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _OnStderr(logging.Handler):
    """One line a record; with the seconds since the start where the person wants to know what is going on."""

    def __init__(self, timed: bool) -> None:
        super().__init__()
        self._timed, self._started = timed, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        seconds = f"{time.monotonic() - self._started:.1f} s: " if self._timed else ""
        # Looked up each time: a progress bar puts something of its own in the place of stderr.
        sys.stderr.write(f"promptmix: {seconds}{printable(' '.join(record.getMessage().split()))}\n")


@contextlib.contextmanager
def _logs_on_stderr(level: int) -> Iterator[None]:
    handler, before = _OnStderr(timed=level <= logging.INFO), _logger.level
    _logger.addHandler(handler)
    _logger.setLevel(level)
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(before)
