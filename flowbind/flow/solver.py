"""Integration of a flow's ordinary differential equation, in either direction.

Every row is a system of its own: it comes out the same alone and among others. Solvers of fixed
steps are torchdiffeq's; its three that are used most are taken here, to its bit, without its import
of SciPy, which is a quarter of the time to the first result. `dopri5` there takes one step size for
all rows, so that a row would depend on the others; here each row has its own.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, cast, get_args

import torch
from torch import Tensor

Solver = Literal["euler", "midpoint", "heun2", "heun3", "rk4", "dopri5"]
SOLVERS: tuple[str, ...] = get_args(Solver)

# Dormand and Prince (1980), "A family of embedded Runge-Kutta formulae": nodes, stages (the last is
# the step of order 5), and the difference to the embedded step of order 4.
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

# Hairer, Norsett and Wanner (1993), "Solving ordinary differential equations I", section II.4: a
# step's share of the one that would just be allowed, and by how much a step may shrink or grow.
SAFETY = 0.9
SHRINK = 0.2
GROW = 10.0
SHORTEST = 1e-4  # share of the way that a step has at least, whatever its error

THIRD = 1 / 3  # of Kutta's 3/8 rule

# Below, `way` is stop - start, with its sign; a step is a share of it, positive in both directions.
Drift = Callable[[Tensor, Tensor], Tensor]  # of (x, t), t with shape (n,)
Velocity = Callable[[Tensor, Tensor], Tensor]  # of (t, x), t one time for all rows


def integrate(
    drift: Drift,
    x: Tensor,
    start: float,
    stop: float,
    steps: int = 10,
    solver: Solver = "euler",
    tolerance: float = 1e-5,
) -> Tensor:
    """Carries `x` along `dx/dt = drift(x, t)` from time `start` to time `stop`.

    Args:
        drift: Velocity at (x, t), with shapes (n, *), (n,) -> (n, *), row by row.
        x: States at `start`, with shape (n, *).
        start: Time of `x`; 0 is the shared latent, 1 the modality.
        stop: Time to reach; below `start` to go backwards.
        steps: Equal steps of a solver of fixed steps; `dopri5` chooses its own. Drift calls: 1
            (euler), 2 (midpoint, heun2), 3 (heun3), 4 (rk4) a step. 10 Euler steps a leg in the authors' code.
        solver: Name of the solver: euler, midpoint, heun2, heun3, rk4 or dopri5.
        tolerance: Relative and absolute tolerance of a step of `dopri5`.

    Returns:
        States at `stop`, with shape (n, *). Where a row overflows, it is not finite.

    Raises:
        ValueError: an unknown solver, no step, or no tolerance.
    """
    if solver not in SOLVERS:
        allowed = ", ".join(SOLVERS)
        raise ValueError(f"no solver '{solver}'; allowed: {allowed}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, not {tolerance}")
    if len(x) == 0 or start == stop:
        return x

    if solver == "dopri5":
        return _dormand_prince(drift, x, start, stop, tolerance)
    return _fixed(drift, x, start, stop, steps, solver)


def _fixed(
    drift: Drift,
    x: Tensor,
    start: float,
    stop: float,
    steps: int,
    solver: Solver,
) -> Tensor:
    """Equal steps, all rows at one time: the drift is given that as a view of stride 0."""

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        times = t.to(x.dtype).expand(len(x))
        return drift(x, times)

    # Times in float64: a coarse float32 grid would end a rounding error away from `stop`.
    grid = torch.linspace(start, stop, steps + 1, dtype=torch.float64, device=x.device)
    if solver not in STEPS:
        from torchdiffeq import odeint

        return odeint(velocity, x, grid, method=solver)[-1]

    step = STEPS[solver]
    for t, following in pairwise(grid):
        x = x + step(velocity, t, following, x)
    return x


def _euler(velocity: Velocity, t: Tensor, following: Tensor, x: Tensor) -> Tensor:
    """What a step of Euler's method adds, from time `t` to `following`."""
    return (following - t) * velocity(t, x)


def _midpoint(velocity: Velocity, t: Tensor, following: Tensor, x: Tensor) -> Tensor:
    """The same of the midpoint rule."""
    way = following - t
    half = 0.5 * way
    return way * velocity(t + half, x + velocity(t, x) * half)


def _rk4(velocity: Velocity, t: Tensor, following: Tensor, x: Tensor) -> Tensor:
    """The same of Kutta's 3/8 rule, whose error is a little below that of the classical one."""
    way = following - t
    k1 = velocity(t, x)
    k2 = velocity(t + way * THIRD, x + way * k1 * THIRD)
    k3 = velocity(t + way * (2 / 3), x + way * (k2 - k1 * THIRD))
    k4 = velocity(following, x + way * (k1 - k2 + k3))
    return (k1 + 3 * (k2 + k3) + k4) * way * 0.125


STEPS: dict[str, Callable[..., Tensor]] = {
    "euler": _euler,
    "midpoint": _midpoint,
    "rk4": _rk4,
}


def _dormand_prince(
    drift: Drift,
    x: Tensor,
    start: float,
    stop: float,
    tolerance: float,
) -> Tensor:
    """Steps of order 5, each row's as large as its error allows, until the last has arrived."""
    way = stop - start
    t = torch.full((len(x),), start, dtype=torch.float64, device=x.device)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return drift(x, t.to(x.dtype))

    first = velocity(x, t)
    step = _first_step(velocity, x, t, first, way, tolerance)
    while (left := (stop - t) / way).any():
        step = torch.minimum(step, left)
        size = _column(step * way, x)

        slopes = [first]
        for node, weights in zip(NODES[1:], STAGES, strict=True):
            y = x + size * _weighted_sum(weights, slopes)
            time = t + node * step * way
            slopes.append(velocity(y, time))

        largest = torch.maximum(x.abs(), y.abs())
        scale = tolerance * (1 + largest)
        error = size * _weighted_sum(ERROR, slopes)
        error = _norm(error / scale).detach()

        # A row that is no longer finite has arrived: it will not recover, and the caller sees it.
        finite = error.isfinite()
        is_fine = (error <= 1) | (step <= SHORTEST)
        accepted = is_fine | ~finite
        arrived = (accepted & (step == left)) | ~finite

        # The last slope of an accepted step is the first of the next one.
        t = torch.where(accepted, t + step * way, t)
        t = torch.where(arrived, stop, t)
        is_accepted = _column(accepted, x)
        x = torch.where(is_accepted, y, x)
        first = torch.where(is_accepted, slopes[-1], first)

        factor = SAFETY * error ** (-1 / 5)
        factor = factor.clamp(SHRINK, GROW)
        factor = torch.where(finite, factor, 1.0)
        step = (step * factor).clamp(min=SHORTEST)
    return x


def _weighted_sum(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """The slopes' sum by weights; slopes without weight are left out."""
    terms = []
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            terms.append(weight * slope)
    return cast(Tensor, sum(terms))


def _first_step(
    velocity: Drift,
    x: Tensor,
    t: Tensor,
    first: Tensor,
    way: float,
    tolerance: float,
) -> Tensor:
    """Each row's first step, as a share of the way, float64 with shape (n,).

    From Hairer, Norsett and Wanner (1993), section II.4.
    """
    scale = tolerance * (1 + x.abs())
    size = _norm(x / scale)
    slope = _norm(first / scale)
    small = (size < 1e-5) | (slope < 1e-5)
    trial = torch.where(small, 1e-6, 0.01 * size / slope)
    trial = trial.clamp(max=abs(way))

    # A trial step by Euler, which shows how fast the slope changes.
    direction = trial if way > 0 else -trial
    euler = x + _column(direction, x) * first
    ahead = velocity(euler, t + direction)
    curvature = _norm((ahead - first) / scale) / trial

    steepest = torch.maximum(slope, curvature)
    short = (1e-3 * trial).clamp(min=1e-6)
    fitting = (0.01 / steepest) ** (1 / 5)
    step = torch.where(steepest <= 1e-15, short, fitting)
    step = torch.minimum(100 * trial, step).detach()
    step = step / abs(way)
    return step.nan_to_num(1.0, 1.0, 1.0).clamp(SHORTEST, 1.0)


def _norm(x: Tensor) -> Tensor:
    """Root mean square of each row's numbers, float64 with shape (n,)."""
    squares = x.flatten(1).double().square()
    return squares.mean(1).sqrt()


def _column(values: Tensor, x: Tensor) -> Tensor:
    """One value a row, with shape (n,), to be combined with `x`, with shape (n, *)."""
    if values.dtype != torch.bool:
        values = values.to(x.dtype)
    axes = [1] * (x.ndim - 1)
    return values.reshape(-1, *axes)
