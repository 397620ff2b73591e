r"""The loss of one flow, on whose path a net learns the velocity by least squares,

$$
\mathcal L = \frac1D \lVert v(z_t, t, \cdot) - \dot z_t \rVert^2 ,
$$

where $z_t$ is a path from $z_0$ to $z_1$, and $D$ the numbers of a latent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from flowbind import draws
from flowbind.flow.path import PathSample, sample_path, sample_sine_cosine_path
from flowbind.flow.times import logit_normal_times

PATHS: dict[str, Callable[[Tensor, Tensor, Tensor], PathSample]] = {
    "straight": sample_path,
    "sine-cosine": sample_sine_cosine_path,
}

# Shapes: n rows, * the axes of a latent.


@dataclass(frozen=True)
class FlowConfig:
    """How one guided flow is trained.

    Args:
        path: Path from start to target: `straight`, or `sine-cosine`.
        times: Law of the times: `logit-normal`, or `uniform`.
        time_mean: Mean of a time's logit; below 0 gives earlier times.
        time_std: Standard deviation of a time's logit.
        unconditional: Share of rows that train the unconditional field; without any there is no
            guidance.

    Raises:
        ValueError: a value that is not allowed.
    """

    path: Literal["straight", "sine-cosine"] = "straight"
    times: Literal["logit-normal", "uniform"] = "logit-normal"
    time_mean: float = 0.0
    time_std: float = 1.0
    unconditional: float = 0.1

    def __post_init__(self) -> None:
        self.check_choice("path", tuple(PATHS))
        self.check_choice("times", ("logit-normal", "uniform"))
        self.check_weight("time_std")
        if not 0 <= self.unconditional < 1:
            raise ValueError(
                f"unconditional is a probability in [0, 1), not {self.unconditional}"
            )

    def check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        """Refuses what is none of the values that are allowed."""
        value = getattr(self, name)
        if value not in allowed:
            raise ValueError(f"{name} is one of {', '.join(allowed)}, not '{value}'")

    def check_weight(self, name: str) -> None:
        """Refuses what is no number from 0 on."""
        value = getattr(self, name)
        if not value >= 0:
            raise ValueError(f"{name} must be a number, at least 0, not {value}")

    def draw_times(self, streams: Tensor) -> Tensor:
        """A time of each row, in [0, 1), with shape (n,)."""
        if self.times == "uniform":
            return draws.uniform(streams, 1)[:, 0]
        normal = draws.normal(streams, 1)[:, 0]
        return logit_normal_times(normal, self.time_mean, self.time_std)

    def errors(
        self,
        field: Callable[..., Tensor],
        z: Tensor,
        x: Tensor,
        t: Tensor,
        *given: Tensor,
    ) -> Tensor:
        """The error of each row's velocity, a mean over the latent, with shape (n,).

        Args:
            field: Velocity v(z_t, t, ...), with shapes (n, *), (n,), ... -> (n, *).
            z: Starts, with shape (n, *).
            x: Targets, with shape (n, *).
            t: Times, with shape (n,).
            given: What else the field takes of each row.
        """
        z_t, velocity = PATHS[self.path](z, x, t)
        error = field(z_t, t, *given).to(x.dtype) - velocity
        return error.square().flatten(1).mean(1)
