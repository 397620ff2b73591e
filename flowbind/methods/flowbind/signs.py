r"""Signs that FlowBind's training fails, read from real latents.

With $\bar z$ the mean of all estimates of a sample, normalised as in training, and $v$ the training
noise's variance, over the samples of a batch and the features $d$:

$$
\text{spread} = \frac{\sum_d \operatorname{Var}(\bar z_d)}{\sum_d (\operatorname{E}[\bar z_d^2] + v)},
\qquad
\text{part}_j = \frac{\sum_d \operatorname{Var}(h_j(x_j)_d)}{\sum_{k,d} \operatorname{Var}(h_k(x_k)_d)},
\qquad
\text{there and back}_j = \frac{\operatorname{E} \lVert x_j' - x_j \rVert^2}{\sum_d \operatorname{Var}(x_{j,d})}
$$

where $x_j'$ is $x_j$ after the flow from 1 to 0 and from 0 to 1. The spread is 0 where the shared
latent is a constant, or where noise drowns it; normalised, it is $1 / (1 + v)$ at most. The parts
sum to 1. The way there and back has an error of 0 where steps are fine enough for the flow.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from flowbind.batch import Batch
from flowbind.method import Sign
from flowbind.methods.flowbind.fusion import fuse, normalize
from flowbind.methods.flowbind.objective import HeadFunction, ObjectiveConfig

# Where a line is said (docs/watch.md). The embedded world's trained model: spread .55 of at most
# .56, parts from .07 to .63, there and back below .00001, and .02 by Euler's method.
LEAST_SPREAD = 0.05
LEAST_PART = 0.1  # of an even one
MOST_PART = 0.9
MOST_ERROR = 0.1

COLLAPSED = (
    "the shared latent hardly tells samples apart; lower training.learning_rate or "
    "noise_variance, or set normalize: true"
)
LOPSIDED = (
    "one modality is most of the shared latent; raise head_dropout or leave_own_out, or the "
    "weight of samples that lack it in data.weights"
)
BENT = (
    "the flow to the shared latent and back does not return; take more steps or solver: midpoint "
    "in evaluation.sampling, or lower training.learning_rate"
)


def shared_latent_signs(
    heads: Mapping[str, HeadFunction],
    batch: Batch,
    streams: Tensor,
    config: ObjectiveConfig,
) -> dict[str, Sign]:
    """Spread of the shared latent, and the part of each modality that two samples have.

    Args:
        heads: Heads of the auxiliary encoder.
        batch: Standardised latents.
        streams: Random stream for each row, with shape (N,), from which heads draw.
        config: Settings of the objective.
    """
    estimates = {}
    variances = {}
    parts = zip(batch.latents.items(), streams.split(batch.rows), strict=True)
    for (name, x), stream in parts:
        estimates[name] = heads[name](x, stream).to(x.dtype)
        if len(x) > 1:
            variances[name] = variance(estimates[name])
    if not variances:
        return {}

    rows = sum(batch.rows)
    every_link = torch.ones_like(batch.links.target, dtype=torch.bool)
    z = fuse(torch.cat(list(estimates.values())), batch.links, every_link, rows).mean
    if config.normalize:
        z = normalize(z)
    size = z.square().mean() + config.noise_variance
    signs = {"spread": Sign(variance(z) / size, COLLAPSED, least=LEAST_SPREAD)}

    total = torch.stack(list(variances.values())).sum()
    least = LEAST_PART / len(variances)
    for name, own in variances.items():
        signs[f"part/{name}"] = Sign(own / total, LOPSIDED, least, MOST_PART)
    return signs


def flow_signs(
    latents: Mapping[str, Tensor],
    there: Callable[[str, Tensor], Tensor],
    back: Callable[[str, Tensor], Tensor],
) -> dict[str, Sign]:
    """Errors of the flow of each modality to the shared latent and back.

    Args:
        latents: Standardised latents of each modality, with shape (n, *).
        there: Flow of a modality from 1 to 0.
        back: Flow of a modality from 0 to 1.
    """
    signs = {}
    for name, x in latents.items():
        if len(x) > 1:
            error = (back(name, there(name, x)) - x).square().mean()
            relative = error / variance(x)
            signs[f"there_and_back/{name}"] = Sign(relative, BENT, most=MOST_ERROR)
    return signs


def variance(x: Tensor) -> Tensor:
    """Variance over rows, mean over features: (n, *) -> ()."""
    return x.var(0, unbiased=False).mean()
