"""The processes that train one model together, as torchrun starts them: who is who, what they tell each other, and when one is gone.

Each process is a rank. All ranks run the same program on the same inputs, so that whatever needs all of them is reached by all of them
in the same order; only the first writes and prints. Without a group there is one rank, and nothing here costs anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributed as dist

from promptmix.errors import ConfigError, LostRankError
from promptmix.runtime import choose_device

if TYPE_CHECKING:
    import torch.distributed.distributed_c10d

__all__ = [
    "any_rank",
    "broadcast_json",
    "broadcast_tensors",
    "check_same",
    "claim_telling",
    "collective",
    "gather_json",
    "group_of_ranks",
    "is_first",
    "is_told",
    "joined_group",
    "lost_ranks",
    "num_ranks",
    "num_ranks_here",
    "rank",
    "started_with_others",
    "use_own_device",
    "wait_for_all",
]

_MINUTES_OF_A_STEP = 5  # how long a rank waits for the others within a step
_SECONDS_TO_FIND_OUT = 3.0  # a process that was killed closes its connections a little before it is gone
_TOLD = "told"
_AGAIN = "start the same command again with --resume, on any number of ranks"


@dataclass
class _Group:
    """Where this process stands among the others.

    Attributes:
        places: the machine and the process number of each rank.
        waits: how often all have waited for each other; the ranks count alike, because they run the same program.
    """

    rank: int
    size: int
    store: torch.distributed.distributed_c10d.Store
    places: list[tuple[str, int]]
    waits: int = 0


_joined: list[_Group] = []  # one at most


def _group() -> _Group | None:
    return _joined[-1] if _joined else None


def rank() -> int:
    """The number of this process, from 0."""
    group = _group()
    return 0 if group is None else group.rank


def num_ranks() -> int:
    """How many processes work together; 1 without a group."""
    group = _group()
    return 1 if group is None else group.size


def num_ranks_here() -> int:
    """How many of them share this machine."""
    group = _group()
    return 1 if group is None else max(1, sum(machine == platform.node() for machine, _ in group.places))


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def started_with_others() -> bool:
    """Whether torchrun, or something that sets the same variables, has started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ


@contextlib.contextmanager
def joined_group() -> Iterator[None]:
    """Within the block this process is one of those that the environment speaks of; without others, nothing changes.

    On machines with CUDA tensors there go by NCCL and the others by gloo, elsewhere all by gloo.

    Raises:
        ConfigError: the environment does not tell all that is needed, or the others cannot be reached.
    """
    if not started_with_others():
        yield
        return
    from torch.distributed.rendezvous import rendezvous

    try:
        store, own, size = next(rendezvous("env://", timeout=timedelta(minutes=_MINUTES_OF_A_STEP)))
    except (ValueError, RuntimeError) as problem:
        raise ConfigError(
            f"the ranks cannot meet ({problem}); start them with torchrun --nproc-per-node N -m promptmix train ..."
        ) from problem
    with group_of_ranks(store, own, size):
        yield


@contextlib.contextmanager
def group_of_ranks(store: torch.distributed.distributed_c10d.Store, own: int, size: int) -> Iterator[None]:
    """Within the block this process is rank ``own`` of ``size``, which meet in ``store``. All leave a block that ends well together.

    Raises:
        LostRankError: another rank is gone.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    store = PrefixStore("promptmix", store)
    group = _Group(own, size, store, [])
    _joined.append(group)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        with collective():
            dist.init_process_group(
                backend, store=store, rank=own, world_size=size, timeout=timedelta(minutes=_MINUTES_OF_A_STEP)
            )
        group.places = [(machine, number) for machine, number in gather_json([platform.node(), os.getpid()])]
        yield
        gather_json(None)  # the store may be in the first rank's process, so nobody goes while another still looks there
        dist.destroy_process_group()
    finally:
        _joined.remove(group)


def use_own_device(name: str) -> None:
    """Let ``cuda`` mean the GPU that belongs to this rank, where the device called ``name`` is one.

    Raises:
        ConfigError: there are fewer GPUs than ranks on this machine, or the device cannot be shared out.
    """
    group = _group()
    if group is None:
        return
    device = choose_device(name)
    if device.type == "cuda":
        local, there = int(os.environ.get("LOCAL_RANK", group.rank)), torch.cuda.device_count()
        if local >= there:
            raise ConfigError(
                f"rank {local} of this machine has no GPU of its own: it has {there}; start --nproc-per-node {there}, or pass"
                " --device cpu"
            )
        torch.cuda.set_device(local)
    elif device.type != "cpu":
        raise ConfigError(f"several ranks cannot share the {device.type} device; pass --device cpu, or start without torchrun")


def wait_for_all() -> None:
    """Go on when every rank is here, however long that takes, as long as they live.

    Raises:
        LostRankError: another rank is gone.
    """
    group = _group()
    if group is None:
        return
    group.waits += 1
    key, pause = f"here for wait {group.waits}", 0.001
    with collective():
        arrived = group.store.add(key, 1)
        while arrived < group.size:
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
            ends = is_told() or lost_ranks() is not None
            arrived = group.store.add(key, 0)  # asked last: who has arrived may go on, and to its end
            if ends and arrived < group.size:
                raise _lost()


def gather_json(value: Any) -> list[Any]:
    """What every rank has to say, in the order of the ranks; waits for all, however long that takes.

    Raises:
        LostRankError: another rank is gone.
    """
    group = _group()
    if group is None:
        return [value]
    wait_for_all()
    said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(group.size)]
    with collective():
        dist.all_gather(lengths, torch.tensor([len(said)]))
        longest = int(torch.cat(lengths).max())
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(group.size)]
        dist.all_gather(texts, torch.nn.functional.pad(said, (0, longest - len(said))))
    return [json.loads(bytes(text[: int(length)].tolist())) for text, length in zip(texts, lengths, strict=True)]


def broadcast_json(value: Any) -> Any:
    """What the first rank says; of the others ``value`` is ignored. Waits for all, however long that takes.

    Raises:
        LostRankError: another rank is gone.
    """
    return gather_json(value if is_first() else None)[0]


def broadcast_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first rank's tensors, which are on the CPU; of the others ``tensors`` are ignored.

    Raises:
        LostRankError: another rank is gone.
    """
    if num_ranks() == 1:
        return dict(tensors)
    kinds = broadcast_json([(name, str(value.dtype), list(value.shape)) for name, value in tensors.items()])
    received: dict[str, Tensor] = {}
    for name, dtype, shape in kinds:
        empty = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
        received[name] = tensors[name].contiguous() if is_first() else empty
        if empty.numel() > 0:
            with collective():
                dist.broadcast(received[name], src=0)
    return received


def any_rank(is_so: bool) -> bool:
    """Whether it is so on any rank: all get the same answer.

    Raises:
        LostRankError: another rank is gone.
    """
    group = _group()
    if group is None:
        return is_so
    answer = torch.tensor([int(is_so)])
    with collective():
        dist.all_reduce(answer, dist.ReduceOp.MAX)
    return bool(answer.item())


def check_same(value: str, what: str) -> None:
    """Refuse to go on where the ranks do not see the same; ``what`` says of what it is a hash.

    Raises:
        ConfigError: they do not.
        LostRankError: another rank is gone.
    """
    said = gather_json(value)
    for number, other in enumerate(said):
        if other != said[0]:
            raise ConfigError(
                f"rank {number} has other {what} than rank 0; start all ranks with the same command and the same files"
            )


def is_told() -> bool:
    """Whether a rank has told, or is about to tell, why the run ends."""
    group = _group()
    try:
        return group is not None and group.store.add(_TOLD, 0) > 0
    except RuntimeError:
        return False  # whoever kept the store is gone


def claim_telling() -> bool:
    """Whether it falls to this rank to tell why the run ends: to the first that asks."""
    group = _group()
    try:
        return group is None or group.store.add(_TOLD, 1) == 1
    except RuntimeError:
        return True


def lost_ranks() -> LostRankError | None:
    """What to tell of the ranks on this machine whose process has ended; None where all are there."""
    group = _group()
    if group is None or os.name != "posix":
        return None
    here = platform.node()
    gone = [str(number) for number, (machine, process) in enumerate(group.places) if machine == here and _has_ended(process)]
    if not gone:
        return None
    return LostRankError(f"rank {' and '.join(gone)} of {group.size} ended without a word: killed, or out of memory; {_AGAIN}")


def _has_ended(process: int) -> bool:
    try:
        os.kill(process, 0)
        # One that nobody has waited for yet has ended too.
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"
    except ProcessLookupError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def collective() -> Iterator[None]:
    """Within the block the ranks do something together; where that fails, one of them is gone.

    Raises:
        LostRankError: it failed.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as problem:
        raise _lost() from problem


def _lost() -> LostRankError:
    """Find out who it is."""
    deadline = time.monotonic() + _SECONDS_TO_FIND_OUT
    while time.monotonic() < deadline:
        if is_told():
            return LostRankError(f"another rank ended the run and told why; mend that, then {_AGAIN}")
        lost = lost_ranks()
        if lost is not None:
            return lost
        time.sleep(0.05)
    return LostRankError(f"one of the {num_ranks()} ranks no longer answers; see what it printed, then {_AGAIN}")
