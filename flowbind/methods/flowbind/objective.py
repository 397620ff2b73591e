r"""One flow-matching loss trains every drift and the auxiliary encoder together. With
$\operatorname{sg}$ the stopped gradient,

$$
\mathcal L = \sum_{i=1}^{M} \frac{1}{n_i D} \sum_{\text{rows of } i} \sum_{t \in T}
\lVert v_i(x_t, t) - (x_i - z_t) \rVert^2
$$

with

$$
x_t = z_t + t\,(x_i - z_t), \qquad
z_t = \begin{cases} z & t = 0 \\ \operatorname{sg}(z) & t > 0 . \end{cases}
$$

The mean is over rows and features, the sum over modalities; a modality without a row in the batch
counts 0. A sample counts once for each modality it has, whatever it is paired with.
"""

# It takes functions and draws, so it is exact: nothing here is random, nothing here is a network.

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

# Purposes of draws, each with streams of its own.
LINKS, NOISE, HEADS = 1, 2, 3

DriftFunction = Callable[[Tensor, Tensor], Tensor]  # v(x_t, t): (n, *), (n,) -> (n, *)
# h(x), streams: (n, *), (n,) -> (n, *).
HeadFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of the objective.

    Args:
        times: `mixture` (the paper: one time a row, 0 with probability alpha) or `both` (the
            authors' code: every row at a time that is not 0 and at 0).
        alpha: Share of rows at t = 0 under `mixture`; 0.3 and 0.5 measured alike.
        endpoint: Share of t = 1 among the times that are not 0; 0.3 in the authors' code.
        normalize: Whether the mean estimate passes LayerNorm without affine, so that the noise is a
            fixed share of the latent (flowbind's default; off in the authors' code).
        noise_variance: Variance v of one estimate's noise: more gives samples more variety and less
            meaning; 10 in the authors' code, without normalisation.
        head_dropout: Probability p of dropping an estimate; 0.5 in the authors' code.
        leave_own_out: Probability q of forming a target's latent without its own estimate
            (flowbind's; 0 in the paper).

    Raises:
        ValueError: a probability outside of [0, 1], or a negative variance.
    """

    times: Literal["mixture", "both"] = "mixture"
    alpha: float = 0.3
    endpoint: float = 0.3
    normalize: bool = True
    noise_variance: float = 0.8
    head_dropout: float = 0.5
    leave_own_out: float = 0.75

    def draw_times(self, uniform: Tensor, choice: Tensor) -> Tensor:
        """The times T of every row, with shape (|T|, n), from draws in [0, 1), with shape (n,)."""
        if self.times == "mixture":
            return mixture_times(uniform, choice, self.alpha, self.endpoint)
        return both_times(uniform, choice, self.endpoint)

    def __post_init__(self) -> None:
        for name in ("alpha", "endpoint", "head_dropout", "leave_own_out"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} is a probability in [0, 1], not {getattr(self, name)}"
                )
        if self.noise_variance < 0:
            raise ValueError(
                f"noise_variance must not be negative, not {self.noise_variance}"
            )


class Draws(NamedTuple):
    """Everything random in one step. L links, N rows.

    Attributes:
        drop: Draws d in [0, 1), with shape (L,), which decide the dropped estimates.
        leave: Draws a in [0, 1), with shape (N,), which decide where the own one is left out.
        uniform: Draws in [0, 1), with shape (N,), which give the times inside.
        choice: Draws in [0, 1), with shape (N,), which decide between the ends and the inside.
        noise: Standard normal draws epsilon, with shape (N, *).
        heads: Random stream for each row, with shape (N,), from which the heads draw, as for
            dropout.
    """

    drop: Tensor
    leave: Tensor
    uniform: Tensor
    choice: Tensor
    noise: Tensor
    heads: Tensor

    @classmethod
    def sample(cls, batch: Batch, key: int) -> "Draws":
        """The draws of a batch's rows and links, on its device.

        Each depends on the key and on its place in the global batch.
        """
        x = next(iter(batch.latents.values()))
        rows = random.streams(key, batch.row_numbers)
        links = random.streams(random.key(key, LINKS), batch.link_numbers)
        leave, uniform, choice = random.uniform(rows, 3).unbind(1)

        of_noise = random.fork(rows, NOISE)
        noise = random.normal(of_noise, *x.shape[1:])

        return cls(
            drop=random.uniform(links, 1)[:, 0],
            leave=leave,
            uniform=uniform,
            choice=choice,
            noise=noise.to(x.dtype),
            heads=random.fork(rows, HEADS),
        )


def shared_latents(
    heads: Mapping[str, HeadFunction],
    batch: Batch,
    draws: Draws,
    config: ObjectiveConfig,
) -> Tensor:
    """The shared latent z of every row, with shape (N, *).

    A sample's rows each draw their own mask and noise.
    """
    # Autocast may run the heads in bfloat16; means and noise keep the latents' own precision.
    estimates = []
    streams = draws.heads.split(batch.rows)
    for (name, x), stream in zip(batch.latents.items(), streams, strict=True):
        estimates.append(heads[name](x, stream).to(x.dtype))

    rows = sum(batch.rows)
    is_kept = keep(
        batch.links,
        rows,
        draws.drop,
        draws.leave,
        config.head_dropout,
        config.leave_own_out,
    )
    mean, count = fuse(torch.cat(estimates), batch.links, is_kept, rows)
    if config.normalize:
        mean = normalize(mean)
    return add_noise(mean, count, draws.noise, config.noise_variance)


def errors(
    drifts: Mapping[str, DriftFunction],
    heads: Mapping[str, HeadFunction],
    batch: Batch,
    draws: Draws,
    config: ObjectiveConfig,
) -> dict[str, Tensor]:
    """The error of each row, mean over features and summed over its times.

    Returns:
        Per modality i, with shape (n_i,).
    """
    z = shared_latents(heads, batch, draws, config)
    times = config.draw_times(draws.uniform, draws.choice)
    of_modalities = zip(
        batch.latents.items(),
        z.split(batch.rows),
        times.split(batch.rows, dim=1),
        strict=True,
    )

    by_name = {}
    for (name, x), z_i, t_i in of_modalities:
        by_name[name] = _flow_errors(drifts[name], x, z_i, t_i)
    return by_name


def _flow_errors(
    drift: DriftFunction,
    x: Tensor,
    z: Tensor,
    t: Tensor,
) -> Tensor:
    """The errors of one modality's rows, with shape (n,), at their times, with shape (|T|, n)."""
    count = len(t)
    copies = (count, *[1] * (x.ndim - 1))

    # One drift call for all times of all rows.
    t = t.reshape(-1).to(x.dtype)
    z_t = stop_gradient(z.repeat(copies), t)
    x_t, velocity = sample_path(z_t, x.repeat(copies), t)
    error = drift(x_t, t).to(x.dtype) - velocity

    squares = error.square().reshape(count, len(x), x.shape[1:].numel())
    return squares.mean(2).sum(0)


def losses(
    drifts: Mapping[str, DriftFunction],
    heads: Mapping[str, HeadFunction],
    batch: Batch,
    draws: Draws,
    config: ObjectiveConfig,
) -> dict[str, Tensor]:
    """The loss of each modality on a batch, scalars; their sum is the objective."""
    by_name = errors(drifts, heads, batch, draws, config)
    return {name: Loss(name, error).mean(batch) for name, error in by_name.items()}
