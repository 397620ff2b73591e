"""Measures against closed forms, slow re-derivations, and what others' code says of the same features."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from flowbind.metrics import probe as probes
from flowbind.metrics.cknna import cknna
from flowbind.metrics.density import density_and_coverage, precision_and_recall
from flowbind.metrics.frechet import frechet
from flowbind.metrics.kernel import kernel_distance
from flowbind.metrics.probe import accuracy
from flowbind.metrics.retrieval import recall_at_1
from flowbind.metrics.spread import private_variance

OTHERS = json.loads((Path(__file__).parent / "reference/features.json").read_text())
OTHERS_SETS = tuple(
    torch.tensor(OTHERS[part], dtype=torch.float64) for part in ("made", "real")
)


def randn(*shape, seed=0):
    return torch.randn(
        *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


# Frechet distance


def slow_frechet(a, b):
    a, b = a.numpy(), b.numpy()
    ca, cb = (
        np.atleast_2d(np.cov(a, rowvar=False)),
        np.atleast_2d(np.cov(b, rowvar=False)),
    )
    root = scipy.linalg.sqrtm(ca @ cb)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root).real


@pytest.mark.parametrize("width", [1, 2, 7])
def test_frechet_equals_the_root_of_the_product(width):
    a, b = (
        randn(200, width) @ randn(width, width, seed=1),
        2 * randn(150, width, seed=2) + 1,
    )
    assert frechet(a, b) == pytest.approx(slow_frechet(a, b), rel=1e-9)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)


def test_frechet_of_gaussians_with_known_moments():
    """Samples whitened to exact moments: N(0, S^2) and N(m, T^2), diagonal, have |m|^2 + |S - T|^2."""
    x = randn(100, 3)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    s, t, m = (
        torch.tensor([1.0, 2, 3]).double(),
        torch.tensor([2.0, 0.5, 3]).double(),
        torch.tensor([0.0, 1, -2]).double(),
    )
    assert frechet(x * s, x * t + m) == pytest.approx(
        (m.square().sum() + (s - t).square().sum()).item(), rel=1e-10
    )


def test_frechet_of_the_same_samples_is_zero():
    x = randn(50, 4, 5)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_of_fewer_samples_than_features_is_real():
    a, b = randn(5, 40), randn(6, 40, seed=1)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    # Rank-deficient: the trace of the root is the nuclear norm of the centred samples' product.
    ac, bc = (a - a.mean(0)) / math.sqrt(4), (b - b.mean(0)) / math.sqrt(5)
    trace = (
        ac.square().sum()
        + bc.square().sum()
        - 2 * torch.linalg.svdvals(ac @ bc.T).sum()
    )
    assert frechet(a, b) == pytest.approx(
        ((a.mean(0) - b.mean(0)).square().sum() + trace).item(), rel=1e-7
    )


@pytest.mark.parametrize(("n", "m"), [(30, 60), (60, 30), (30, 20)])
def test_frechet_is_the_same_whether_samples_or_features_are_fewer(n, m):
    """Features of 0 add nothing, and make both sets wide."""
    a, b = randn(n, 40), 2 * randn(m, 40, seed=1) + 1
    wide = torch.zeros(200, dtype=torch.float64)
    a_wide, b_wide = (torch.cat([x, wide.expand(len(x), -1)], dim=1) for x in (a, b))
    assert frechet(a, b) == pytest.approx(frechet(a_wide, b_wide), rel=1e-7)


def test_frechet_of_latents_of_many_numbers_takes_no_matrix_of_these():
    a, b = randn(8, 3, 256, 256), randn(8, 3, 256, 256, seed=1)
    assert frechet(a, b) > 0


@pytest.mark.parametrize("others", ["scipy", "clean-fid", "frechet-audio-distance"])
def test_frechet_is_what_others_say(others):
    assert frechet(*OTHERS_SETS) == pytest.approx(OTHERS["frechet"][others], rel=1e-9)


# Density and coverage


def slow_density_and_coverage(made, real, k):
    inside, reached = 0, 0
    for i, centre in enumerate(real):
        radius = sorted(
            float((centre - other).norm()) for j, other in enumerate(real) if j != i
        )[k - 1]
        within = sum(float((centre - other).norm()) < radius for other in made)
        inside, reached = inside + within, reached + (within > 0)
    return inside / (k * len(made)), reached / len(real)


@pytest.mark.parametrize(("made", "real", "k"), [(20, 30, 3), (40, 9, 8), (1, 12, 5)])
def test_density_and_coverage_are_their_definition(made, real, k, monkeypatch):
    monkeypatch.setattr("flowbind.metrics.density.ROWS", 7)
    sets = randn(made, 3), 1.5 * randn(real, 3, seed=1)
    assert density_and_coverage(*sets, k) == pytest.approx(
        slow_density_and_coverage(*sets, k)
    )


@pytest.mark.parametrize("k", [3, 5])
def test_density_and_coverage_are_what_prdc_says(k):
    theirs = OTHERS[f"prdc k={k}"]
    assert density_and_coverage(*OTHERS_SETS, k) == pytest.approx(
        (theirs["density"], theirs["coverage"]), rel=1e-12
    )


def test_density_and_coverage_of_known_sets():
    x, far = randn(60, 3), randn(60, 3) + 1000
    # Its own ball, and those of which it is one of the four inside.
    assert density_and_coverage(x, x, 5) == (
        1,
        1,
    )
    assert density_and_coverage(far, x, 5) == (0, 0)
    # All in one place.
    density, coverage = density_and_coverage(
        x[:1].repeat(60, 1), torch.cat([x, far]), 5
    )
    assert density == pytest.approx(
        slow_density_and_coverage(x[:1], torch.cat([x, far]), 5)[0]
    )
    assert 1 / 120 <= coverage < 0.2
    with pytest.raises(
        ValueError, match="by 5 neighbours need more than 5 real samples, not 5"
    ):
        density_and_coverage(x, x[:5], 5)


# Kernel distance


def slow_kernel_distance(made, real):
    distances = sorted(
        float((real[i] - real[j]).norm()) for i in range(len(real)) for j in range(i)
    )
    width = distances[(len(distances) - 1) // 2]

    def mean_kernel(a, b, skip):
        pairs = [
            (x, y)
            for i, x in enumerate(a)
            for j, y in enumerate(b)
            if not (skip and i == j)
        ]
        return sum(
            math.exp(-float((x - y).square().sum()) / (2 * width**2)) for x, y in pairs
        ) / len(pairs)

    return (
        mean_kernel(made, made, True)
        + mean_kernel(real, real, True)
        - 2 * mean_kernel(made, real, False)
    )


@pytest.mark.parametrize(("made", "real"), [(12, 17), (2, 9), (20, 3)])
def test_kernel_distance_is_its_definition(made, real, monkeypatch):
    monkeypatch.setattr("flowbind.metrics.kernel.ROWS", 5)
    sets = randn(made, 4) + 0.3, randn(real, 4, seed=1)
    assert kernel_distance(*sets) == pytest.approx(
        slow_kernel_distance(*sets), rel=1e-9
    )


def test_kernel_distance_is_what_kadtk_says():
    # Its median is in float32.
    assert 100 * kernel_distance(*OTHERS_SETS) == pytest.approx(OTHERS["kad"], rel=1e-6)


def test_kernel_distance_is_fair_at_any_number_and_in_any_unit():
    """Its mean over pairs of sets drawn alike is 0 within its own deviation, and scaling both changes nothing."""
    same = torch.tensor(
        [
            kernel_distance(randn(10, 3, seed=i), randn(10, 3, seed=1000 + i))
            for i in range(300)
        ]
    )
    assert same.mean().abs() < 3 * same.std() / 300**0.5
    assert (same < 0).any()
    x, y = randn(30, 3), randn(30, 3, seed=1) + 1
    assert kernel_distance(7 * x, 7 * y) == pytest.approx(
        kernel_distance(x, y), rel=1e-9
    )
    assert kernel_distance(x, y) > 0.1
    with pytest.raises(ValueError, match="most real samples are the same"):
        kernel_distance(x, x[:1].repeat(5, 1))


# Retrieval


def slow_recall(made, real):
    hits = 0
    for i, row in enumerate(made):
        cosines = [float(row @ other / (row.norm() * other.norm())) for other in real]
        hits += max(range(len(real)), key=cosines.__getitem__) == i
    return hits / len(made)


def test_recall_equals_loops():
    real = randn(60, 8)
    made = real + 0.8 * randn(60, 8, seed=1)
    expected = slow_recall(made, real)
    assert 0.1 < expected < 0.9
    assert recall_at_1(made, real) == pytest.approx(expected)


def test_recall_of_the_real_ones_is_one_at_any_length():
    real = randn(30, 2, 4)
    assert recall_at_1(real * torch.rand(30, 1, 1).double().add(0.1), real) == 1
    assert recall_at_1(real.roll(1, 0), real) == 0


# CKNNA


def slow_cknna(a, b, k):
    def parts(x):
        x = [row / row.norm() for row in x]
        kernel = [[float(p @ q) for q in x] for p in x]
        near = [
            sorted((j for j in range(len(x)) if j != i), key=lambda j: -kernel[i][j])[
                :k
            ]
            for i in range(len(x))
        ]
        centred = [[value - sum(row) / len(row) for value in row] for row in kernel]
        return centred, near

    def align(p, q):
        (kp, near_p), (kq, near_q) = p, q
        total = 0.0
        for i in range(len(kp)):
            for j in range(len(kp)):
                if j in near_p[i] and j in near_q[i]:
                    total += kp[i][j] * kq[i][j]
        return total

    p, q = parts(a), parts(b)
    return align(p, q) / math.sqrt(align(p, p) * align(q, q))


def test_cknna_equals_loops():
    a = randn(40, 6)
    b = a @ randn(6, 9, seed=1) + 0.5 * randn(40, 9, seed=2)
    expected = slow_cknna(a, b, 5)
    assert 0.1 < expected < 0.9
    assert cknna(a, b, 5) == pytest.approx(expected, rel=1e-10)


def test_cknna_of_equal_spaces_is_one_and_of_independent_ones_about_none():
    a = randn(300, 16)
    rotation = torch.linalg.qr(randn(16, 16, seed=1)).Q
    assert cknna(a, a) == pytest.approx(1)
    assert cknna(a, 3 * a @ rotation) == pytest.approx(1)
    assert abs(cknna(a, randn(300, 16, seed=2))) < 2 * 10 / 300
    assert cknna(torch.ones(20, 3), torch.ones(20, 3)) == 0  # nothing to agree on


def test_cknna_refuses_more_neighbours_than_there_are():
    with pytest.raises(ValueError, match="takes 1 to 9 neighbours, not 10"):
        cknna(randn(10, 3), randn(10, 3), 10)


# Probes

fit_probe = partial(probes.fit_probe, steps=80)


def world(rows, seed, spread=0.4):
    """Latents of two factors, 3 and 4 classes, at fixed places that no hyperplane tells apart, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.stack(
        [
            torch.randint(3, (rows,), generator=generator),
            torch.randint(4, (rows,), generator=generator),
        ],
        dim=1,
    )
    places = torch.randn(12, 16, generator=torch.Generator().manual_seed(99))
    x = places[labels[:, 0] * 4 + labels[:, 1]] + spread * torch.randn(
        rows, 16, generator=generator
    )
    return x, labels


def test_a_probe_reaches_the_ceiling_and_knows_what_it_cannot_know():
    probe = fit_probe(*world(1000, 0), classes=[3, 4])
    x, labels = world(500, 1)
    factors, joint = accuracy(probe(x), labels)
    assert joint >= 0.99
    assert (factors >= joint).all()
    shuffled = accuracy(probe(x), labels.roll(1, 0))
    assert shuffled.factors.tolist() == pytest.approx([1 / 3, 1 / 4], abs=0.08)


def test_a_probe_is_decided_by_its_seed_and_leaves_the_global_one_alone():
    x, labels = world(200, 0, spread=2.0)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, other = (
        fit_probe(x, labels, [3, 4], seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [probe.net[0].weight for probe in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_probe_learns_each_factor_from_the_rows_that_have_it():
    x, labels = world(1500, 0)
    labels[:500, 0], labels[1000:, 1] = -1, -1
    probe = fit_probe(x, labels, [3, 4])
    assert accuracy(probe(world(500, 1)[0]), world(500, 1)[1]).joint >= 0.98


def test_a_probe_can_be_fitted_in_inference_mode():
    with torch.inference_mode():
        x, labels = world(600, 0)
        assert accuracy(fit_probe(x, labels, [3, 4])(x), labels).joint >= 0.98


def test_accuracy_counts_rows():
    predicted, labels = (
        torch.tensor([[0, 1], [1, 1], [2, 0]]),
        torch.tensor([[0, 1], [1, 0], [-1, 0]]),
    )
    factors, joint = accuracy(predicted, labels)
    assert factors.tolist() == pytest.approx([2 / 3, 2 / 3])
    assert joint == pytest.approx(1 / 3)


# Precision and recall, private variance


def slow_share(x, balls, k):
    """Sample by sample: is it within the k-th neighbour's reach of some row of `balls`?"""
    inside = 0
    for row in x:
        for number, centre in enumerate(balls):
            others = torch.cat([balls[:number], balls[number + 1 :]])
            reach = sorted((others - centre).square().sum(1).sqrt().tolist())[k - 1]
            if (row - centre).square().sum().sqrt() <= reach:
                inside += 1
                break
    return inside / len(x)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_sample_by_sample(k):
    generated, real = randn(23, 2) * 0.7 + 0.3, randn(31, 2, seed=1)
    precision, recall = precision_and_recall(generated, real, k)
    assert precision == slow_share(generated, real, k)
    assert recall == slow_share(real, generated, k)
    assert precision_and_recall(real, generated, k) == (recall, precision)
    assert precision_and_recall(real, real, k) == (1, 1)


def test_means_are_precise_and_recall_little():
    real = randn(200, 3)
    means = 0.05 * randn(200, 3, seed=1)
    precision, recall = precision_and_recall(means, real, 3)
    assert precision == 1
    assert recall < 0.1


def test_precision_needs_more_samples_than_neighbours():
    with pytest.raises(ValueError, match="more than 3 samples of each kind, not 3"):
        precision_and_recall(randn(3, 2), randn(9, 2), 3)


def test_private_variance_is_that_within_combinations_of_labels():
    labels = torch.tensor([[0, 0], [0, 0], [0, 1], [0, 1], [0, 1], [1, 1]])
    x = torch.tensor(
        [[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 5.0], [0.0, 8.0], [9, 9]]
    )
    # Sums of squares: 2 of the first feature, 18 of the second; 6 samples in 3 combinations.
    assert private_variance(x, labels) == pytest.approx((2 + 18) / 3 / 2)
    order = torch.tensor([3, 5, 0, 4, 1, 2])
    moved = 10 * labels.double().sum(1)[:, None] + x  # what labels say does not count
    assert private_variance(moved[order], labels[order]) == pytest.approx(10 / 3)
    assert private_variance(x, labels[:, :0]) is None
    assert private_variance(x[:2], torch.tensor([[0], [1]])) is None


def test_private_variance_has_no_bias():
    labels = torch.arange(40).repeat_interleave(2)[:, None]
    values = [private_variance(randn(80, 5, seed=seed), labels) for seed in range(200)]
    assert sum(values) / 200 == pytest.approx(1, abs=0.02)
