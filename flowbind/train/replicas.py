"""What all devices must agree on: that their weights are the same, and when to stop."""

import time

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from flowbind.distributed import local
from flowbind.train.sharding import is_sharded

INTERVAL = 20.0  # seconds between comparisons
# Integers by their bytes.
WORDS = {
    1: torch.int8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
}


class Agreement(Callback):
    """Compares the weights of all devices, bit by bit.

    It does so after the first step, then every `INTERVAL` seconds, and at the end.

    Raises:
        ValueError: they differ; the ranks are named.
    """

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.group = None
        wrapped = trainer.strategy.model
        if trainer.world_size > 1 and not is_sharded(module, wrapped):
            self.group = dist.new_group(backend="gloo")
        self.first = trainer.global_step
        self.next = self.first + 1
        self.begin = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        *_: object,
    ) -> None:
        if self.group is not None and trainer.global_step >= self.next:
            seconds = time.monotonic() - self.begin
            rate = (trainer.global_step - self.first) / seconds
            steps = max(int(INTERVAL * rate), 1)
            pause = self._compare(trainer, module, steps)
            self.next = trainer.global_step + pause

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.group is not None and not trainer.interrupted:
            self._compare(trainer, module, 0)

    def _compare(
        self,
        trainer: Trainer,
        module: LightningModule,
        pause: int,
    ) -> int:
        """Compares, and returns the first rank's pause, in steps: its clock decides for all."""
        row = torch.tensor([checksum(module), pause])
        gathered = [torch.zeros_like(row) for _ in range(trainer.world_size)]
        dist.all_gather(gathered, row, group=self.group)

        sums = [int(row[0]) for row in gathered]
        common = max(sums, key=sums.count)
        others = []
        for rank, own_sum in enumerate(sums):
            if own_sum != common:
                others.append(str(rank))
        if others:
            ranks = ", ".join(others)
            raise ValueError(
                f"step {trainer.global_step}: the weights on rank {ranks} are no "
                "longer those of the other ranks; a device may be faulty, or a module draws "
                "random numbers of its own. Resume from a checkpoint of before, by --ckpt_path"
            )

        _, steps = gathered[0].tolist()
        return steps


def checksum(module: torch.nn.Module) -> int:
    """One number of all weights and buffers: equal where every bit is equal."""
    sums = []
    for tensor in [*local(module.parameters()), *module.buffers()]:
        words = tensor.detach().view(WORDS[tensor.element_size()])
        sums.append(words.sum(dtype=torch.int64))

    # Weighted by their place, so that tensors that change places are noticed.
    stacked = torch.stack(sums)
    places = torch.arange(1, len(sums) + 1, device=stacked.device)
    weighted = stacked * places
    return int(weighted.sum())
