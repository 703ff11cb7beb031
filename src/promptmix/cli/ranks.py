"""A verb that torchrun has started several times: one rank speaks for all, and what ends one of them ends the run."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator

import typer

from promptmix.cli.guard import described
from promptmix.distributed.group import (
    claim_telling,
    is_first,
    is_told,
    joined_group,
    lost_ranks,
    num_ranks,
    rank,
    started_with_others,
    wait_for_all,
)
from promptmix.errors import InterruptedRun, LostRankError, PromptMixError

__all__ = ["working_together"]


class _ToldByRank(PromptMixError):
    """What ended a run on several ranks, and on which of them."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextlib.contextmanager
def working_together() -> Iterator[None]:
    """Within the block this process works with the others that torchrun has started; without others, nothing changes.

    The first rank alone warns and shows progress. What ends a rank is told in one line by the one that it happened to, or, where that one was
    killed, by one of the others; the rest end without a word.

    Raises:
        ConfigError: the ranks cannot meet.
    """
    if not started_with_others():
        yield
        return
    # Whoever started the ranks ends all of them by this where one is gone; like Ctrl-C, it is to be told of in one line.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with joined_group():
        if not is_first():
            logging.getLogger("promptmix").setLevel(logging.ERROR)
        try:
            yield
            wait_for_all()  # what is left to do is done by the first alone, and may still fail
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt) as problem:
            for kind in (signal.SIGINT, signal.SIGTERM):
                signal.signal(kind, signal.SIG_IGN)  # it ends anyway; the line is still to be written
            raise _told_once(problem) from problem


def _told_once(problem: BaseException) -> BaseException:
    """What to raise so that one rank tells of it."""
    lost = lost_ranks() if isinstance(problem, InterruptedRun | KeyboardInterrupt) and not is_told() else None
    code, message = described(problem if lost is None else lost)
    if not claim_telling():
        return typer.Exit(code)
    if isinstance(problem, InterruptedRun | KeyboardInterrupt | LostRankError):
        return _ToldByRank(message, code)
    return _ToldByRank(f"rank {rank()} of {num_ranks()}: {message}", code)
