r"""Ordinary flow matching (arXiv 2210.02747): noise becomes the target $x$, told the source $y$,

$$
\mathcal L = \frac1D \lVert v(z_t, t, c) - \dot z_t \rVert^2, \qquad
x = \gamma\,\varepsilon + \int_0^1 v_s(z_t, t)\, \mathrm d t ,
$$

with $\varepsilon \sim \mathcal N(0, I)$, $z_t$ a path from $\varepsilon$ to $x$, and $D$ the
numbers of a latent. The condition $c$ is the tokens of $y$, which the net sees by cross-attention,
or with probability 0.1 a learnt null token: so it learns both fields that guidance needs. $v_s$ is
the field at the guidance scale $s$, and $\gamma$ the choice `variety`.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from flowbind import draws as random
from flowbind.batch import Batch
from flowbind.flow.objective import FlowConfig
from flowbind.flow.sampling import FlowSampling, carry
from flowbind.method import Loss
from flowbind.methods.one_way import OneWay
from flowbind.modality import Modality
from flowbind.nets.context import Context
from flowbind.nets.dit import DiT, DiTConfig

# Purposes of draws, each with streams of its own.
TIMES, NOISE, START = 1, 2, 3

# Shapes: n rows of the target in a batch, B samples to generate, * the axes of its latent.


class Draws(NamedTuple):
    """Everything random in one step, of each row of the target.

    Attributes:
        t: Times in [0, 1), with shape (n,).
        noise: Standard normal draws, with shape (n, *).
        condition: Whether it is told its source, bool with shape (n,).
    """

    t: Tensor
    noise: Tensor
    condition: Tensor


class FlowMatching(OneWay):
    """A flow from noise to one modality's latent, told another's by cross-attention.

    It is what CrossFlow is compared with: the same net, and cross-attention beside it.

    Args:
        modalities: Two modalities by name, as manifests name them.
        source: Modality that the flow is told; a grid of it is split into squares as the target is.
        target: Modality to which it leads; its latents are a grid, a sequence or a vector.
        net: Size of the velocity net.
        objective: Settings of the objective.

    Raises:
        ValueError: other modalities than source and target, latents that are ids, or shapes that
            the network does not take.
    """

    paper: ClassVar = "arXiv 2210.02747"

    def __init__(
        self,
        modalities: dict[str, Modality],
        source: str,
        target: str,
        net: DiTConfig = DiTConfig(),  # noqa: B008
        objective: FlowConfig = FlowConfig(),  # noqa: B008
    ) -> None:
        super().__init__(modalities, source, target, objective)
        self.net = net
        with torch.device("meta"):
            self.build()

    def build(self) -> DiT:
        source, target = self.shapes
        context = Context(source, self.masked, self.net.width, self.net.patch)
        return DiT(target, self.net, context)

    def draw(self, batch: Batch, key: int) -> Draws:
        x = batch.latents[self.target]
        streams = batch.streams(key)[self.target]
        choice = random.uniform(streams, 1)[:, 0]
        noise = random.normal(random.fork(streams, NOISE), *x.shape[1:])
        times = self.objective.draw_times(random.fork(streams, TIMES))
        return Draws(
            t=times.to(x.dtype),
            noise=noise.to(x.dtype),
            condition=choice >= self.objective.unconditional,
        )

    def losses(
        self,
        nets: DiT,
        batch: Batch,
        draws: Draws,
    ) -> dict[str, Loss]:
        source = batch.latents[self.source]
        target = batch.latents[self.target]
        t, noise, condition = draws
        errors = self.objective.errors(nets, noise, target, t, condition, source)
        return {"flow": Loss(self.target, errors)}

    def start(
        self,
        nets: DiT,
        name: str,
        x: Tensor,
        sampling: FlowSampling,
        streams: Tensor,
    ) -> Tensor:
        """The source itself, with shape (B, *source): noise is all that the flow begins from."""
        return x

    def finish(
        self,
        nets: DiT,
        state: Tensor,
        targets: Sequence[str],
        sampling: FlowSampling,
        streams: Tensor,
    ) -> dict[str, Tensor]:
        _, shape = self.shapes
        noise = random.normal(random.fork(streams, START), *shape)
        z = sampling.variety * noise
        return {self.target: carry(nets, z, sampling, nets.tokens.count, state)}
