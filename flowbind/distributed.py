"""Sums and lists over the processes of a run, on torch alone; one process alone is all of them."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


class Group(Protocol):
    """Ranks that are not processes, such as threads of a test."""

    size: int

    def total(self, x: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, each of which asks for it."""


# The group of a thread that is a rank of its own (`flowbind.testing.ranks`).
of_thread = threading.local()


def ranks() -> int:
    """The number of processes that share a batch."""
    if group := getattr(of_thread, "group", None):
        return group.size
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return 1


@contextmanager
def unheard() -> Iterator[None]:
    """A block in which this process asks no other: a sum over ranks is its own part.

    For whoever looks at shapes alone.
    """
    before = getattr(of_thread, "group", None)
    of_thread.group = _Unheard(ranks())
    try:
        yield
    finally:
        of_thread.group = before


class _Unheard(NamedTuple):
    """As many ranks as there are, none of which answers."""

    size: int

    def total(self, x: Tensor) -> Tensor:
        return x.clone()


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, each of which asks for it."""
    if ranks() == 1:
        return x
    return _Total.apply(x)


class _Total(torch.autograd.Function):
    """A sum over all ranks. Its gradient is one too, since each rank's loss depends on all rows."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        if group := getattr(of_thread, "group", None):
            return group.total(x)
        summed = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient)


def rows_of_all(x: Tensor, numbers: Tensor, count: int) -> Tensor:
    """The rows of all ranks, with shape (N, *), in the order of the global batch.

    Gradients flow back to the rank that has a row, from the losses of all ranks. Ranks may have
    different numbers of rows, and none waits for a device to know how many.

    Args:
        x: This rank's rows, with shape (n, *).
        numbers: Number of each of them in the global batch, with shape (n,).
        count: Number N of rows of the global batch.
    """
    if ranks() == 1:
        return x

    # Each row is there once, and 0 on the other ranks: the sum is exact.
    rows = x.new_zeros(count, *x.shape[1:])
    return total(rows.index_copy(0, numbers, x))


def all_gather(value: Any) -> list[Any]:
    """What every process gives, in their order."""
    if ranks() == 1:
        return [value]

    values: list[Any] = [None] * ranks()
    dist.all_gather_object(values, value)
    return values


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The parts of tensors that lie on this device."""
    parts = []
    for tensor in tensors:
        if isinstance(tensor, DTensor):
            parts.append(tensor.to_local())
        else:
            parts.append(tensor.data)
    return parts


class Heartbeat:
    """A flag that any process may raise, and that all see at the same step.

    Each step sends its own flags off and reads those of the step before, so that nobody waits.
    """

    def __init__(self) -> None:
        self.group = None
        if ranks() > 1:
            self.group = dist.new_group(backend="gloo")
        self.sent: tuple[Tensor, dist.Work] | None = None

    def beat(self, flag: int) -> int:
        """The largest flag of all processes one step ago; of one process alone, its own."""
        if self.group is None:
            return flag

        largest = 0
        if self.sent:
            tensor, work = self.sent
            work.wait()
            largest = int(tensor)

        tensor = torch.tensor([flag])
        work = dist.all_reduce(
            tensor,
            dist.ReduceOp.MAX,
            group=self.group,
            async_op=True,
        )
        self.sent = (tensor, work)
        return largest
