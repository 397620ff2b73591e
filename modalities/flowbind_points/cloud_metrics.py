"""Metrics of generated point clouds, each against its reference or as a set against real ones.

The distance of two clouds here is the one of Achlioptas et al. (2018) with means for sums, as in
PointFlow (Yang et al., 2019): from every point the *squared* Euclidean distance to the nearest
point of the other cloud, averaged over the points of a cloud, both ways summed. Another definition
than that of `flowbind_points.chamfer`, and other numbers. The earth mover's distance is not here.

    CD(X, Y) = 1/|X| sum_{x in X} min_{y in Y} |x - y|^2 + 1/|Y| sum_{y in Y} min_{x in X} |x - y|^2

Shapes: B pairs of clouds, n generated and n real clouds of N points each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowbind.metric import Metric
from flowbind.progress import track
from flowbind_points.unit_sphere import thin, to_unit_sphere

# Squared distances of points held at once. On a CPU they stay in the processor's cache.
BLOCK = {"cpu": 2**18}
LARGE_BLOCK = 2**26  # on other devices, which want few and large blocks


class CloudMetric(Metric):
    """Compares clouds by the Chamfer distance, without their colours.

    Args:
        points: Number of points N to which every cloud is thinned, by a fixed random choice. The
            distance falls with it.
        normalise: Whether every cloud is first moved to its mean and scaled to the unit sphere, so
            that shape alone counts; otherwise clouds are compared where they lie, in world units.
    """

    judges = against = "points"
    version = 2  # 1 took every k-th point

    def __init__(self, points: int = 2048, normalise: bool = True) -> None:
        if points < 1:
            raise ValueError(f"points is {points}, allowed is 1 and above")

        self.points = points
        self.normalise = normalise

    def features(self, kind: str, raws: Sequence[Tensor]) -> Tensor:
        """The points of B clouds, with shape (B, N, 3).

        Raises:
            ValueError: a cloud has fewer than N points, or coordinates that are not finite.
        """
        fewest = min(len(raw) for raw in raws)
        if fewest < self.points:
            raise ValueError(
                f"{type(self).__name__}: a cloud of {fewest} points cannot be compared "
                f"by {self.points}; set the metric's 'points' to {fewest} or fewer"
            )

        clouds = torch.stack([thin(raw[:, :3], self.points) for raw in raws])
        if not clouds.isfinite().all():
            raise ValueError(
                f"{type(self).__name__}: a cloud has coordinates that are not finite, "
                "so it has no distance; the model that made it has diverged"
            )

        if self.normalise:
            clouds = to_unit_sphere(clouds)
        return clouds.to(self.device)

    def _check(self, made: Tensor) -> None:
        if len(made) < self.minimum:
            raise ValueError(
                f"{type(self).__name__}: {len(made)} generated clouds; "
                f"it takes {self.minimum} for values that tell something"
            )

    def _name(self, value: str, *clauses: str) -> str:
        place = "unit-sphere" if self.normalise else "as-is"
        points = f"points={self.points}"
        label = ",".join([*clauses, "l2-squared", place, points])
        return f"{value}[{label}]"


class ChamferDistance(CloudMetric):
    """The Chamfer distance of each generated cloud from its own reference, averaged.

    Lower is better.
    """

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        self._check(made)
        made = made.to(self.device)
        reference = reference.to(self.device)
        distance = squared_chamfer(made, reference)
        name = self._name("chamfer")
        return {name: distance.mean().item()}


class CloudSets(CloudMetric):
    """Generated clouds as a set against the real ones, by the Chamfer distance of every two.

    `mmd`, minimum matching distance: how near the real clouds are met. `coverage`: how many of them
    are met. `1-nna`: how well the nearest neighbour tells generated from real clouds, 0.5 at best.
    It compares 2n^2 pairs of clouds.
    """

    minimum = 100  # at which chance alone moves 1-nna by 0.035, one standard deviation

    def compute(self, made: Tensor, reference: Tensor) -> dict[str, float]:
        """The three values.

        Raises:
            ValueError: fewer clouds than `minimum`, or a real one that is there twice, such as a
                shape seen in two pictures.
        """
        self._check(made)
        clouds = reference.flatten(1).unique(dim=0)
        distinct = len(clouds)
        if distinct < len(reference):
            raise ValueError(
                f"{type(self).__name__}: only {distinct} of {len(reference)} reference clouds "
                "are distinct; sets of shapes are compared, so judge one sample of each shape"
            )

        clouds = torch.cat([made, reference]).to(self.device)
        distances = all_distances(clouds)
        count = len(made)
        between = distances[:count, count:]
        return {
            self._name("mmd", "cd"): minimum_matching_distance(between),
            self._name("coverage", "cd"): coverage(between),
            self._name("1-nna", "cd"): nearest_neighbour_accuracy(distances),
        }


def squared_chamfer(a: Tensor, b: Tensor) -> Tensor:
    """The Chamfer distance, with shape (B,), of clouds, with shapes (B, n, 3) and (B, m, 3).

    Of differences, not of products: exact for clouds far from the origin, and whatever precision
    matrices have.
    """
    n = a.shape[1]
    m = b.shape[1]
    block = BLOCK.get(a.device.type, LARGE_BLOCK)
    pairs = max(1, block // (n * m))
    rows = max(1, block // m)

    distances = []
    for x, y in zip(a.split(pairs), b.split(pairs), strict=True):
        distances.append(_squared_chamfer(x, y, rows))
    return torch.cat(distances)


def _squared_chamfer(a: Tensor, b: Tensor, rows: int) -> Tensor:
    """The same, for `rows` points of `a` at once."""
    there = []
    back = a.new_full((), torch.inf)
    b = b.mT.contiguous()
    for part in a.split(rows, dim=1):
        squares = (part[..., 0, None] - b[:, None, 0]).square_()
        for axis in (1, 2):
            squares += (part[..., axis, None] - b[:, None, axis]).square_()
        there.append(squares.amin(2))
        back = torch.minimum(back, squares.amin(1))

    return torch.cat(there, dim=1).mean(1) + back.mean(1)


def all_distances(clouds: Tensor) -> Tensor:
    """The Chamfer distances of every two of k clouds, (k, N, 3): a symmetric matrix, (k, k)."""
    count = len(clouds)
    distances = clouds.new_zeros(count, count)
    for i in track(range(1, len(clouds)), "comparing clouds"):
        others = clouds[:i]
        cloud = clouds[i].expand(i, -1, -1)
        distances[i, :i] = squared_chamfer(cloud, others)

    return distances + distances.T


def minimum_matching_distance(between: Tensor) -> float:
    """Mean over real clouds of the distance to the nearest generated one.

    MMD of Achlioptas et al. (2018).

    Args:
        between: Distances of generated clouds, the rows, from real ones, the columns.
    """
    return between.amin(0).mean().item()


def coverage(between: Tensor) -> float:
    """Share of the real clouds that are the nearest one of some generated cloud.

    COV of Achlioptas et al. (2018).

    Args:
        between: Distances of generated clouds, the rows, from real ones, the columns.
    """
    nearest = between.argmin(1).unique()
    return nearest.numel() / between.shape[1]


def nearest_neighbour_accuracy(distances: Tensor) -> float:
    """Share of all clouds whose nearest other one is of their own kind, generated or real.

    1-NNA of Yang et al. (2019). Two samples of one distribution give about 0.5. More says that they
    can be distinguished; less, that generated clouds are copies of real ones.

    Args:
        distances: Distances of every two of n generated and then n real clouds, with shape
            (2n, 2n).
    """
    count = len(distances)
    index = torch.arange(count, device=distances.device)
    is_generated = index < len(distances) // 2

    to_others = distances.clone()
    to_others.fill_diagonal_(torch.inf)
    nearest = to_others.argmin(1)
    is_of_own_kind = is_generated[nearest] == is_generated
    return is_of_own_kind.double().mean().item()
