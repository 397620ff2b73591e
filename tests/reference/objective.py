"""FlowBind's objective, one row at a time.

A sample is a mapping from the modalities that it has to their latents, vectors with shape (D,). The latent z that
modality i's flow is trained with belongs to the row (sample, i), so every random quantity is a mapping whose first key
is the row. All numbers are float64.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Row = tuple[int, str]  # number of the sample, name of the modality
EPS = 1e-5  # of LayerNorm; torch's default


class Randomness(NamedTuple):
    """What is drawn in one step: uniform numbers in [0, 1), and standard normal vectors for the noise."""

    drop: Mapping[tuple[Row, str], float]  # per row and estimate
    leave: Mapping[Row, float]
    uniform: Mapping[Row, float]
    choice: Mapping[Row, float]
    noise: Mapping[Row, Tensor]


class Settings(NamedTuple):
    """The method's settings, all of them given."""

    times: str
    alpha: float
    endpoint: float
    normalize: bool
    noise_variance: float
    head_dropout: float
    leave_own_out: float


def kept_estimates(
    present: set[str], row: Row, random: Randomness, settings: Settings
) -> set[str]:
    """K: the modalities of the sample whose estimates make the latent of `row`."""
    own = row[1]
    allowed = set(present)
    if random.leave[row] < settings.leave_own_out and present - {own}:
        allowed.remove(own)
    kept = {i for i in allowed if random.drop[row, i] >= settings.head_dropout}
    return kept or allowed


def layer_norm(z: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the features of one latent."""
    mean = z.mean()
    variance = ((z - mean) ** 2).mean()
    return (z - mean) / torch.sqrt(variance + EPS)


def shared_latent(
    heads: Mapping[str, Callable[[Tensor], Tensor]],
    sample: Mapping[str, Tensor],
    row: Row,
    random: Randomness,
    settings: Settings,
) -> Tensor:
    """z = mean over K of h_i(x_i) + sqrt(v / |K|) noise; the mean is normalised first if asked."""
    kept = kept_estimates(set(sample), row, random, settings)
    mean = sum(heads[i](sample[i][None])[0] for i in sorted(kept)) / len(kept)
    if settings.normalize:
        mean = layer_norm(mean)
    return mean + math.sqrt(settings.noise_variance / len(kept)) * random.noise[row]


def times_of(row: Row, random: Randomness, settings: Settings) -> list[float]:
    """The times that a row is trained at.

    `mixture`: 0 with probability alpha, and of the rest 1 with probability `endpoint`; one number decides both, cut at
    alpha and at alpha + (1 - alpha) endpoint. `both`: 0 always, and a non-zero time as well.
    """
    inside = 1 - random.uniform[row]  # uniform in (0, 1]
    if settings.times == "both":
        return [1.0 if random.choice[row] < settings.endpoint else inside, 0.0]
    if random.choice[row] < settings.alpha:
        return [0.0]
    return [
        1.0
        if random.choice[row]
        < settings.alpha + (1 - settings.alpha) * settings.endpoint
        else inside
    ]


def losses(
    drifts: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    heads: Mapping[str, Callable[[Tensor], Tensor]],
    samples: list[Mapping[str, Tensor]],
    random: Randomness,
    settings: Settings,
) -> dict[str, Tensor]:
    """Per modality, || v_i(x_t, t) - (x_i - z) ||^2, averaged over rows and features, summed over a row's times."""
    total = {}
    for name, drift in drifts.items():
        rows = [
            (number, name) for number, sample in enumerate(samples) if name in sample
        ]
        total[name] = torch.zeros((), dtype=torch.float64)
        for row in rows:
            sample = samples[row[0]]
            x = sample[name]
            latent = shared_latent(heads, sample, row, random, settings)
            for t in times_of(row, random, settings):
                # A constant: no gradient.
                z = (
                    latent
                    if t == 0
                    else torch.tensor(latent.tolist(), dtype=torch.float64)
                )
                x_t = (1 - t) * z + t * x
                velocity = x - z
                v = drift(x_t[None], torch.tensor([t], dtype=torch.float64))[0]
                total[name] = total[name] + ((v - velocity) ** 2).mean() / len(rows)
    return total
