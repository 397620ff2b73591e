"""Private variance: what generations of the same labels do not have in common.

Samples with the same labels still differ, in all that no label says. A model that gives conditional
means has too little of this, and its accuracies do not show it.
"""

import torch
from torch import Tensor


def private_variance(x: Tensor, labels: Tensor) -> float | None:
    """The variance within combinations of labels, mean over features.

    Each combination's mean is taken from its own samples, and the sum of squares divided by n - g,
    with n samples in g combinations, so that the value has no bias.

    Args:
        x: Latents or features, with shape (n, *).
        labels: Class of each factor, with shape (n, F).

    Returns:
        The variance, at least 0; None without labels, or where no two samples share all of them.
    """
    if labels.shape[1] == 0:
        return None

    x = x.flatten(1).double()
    _, group = labels.unique(dim=0, return_inverse=True)
    counts = torch.bincount(group)
    freedom = len(x) - len(counts)
    if freedom == 0:
        return None

    features = x.shape[1]
    sums = x.new_zeros(len(counts), features)
    sums = sums.index_add(0, group, x)
    means = sums / counts[:, None]

    deviations = x - means[group]
    squares = deviations.square().sum()
    variance = squares / freedom / features
    return variance.item()
