"""A function on several ranks, each a process of its own, as torchrun would start them but without it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed import FileStore

from promptmix.distributed.group import group_of_ranks

Work = Callable[..., dict[str, Tensor]]


def on_ranks(work: Work, number: int, folder: Path, *arguments: Any) -> list[dict[str, Tensor]]:
    """What ``work(*arguments)``, a function of a module, gives on each of so many ranks."""
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_one_rank, args=(work, own, number, folder, arguments)) for own in range(number)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in ranks] == [0] * number
    return [load_file(folder / f"{own}.safetensors") for own in range(number)]


def _one_rank(work: Work, own: int, number: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    with group_of_ranks(FileStore(str(folder / "store"), number), own, number):
        made = work(*arguments)
    save_file({name: value.detach().contiguous() for name, value in made.items()}, folder / f"{own}.safetensors")
