"""Rows split over ranks: each computes its share, all get all of them, and gradients are those of one rank that computes every row.

What follows the rows (the losses) is computed by every rank alike, from the same rows. So the gradient of the rows is whole on every rank;
each takes that of its own share through what it computed, and the sum over ranks of what comes out is the gradient of what went in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from promptmix.distributed.group import collective, num_ranks, rank

__all__ = ["Share", "gather_table", "own_share", "share_gradients", "split_rows"]

_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Share:
    """Some of ``total`` things that stand in a row: ``count`` of them, from ``first`` on."""

    first: int
    count: int
    total: int

    @property
    def places(self) -> slice:
        """Where they stand."""
        return slice(self.first, self.first + self.count)


def _shares(total: int) -> list[Share]:
    """What falls to each rank: runs of things that follow one another, none longer than another by more than one."""
    ends = [total * number // num_ranks() for number in range(num_ranks() + 1)]
    return [Share(first=first, count=end - first, total=total) for first, end in itertools.pairwise(ends)]


def own_share(total: int) -> Share:
    """What falls to this rank of ``total`` things; all of them without a group."""
    return _shares(total)[rank()]


def split_rows(
    compute: Callable[[], Tensor], total: int, width: int, device: torch.device, inputs: Iterable[Tensor]
) -> Float[Tensor, "row {width}"]:
    """All ``total`` rows, of which each rank computes its own share; without a group just what ``compute`` gives.

    The gradients of ``inputs`` are those that one rank would get, on every rank, provided that every rank makes the same of the rows.

    Args:
        compute: gives this rank's share (see :func:`own_share`) of the rows; not called where that is empty.
        inputs: all that the rows depend on and that may have a gradient.

    Raises:
        LostRankError: another rank is gone.
    """
    if num_ranks() == 1:
        return compute()
    learnt = [tensor for tensor in inputs if tensor.requires_grad] if torch.is_grad_enabled() else []
    if not learnt:
        return _gathered(_computed(compute, total, width, device), total)
    rows: Tensor = _SplitRows.apply(compute, total, width, device, *learnt)  # type: ignore[no-untyped-call]
    return rows


def _computed(compute: Callable[[], Tensor], total: int, width: int, device: torch.device) -> Float[Tensor, "own_row {width}"]:
    return compute() if own_share(total).count > 0 else torch.zeros(0, width, device=device)


def _gathered(own: Float[Tensor, "own_row width"], total: int) -> Float[Tensor, "row width"]:
    """Every rank's rows in their order. Shares are filled up to the longest, as the back ends want them."""
    shares = _shares(total)
    longest = max(share.count for share in shares)
    filled = own.new_zeros(longest, own.shape[1])
    filled[: len(own)] = own.detach()
    parts = [torch.empty_like(filled) for _ in shares]
    with collective():
        dist.all_gather(parts, filled)
    return torch.cat([part[: share.count] for part, share in zip(parts, shares, strict=True)])


class _SplitRows(torch.autograd.Function):
    """The own rows' graph is kept inside, so that forwards and backwards the ranks meet once, whatever each of them computes."""

    @staticmethod
    def forward(
        ctx: Any, compute: Callable[[], Tensor], total: int, width: int, device: torch.device, *inputs: Tensor
    ) -> Float[Tensor, "row {width}"]:
        with torch.enable_grad():
            ctx.own = _computed(compute, total, width, device)
        ctx.share, ctx.inputs = own_share(total), inputs
        return _gathered(ctx.own, total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "row width"]) -> tuple[Tensor | None, ...]:
        through: Sequence[Tensor | None] = [None] * len(ctx.inputs)
        if ctx.own.requires_grad:
            # Kept, because a method may ask for the gradients of two losses in turn.
            through = torch.autograd.grad(ctx.own, ctx.inputs, gradient[ctx.share.places], retain_graph=True, allow_unused=True)
        own = [torch.zeros_like(one) if part is None else part for one, part in zip(ctx.inputs, through, strict=True)]
        flat = torch.cat([part.reshape(-1) for part in own])
        with collective():
            dist.all_reduce(flat)
        parts = flat.split([part.numel() for part in own])
        return (None, None, None, None, *(part.view_as(one) for part, one in zip(parts, own, strict=True)))


def share_gradients(parameters: Iterable[Tensor]) -> None:
    """Give every rank the first one's gradients: the ranks' own are equal but for rounding, which would lead them apart in time.

    Raises:
        LostRankError: another rank is gone.
    """
    if num_ranks() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    with collective():
        dist.broadcast(flat, src=0)
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def gather_table(table: Float[Tensor, "row *rest"], first: int, counts: Sequence[int]) -> None:
    """Fill a table on the CPU, in place, with all ranks' rows, one rank's after another's: ``counts`` of them each.

    Args:
        first: where this rank's rows are so far, at their place or behind it.

    Raises:
        LostRankError: another rank is gone.
    """
    size = max(1, _BLOCK_BYTES // max(1, table[:1].numel() * table.element_size()))
    target = sum(counts[: rank()])
    # Piece by piece where they move only a little, because the places overlap.
    step = min(size, first - target)
    for start in range(0, counts[rank()], step) if step > 0 else ():
        some = min(step, counts[rank()] - start)
        table[target + start : target + start + some] = table[first + start : first + start + some]
    if num_ranks() == 1:
        return
    for source, count in enumerate(counts):
        before = sum(counts[:source])
        for block in table[before : before + count].split(size) if count > 0 else ():
            with collective():
                dist.broadcast(block, src=source)
