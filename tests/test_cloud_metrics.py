"""Metrics of point clouds: closed forms, a slow derivation in float64, and what they refuse."""

import math

import pytest
import torch
from flowbind_points.cloud_metrics import (
    BLOCK,
    ChamferDistance,
    CloudSets,
    all_distances,
    coverage,
    minimum_matching_distance,
    nearest_neighbour_accuracy,
    squared_chamfer,
)
from flowbind_points.unit_sphere import thin
from torch import Tensor

from flowbind.metric import counted


def clouds(
    count: int, points: int = 64, seed: int = 0, stretch: float = 1.0
) -> list[Tensor]:
    """Balls stretched at random along each axis, as raw samples, with shape (points, 6)."""
    generator = torch.Generator().manual_seed(seed)
    axes = 1 + stretch * torch.rand(count, 1, 3, generator=generator)
    place = (
        torch.nn.functional.normalize(
            torch.randn(count, points, 3, generator=generator), dim=2
        )
        * axes
    )
    return list(
        torch.cat([place, torch.rand(count, points, 3, generator=generator)], dim=2)
    )


def slow_chamfer(a: Tensor, b: Tensor) -> float:
    """Of two clouds, with shapes (n, 3) and (m, 3), point by point in float64."""
    a, b = a.double().tolist(), b.double().tolist()
    there = [min(math.dist(x, y) ** 2 for y in b) for x in a]
    back = [min(math.dist(x, y) ** 2 for x in a) for y in b]
    return sum(there) / len(a) + sum(back) / len(b)


def slow_figures(made: Tensor, real: Tensor) -> dict[str, float]:
    """Of two sets of n clouds each, cloud by cloud."""
    n = len(made)
    everything = [*made, *real]
    table = [[slow_chamfer(x, y) for y in everything] for x in everything]
    met = {min(range(n), key=lambda r, g=g: table[g][n + r]) for g in range(n)}
    right = 0
    for i in range(2 * n):
        nearest = min(
            (j for j in range(2 * n) if j != i), key=lambda j, i=i: table[i][j]
        )
        right += (nearest < n) == (i < n)
    return {
        "chamfer": sum(table[i][n + i] for i in range(n)) / n,
        "mmd": sum(min(table[g][n + r] for g in range(n)) for r in range(n)) / n,
        "coverage": len(met) / n,
        "1-nna": right / (2 * n),
    }


# Chamfer distance


def test_two_points_apart():
    a, b = torch.zeros(1, 3, 3), torch.tensor([[[0.0, 3, 4]]])
    assert squared_chamfer(a, b).item() == 50  # 25 there, 25 back
    # 0 there, the mean of 0 and 25 back.
    assert squared_chamfer(a, torch.cat([a[:, :1], b], dim=1)).item() == 12.5


def test_a_cloud_is_no_distance_from_itself_in_any_order():
    a = torch.stack(clouds(3))[..., :3]
    assert torch.equal(squared_chamfer(a, a[:, torch.randperm(64)]), torch.zeros(3))


@pytest.mark.parametrize(
    "block", [33, 1000, 2**18]
)  # points of one pair, or many pairs, at once
def test_every_two_clouds_are_compared(monkeypatch, block):
    monkeypatch.setitem(BLOCK, "cpu", block)
    few = torch.stack(clouds(5, points=20))[..., :3] + 100  # far from the origin
    found = all_distances(few)
    expected = torch.tensor([[slow_chamfer(x, y) for y in few] for x in few])
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-5)
    assert torch.equal(found, found.T)


def test_clouds_of_different_numbers_of_points():
    a, b = (
        torch.stack(clouds(2, points=20))[..., :3],
        torch.stack(clouds(2, points=33, seed=1))[..., :3],
    )
    expected = torch.tensor([slow_chamfer(x, y) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(squared_chamfer(a, b), expected)
    torch.testing.assert_close(squared_chamfer(b, a), expected)


# Figures, of distances that are known


def test_matching_and_coverage():
    # Every generated cloud is nearest to the first real one.
    between = torch.tensor([[1.0, 5, 9], [2, 4, 8], [3, 6, 7]])
    assert minimum_matching_distance(between) == (1 + 4 + 7) / 3
    assert coverage(between) == 1 / 3
    assert coverage(1 - torch.eye(5)) == 1


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (
            [0, 1, 2, 100, 101, 102],
            1,
        ),  # far apart: every neighbour is of one's own kind
        ([0, 10, 20, 1, 11, 21], 0),  # each a copy of a real one: no neighbour is
        ([0, 1, 20, 2.1, 20.5, 21.2], 3 / 6),
    ],
)
def test_nearest_neighbours(places, expected):
    places = torch.tensor(places, dtype=torch.float32)
    assert nearest_neighbour_accuracy((places[:, None] - places).abs()) == expected


def test_one_distribution_cannot_be_told_from_itself():
    places = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    assert nearest_neighbour_accuracy(torch.cdist(places, places)) == pytest.approx(
        0.5, abs=0.05
    )
    places[:500] += 3
    assert nearest_neighbour_accuracy(torch.cdist(places, places)) > 0.9


# The metrics


@pytest.mark.parametrize("normalise", [True, False])
def test_figures_are_those_of_a_slow_derivation(monkeypatch, normalise):
    monkeypatch.setattr(CloudSets, "minimum", 5)
    made, real = (
        clouds(5, points=24, stretch=2),
        clouds(5, points=24, seed=1, stretch=2),
    )
    single, sets = (
        metric(points=24, normalise=normalise)
        for metric in (ChamferDistance, CloudSets)
    )
    features = sets.features("points", made), sets.features("points", real)
    assert torch.equal(single.features("points", real), features[1])
    assert features[0].shape == (5, 24, 3)
    found = single.compute(*features) | sets.compute(*features)
    place = "unit-sphere" if normalise else "as-is"
    how = {
        "chamfer": "l2-squared",
        "mmd": "cd,l2-squared",
        "coverage": "cd,l2-squared",
        "1-nna": "cd,l2-squared",
    }
    expected = {
        f"{k}[{how[k]},{place},points=24]": v
        for k, v in slow_figures(*features).items()
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert counted("mmd[cd,points=24]", 5) == "mmd[cd,points=24,n=5]"


def test_a_set_like_the_real_one_and_one_that_is_not():
    metric = CloudSets(points=32)
    real, like = (
        metric.features("points", clouds(100, 32, seed, stretch=9)) for seed in (0, 1)
    )
    # Balls alone.
    unlike = metric.features("points", clouds(100, 32, seed=2, stretch=0.1))
    near, far = (
        {
            name.split("[")[0]: value
            for name, value in metric.compute(made, real).items()
        }
        for made in (like, unlike)
    )
    assert near["1-nna"] == pytest.approx(0.5, abs=0.1)
    assert far["1-nna"] > 0.8
    assert near["coverage"] > 0.5 > 0.3 > far["coverage"]
    assert near["mmd"] < 0.6 * far["mmd"]


def test_place_and_size_count_only_where_they_should():
    raws = clouds(3)
    moved = [
        raw * torch.tensor([2.0, 2, 2, 1, 1, 1]) + torch.tensor([5.0, 0, -1, 0, 0, 0])
        for raw in raws
    ]
    shape, world = (
        ChamferDistance(points=64),
        ChamferDistance(points=64, normalise=False),
    )
    for metric, different in ((shape, False), (world, True)):
        (distance,) = metric.compute(
            metric.features("points", raws), metric.features("points", moved)
        ).values()
        assert (distance > 1) == different
        assert different or distance < 1e-12
    features = shape.features("points", moved)
    torch.testing.assert_close(features.mean(1), torch.zeros(3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(features.norm(dim=2).amax(1), torch.ones(3))


def test_clouds_are_thinned_by_the_fixed_choice():
    line = torch.arange(10.0)[:, None].expand(10, 6)
    thinned = ChamferDistance(points=5, normalise=False).features("points", [line])
    assert torch.equal(thinned[0], thin(line, 5)[:, :3])
    assert len(thinned[0].unique(dim=0)) == 5


def test_a_cloud_in_one_place_is_compared():
    metric = ChamferDistance(points=64)
    real = metric.features("points", clouds(2))
    collapsed = metric.features("points", [torch.full((64, 6), 0.3)] * 2)
    assert collapsed.abs().max() < 1e-6
    (distance,) = metric.compute(collapsed, real).values()
    assert distance == pytest.approx(
        (real.square().sum(2).mean() + real.square().sum(2).amin(1).mean()).item()
    )


@pytest.mark.parametrize(
    "metric", [ChamferDistance(points=64), CloudSets(points=64, normalise=False)]
)
def test_the_fingerprint_tells_what_decides_the_features(metric):
    fingerprint = metric.fingerprint()
    assert (fingerprint["points"], fingerprint["metric"]) == (64, type(metric).__name__)
    assert fingerprint["normalise"] is metric.normalise
    assert metric.judges == metric.against == "points"


# What is refused


def refused(says: str, call, *arguments) -> None:
    with pytest.raises(ValueError, match=says) as error:
        call(*arguments)
    assert "\n" not in str(error.value)


def test_clouds_that_cannot_be_compared_are_refused():
    metric = CloudSets()
    refused(
        "a cloud of 500 points cannot be compared by 2048",
        metric.features,
        "points",
        [*clouds(2, 2048), *clouds(1, 500)],
    )
    broken = clouds(2, points=64)
    broken[1][3, 0] = math.nan
    refused("not finite", CloudSets(points=64).features, "points", broken)
    broken[1][3] = torch.tensor([0, 0, 0, math.nan, 0, 0])  # colours are not looked at
    assert CloudSets(points=64).features("points", broken).isfinite().all()
    refused("points is 0", ChamferDistance, 0)


def test_sets_that_would_mislead_are_refused():
    metric = CloudSets(points=16)
    made, real = (
        metric.features("points", clouds(100, points=16, seed=seed)) for seed in (0, 1)
    )
    refused("99 generated clouds; it takes 100", metric.compute, made[:99], real[:99])
    real[7] = real[50]
    refused("only 99 of 100 reference clouds are distinct", metric.compute, made, real)
    refused(
        "1 generated clouds; it takes 2",
        ChamferDistance(points=16).compute,
        made[:1],
        real[:1],
    )
