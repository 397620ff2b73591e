"""Errors of generated depth maps against the real ones of the same samples."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.metric import Metric
from flowbind.metrics.relative import THRESHOLD, relative_errors

NEAREST = 1e-3  # metres: what is nearer does not count, as in the protocols of KITTI and NYUv2


class DepthErrors(Metric):
    """AbsRel, RMSE in metres and delta < 1.25, of each map, then the mean over maps.

    Pixels count where the reference has a depth from 1 mm to `farthest`; depths of the generation
    are cut to the same range. Neither scale nor shift is fitted: both are metres.

    Args:
        height: Rows on which maps are compared.
        width: Columns on which maps are compared. A map of another size is sampled at the nearest
            pixel, so that no depth is made up.
        farthest: Greatest depth in metres that counts, such as 80 for KITTI and 10 for NYUv2; any
            if None.

    Raises:
        ValueError: a size is below 1, or `farthest` not above 1 mm.
    """

    judges = against = "depth"
    minimum = 1

    def __init__(
        self,
        height: int = 64,
        width: int = 64,
        farthest: float | None = None,
    ) -> None:
        if height < 1 or width < 1:
            raise ValueError(f"a map of {height} x {width}; allowed is 1 x 1 and above")
        if farthest is not None and not farthest > NEAREST:
            raise ValueError(
                f"farthest is {farthest} m, allowed is any above {NEAREST}"
            )

        self.height = height
        self.width = width
        self.farthest = farthest

    def features(self, kind: str, raws: Sequence[Tensor]) -> Tensor:
        """Depths in metres of B maps, float32 with shape (B, height, width)."""
        size = (self.height, self.width)
        maps = []
        for raw in raws:
            sized = F.interpolate(raw[None, None], size=size, mode="nearest-exact")
            maps.append(sized[0, 0])
        return torch.stack(maps).to(self.device)

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        """The three values.

        Raises:
            ValueError: a reference has no depth in the range; one line says how many.
        """
        farthest = torch.inf if self.farthest is None else self.farthest
        counts = (reference >= NEAREST) & (reference <= farthest)
        empty = ~counts.flatten(1).any(1)
        if empty.any():
            raise ValueError(
                f"DepthErrors: {int(empty.sum())} of {len(reference)} references have no depth "
                f"up to {farthest:g} m on {self.height} x {self.width} pixels; raise 'farthest', "
                "or the size"
            )

        errors = relative_errors(made.clamp(NEAREST, farthest), reference, counts)
        clauses = ["per-map", f"{self.height}x{self.width}"]
        if self.farthest is not None:
            clauses.append(f"to={self.farthest:g}m")
        label = ",".join(clauses)
        return {
            f"abs-rel[{label}]": errors.abs_rel,
            f"rmse[metres,{label}]": errors.rmse,
            f"delta-{THRESHOLD}[{label}]": errors.delta,
        }
