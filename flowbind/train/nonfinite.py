"""Numerical trouble: the first step whose gradients are not finite.

It is found without waiting for the device. From that step on the optimiser is made to skip, as
under a gradient scaler, so that the weights stay those before it until the host looks.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from flowbind.distributed import all_gather
from flowbind.trainer import Connected

UNSEEN = -1
SHOWN = 10  # lines of a manifest in a message


class Diverged(ValueError):
    """A loss or a gradient was not finite. The weights are those before it, and worth saving."""


class Health:
    """The first bad step, kept on a device."""

    def __init__(self, device: torch.device) -> None:
        self.first = torch.full((), UNSEEN, dtype=torch.int64, device=device)

    def see(self, value: Tensor, step: int) -> Tensor:
        """Takes note of a scalar that ought to be finite at a step.

        Returns 1 if it or an earlier one was not, else 0.
        """
        is_unseen = self.first == UNSEEN
        is_first = is_unseen & ~value.isfinite()
        self.first = torch.where(is_first, step, self.first)
        return (self.first != UNSEEN).float()

    def look(self) -> int | None:
        """The first bad step; None if there was none. Waits for the device."""
        step = int(self.first)
        return None if step == UNSEEN else step


class Watched(LightningModule):
    """A training whose weights never take up what is not finite.

    A subclass hands each step's loss to `watch`, and has an optimiser that heeds `found_inf`: a
    fused one of torch.

    Raises:
        Diverged: a loss or a gradient was not finite; it says at which step, and what was bad
            there.
    """

    # Lightning's setter takes None, too.
    trainer: Connected[object]  # type: ignore[override]

    def on_fit_start(self) -> None:
        self.health = Health(self.device)

    def watch(self, loss: Tensor, step: int) -> None:
        """Takes note of the loss of a step, before its gradients are computed."""
        self._loss = loss.detach()
        self._step = step

    @abstractmethod
    def trouble_at(self, step: int) -> list[str]:
        """What was not finite in this rank's part of a step, made again with the weights before it.

        Empty if nothing was.
        """

    def on_train_batch_end(
        self,
        outputs: object,
        batch: Any,
        index: int,
    ) -> None:
        # Asking a GPU for the first bad step makes the host wait for it, so it is asked now and
        # then.
        is_due = self.trainer.global_step % self.trainer.log_every_n_steps == 0
        if self.device.type != "cpu" and not is_due:
            return

        step = self.health.look()
        if step is not None:
            raise Diverged(self._diagnose(step))

    def _diagnose(self, step: int) -> str:
        """The message about a bad step; every rank takes part."""
        trouble: list[str] = []
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for lines in all_gather(self.trouble_at(step)):
                trouble += lines
        if not trouble:
            trouble.append("the gradient, though every loss is finite")

        saved = (
            "look"
            if self.trainer.fast_dev_run
            else "the weights before it are saved. Look"
        )
        return (
            f"step {step}: not finite: {'; '.join(trouble)}; {saved} at these samples, or lower "
            "the learning rate or gradient_clip_val"
        )

    def configure_gradient_clipping(
        self,
        optimizer,
        gradient_clip_val=None,
        gradient_clip_algorithm=None,
    ) -> None:
        by_norm = gradient_clip_algorithm in (None, "norm")
        largest = gradient_clip_val if by_norm and gradient_clip_val else math.inf
        norm = self._clip(largest)
        if not by_norm:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

        # Gradients of float16 overflow now and then, and their scaler skips such steps; a loss does
        # not.
        plugin = self.trainer.precision_plugin
        scaled = getattr(plugin, "scaler", None) is not None
        value = self._loss if scaled else norm
        optimizer.found_inf = self.health.see(value, self._step)

    def _clip(self, largest: float) -> Tensor:
        """Scales the gradients down to a norm, in one pass, and returns what it was.

        One norm over all devices. Lightning refuses to clip for a fused optimiser under mixed
        precision, because float16 gradients are scaled until inside the optimiser; these are not.
        """
        wrapped = self.trainer.strategy.model
        if isinstance(wrapped, FullyShardedDataParallel):
            return wrapped.clip_grad_norm_(largest)

        trained = []
        gradients = []
        for parameter in self.parameters():
            if parameter.grad is not None:
                trained.append(parameter)
                gradients.append(parameter.grad)

        norm = torch.nn.utils.get_total_norm(gradients)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if largest < math.inf:
            torch.nn.utils.clip_grads_with_norm_(trained, largest, norm)
        return norm


def bad_rows(name: str, lines: Sequence[int], rank: int) -> str:
    """What to say of a loss that is not finite in some rows.

    Args:
        name: Name of the loss.
        lines: Lines of the manifest that these rows are, from 0; at least one.
        rank: Process whose rows they are.
    """
    first = [str(line + 1) for line in lines[:SHOWN]]
    numbers = ", ".join(first)
    if len(lines) > SHOWN:
        numbers += ", ..."
    return (
        f"the loss of '{name}' in {len(lines)} rows of rank {rank} "
        f"(lines of the manifest {numbers})"
    )
