"""What happens around a training step: its progress, and what is written after the last."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn

from flowbind.progress import Progress, say
from flowbind.trainer import connected

LOOK_INTERVAL = 0.5  # seconds between two looks at the losses
NO_STEPS = (
    "trainer.max_steps is needed, at least 1: the training data have no epochs, and rates fall "
    "over the steps of a run"
)
NO_VALIDATION = (
    "fit: nothing is validated, for the training data have no epochs; give "
    "trainer.val_check_interval in steps, and check_val_every_n_epoch: null"
)


class Steps(ProgressBar):
    """Progress of Lightning's loops, in place of its own bars.

    It shows steps of all steps with the time left, and the losses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work: Progress | None = None
        self.looked = 0.0  # when the losses were looked at

    def disable(self) -> None:
        """Nothing: only the first process shows anything."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._open(trainer, "fit", total, "steps", trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        *_: object,
    ) -> None:
        if self.work is None or trainer.global_step == self.work.total:
            return  # the last step is shown when all that follows it is done

        # A GPU has to be waited for when the losses are looked at, so that is done now and then.
        now = time.monotonic()
        detail = None
        if now - self.looked >= LOOK_INTERVAL:
            self.looked = now
            detail = losses(trainer)

        count = trainer.global_step - self.work.done
        self.work.advance(count, detail)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.work:
            count = trainer.global_step - self.work.done
            self.work.advance(count, losses(trainer))
        self._close()

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._open(
                trainer,
                "validate",
                _batches(trainer.num_val_batches),
                "batches",
            )
        elif self.work:
            self.work.advance(0, "validating")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        *_: object,
    ) -> None:
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

    def on_test_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        *_: object,
    ) -> None:
        if self.work:
            self.work.advance()

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._close()

    def on_exception(
        self,
        trainer: Trainer,
        module: LightningModule,
        exception: BaseException,
    ) -> None:
        self._close()

    def _open(
        self,
        trainer: Trainer,
        about: str,
        total: int | None,
        unit: str,
        done: int = 0,
    ) -> None:
        if trainer.is_global_zero:
            self.work = Progress(about, total, unit, done)

    def _close(self) -> None:
        if self.work:
            self.work.close()
        self.work = None


def never_validates(trainer: Trainer) -> bool:
    """Whether validation waits for the end of an epoch that has none.

    False where there is nothing to validate on.
    """
    batches = trainer.val_check_batch  # None where validation waits for a time
    waits = batches is not None and math.isinf(batches)
    if trainer.check_val_every_n_epoch not in (None, 1):
        waits = True
    if not waits or not trainer.enable_validation:
        return False

    data = connected(trainer).datamodule
    return data is not None and data.val_dataloader() != []


def losses(trainer: Trainer) -> str:
    """The losses that were logged last, of those that are to be shown."""
    parts = []
    for name, value in trainer.progress_bar_metrics.items():
        if "loss" in name:
            parts.append(f"{name} {float(value):.4f}")
    return ", ".join(parts)


def _batches(numbers: Sequence[int | float]) -> int | None:
    """How many batches all loaders have together; None if one of them does not say."""
    total = sum(numbers)
    return int(total) if math.isfinite(total) else None


class Begin(Callback):
    """Calls a function on the first process when the first step is about to be made.

    Nothing before it has failed.

    Args:
        begin: Function that is called.
        loggers: Loggers that a recipe chose, which write from then on and not before.
        settings: What they are told of the run.
    """

    def __init__(
        self,
        begin: Callable[[], None],
        loggers: Sequence[Logger] = (),
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.begin = begin
        self.loggers = list(loggers)
        self.settings = settings

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.begin()
            if never_validates(trainer):
                say(NO_VALIDATION)

        # The recipe's first: a module's `logger` is the first one.
        for logger in self.loggers:
            logger.log_hyperparams(dict(self.settings))
        trainer.loggers = [*self.loggers, *trainer.loggers]

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        # What curves are counted by; Lightning counts a step twice where a run resumes from its
        # end.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


class Exporting(Protocol):
    """A training that writes what it trained."""

    def check_export(self, run_folder: Path) -> None:
        """Refuses, before the first step, a place where it could not be written."""

    def export_trained(self) -> None:
        """Writes it."""


class Export(Checkpoint):
    """Writes what was trained when all steps are made.

    The last checkpoint is written before, so it is there in any case. Lightning calls the callbacks
    of this kind last, in the order in which they were given: a module's after a trainer's.

    Args:
        training: Training that writes it.
    """

    def __init__(self, training: Exporting) -> None:
        self.training = training

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.max_steps < 1:
            raise ValueError(NO_STEPS)
        if not connected(trainer).fast_dev_run and trainer.is_global_zero:
            self.training.check_export(Path(trainer.default_root_dir))

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if is_trained(trainer):
            self.training.export_trained()


def is_trained(trainer: Trainer) -> bool:
    """Whether all steps of the recipe were made, however training ended.

    A smoke run (`fast_dev_run`) trains nothing, nor does a dry run that is as long as the run.
    """
    callbacks = connected(trainer).callbacks
    is_dry = any(getattr(callback, "is_dry", False) for callback in callbacks)
    if is_dry or connected(trainer).fast_dev_run or trainer.interrupted:
        return False
    return trainer.global_step == trainer.max_steps
