"""Numerical trouble: the first step whose gradients are not finite, found without waiting for the device.

From that step on the optimiser is told to skip, as under a gradient scaler, so that the weights stay those before it until
the host looks.
"""

import torch
from torch import Tensor

UNSEEN = -1


class Diverged(ValueError):
    """A loss or a gradient was not finite. The weights are those before it, and worth saving."""


class Health:
    """The first bad step, kept on a device."""

    def __init__(self, device: torch.device) -> None:
        self.first = torch.full((), UNSEEN, dtype=torch.int64, device=device)

    def see(self, value: Tensor, step: int) -> Tensor:
        """Takes note of a scalar that ought to be finite at a step. Returns 1 if it or an earlier one was not, else 0."""
        self.first = torch.where((self.first == UNSEEN) & ~value.isfinite(), step, self.first)
        return (self.first != UNSEEN).float()

    def look(self) -> int | None:
        """The first bad step; None if there was none. Waits for the device."""
        step = int(self.first)
        return None if step == UNSEEN else step
