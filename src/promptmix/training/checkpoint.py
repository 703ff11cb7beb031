"""The state of a run in one file, for resuming: what was learnt, the optimizer's state, running averages, and where in the order it stood.

No state of a random generator is kept: every epoch derives its own order and views from (seed, epoch), so the feed's seed and the
place in its order say it all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from promptmix.distributed.group import broadcast_json, broadcast_tensors, is_first
from promptmix.errors import CheckpointError
from promptmix.runtime import short_hash, tensors_checksum, write_tensors

__all__ = ["Checkpoint", "read_checkpoint", "shared_checkpoint", "write_checkpoint"]

_FORMAT = "promptmix-checkpoint-4"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a run stands.

    Attributes:
        run_key: hash of everything the result depends on; another run's checkpoint is refused by it.
        epoch, step: the next epoch and the number of its steps already done.
        averaged_weight: the weight of all epochs that the running averages hold.
        seconds: of training up to here, over all its legs.
        peak_memory_bytes: the most that a process which trained up to here has held.
        loss_sum, correct, seen: sums over the epoch's steps so far, for its line in the log.
        feed: what the feed says of itself; batches of another kind or seed would not go on where this run stopped.
        tensors: ``parameter.*``, ``average.*`` and the optimizer's own, ``optimizer.KEY.*``.
    """

    run_key: str
    epoch: int
    step: int
    averaged_weight: float
    seconds: float
    peak_memory_bytes: int
    loss_sum: float
    correct: int
    seen: int
    feed: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def shared_checkpoint(path: Path | None, run_key: str) -> Checkpoint | None:
    """What the first rank reads from ``path``, on every rank; None where there is no file. It may have been written by any number of ranks.

    Raises:
        CheckpointError: as :func:`read_checkpoint`.
        LostRankError: another rank is gone.
    """
    there = read_checkpoint(path, run_key) if path is not None and is_first() and path.is_file() else None
    fields = broadcast_json(None if there is None else _fields(there))
    if fields is None:
        return None
    return Checkpoint(tensors=broadcast_tensors({} if there is None else there.tensors), **fields)


def _fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """All but the tensors."""
    return {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__ if name != "tensors"}


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    state = json.dumps(_fields(checkpoint))
    write_tensors(path, tensors, {"format": _FORMAT, "state": state, "checksum": short_hash(state, tensors_checksum(tensors))})


def read_checkpoint(path: Path, run_key: str) -> Checkpoint:
    """Read a checkpoint of the run with this key.

    Raises:
        CheckpointError: the file is damaged, is no checkpoint, or belongs to a run with other options, pictures or backbone.
    """
    start_again = "remove it, or pass --overwrite to start again"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as problem:
        raise CheckpointError(f"checkpoint {path} is damaged ({problem}); {start_again}") from problem
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version; {start_again}")
    if metadata.get("checksum") != short_hash(metadata.get("state", ""), tensors_checksum(tensors)):
        raise CheckpointError(f"checkpoint {path} is damaged (its checksum does not fit); {start_again}")
    checkpoint = Checkpoint(tensors=tensors, **json.loads(metadata["state"]))
    if checkpoint.run_key != run_key:
        raise CheckpointError(
            f"checkpoint {path} belongs to a run with other options, pictures or backbone; run with the same ones, or {start_again}"
        )
    return checkpoint
