"""Totals of a validation: the mean error of every term over all samples, on any number of devices."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric


class Totals(Metric):
    """Sums of errors and their numbers, in double precision.

    Args:
        names: Names of the errors, the same on all devices.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = list(names)
        zeros = torch.zeros(len(self.names), 2, dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")

    def update(self, name: str, errors: Tensor) -> None:
        """Adds the errors of a batch, of any shape, added up as they are."""
        count = torch.tensor(errors.numel(), dtype=torch.float64)
        count = count.to(self.sums.device, non_blocking=True)
        total = errors.sum().double()
        self.sums[self.names.index(name)] += torch.stack([total, count])

    def compute(self) -> dict[str, Tensor]:
        """The mean of each that has any error, as scalars of float32."""
        totals, counts = self.sums.unbind(1)
        has_any = (counts > 0).tolist()
        means = (totals / counts.clamp(min=1)).float()

        by_name = {}
        for name, mean, is_there in zip(self.names, means, has_any, strict=True):
            if is_there:
                by_name[name] = mean
        return by_name
