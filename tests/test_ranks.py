"""Ranks as threads of one process: sums, rows of all, gradients, and errors."""

from threading import BrokenBarrierError

import pytest
import torch

from flowbind.distributed import ranks, rows_of_all, total, unheard
from flowbind.testing.ranks import Ranks


def test_each_thread_is_a_rank_of_its_group_and_no_other():
    assert Ranks(3).run(lambda rank: (rank, ranks())) == [(0, 3), (1, 3), (2, 3)]
    assert ranks() == 1


def test_a_total_is_the_sum_and_its_gradient_is_one_too():
    def work(rank):
        x = torch.tensor([1.0 + rank, 2.0], requires_grad=True)
        summed = total(x)
        loss = ((rank + 1) * summed).sum()
        return summed.tolist(), torch.autograd.grad(loss, x)[0].tolist()

    assert Ranks(2).run(work) == [([3.0, 4.0], [3.0, 3.0])] * 2


def test_rows_of_all_stand_in_the_order_of_the_global_batch_and_gradients_flow_back():
    x = torch.arange(10.0).reshape(5, 2)
    weights = torch.arange(1.0, 6.0)[:, None]

    def work(rank):
        numbers = torch.arange(5)[rank::3]
        own = x[numbers].requires_grad_()
        rows = rows_of_all(own, numbers, 5)
        (gradient,) = torch.autograd.grad((weights * rows).sum(), own)
        return rows.detach(), gradient, 3 * weights[numbers].expand(-1, 2)

    for rows, gradient, expected in Ranks(3).run(work):
        assert torch.equal(rows, x)
        assert torch.equal(gradient, expected)


def test_the_rows_of_one_process_are_all():
    x = torch.randn(3, 2)
    assert rows_of_all(x, torch.arange(3), 3) is x


def test_what_a_rank_raises_is_raised_and_the_others_end():
    def work(rank):
        if rank == 1:
            raise ValueError("rank 1 has enough")
        return total(torch.ones(1))

    with pytest.raises(ValueError, match="rank 1 has enough"):
        Ranks(3).run(work)


def test_a_rank_that_waits_for_one_that_has_ended_says_so(monkeypatch):
    monkeypatch.setattr("flowbind.testing.ranks.PATIENCE", 0.1)
    with pytest.raises(BrokenBarrierError):
        Ranks(2).run(lambda rank: total(torch.ones(1)) if rank else None)


def test_a_process_that_is_unheard_asks_no_other():
    """As the summary of a run does, which the first process makes alone."""

    def work(rank):
        if rank == 0:
            return None
        with unheard():
            alone = ranks(), total(torch.ones(2)).tolist()
        return alone, ranks()

    assert Ranks(2).run(work) == [None, ((2, [1.0, 1.0]), 2)]
