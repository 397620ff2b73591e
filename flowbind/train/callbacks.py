"""What happens around a training step: its progress is shown, and what is written when training is over."""

import math
import time
from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from flowbind.progress import Progress

LOOK_INTERVAL = 0.5  # seconds between two looks at the losses


class Steps(ProgressBar):
    """Progress of Lightning's loops, in place of its own bars: steps of all steps with the time left, and the losses."""

    def __init__(self) -> None:
        super().__init__()
        self.work: Progress | None = None
        self.looked = 0.0  # when the losses were looked at, for which a GPU has to be waited for

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._open(trainer, "fit", total, "steps", trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        if self.work is None or trainer.global_step == self.work.total:
            return  # the last step is shown when all that follows it is done
        now = time.monotonic()
        detail = None
        if now - self.looked >= LOOK_INTERVAL:
            self.looked = now
            detail = losses(trainer)
        self.work.advance(trainer.global_step - self.work.done, detail)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.work:
            self.work.advance(trainer.global_step - self.work.done, losses(trainer))
        self._close()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._open(trainer, "validate", _batches(trainer.num_val_batches), "batches")
        elif self.work:
            self.work.advance(0, "validating")

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING and self.work:
            self.work.advance()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._close()
        elif self.work:
            self.work.advance(0, losses(trainer))

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        total = _batches(trainer.num_test_batches)
        if total != 1:  # one batch that takes long shows what it does itself
            self._open(trainer, "test", total, "batches")

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        if self.work:
            self.work.advance()

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: Trainer, module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _open(self, trainer: Trainer, about: str, total: int | None, unit: str, done: int = 0) -> None:
        if trainer.is_global_zero:
            self.work = Progress(about, total, unit, done)

    def _close(self) -> None:
        if self.work:
            self.work.close()
        self.work = None


def losses(trainer: Trainer) -> str:
    """The losses that were logged last, of those that are to be shown."""
    shown = {name: value for name, value in trainer.progress_bar_metrics.items() if "loss" in name}
    return ", ".join(f"{name} {float(value):.4f}" for name, value in shown.items())


def _batches(numbers: Sequence[int | float]) -> int | None:
    """How many batches all loaders have together; None if one of them does not say."""
    total = sum(numbers)
    return int(total) if math.isfinite(total) else None


class Export(Callback):
    """Writes what was trained, before the last checkpoint: a run whose last checkpoint is there has been exported."""

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.interrupted:
            module.export_trained()
