r"""A source $y$ becomes a start, and one flow leads from it to the target,

$$
z_0 = \mu(y) + \gamma\, \sigma(y)\, \varepsilon, \qquad
x = z_0 + \int_0^1 v_s(z_t, t)\, \mathrm d t ,
$$

with $\varepsilon \sim \mathcal N(0, I)$, $\gamma$ the choice `variety` and $v_s$ the field at the
guidance scale $s$. There is no other noise, and nothing else tells the flow what the source was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from flowbind import draws as random
from flowbind.batch import Batch
from flowbind.flow.sampling import FlowSampling, carry
from flowbind.method import Loss, Sign
from flowbind.methods.crossflow.objective import (
    Draws,
    ObjectiveConfig,
    Place,
    contrast,
    flow_errors,
    reconstruction,
)
from flowbind.methods.crossflow.signs import start_signs
from flowbind.methods.one_way import OneWay
from flowbind.modality import Modality
from flowbind.nets.dit import DiT, DiTConfig
from flowbind.nets.variational import (
    EncoderSize,
    Fixed,
    Normal,
    Variational,
    divergence,
    encoder_of,
)
from flowbind.padding import in_blocks

START = 1  # purpose of the draws where a flow begins
TEMPERATURE = 0.07  # at first; CLIP's, arXiv 2103.00020
MOST_SCALE = 100.0  # of cosines; CLIP's


@dataclass(frozen=True)
class EncoderConfig(EncoderSize):
    """How a source becomes the start of a flow. The sizes are those of the authors' text encoder.

    Args:
        kind: `variational` (the paper): an encoder gives mean and standard deviation; `plain`: it
            gives the mean alone; `direct`: the source is the start, and has the target's shape.
        noise: Standard deviation of the start's noise, in those of the latents, where no encoder
            gives it.
        width: Features of a position, a multiple of 8.
        depth: Number of blocks: of the transformer, of convolutions, or of hidden layers of an MLP;
            0 of an MLP is a linear map, whose starts add up as the sources do.
        heads: Heads of a transformer's attention, which divide the width.
        hidden: Hidden features of a transformer's MLPs.

    Raises:
        ValueError: another kind, noise beside that of a variational encoder, or a size that no
            network has.
    """

    kind: Literal["variational", "plain", "direct"] = "variational"
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in ("variational", "plain", "direct"):
            raise ValueError(
                f"encoder.kind is variational, plain or direct, not '{self.kind}'"
            )
        if not 0 <= self.noise < math.inf:
            raise ValueError(
                f"encoder.noise must be a number, at least 0, not {self.noise}"
            )
        if self.noise and self.kind == "variational":
            raise ValueError(
                "encoder.noise is of the kinds plain and direct; a variational encoder learns its own"
            )


class Projection(nn.Module):
    """What a contrastive loss compares starts with: (n, *) -> (n, *target), and how sharply.

    Args:
        net: Network to latents, with shape (n, *) -> (n, 1, *target).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        # A vector of one: what is spread over devices has an axis.
        self.log_scale = nn.Parameter(torch.full((1,), -math.log(TEMPERATURE)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Projections, with shape (n, *target), and the scale of cosines, a scalar."""
        scale = self.log_scale[0].exp().clamp(max=MOST_SCALE)
        return self.net(x)[:, 0].clone(), scale  # FSDP2 wants no views


class Nets(nn.Module):
    """The networks of CrossFlow.

    Args:
        start: Network from sources to the distribution of their starts.
        velocity: Both velocity fields.
        witness: What the encoder's loss compares starts with; none where there is no such loss.
    """

    def __init__(
        self,
        start: nn.Module,
        velocity: DiT,
        witness: nn.Module | None,
    ) -> None:
        super().__init__()
        self.start = start
        self.velocity = velocity
        self.witness = witness


class CrossFlow(OneWay):
    """A flow straight from one modality's latent to another's, without a source of noise beside it.

    Args:
        modalities: Two modalities by name, as manifests name them.
        source: Modality from which the flow leads.
        target: Modality to which it leads; its latents are a grid, a sequence or a vector.
        encoder: How a source becomes the start of a flow.
        net: Size of the velocity net.
        witness: Size of the network by which the encoder's loss looks at the target or source, in
            training alone.
        objective: Settings of the objective.

    Raises:
        ValueError: other modalities than source and target, latents that are ids, shapes that the
            networks do not take, or a direct start of another shape.
    """

    linear: ClassVar = True
    paper: ClassVar = "arXiv 2412.15213"
    objective: ObjectiveConfig

    def __init__(
        self,
        modalities: dict[str, Modality],
        source: str,
        target: str,
        encoder: EncoderConfig = EncoderConfig(),
        net: DiTConfig = DiTConfig(),  # noqa: B008
        witness: EncoderSize = EncoderSize(width=256, depth=3, heads=4),  # noqa: B008
        objective: ObjectiveConfig = ObjectiveConfig(),  # noqa: B008
    ) -> None:
        super().__init__(modalities, source, target, objective)
        self.encoder = encoder
        self.net = net
        self.witness = witness
        self._check()

    def _check(self) -> None:
        source, target = self.shapes
        if self.encoder.kind == "direct" and source != target:
            raise ValueError(
                f"a direct start has the target's shape {target}, and '{self.source}' has {source}; "
                "choose codecs of one shape, or encoder.kind: variational"
            )
        with torch.device("meta"):
            self.build()

    def build(self) -> Nets:
        _, target = self.shapes
        return Nets(
            start=self._start_net(),
            velocity=DiT(target, self.net),
            witness=self._witness_net(),
        )

    def _start_net(self) -> nn.Module:
        source, target = self.shapes
        config = self.encoder
        if config.kind == "variational":
            return Variational(source, self.masked, target, config)

        net: nn.Module = nn.Identity()
        if config.kind == "plain":
            net = encoder_of(source, self.masked, (1, *target), config)
        return Fixed(net, target, config.noise)

    def _witness_net(self) -> nn.Module | None:
        source, target = self.shapes
        loss = self.objective.encoder_loss
        if loss == "none" or self.encoder.kind == "direct":  # no encoder learns
            return None
        if loss == "reconstruction":
            return encoder_of(target, False, (1, *source), self.witness)

        seen, masked = (target, False)
        if loss == "contrastive-source":
            seen, masked = (source, self.masked)
        return Projection(encoder_of(seen, masked, (1, *target), self.witness))

    def draw(self, batch: Batch, key: int) -> Draws:
        return Draws.sample(batch, self.target, self.objective, key)

    def losses(
        self,
        nets: Nets,
        batch: Batch,
        draws: Draws,
    ) -> dict[str, Loss]:
        source = batch.latents[self.source]
        target = batch.latents[self.target]
        place = Place.of(batch, self.target)
        config = self.objective

        normal = self._starts(nets, source, target.dtype)
        z = normal.sample(draws.noise)

        errors = {"flow": flow_errors(nets.velocity, z, target, draws, place, config)}
        if nets.witness is not None:
            error = self._encoder_errors(nets.witness, z, source, target, place)
            errors["encoder"] = config.encoder_weight * error
        if self.encoder.kind == "variational":
            errors["kl"] = config.kl_weight * divergence(normal)
        return {name: Loss(self.target, error) for name, error in errors.items()}

    def _starts(self, nets: Nets, source: Tensor, dtype: torch.dtype) -> Normal:
        """The distribution of the starts, in the latents' own precision.

        Autocast may run the networks in bfloat16.
        """
        mean, std = nets.start(source)
        return Normal(mean.to(dtype), std.to(dtype))

    def signs(
        self,
        nets: Nets,
        batch: Batch,
        sampling: FlowSampling,
        key: int,
    ) -> dict[str, Sign]:
        """Whether starts collapse, or the flow knows nothing where it starts (`signs`)."""
        target = batch.latents[self.target]
        normal = self._starts(nets, batch.latents[self.source], target.dtype)
        noise = self.draw(batch, key).noise
        return start_signs(normal, target, noise, nets.velocity, self.objective)

    def _encoder_errors(
        self,
        witness: nn.Module,
        z: Tensor,
        source: Tensor,
        target: Tensor,
        place: Place,
    ) -> Tensor:
        if self.objective.encoder_loss == "reconstruction":
            again = witness(z)[:, 0]
            return reconstruction(source, again.to(z.dtype), self.masked)

        is_of_target = self.objective.encoder_loss == "contrastive"
        projection, scale = witness(target if is_of_target else source)
        return contrast(z, projection.to(z.dtype), scale, place)

    def start(
        self,
        nets: Nets,
        name: str,
        x: Tensor,
        sampling: FlowSampling,
        streams: Tensor,
    ) -> Tensor:
        """Where the flow of one source begins, with shape (B, *target), in float32 at least."""
        precision = next(nets.parameters()).dtype
        exact = torch.promote_types(precision, torch.float32)

        def encode(x: Tensor) -> Tensor:
            return torch.stack(nets.start(x.to(precision)), dim=1).to(exact)

        positions = nets.velocity.tokens.count
        mean, std = in_blocks(encode, x.to(exact), positions).unbind(1)
        if not sampling.variety:
            return mean
        noise = random.normal(random.fork(streams, START), *mean.shape[1:]).to(exact)
        return Normal(mean, std).sample(sampling.variety * noise)

    def finish(
        self,
        nets: Nets,
        state: Tensor,
        targets: Sequence[str],
        sampling: FlowSampling,
        streams: Tensor,
    ) -> dict[str, Tensor]:
        positions = nets.velocity.tokens.count
        return {self.target: carry(nets.velocity, state, sampling, positions)}
