"""How fast training goes and what it is given, logged beside the losses."""

import time
from typing import Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer

from flowbind.data.mixture import OfKinds
from flowbind.trainer import connected

RATE = "learning_rate"


@runtime_checkable
class Rated(Protocol):
    """A training that knows its learning rate."""

    def rate_at(self, step: int) -> float:
        """The rate of the step after `step` others."""


class Pace(Callback):
    """Logs at the steps at which losses are, from this process's clock alone.

    learning_rate             of the step
    pace/samples_per_second   of the global batch, since the last time; validation apart
    pace/data_wait            share of that time in which the next batch was waited for
    share/KIND                realised share of a kind of samples in a batch
    """

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.samples = 0
        self.shares: dict[str, float] = {}
        data = connected(trainer).datamodule
        if isinstance(data, OfKinds):
            kinds = data.kinds()
            batch = sum(kind.share for kind in kinds.values())
            self.samples = batch * trainer.accumulate_grad_batches
            for name, kind in kinds.items():
                self.shares[f"share/{name}"] = kind.share / batch
        self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        """Begins to count anew."""
        self.step = trainer.global_step
        self.apart = 0.0  # seconds of validation
        self.waited = self._waited(trainer)
        self.now = time.perf_counter()

    def _waited(self, trainer: Trainer) -> float:
        """Seconds that batches were waited for so far."""
        return getattr(trainer.train_dataloader, "waited", 0.0)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        *_: object,
    ) -> None:
        steps = trainer.global_step - self.step
        if not steps or trainer.global_step % connected(trainer).log_every_n_steps:
            return

        values = dict(self.shares)
        if isinstance(module, Rated):
            values[RATE] = module.rate_at(trainer.global_step - 1)

        seconds = time.perf_counter() - self.now - self.apart
        if self.samples:
            values["pace/samples_per_second"] = steps * self.samples / seconds
            waited = self._waited(trainer) - self.waited
            values["pace/data_wait"] = min(waited / seconds, 1.0)
        module.log_dict(values)
        self._begin(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.validation = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if hasattr(self, "apart"):
            self.apart += time.perf_counter() - self.validation
