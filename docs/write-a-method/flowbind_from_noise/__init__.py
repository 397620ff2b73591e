"""A conditional flow: from noise to the latents of one modality, told by those of another.

The path is straight, `x_t = (1 - t) noise + t x`, and the network learns its velocity `x - noise`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowbind import Batch, Direction, Loss, Method, Modality, draws, integrate, sample_path


@dataclass(frozen=True)
class Choices:
    """What may be chosen at generation.

    Args:
        steps: Euler steps from noise to the target.
    """

    steps: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")


class Velocity(nn.Module):
    """The velocity at `x_t` and `t`, told `c`: (n, D), (n,), (n, E) -> (n, D)."""

    def __init__(self, features: int, told: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features + told + 1, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, features),
        )  # fmt: skip

    def forward(self, x_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return self.layers(torch.cat([x_t, t[:, None], c], dim=1))


class Draws(NamedTuple):
    """Of each row of the target: its time, with shape (n,), and its noise, with shape (n, D)."""

    t: Tensor
    noise: Tensor


class FromNoise(Method):
    """A flow from noise to one modality, told another.

    Args:
        modalities: Two modalities by name, whose latents are vectors.
        source: Modality that is told.
        target: Modality that is made.
        width: Features of the network's hidden layers.
    """

    Sampling = Choices

    def __init__(
        self, modalities: dict[str, Modality], source: str, target: str, width: int = 512
    ) -> None:
        super().__init__(modalities)
        if {source, target} != set(modalities):
            raise ValueError(f"source and target are {', '.join(modalities)}, not {source}, {target}")
        self.source = source
        self.target = target
        self.width = width

    def build(self) -> Velocity:
        (features,), (told,) = (self.modalities[n].codec.shape for n in (self.target, self.source))
        return Velocity(features, told, self.width)

    def directions(self) -> list[Direction]:
        return [Direction((self.source,), (self.target,))]

    def trains_on(self, present: Collection[str]) -> bool:
        return {self.source, self.target} <= set(present)

    def draw(self, batch: Batch, key: int) -> Draws:
        x, streams = batch.latents[self.target], batch.streams(key)[self.target]
        t, noise = draws.uniform(streams, 1)[:, 0], draws.normal(draws.fork(streams, 1), *x.shape[1:])
        return Draws(t.to(x.dtype), noise.to(x.dtype))

    def losses(self, nets: Velocity, batch: Batch, draws: Draws) -> dict[str, Loss]:
        x_t, velocity = sample_path(draws.noise, batch.latents[self.target], draws.t)
        error = nets(x_t, draws.t, batch.latents[self.source]) - velocity
        return {self.target: Loss(self.target, error.square().mean(1))}

    def start(self, nets: Velocity, name: str, x: Tensor, sampling: Choices, streams: Tensor) -> Tensor:
        return x

    def finish(
        self, nets: Velocity, state: Tensor, targets: Sequence[str], sampling: Choices, streams: Tensor
    ) -> dict[str, Tensor]:
        noise = draws.normal(streams, *self.modalities[self.target].codec.shape).to(state.dtype)
        made = integrate(lambda x, t: nets(x, t, state), noise, 0.0, 1.0, sampling.steps)
        return {self.target: made}
