"""What judges points: the label of the cell in which they lie, and how far they are from real ones."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flowbind.judge import Judge
from flowbind.metric import Metric
from flowbind_plane.label import KNOWN
from flowbind_plane.world import labels_of, rare_labels

DIRECTIONS = 90  # along which distances are taken, evenly over half a circle


class CellJudge(Judge):
    """Reads the label of a point from the cell in which it lies: exactly."""

    judges = "plane-point"
    classes = {"label": KNOWN}  # noqa: RUF012

    def __init__(self) -> None:
        pass

    def features(self, kind: str, raws: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(raws)).to(self.device)

    def read(self, features: Tensor) -> Tensor:
        labels = labels_of(features.double().cpu().numpy())
        return torch.from_numpy(labels)[:, None]


class PlaneDistance(Metric):
    """How generated points are distributed, beside real ones.

    `wasserstein[2,sliced]` is the distance of order 2 of their projections, the root mean square
    over 90 directions: in units of the plane, 0 of equal sets. `rare-share[cells]` is the share of
    points in cells of under-represented labels, over that of real points; 1 is the truth.
    """

    judges = against = "plane-point"

    def __init__(self) -> None:
        pass

    def features(self, kind: str, raws: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(raws)).to(self.device)

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        generated = made.double().cpu()
        real = reference.double().cpu()
        values = {"wasserstein[2,sliced]": sliced_wasserstein(generated, real)}

        expected = rare_share(real.numpy())
        if expected:
            values["rare-share[cells]"] = rare_share(generated.numpy()) / expected
        return values


def sliced_wasserstein(x: Tensor, y: Tensor) -> float:
    """The sliced Wasserstein distance of order 2 of two sets of as many points, (n, 2) each."""
    angles = math.pi * torch.arange(DIRECTIONS, dtype=x.dtype) / DIRECTIONS
    directions = torch.stack([angles.cos(), angles.sin()])
    first = (x @ directions).sort(0).values
    second = (y @ directions).sort(0).values
    return (first - second).square().mean().sqrt().item()


def rare_share(points: np.ndarray) -> float:
    """The share of points, with shape (n, 2), whose label is under-represented."""
    return float(np.isin(labels_of(points), rare_labels()).mean())
