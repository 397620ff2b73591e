r"""What was made together of noise alone: whether it agrees, and how much of the data there is.

There is no source to be right about. What belongs together should tell the same, and all of it
together should be spread as real samples are: of the combinations of labels $c$ that judges read,
with shares $p_c$, and those of real samples, $q_c$, that is

$$
\text{evenness} = \frac{-\sum_c p_c \log p_c}{-\sum_c q_c \log q_c} .
$$

Shapes: n samples, F labelled factors.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def agreement(readings: Mapping[str, Tensor], factors: list[str]) -> dict[str, float]:
    """Shares of samples, in [0, 1], of which the judges of all modalities read the same.

    Args:
        readings: Per modality, the classes that its judge reads, with shape (n, F); below 0 where
            it reads none, which agrees with nothing.
        factors: Names of the factors, F of them.

    Returns:
        The share of each factor and of all together, by full name; none of a single modality.
    """
    if len(readings) < 2:
        return {}

    first, *others = readings.values()
    agrees = first >= 0
    for other in others:
        agrees = agrees & (first == other)

    how = f"judges,{'+'.join(readings)},n={len(first)}"
    shares = dict(zip(factors, agrees.double().mean(0).tolist(), strict=True))
    shares["joint"] = agrees.all(1).double().mean().item()
    return {f"agreement/{name}[{how}]": share for name, share in shares.items()}


def coverage(read: Tensor, real: Tensor, judge: str) -> dict[str, float]:
    """How much of the data there is in what a judge reads.

    Args:
        read: Classes that the judge reads of what was made, with shape (n, F), below 0 where none.
        real: Classes of real samples, likewise.
        judge: Label of the judge.

    Returns:
        The share of samples that are read in every factor, the number of combinations, of those
        that real samples have, as a share, and their evenness; by full name.
    """
    is_read = (read >= 0).all(1)
    combinations, counts = read[is_read].unique(dim=0, return_counts=True)
    real_combinations, real_counts = real.unique(dim=0, return_counts=True)

    known = {tuple(row) for row in real_combinations.tolist()}
    there = known & {tuple(row) for row in combinations.tolist()}

    how = f"[judge,{judge},n={len(read)}]"
    measures = {
        f"readable{how}": is_read.double().mean().item(),
        f"combinations{how}": len(there) / len(known),
    }
    if len(known) > 1:
        measures[f"evenness{how}"] = _entropy(counts) / _entropy(real_counts)
    return measures


def _entropy(counts: Tensor) -> float:
    """Of the shares of counts, in nats; 0 of none."""
    shares = counts.double() / counts.sum().clamp(min=1)
    return -torch.xlogy(shares, shares).sum().item()
