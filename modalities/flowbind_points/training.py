"""Training the small codec of point clouds."""

import torch
from torch import Tensor

from flowbind.train.codec import CodecTraining
from flowbind_points.chamfer import nearest, take


class PointsCodecTraining(CodecTraining):
    """Trains a codec of point clouds by the Chamfer distance and the colours of nearest neighbours.

    Args:
        compared: points drawn from each cloud at every step, to be compared; fewer are faster.
        colour: weight of the colours' mean absolute difference against the Chamfer distance.
        decorrelation: weight of the squared correlations of a latent's feature with the others, summed. Without it a
            few strong properties fill all features, and weak ones, such as how a thing is turned, are lost.
    """

    def __init__(self, *args, compared: int = 256, colour: float = 1.0, decorrelation: float = 0.05, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.compared, self.colour, self.decorrelation = compared, colour, decorrelation

    def reconstruction(self, latents: Tensor, clouds: Tensor) -> Tensor:
        made, true = self._draw(self.net.decode(latents)), self._draw(clouds)
        to_true, to_made = nearest(made[..., :3], true[..., :3])
        ways = made - take(true, to_true), true - take(made, to_made)
        place = sum(torch.linalg.vector_norm(way[..., :3], dim=2).mean() for way in ways) / 2
        colour = sum(way[..., 3:].abs().mean() for way in ways) / 2
        return place + self.colour * colour + self.decorrelation * _correlations(latents)

    def _draw(self, clouds: Tensor) -> Tensor:
        """Random points of each cloud, the same rows for all."""
        return clouds[:, torch.randperm(clouds.shape[1], device=clouds.device)[: self.compared]]


def _correlations(latents: Tensor) -> Tensor:
    """Squared correlations of each feature with the others, summed over those and averaged: (B, D) to a scalar."""
    standard = (latents - latents.mean(0)) / latents.std(0, correction=0).clamp(min=1e-6)
    correlations = standard.T @ standard / len(latents)
    return correlations.square().sum() / len(correlations) - 1
