"""A function or a command on several ranks, each a process of its own, as torchrun would start them but without it."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.new_processes import new_processes
from torch import Tensor
from torch.distributed import FileStore

from promptmix.distributed.group import group_of_ranks

Work = Callable[..., dict[str, Tensor]]


def on_ranks(work: Work, number: int, folder: Path, *arguments: Any, spawned: bool = False) -> list[dict[str, Tensor]]:
    """What ``work(*arguments)``, a function of a module, gives on each of so many ranks.

    Spawned ones each have their own hashes of strings, and so orders of sets, and can have their memory traced; they take longer.
    """
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn") if spawned else new_processes()
    ranks = [context.Process(target=_one_rank, args=(work, own, number, folder, arguments)) for own in range(number)]
    codes = _exit_codes(ranks)
    assert codes == [0] * number, codes
    return [load_file(folder / f"{own}.safetensors") for own in range(number)]


def _exit_codes(ranks: Sequence[BaseProcess]) -> list[int | None]:
    """Start the processes, and wait for their ends."""
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in ranks]


def _one_rank(work: Work, own: int, number: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    with group_of_ranks(FileStore(str(folder / "store"), number), own, number):
        made = work(*arguments)
    save_file({name: value.detach().contiguous() for name, value in made.items()}, folder / f"{own}.safetensors")


def command_on_ranks(number: int, folder: Path, *words: str | Path) -> tuple[list[int | None], str, list[str]]:
    """The exit codes of a command on each of so many ranks, what they printed, and the lines that they told on stderr."""
    folder.mkdir(exist_ok=True)
    port, given = free_port(), list(map(str, words))
    ranks = [new_processes().Process(target=_run_command, args=(own, number, port, folder, given)) for own in range(number)]
    codes = _exit_codes(ranks)
    out, err = ("".join((folder / f"{own}.{kind}").read_text() for own in range(number)) for kind in ("out", "err"))
    return codes, out, [line for line in err.splitlines() if line.startswith("promptmix: ")]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _run_command(own: int, number: int, port: int, folder: Path, words: list[str]) -> None:
    for kind, stream in (("out", sys.stdout), ("err", sys.stderr)):
        stream.flush()
        os.dup2(os.open(folder / f"{own}.{kind}", os.O_WRONLY | os.O_CREAT), stream.fileno())
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(own), "LOCAL_RANK": str(own), "WORLD_SIZE": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from promptmix.cli.main import run

    sys.argv = ["promptmix", *words]
    run()
