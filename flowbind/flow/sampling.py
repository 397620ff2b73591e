"""Generation by one guided flow: what may be chosen, and the flow from a start to its end."""

import math
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from flowbind.flow.guidance import guided
from flowbind.flow.solver import SOLVERS, Solver, integrate
from flowbind.padding import in_blocks
from flowbind.registry import did_you_mean

# Shapes: n rows, * the axes of a latent.


@dataclass(frozen=True)
class FlowSampling:
    """What may be chosen when one guided flow generates.

    CrossFlow's authors take 50 Euler steps at a guidance of 7.

    Args:
        steps: Solver steps from the start to the target.
        solver: The solver: euler, midpoint, heun2, heun3, rk4, or dopri5, which chooses its own
            steps.
        guidance: Scale of the guidance. 1 is the field of the source, 0 that of no source in
            particular; others cost twice as much.
        variety: Noise of the start, in its standard deviations. 1 is what training has; 0 is
            deterministic.

    Raises:
        ValueError: a value that is not allowed.
    """

    steps: int = 50
    solver: Solver = "euler"
    guidance: float = 1.0
    variety: float = 1.0

    def __post_init__(self) -> None:
        check_steps("steps", self.steps)
        check_solver(self.solver)
        check_guidance("guidance", self.guidance)
        check_variety(self.variety)


def check_steps(name: str, steps: int) -> None:
    """Refuses what is no whole number from 1 on."""
    is_whole = isinstance(steps, Integral) and not isinstance(steps, bool)
    if not is_whole or steps < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, not {steps}")


def check_solver(solver: str) -> None:
    """Refuses a solver that there is not."""
    if solver not in SOLVERS:
        raise ValueError(f"no solver '{solver}'; {did_you_mean(solver, SOLVERS)}")


def check_guidance(name: str, scale: float) -> None:
    """Refuses a scale that is no number."""
    if not isinstance(scale, Real) or not math.isfinite(scale):
        raise ValueError(f"{name} must be a number, not {scale}")


def check_variety(variety: float) -> None:
    """Refuses what is no number from 0 on."""
    if not isinstance(variety, Real) or not 0 <= variety < math.inf:
        raise ValueError(f"variety must be a number, at least 0, not {variety}")


def carry(
    net: nn.Module,
    z: Tensor,
    sampling: FlowSampling,
    positions: int,
    *given: Tensor,
) -> Tensor:
    """Where starts end, with shape (n, *), in float32 at least; each row the same alone.

    Of networks in half precision only the velocities are rounded to it.

    Args:
        net: Network of both fields, v(z_t, t, c): (n, *), (n,), (n,) -> (n, *).
        z: Starts, with shape (n, *).
        sampling: Choices.
        positions: Positions that the network sees of each row, such as tokens.
        given: What else the network takes of each row, with shape (n, *).
    """
    precision = next(net.parameters()).dtype
    exact = torch.promote_types(precision, torch.float32)
    z = z.to(exact)
    given = tuple(each.to(precision) for each in given)

    def field(z: Tensor, t: Tensor, condition: Tensor, *given: Tensor) -> Tensor:
        return net(z.to(precision), t.to(precision), condition, *given).to(exact)

    def flow(rows: Tensor) -> Tensor:
        own = [each[rows] for each in given]
        drift = guided(field, sampling.guidance, *own)
        return integrate(drift, z[rows], 0.0, 1.0, sampling.steps, sampling.solver)

    return in_blocks(flow, torch.arange(len(z), device=z.device), positions)
