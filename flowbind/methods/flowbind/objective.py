"""FlowBind's objective: one flow-matching loss that trains every drift and the auxiliary encoder together.

`E || v_i(x_t, t) - (x_i - z) ||^2`, averaged over rows and features, summed over modalities (arXiv 2512.15420). It takes
functions and draws, so it is exact: nothing here is random and nothing here is a network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from flowbind import draws as random
from flowbind.batch import Batch
from flowbind.flow.path import sample_path, stop_gradient
from flowbind.flow.times import both_times, mixture_times
from flowbind.method import Loss
from flowbind.methods.flowbind.fusion import add_noise, fuse, keep, normalize

LINKS, NOISE, HEADS = 1, 2, 3  # purposes of draws


@dataclass(frozen=True)
class ObjectiveConfig:
    """The method's settings.

    Args:
        times: `mixture` (the paper: one time a row, 0 with probability alpha) or `both` (the authors' code: every row
            at a non-zero time and at 0).
        alpha: share of rows at t = 0 under `mixture`; 0.3 and 0.5 measured alike.
        endpoint: share of t = 1 among the non-zero times; 0.3 in the authors' code.
        normalize: LayerNorm without affine on the mean estimate, so that the noise is a fixed share of the latent
            (flowbind's default; off in the authors' code).
        noise_variance: variance v of one estimate's noise; 10 in the authors' code, without normalisation.
        head_dropout: probability of dropping an estimate; 0.5 in the authors' code.
        leave_own_out: probability of forming a target's latent without its own estimate (flowbind's; 0 in the paper).
    """

    times: Literal["mixture", "both"] = "mixture"
    alpha: float = 0.3
    endpoint: float = 0.3
    normalize: bool = True
    noise_variance: float = 0.1
    head_dropout: float = 0.5
    leave_own_out: float = 0.75

    def draw_times(self, uniform: Tensor, choice: Tensor) -> Tensor:
        """Times to train at, with shape (1, n) or (2, n), from uniform draws, with shape (n,) each."""
        if self.times == "mixture":
            return mixture_times(uniform, choice, self.alpha, self.endpoint)
        return both_times(uniform, choice, self.endpoint)

    def __post_init__(self) -> None:
        for name in ("alpha", "endpoint", "head_dropout", "leave_own_out"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability in [0, 1], not {getattr(self, name)}")
        if self.noise_variance < 0:
            raise ValueError(f"noise_variance must not be negative, not {self.noise_variance}")


class Draws(NamedTuple):
    """What is random in one step: L links, N rows.

    Attributes:
        drop: uniform in [0, 1), with shape (L,).
        leave: uniform in [0, 1), with shape (N,).
        uniform: uniform in [0, 1), with shape (N,).
        choice: uniform in [0, 1), with shape (N,).
        noise: standard normal, with shape (N, *).
        heads: a random stream for each row, with shape (N,): what the heads draw from, such as dropout.
    """

    drop: Tensor
    leave: Tensor
    uniform: Tensor
    choice: Tensor
    noise: Tensor
    heads: Tensor

    @classmethod
    def sample(cls, batch: Batch, key: int) -> "Draws":
        """The draws of a batch's rows and links, on its device: each depends on the key and on its place in the global batch."""
        x = next(iter(batch.latents.values()))
        rows = random.streams(key, batch.row_numbers)
        links = random.streams(random.key(key, LINKS), batch.link_numbers)
        leave, uniform, choice = random.uniform(rows, 3).unbind(1)

        return cls(
            drop=random.uniform(links, 1)[:, 0],
            leave=leave,
            uniform=uniform,
            choice=choice,
            noise=random.normal(random.fork(rows, NOISE), *x.shape[1:]).to(x.dtype),
            heads=random.fork(rows, HEADS),
        )


def shared_latents(
    heads: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    batch: Batch,
    draws: Draws,
    config: ObjectiveConfig,
) -> Tensor:
    """The shared latent of every row, with shape (N, *): a sample's rows each draw their own mask and noise."""
    rows = sum(batch.rows)
    # Autocast may run the heads in bfloat16; means and noise keep the latents' own precision.
    streams = draws.heads.split(batch.rows)
    estimates = torch.cat(
        [
            heads[name](x, own).to(x.dtype)
            for (name, x), own in zip(batch.latents.items(), streams, strict=True)
        ]
    )
    kept = keep(
        batch.links, rows, draws.drop, draws.leave, config.head_dropout, config.leave_own_out
    )
    mean, count = fuse(estimates, batch.links, kept, rows)
    return add_noise(
        normalize(mean) if config.normalize else mean, count, draws.noise, config.noise_variance
    )


def errors(
    drifts: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    heads: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    batch: Batch,
    draws: Draws,
    config: ObjectiveConfig,
) -> dict[str, Tensor]:
    """The error of each row, mean over features and summed over its times: per modality i, with shape (n_i,)."""
    z = shared_latents(heads, batch, draws, config)
    times = config.draw_times(draws.uniform, draws.choice)
    found = {}
    for (name, x), z_i, t_i in zip(
        batch.latents.items(), z.split(batch.rows), times.split(batch.rows, dim=1), strict=True
    ):
        rules = len(t_i)
        t = t_i.reshape(-1).to(x.dtype)
        z_t = stop_gradient(z_i.repeat(rules, *[1] * (z_i.ndim - 1)), t)
        x_t, velocity = sample_path(z_t, x.repeat(rules, *[1] * (x.ndim - 1)), t)
        error = drifts[name](x_t, t).to(x.dtype) - velocity
        found[name] = error.square().reshape(rules, len(x), x.shape[1:].numel()).mean(2).sum(0)
    return found


def losses(
    drifts: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    heads: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    batch: Batch,
    draws: Draws,
    config: ObjectiveConfig,
) -> dict[str, Tensor]:
    """The loss of each modality on a batch, scalars; their sum is the objective."""
    by_name = errors(drifts, heads, batch, draws, config)
    return {name: Loss(name, error).mean(batch) for name, error in by_name.items()}
