r"""From sources $A$ to a target $i$,

$$
z_j = x_j - v_j(x_j, 1) \quad (j \in A), \qquad
z = \operatorname{LN}\Bigl(\frac{1}{|A|} \sum_{j \in A} z_j\Bigr) + \gamma \sqrt{v}\, \varepsilon, \qquad
x_i = z + \int_0^1 v_i(x_t, t)\, \mathrm d t ,
$$

with $\varepsilon \sim \mathcal N(0, I)$ and $\gamma$ the setting `variety`. $\operatorname{LN}$ is the
identity without `normalize`, and where sources take more steps than one:

$$
z_j = x_j + \int_1^0 v_j(x_t, t)\, \mathrm d t .
$$
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowbind import draws as random
from flowbind.batch import Batch
from flowbind.errors import last_line
from flowbind.flow.sampling import check_solver, check_steps, check_variety
from flowbind.flow.solver import Solver, integrate
from flowbind.method import (
    Direction,
    Loss,
    Method,
    Networks,
    Sign,
    check_same_codecs,
)
from flowbind.methods.flowbind.fusion import add_noise, normalize
from flowbind.methods.flowbind.objective import Draws, ObjectiveConfig, errors
from flowbind.methods.flowbind.signs import flow_signs, shared_latent_signs
from flowbind.modality import Modality
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.padding import in_blocks
from flowbind.registry import did_you_mean

SAMPLES = 64  # of a modality that flow there and back, to see whether they return


@dataclass(frozen=True)
class FlowBindSampling:
    """What may be chosen when FlowBind generates.

    The authors' code takes 10 Euler steps a leg, without noise.

    Args:
        steps: Solver steps from the shared latent to a target.
        source_steps: Solver steps from a source to the shared latent. 1, with any solver, is the
            regression E[z | x]; as many as `steps` if None.
        solver: The solver: euler, midpoint, heun2, heun3, rk4, or dopri5, which chooses its own
            steps.
        variety: Fresh noise on the shared latent, in standard deviations of the training noise. 1
            draws samples as varied as the data; 0 is deterministic, and gives means.
    """

    steps: int = 10
    source_steps: int | None = 1
    solver: Solver = "midpoint"
    variety: float = 1.0

    def __post_init__(self) -> None:
        check_steps("steps", self.steps)
        if self.source_steps is not None:
            check_steps("source_steps", self.source_steps)
        check_solver(self.solver)
        check_variety(self.variety)

    @property
    def regresses(self) -> bool:
        """Whether a source's shared latent is the regression, not the end of its flow."""
        return self.source_steps == 1


class Flows(nn.Module):
    """Per modality its drift net and its head of the auxiliary encoder."""

    drifts: Any
    heads: Any

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        drift: DriftConfig,
        head: HeadConfig,
    ) -> None:
        super().__init__()
        self.drifts = nn.ModuleDict(
            {name: m.build_drift(drift) for name, m in modalities.items()}
        )
        self.heads = nn.ModuleDict(
            {name: m.build_head(head) for name, m in modalities.items()}
        )


class FlowBind(Method):
    """One invertible flow for each modality, to a shared latent that all of them learn.

    Args:
        modalities: Modalities by name, as manifests name them; their latents have one shape.
        drift: Size of a drift net, where the modality does not say. The paper's by default.
        head: Size of a head, where the modality does not say. The paper's by default.
        objective: Settings of the objective.
        bind: Modalities to train, on top of the released model that `training.base` names: the
            flows of all others are those of that model and stay as they are, to the bit. The paper
            binds 3D points so, from image-points pairs alone. None: train all.

    Raises:
        ValueError: fewer than two modalities, latents of different shapes, or a name to bind that
            is no modality.
    """

    Sampling = FlowBindSampling
    paper: ClassVar = "arXiv 2512.15420"
    trained_by: ClassVar = ("objective", "bind")
    linear: ClassVar = True

    def __init__(
        self,
        modalities: dict[str, Modality],
        drift: DriftConfig = DriftConfig(),  # noqa: B008 - frozen
        head: HeadConfig = HeadConfig(),  # noqa: B008
        objective: ObjectiveConfig = ObjectiveConfig(),  # noqa: B008
        bind: list[str] | None = None,
    ) -> None:
        super().__init__(modalities)
        check_shapes(modalities)
        for name in bind or []:
            if name not in modalities:
                raise ValueError(
                    f"bind: no modality '{name}' here; {did_you_mean(name, modalities)}"
                )

        self.drift = drift
        self.head = head
        self.objective = objective
        self.bind = bind

    def build(self) -> Flows:
        return Flows(self.modalities, self.drift, self.head)

    @property
    def trained(self) -> list[str]:
        return list(self.modalities) if self.bind is None else self.bind

    def draw(self, batch: Batch, key: int) -> Draws:
        return Draws.sample(batch, key)

    def losses(
        self,
        nets: Flows,
        batch: Batch,
        draws: Draws,
    ) -> dict[str, Loss]:
        by_name = errors(nets.drifts, nets.heads, batch, draws, self.objective)
        return {name: Loss(name, error) for name, error in by_name.items()}

    def start(
        self,
        nets: Flows,
        name: str,
        x: Tensor,
        sampling: FlowBindSampling,
        streams: Tensor,
    ) -> Tensor:
        """The shared latent of one source, with shape (B, *): its flow from 1 to 0."""
        steps = sampling.source_steps or sampling.steps
        # A single step of another solver would look at the drift inside, and regress nothing.
        solver = "euler" if sampling.regresses else sampling.solver
        return flow(
            nets,
            name,
            x,
            start=1.0,
            stop=0.0,
            steps=steps,
            solver=solver,
        )

    def fuse(
        self,
        states: Sequence[Tensor],
        sampling: FlowBindSampling,
        streams: Tensor,
    ) -> Tensor:
        """The mean of the sources' shared latents, with shape (B, *), and fresh noise."""
        z = torch.stack(list(states)).mean(0) if len(states) > 1 else states[0]
        if self.objective.normalize and sampling.regresses:
            z = normalize(z)
        if not sampling.variety:
            return z

        noise = random.normal(streams, *z.shape[1:]).to(z.dtype)
        variance = sampling.variety**2 * self.objective.noise_variance
        count = torch.ones(len(z), dtype=z.dtype, device=z.device)
        return add_noise(z, count, noise, variance)

    def finish(
        self,
        nets: Flows,
        state: Tensor,
        targets: Sequence[str],
        sampling: FlowBindSampling,
        streams: Tensor,
    ) -> dict[str, Tensor]:
        """The flow of each target from 0 to 1."""
        generated = {}
        for name in targets:
            generated[name] = flow(
                nets,
                name,
                state,
                start=0.0,
                stop=1.0,
                steps=sampling.steps,
                solver=sampling.solver,
            )
        return generated

    def signs(
        self,
        nets: Flows,
        batch: Batch,
        sampling: FlowBindSampling,
        key: int,
    ) -> dict[str, Sign]:
        """Whether the shared latent collapses, or the flows no longer invert (`signs`)."""
        streams = Draws.sample(batch, key).heads
        signs = shared_latent_signs(nets.heads, batch, streams, self.objective)

        def leg(start: float, stop: float) -> Callable[[str, Tensor], Tensor]:
            def flow_of(name: str, x: Tensor) -> Tensor:
                steps, solver = sampling.steps, sampling.solver
                return flow(nets, name, x, start, stop, steps, solver)

            return flow_of

        some = {name: x[:SAMPLES] for name, x in batch.latents.items()}
        return signs | flow_signs(some, there=leg(1.0, 0.0), back=leg(0.0, 1.0))

    def directions(self) -> list[Direction]:
        """From each modality to each, itself included, then from every two to each other one."""
        names = list(self.modalities)
        directions = []
        for source, target in product(names, names):
            directions.append(Direction((source,), (target,)))

        for pair in combinations(names, 2):
            for target in names:
                if target not in pair:
                    directions.append(Direction(pair, (target,)))
        return directions

    def offers(self, sources: Collection[str], targets: Collection[str]) -> bool:
        """Any, from any."""
        return bool(sources) and bool(targets)

    def adopt(
        self,
        networks: Networks,
        base: Method,
        base_networks: Networks,
    ) -> list[str]:
        """Takes over the flows of all modalities but those to bind, and freezes them.

        Without modalities to bind it takes over all flows, and freezes none.
        """
        if not isinstance(base, FlowBind):
            raise ValueError(
                f"it is of the method {type(base).__name__}, not {type(self).__name__}"
            )
        if base.objective.normalize != self.objective.normalize:
            raise ValueError(
                f"its latents have normalize: {base.objective.normalize}; "
                "set model.objective.normalize to that"
            )

        if self.bind and base.objective.noise_variance != self.objective.noise_variance:
            raise ValueError(
                f"its latents have noise_variance: {base.objective.noise_variance}; "
                "set model.objective.noise_variance to that"
            )

        bound = self.bind or []
        others = [name for name in self.modalities if name not in bound]
        check_same_codecs(self.modalities, base.modalities, others)

        for name in others:
            parts = _parts(networks, name)
            base_parts = _parts(base_networks, name)
            for part, base_part in zip(parts, base_parts, strict=True):
                try:
                    part.load_state_dict(base_part.state_dict())
                except RuntimeError as error:
                    reason = last_line(error)
                    raise ValueError(
                        f"its '{name}' is of another size ({reason})"
                    ) from None
                if self.bind is not None:
                    part.requires_grad_(False).eval()
        return others


def _parts(networks: Networks, name: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Drift net, head and standardisation of one modality."""
    return (
        networks.nets.drifts[name],
        networks.nets.heads[name],
        networks.standard[name],
    )


def flow(
    nets: Flows,
    name: str,
    x: Tensor,
    start: float,
    stop: float,
    steps: int,
    solver: Solver,
) -> Tensor:
    """One leg of a flow, with shape (B, *), in float32 at least.

    Of networks in half precision only the velocities are rounded to it.
    """
    drift = nets.drifts[name]
    precision = next(nets.parameters()).dtype
    exact = torch.promote_types(precision, torch.float32)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return drift(x.to(precision), t.to(precision)).to(exact)

    def leg(x: Tensor) -> Tensor:
        return integrate(velocity, x, start, stop, steps, solver)

    return in_blocks(leg, x.to(exact))


def check_shapes(modalities: Mapping[str, Modality]) -> None:
    """Refuses a set of modalities that no shared latent can tie together.

    Raises:
        ValueError: fewer than two modalities, or latents of different shapes.
    """
    if len(modalities) < 2:
        raise ValueError(
            f"a model ties at least two modalities together, not {len(modalities)}"
        )

    for name, modality in modalities.items():
        if modality.codec.vocabulary is not None:
            raise ValueError(
                f"the latents of '{name}' are ids, and flows carry numbers; choose another codec"
            )

    shapes = {}
    for name, modality in modalities.items():
        shapes[name] = tuple(modality.codec.shape)
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"all latents must have one shape, not {listed}; choose codecs of equal width"
        )
