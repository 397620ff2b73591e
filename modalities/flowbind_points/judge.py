"""The judge of point clouds: a PointNet (Qi et al., 2017), which sees points in no order."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from flowbind.judge import NeuralJudge
from flowbind_points.unit_sphere import thin

POINTS = 512  # of a cloud
CHANNELS = 48, 96, 192  # of each point


class PointsJudge(NeuralJudge):
    """Reads labelled factors of clouds of coloured points, 512 of each.

    Args:
        weights: Safetensors file; weights that read the embedded world's factors if None.
    """

    judges = "points"
    shipped = Path(__file__).parent / "weights" / "judge.safetensors"

    def build(self) -> nn.Module:
        return PointNet(self.width)

    def prepare(self, raws: Sequence[Tensor]) -> Tensor:
        """B clouds, float32 with shape (B, 512, 6)."""
        return torch.stack([thin(raw.float().cpu(), POINTS) for raw in raws])


class PointNet(nn.Module):
    """The same layers for every point, the largest and the mean over the points, then one more.

    Clouds, with shape (B, n, 6), to features, with shape (B, d).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm1d(6)]
        before = 6
        for channels in CHANNELS:
            layers += [
                nn.Conv1d(before, channels, kernel_size=1),
                nn.BatchNorm1d(channels),
                nn.ReLU(),
            ]
            before = channels
        self.points = nn.Sequential(*layers)
        self.cloud = nn.Sequential(
            nn.Linear(2 * before, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, width),
            nn.ReLU(),
        )

    def forward(self, clouds: Tensor) -> Tensor:
        each = self.points(clouds.transpose(1, 2))
        return self.cloud(torch.cat([each.amax(2), each.mean(2)], dim=1))
