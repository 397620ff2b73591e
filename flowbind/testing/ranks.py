"""Ranks that are threads of one process, so that a law sees in a moment what several do together."""

from collections.abc import Callable
from threading import Barrier, Thread
from typing import Any

from torch import Tensor

from flowbind.distributed import of_thread

PATIENCE = 60.0  # seconds that a rank waits for the others


class Ranks:
    """A group of ranks, each of them a thread.

    Args:
        size: Number of ranks.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = Barrier(size, timeout=PATIENCE)
        self.parts: list[Any] = [None] * size

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """What every rank's work gives, in their order.

        Args:
            work: Function of a rank's number.

        Raises:
            BaseException: what the first rank in trouble raises; BrokenBarrierError where one
                waits for others that have ended.
        """
        results: list[Any] = [None] * self.size
        errors: list[BaseException] = []

        def begin(rank: int) -> None:
            of_thread.group = self
            of_thread.rank = rank
            try:
                results[rank] = work(rank)
            except BaseException as error:
                # The others, which may wait for this one, then raise errors of the barrier.
                errors.append(error)
                self.barrier.abort()

        threads = [Thread(target=begin, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    def total(self, x: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, each of which asks for it."""
        self.parts[of_thread.rank] = x.detach().clone()
        self.barrier.wait()
        summed = sum(self.parts[1:], self.parts[0].clone())
        self.barrier.wait()
        return summed
