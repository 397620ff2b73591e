"""What happens around a training step: lines of progress, and checkpoints."""

import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from flowbind.progress import QUIET_INTERVAL, say


class Lines(Callback):
    """Progress as plain lines, where standard error is not a terminal."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.begin = self.last = time.monotonic()
        self.first = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        now = time.monotonic()
        if now - self.last >= QUIET_INTERVAL or trainer.global_step == trainer.max_steps:
            self.last = now
            rate = (trainer.global_step - self.first) / (now - self.begin)
            losses = {name: float(value) for name, value in trainer.progress_bar_metrics.items() if "loss" in name}
            shown = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
            say(f"fit: step {trainer.global_step}/{trainer.max_steps} ({rate:.1f}/s) {shown}")


class Checkpoints(ModelCheckpoint):
    """A checkpoint every so many steps, on an exception, and at the end of training, all of them also as `last.ckpt`.

    Lightning's own ends with the last multiple of `every`, so that what is tested would not be what was trained.
    """

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__(folder, "{step}", every_n_train_steps=every, save_last=True, save_on_exception=True)
        self.every = every

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step % self.every and not trainer.interrupted:
            trainer.save_checkpoint(Path(self.dirpath) / f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}")
