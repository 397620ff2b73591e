"""Training the small codec of point clouds."""

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.train.codec import CodecTraining
from flowbind_points.chamfer import nearest, take
from flowbind_points.small import SEEN


class PointsCodecTraining(CodecTraining):
    """Trains a codec of point clouds by the Chamfer distance and the colours of nearest neighbours.

    Args:
        compared: points drawn from each cloud at every step, to be compared; fewer are faster.
        colour: weight of the colours' mean absolute difference against the Chamfer distance.
        cycle: weight of the mean squared error of latents that were disturbed, decoded and encoded again. A flow's
            latents are a little off; without it their clouds blur into something else, such as a cube into a ball.
        astray: that disturbance, as a share of each feature's spread.
    """

    def __init__(
        self, *args, compared: int = 256, colour: float = 1.0, cycle: float = 0.1, astray: float = 0.4, **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        self.compared, self.colour, self.cycle, self.astray = compared, colour, cycle, astray

    def reconstruction(self, latents: Tensor, clouds: Tensor) -> Tensor:
        made, true = self._draw(self.net.decode(latents)), self._draw(clouds)
        to_true, to_made = nearest(made[..., :3], true[..., :3])
        ways = made - take(true, to_true), true - take(made, to_made)
        place = sum(torch.linalg.vector_norm(way[..., :3], dim=2).mean() for way in ways) / 2
        colour = sum(way[..., 3:].abs().mean() for way in ways) / 2
        return place + self.colour * colour + self.cycle * self._lost(latents.detach())

    def _lost(self, latents: Tensor) -> Tensor:
        """Mean squared error, in spreads of a feature, of latents that go astray, are decoded and encoded again."""
        latents = latents[: -(-len(latents) // 2)]  # half of them tell enough
        training = self.net.training
        self.net.eval()  # normalised as real clouds are
        made = self.net.decode(latents + self.astray * torch.randn_like(latents))
        again = self.net.encode(made[:, torch.randperm(made.shape[1], device=made.device)[:SEEN]])
        self.net.train(training)
        return F.mse_loss(again, latents)

    def _draw(self, clouds: Tensor) -> Tensor:
        """Random points of each cloud, the same rows for all."""
        return clouds[:, torch.randperm(clouds.shape[1], device=clouds.device)[: self.compared]]
