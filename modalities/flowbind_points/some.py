"""Some points of each cloud, drawn at random."""

import torch
from torch import Tensor

from flowbind.draws import uniform
from flowbind_points.chamfer import take


def some(clouds: Tensor, count: int, streams: Tensor) -> Tensor:
    """Draws points of each cloud: one of each of `count` equal stretches of its n points, so each point as likely.

    Args:
        clouds: with shape (B, n, C).
        count: how many; where it does not divide n, two neighbours may draw the same point.
        streams: a random stream for each cloud, with shape (B,).

    Returns:
        With shape (B, count, C).
    """
    points = clouds.shape[1]
    place = torch.arange(count, device=clouds.device) + uniform(streams, count).double()
    return take(clouds, (place * (points / count)).long().clamp(max=points - 1))
