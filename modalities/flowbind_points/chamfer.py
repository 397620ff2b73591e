"""The Chamfer distance of two point clouds, and the nearest neighbours it rests on.

Convention: the plain Euclidean distance (not its square) from every point to the nearest point of
the other cloud, averaged over the points of a cloud, then over the two directions. So it is in
world units: 0.03 says that the clouds lie 0.03 from each other.

Shapes: B pairs of clouds, n and m points.
"""

import torch
from torch import Tensor

CHUNK = 8  # pairs whose n x m distances are held at once: they stay in the processor's cache


@torch.no_grad()
def nearest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """For each point of `a` its nearest in `b`, and the other way round.

    Args:
        a: Clouds, with shape (B, n, 3).
        b: Clouds, with shape (B, m, 3).

    Returns:
        Indices into `b`, with shape (B, n), and into `a`, with shape (B, m).
    """
    to_b = []
    to_a = []
    for x, y in zip(a.split(CHUNK), b.split(CHUNK), strict=True):
        to_b.append(_nearest(x, y))
        to_a.append(_nearest(y, x))

    return torch.cat(to_b), torch.cat(to_a)


def take(cloud: Tensor, index: Tensor) -> Tensor:
    """The points with these indices, (B, n), of clouds, (B, m, C): with shape (B, n, C)."""
    axes = cloud.shape[2]
    index = index[..., None].expand(-1, -1, axes)
    return cloud.gather(1, index)


def chamfer(a: Tensor, b: Tensor) -> Tensor:
    """The Chamfer distance, with shape (B,), of clouds, with shapes (B, n, 3) and (B, m, 3)."""
    to_b, to_a = nearest(a, b)
    there = a - take(b, to_b)
    there = torch.linalg.vector_norm(there, dim=2).mean(1)
    back = b - take(a, to_a)
    back = torch.linalg.vector_norm(back, dim=2).mean(1)
    return (there + back) / 2


def _nearest(a: Tensor, b: Tensor) -> Tensor:
    # |a - b|^2 without |a|^2, which does not change which b is nearest
    squares = b.square().sum(2)
    distances = torch.baddbmm(squares[:, None], a, b.mT, alpha=-2)
    return distances.argmin(2)
