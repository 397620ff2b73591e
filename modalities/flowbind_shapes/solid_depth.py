"""Errors of generated depth maps on the solid alone, which the real map tells from the floor.

The floor is level, and the camera is never tilted to a side: along a row the floor has one depth.
No solid reaches the frame. So a row's first pixel shows how deep the floor is in all of it, and what
is nearer is the solid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowbind.metric import Metric
from flowbind.metrics.relative import THRESHOLD, relative_errors
from flowbind_shapes.view import PIXELS

NEARER = 0.003  # metres: files are rounded to one millimetre


class SolidDepth(Metric):
    """AbsRel, RMSE in metres and delta < 1.25 on the solid of the embedded world's depth maps.

    Over the pixels where the real map shows the solid, then the mean over maps.
    """

    judges = against = "depth"
    minimum = 1

    def features(self, kind: str, raws: Sequence[Tensor]) -> Tensor:
        """Depths in metres of B maps, float32 with shape (B, 64, 64).

        Raises:
            ValueError: a map has another size.
        """
        for raw in raws:
            if raw.shape != (PIXELS, PIXELS):
                height, width = raw.shape
                raise ValueError(
                    f"SolidDepth: a map of {height} x {width} pixels; the embedded world's have "
                    f"{PIXELS} x {PIXELS}, so give the codec this size"
                )
        return torch.stack(list(raws)).to(self.device)

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        """The three values.

        Raises:
            ValueError: a reference shows no solid, so it is none of the embedded world's.
        """
        counts = on_solid(reference)
        empty = ~counts.flatten(1).any(1)
        if empty.any():
            raise ValueError(
                f"SolidDepth: {int(empty.sum())} of {len(reference)} references show no solid on "
                "a floor; this metric is for depth maps of the embedded world alone"
            )

        errors = relative_errors(made, reference, counts)
        return {
            "abs-rel[solid]": errors.abs_rel,
            "rmse[metres,solid]": errors.rmse,
            f"delta-{THRESHOLD}[solid]": errors.delta,
        }


def on_solid(depth: Tensor) -> Tensor:
    """Whether a pixel of a real map shows the solid, with shape (n, 64, 64), as its depths."""
    floor = depth[..., :1]
    return floor - depth > NEARER
