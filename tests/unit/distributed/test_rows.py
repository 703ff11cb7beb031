"""Rows that ranks share: everybody gets all of them, and gradients are those of one process that computes them all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.many_ranks import on_ranks
from torch import Tensor

from promptmix.distributed.group import any_rank, broadcast_json, broadcast_tensors, check_same, gather_json, num_ranks, rank
from promptmix.distributed.rows import Share, gather_table, own_share, share_gradients, split_rows
from promptmix.errors import ConfigError
from promptmix.runtime import torch_generator

WIDTH = 3
CPU = torch.device("cpu")


def numbers(*shape: int, purpose: str) -> Tensor:
    return torch.randn(*shape, generator=torch_generator(0, purpose))


def through_rows(total: int) -> dict[str, Tensor]:
    """A loss of rows that all depend on two leaves, one of them by way of something that is no leaf, and its gradients."""
    table, matrix, unused = numbers(total, 4, purpose="table"), numbers(4, WIDTH, purpose="matrix"), numbers(2, purpose="unused")
    leaves = [matrix.requires_grad_(), (shift := numbers(WIDTH, purpose="shift").requires_grad_()), unused.requires_grad_()]
    made: dict[str, Tensor] = {}
    doubled = 2 * matrix
    inputs = [doubled, shift, unused, table]  # the table has no gradient

    def own_rows() -> Tensor:
        return (table[own_share(total).places] @ doubled + shift).tanh()

    rows = split_rows(own_rows, total, WIDTH, CPU, inputs)
    # Once more what went in, beside the rows; the last rows count most.
    weights = torch.arange(1.0, total + 1)[:, None]
    losses = [(weights * rows.square()).mean() + matrix.sum(), rows.sin().sum() + shift.sum()]
    for number, loss in enumerate(losses):
        gradients = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        made |= {f"gradient {number} {place}": one for place, one in enumerate(gradients) if one is not None and place < 2}
    with torch.no_grad():
        again = split_rows(lambda: table[own_share(total).places] @ matrix, total, WIDTH, CPU, [matrix])
    assert not again.requires_grad
    return {**made, "rows": rows, "again": again}


@pytest.mark.parametrize(("ranks", "totals"), [(2, (1, 2, 7)), (3, (1, 2, 8))])
def test_rows_and_gradients_are_those_of_one_process(ranks: int, totals: tuple[int, ...], tmp_path: Path) -> None:
    said = on_ranks(through_many_rows, ranks, tmp_path / "ranks", totals)
    alone = through_many_rows(totals)
    assert len(alone) == 6 * len(totals)
    for one in said:
        torch.testing.assert_close(one, alone, rtol=1e-6, atol=1e-6)
        assert all(torch.equal(one[name], said[0][name]) for name in one), "the ranks differ"


def through_many_rows(totals: tuple[int, ...]) -> dict[str, Tensor]:
    return {f"{total} {name}": value for total in totals for name, value in through_rows(total).items()}


def messages() -> dict[str, Tensor]:
    """What ranks tell each other; checked where it arrives."""
    own, size = rank(), num_ranks()
    assert gather_json({"né": [own] * own}) == [{"né": [one] * one} for one in range(size)]
    assert broadcast_json(["from", own]) == ["from", 0]
    assert [any_rank(own == 1), any_rank(False)] == [True, False]
    mine = {"whole": torch.arange(3) + own, "none": torch.zeros(0, 2), "number": torch.tensor(0.1 + own, dtype=torch.float64)}
    parameter = torch.zeros(2, 2, requires_grad=True)
    parameter.grad = torch.full((2, 2), float(own + 1))
    share_gradients([parameter, torch.zeros(1, requires_grad=True)])
    check_same("alike", "thoughts")
    with pytest.raises(ConfigError, match="rank 1 has other thoughts than rank 0"):
        check_same(f"thought {min(own, 1)}", "thoughts")
    # Each has its rows a little behind their place, as where things before them were left out.
    counts = [3, 2, 4]
    table, first = torch.full((12, 2), -1.0), (0, 4, 7)[own]
    table[first : first + counts[own]] = 10.0 * own + torch.arange(counts[own])[:, None]
    gather_table(table, first, counts)
    return {**broadcast_tensors(mine if own == 0 else {}), "gradient": parameter.grad, "table": table[:9]}


def test_what_ranks_tell_each_other_arrives(tmp_path: Path) -> None:
    for said in on_ranks(messages, 3, tmp_path / "ranks"):
        assert torch.equal(said["whole"], torch.arange(3)) and said["none"].shape == (0, 2)
        assert said["number"].item() == 0.1 and said["number"].shape == ()
        assert torch.equal(said["gradient"], torch.ones(2, 2))
        assert said["table"][:, 1].tolist() == [0, 1, 2, 10, 11, 20, 21, 22, 23]


def test_without_a_group_everything_is_ones_own() -> None:
    assert (rank(), num_ranks()) == (0, 1)
    assert own_share(5) == Share(first=0, count=5, total=5)
    rows = torch.ones(2, WIDTH)
    assert split_rows(lambda: rows, 2, WIDTH, CPU, [rows]) is rows
    assert gather_json(1) == [1] and broadcast_json(None) is None and not any_rank(False)
