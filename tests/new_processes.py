"""Processes of their own in which tests have functions and commands run: as new as any, and there at once."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import pytest

__all__ = ["Command", "new_processes", "quick_workers"]

# The last but one is what torch's optimizers import when the first is made.
_PRELOADED = (
    *("promptmix.cli.main", "promptmix.cli.train", "promptmix.cli.ranks", "promptmix.inference.bulk"),
    *("promptmix.methods.mocoop", "promptmix.methods.coop", "promptmix.protocols.runner", "torch._dynamo", "pytest"),
)


@functools.cache
def new_processes() -> SpawnContext | ForkServerContext:
    """Starts processes that know nothing of this one, as spawned ones do.

    Each is forked from a process that has imported the package and done nothing else: that is what takes a spawned one so long. They
    share the hashes of their strings, which spawned ones do not.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


@pytest.fixture
def quick_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers that this process starts are there at once."""
    context, get_context = new_processes(), multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind=None: context if kind == "spawn" else get_context(kind))


class Command:
    """``promptmix`` with some words, begun in a process of its own; to be handled as a process of ``subprocess`` with its text.

    Args:
        folder: where its output is kept.
        prepare: a function of a module that the process calls first.
    """

    def __init__(self, folder: Path, *words: str | Path, prepare: Callable[[], None] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self._streams = folder / "stdout", folder / "stderr"
        self._process = new_processes().Process(target=_run, args=(self._streams, list(map(str, words)), prepare))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has printed by its end, and what it has told on stderr."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"the command did not end within {timeout} seconds")
        out, err = (path.read_text(encoding="utf-8") for path in self._streams)
        return out, err


def _run(streams: tuple[Path, Path], words: list[str], prepare: Callable[[], None] | None) -> None:
    os.setsid()  # signals to its group are not for those who run the tests
    for path, stream in zip(streams, (sys.stdout, sys.stderr), strict=True):
        stream.flush()
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    if prepare is not None:
        prepare()
    from promptmix.cli.main import run

    sys.argv = ["promptmix", *words]
    run()
