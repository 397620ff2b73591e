"""Some points of each cloud, drawn at random."""

import torch
from torch import Tensor

from flowbind.draws import uniform
from flowbind_points.chamfer import take


def some(clouds: Tensor, count: int, streams: Tensor) -> Tensor:
    """Draws points of each cloud, each point as likely.

    One of each of `count` equal stretches of its n points.

    Args:
        clouds: Clouds, with shape (B, n, C).
        count: Number of points; where it does not divide n, two neighbours may draw the same one.
        streams: Random stream for each cloud, with shape (B,).

    Returns:
        The points, with shape (B, count, C).
    """
    points = clouds.shape[1]
    index = torch.arange(count, device=clouds.device)
    place = index + uniform(streams, count).double()
    place = place * (points / count)
    index = place.long().clamp(max=points - 1)
    return take(clouds, index)
