"""Integration of a flow's ordinary differential equation, in either direction, by torchdiffeq."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Method = Literal["euler", "midpoint", "rk4", "dopri5"]
METHODS: tuple[str, ...] = get_args(Method)


def integrate(
    drift: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    start: float,
    stop: float,
    steps: int = 10,
    method: Method = "euler",
    tolerance: float = 1e-5,
) -> Tensor:
    """Carries `x` along `dx/dt = drift(x, t)` from time `start` to time `stop`.

    Args:
        drift: velocity at (x, t), with shapes (n, *), (n,) -> (n, *).
        x: with shape (n, *).
        start: time of `x`; 0 is the shared latent, 1 the modality.
        stop: time to reach; below `start` to go backwards.
        steps: equal steps of a fixed-step method; `dopri5` chooses its own. Drift calls: 1 (euler), 2 (midpoint),
            4 (rk4) a step. 10 Euler steps a leg in the authors' code.
        method: euler, midpoint, rk4 or dopri5.
        tolerance: relative and absolute, of `dopri5`.

    Raises:
        ValueError: an unknown method, no step, or no tolerance.
    """
    if method not in METHODS:
        raise ValueError(f"no solver '{method}'; allowed: {', '.join(METHODS)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, not {tolerance}")
    if len(x) == 0 or start == stop:
        return x
    with torch.inference_mode(
        False
    ):  # or the constants that its import makes could never again be differentiated through
        from torchdiffeq import odeint  # after the checks: it takes seconds to import

    # Times in float64: a coarse float32 grid would end a rounding error away from `stop`.
    ends = torch.tensor([start, stop], dtype=torch.float64, device=x.device)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return drift(x, t.to(x.dtype).expand(len(x)))

    if method == "dopri5":
        within = {"step_t": ends[1:]}  # the last step ends at `stop`: beyond it the drift was never trained
        return odeint(velocity, x, ends, method=method, rtol=tolerance, atol=tolerance, options=within)[-1]
    grid = torch.linspace(start, stop, steps + 1, dtype=torch.float64, device=x.device)
    return odeint(velocity, x, ends, method=method, options={"grid_constructor": lambda *_: grid})[-1]
