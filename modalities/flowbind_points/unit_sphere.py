"""Clouds that can be compared as shapes: of one number of points, at one place and of one size."""

import torch
from torch import Tensor

from flowbind.draws import streams

SMALLEST = 1e-9  # radius, in world units; below it a cloud counts as one place, and is not blown up
THINNING = 0  # key of the random numbers by which points are chosen


def thin(cloud: Tensor, count: int) -> Tensor:
    """Takes `count` points of a cloud, with shape (n, *): the first of a fixed random order.

    Of fewer, points repeat evenly. Scanners write their points beam by beam and cameras row by row:
    every k-th point might all be of one beam. The order depends on n alone, and the points of a
    smaller count are among those of a larger one.
    """
    if len(cloud) <= count:
        index = torch.arange(count, device=cloud.device)
        return cloud[index * len(cloud) // count]

    numbers = torch.arange(len(cloud))
    rank = streams(THINNING, numbers)
    first = rank.topk(count, largest=False)
    return cloud[first.indices.to(cloud.device)]


def to_unit_sphere(clouds: Tensor) -> Tensor:
    """Moves each cloud's mean to the origin and scales the point farthest from it to distance 1.

    Args:
        clouds: Numbers x, y, z and whatever else the points have, which is kept, with shape (B, n,
            C).
    """
    # In float32 rounding would make a shape of a cloud in one place.
    place = clouds[..., :3].double()
    place = place - place.mean(1, keepdim=True)
    distance = torch.linalg.vector_norm(place, dim=2)
    radius = distance.amax(1)
    radius = radius.clamp(min=SMALLEST)
    place = place / radius[:, None, None]
    place = place.to(clouds.dtype)
    rest = clouds[..., 3:]
    return torch.cat([place, rest], dim=2)
