"""What happens around a training step: lines of progress, and what is written when training is over."""

import time

from lightning.pytorch import Callback, LightningModule, Trainer

from flowbind.progress import QUIET_INTERVAL, say


class Lines(Callback):
    """Progress as plain lines, where standard error is not a terminal."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.begin = self.last = time.monotonic()
        self.first = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        now = time.monotonic()
        if trainer.is_global_zero and (now - self.last >= QUIET_INTERVAL or trainer.global_step == trainer.max_steps):
            self.last = now
            rate = (trainer.global_step - self.first) / (now - self.begin)
            losses = {name: float(value) for name, value in trainer.progress_bar_metrics.items() if "loss" in name}
            shown = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
            say(f"fit: step {trainer.global_step}/{trainer.max_steps} ({rate:.2f}/s) {shown}")


class Export(Callback):
    """Writes what was trained, before the last checkpoint: a run whose last checkpoint is there has been exported."""

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.interrupted:
            module.export_trained()
