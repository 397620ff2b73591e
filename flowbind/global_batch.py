"""Statistics of a global batch, of which each rank has some rows.

They are those that one process with all rows has:

    mean = sum x / n        variance = sum (x - mean)^2 / n        with sums over all ranks' rows

Gradients flow through them to every rank's rows, so that the mean over the ranks of the gradients
of their losses, which is what DDP takes, is the gradient of the global batch.
(`torch.nn.SyncBatchNorm` does the same, on GPUs alone.)
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flowbind.distributed import ranks, total


def means(errors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each kind of errors over the global batch, as scalars.

    Args:
        errors: Errors of this rank's rows by name, of any number and shape; ranks may differ in it.

    Returns:
        By name, scalars whose mean over the ranks is that over all errors; 0 where there is none.
    """
    device = next(iter(errors.values())).device
    numbers = [error.numel() for error in errors.values()]
    counts = torch.tensor(numbers, device=device)
    counts = total(counts).clamp(min=1)

    scalars = {}
    for (name, error), count in zip(errors.items(), counts.unbind(), strict=True):
        global_sum = error.sum() * ranks()
        scalars[name] = global_sum / count
    return scalars


def moments(x: Tensor, axes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance over some axes of the global batch.

    Args:
        x: This rank's numbers, with shape (n, *); n may differ between the ranks, and may be 0.
        axes: Axes that are averaged over, axis 0 among them.

    Returns:
        Mean and variance, with size 1 in the place of these axes, and how many numbers each is of,
        a scalar. All are float32 where x is less exact.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    x = x.to(exact)
    sizes = [x.shape[axis] for axis in axes]
    numbers = float(math.prod(sizes))
    count = total(x.new_tensor(numbers))

    sums = x.sum(axes, keepdim=True)
    mean = total(sums) / count
    squares = (x - mean).square()
    variance = total(squares.sum(axes, keepdim=True)) / count
    return mean, variance, count


def spread(x: Tensor, positions: tuple[int, ...] = ()) -> Tensor:
    """The standard deviation of each feature over the rows of the global batch.

    It is that of a sample of at least two.

    Args:
        x: This rank's rows, with shape (n, *).
        positions: Further axes of x that are averaged over, such as the places of a grid.

    Returns:
        Deviations with shape (*), and size 1 in the place of positions.
    """
    _, variance, count = moments(x, [0, *positions])
    variance = variance * count / (count - 1)
    return variance.sqrt()[0]


class BatchNorm(_BatchNorm):
    """Batch normalisation by the global batch's statistics, for inputs with shape (n, C, *)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or ranks() == 1:
            return super().forward(x)

        axes = [0, *range(2, x.ndim)]
        mean, variance, count = moments(x, axes)
        unbiased = variance * count / (count - 1)
        mean_of_feature = mean.detach().flatten()
        self._follow(mean_of_feature, unbiased.detach().flatten())

        scale = torch.rsqrt(variance + self.eps)
        normal = (x - mean) * scale
        if self.weight is not None:
            normal = normal * self.weight.view_as(mean)
        if self.bias is not None:
            normal = normal + self.bias.view_as(mean)
        return normal.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics, which are those of evaluation, as torch does."""
        running_mean, running_var = self.running_mean, self.running_var
        count = self.num_batches_tracked
        if running_mean is None or running_var is None or count is None:
            return  # all three are there, or none

        count += 1
        share = 1 / count if self.momentum is None else self.momentum
        running_mean.lerp_(mean.to(running_mean.dtype), share)
        running_var.lerp_(variance.to(running_var.dtype), share)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(
                f"batch normalisation takes inputs with shape (n, C, *), not {tuple(x.shape)}"
            )


def share_statistics(net: nn.Module) -> nn.Module:
    """Makes a network's batch normalisations those of the global batch.

    Its weights keep their names and meaning.

    Returns:
        The network.
    """
    for part in net.modules():
        if type(part) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            part.__class__ = BatchNorm
    return net
