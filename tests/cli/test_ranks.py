"""What ends one rank ends all: here one whose memory runs out in the midst of training. Started as torchrun would, but without it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
import typer
from tests.many_ranks import free_port
from tests.new_processes import new_processes
from torch.nn import functional

from promptmix.backbones.registry import load_backbone
from promptmix.cli.guard import described
from promptmix.cli.ranks import working_together
from promptmix.distributed.group import rank
from promptmix.methods.base import Recipe
from promptmix.methods.registry import build_method
from promptmix.structs import Batch, StepOutput
from promptmix.training.checkpoint import read_checkpoint
from promptmix.training.feeds import CachedFeed
from promptmix.training.loop import train

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"


def training_that_ends(own: int, port: int, folder: Path) -> None:
    """Two ranks learn; the second has no memory left in its third step."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(own), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    checkpoint = folder / "checkpoint.safetensors"
    try:
        with working_together():
            backbone = load_backbone("bundled", device="cpu")
            method = build_method("coop", {}, backbone, ("anchor", "cat"), 1)
            as_ever, features = (
                method.training_step,
                functional.normalize(torch.ones(4, 1, backbone.config.embedding_width), dim=-1),
            )

            def training_step(batch: Batch) -> StepOutput:
                if rank() == 1 and batch.number == 2:
                    raise RuntimeError(ALLOCATOR)
                return as_ever(batch)

            method.training_step = training_step  # type: ignore[method-assign]
            feed = CachedFeed(features, torch.tensor([0, 1, 0, 1]), 1)
            train(method, Recipe(batch_size=2, epochs=4), feed, run_key="mine", checkpoint_path=checkpoint)
        told: tuple[int, str] = 0, ""
    except typer.Exit as end:
        told = end.exit_code, ""
    except Exception as problem:
        told = described(problem)
    (folder / f"{own}.json").write_text(json.dumps(told), encoding="utf-8")


def test_a_rank_that_runs_out_of_memory_ends_the_run_and_says_so(tmp_path: Path) -> None:
    context, port = new_processes(), free_port()
    ranks = [context.Process(target=training_that_ends, args=(own, port, tmp_path)) for own in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(100)
        if process.is_alive():
            process.kill()
    (code, line), (code_of_the_second, line_of_the_second) = (
        json.loads((tmp_path / f"{own}.json").read_text(encoding="utf-8")) for own in range(2)
    )
    assert code_of_the_second == 6
    assert "rank 1 of 2: out of memory" in line_of_the_second and "can't allocate memory" in line_of_the_second
    assert (code, line) == (7, "")  # told once
    # The state after the last whole step is there.
    kept = read_checkpoint(tmp_path / "checkpoint.safetensors", "mine")
    assert (kept.epoch, kept.step) == (1, 0)
