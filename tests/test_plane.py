"""The plane's points and labels: the laws of modalities, their world in closed form, and what judges them."""

import json

import numpy as np
import pytest
import torch
from flowbind_plane import PlaneLabel, PlanePoint, prepare, world
from flowbind_plane.judging import CellJudge, PlaneDistance, sliced_wasserstein
from scipy import stats

from flowbind.testing import check_modality


def points(count, seed=0):
    return world.draw(count, np.random.default_rng(seed))


def test_laws_of_points(tmp_path):
    raws = list(torch.from_numpy(points(6)).float())
    check_modality(PlanePoint(), raws, tmp_path)


def test_laws_of_labels(tmp_path):
    check_modality(PlaneLabel(), ["0", "7", "10", "3"], tmp_path)


@pytest.mark.parametrize("text", ["", "1", "1 2 3", "a b", "nan 1"])
def test_what_is_no_point_is_refused(text):
    with pytest.raises(ValueError, match="allowed: two numbers, x and y"):
        PlanePoint().read(text)


@pytest.mark.parametrize("text", ["", "11", "-1", "07", "a"])
def test_what_is_no_label_is_refused(text):
    with pytest.raises(ValueError, match="allowed are the strings '0' to '10'"):
        PlaneLabel().read(text)


def test_points_are_of_six_normal_distributions():
    x = points(60_000)
    centres = world.centres()
    nearest = ((x[:, None] - centres) ** 2).sum(2).argmin(1)
    counts = np.bincount(nearest, minlength=6)
    assert stats.chisquare(counts).pvalue > 0.01
    # Mean 0; the variance of the circle's centres, R^2 / 2 along each axis, and 0.5.
    assert np.abs(x.mean(0)).max() < 0.05
    np.testing.assert_allclose(x.var(0), world.RADIUS**2 / 2 + 0.5, rtol=0.02)


def test_labels_are_those_of_their_cells():
    corners = np.array([[-9.0, -9.0], [-4.4, -2.9], [0.1, 0.1], [9.0, 9.0], [-9, 9]])
    assert world.labels_of(corners).tolist() == [0, 1, 6, 10, 5]


def test_labels_have_their_probabilities():
    p = world.probabilities()
    assert p.sum() == pytest.approx(1)
    counts = np.bincount(world.labels_of(points(60_000)), minlength=len(p))
    assert stats.chisquare(counts, 60_000 * p).pvalue > 0.01
    assert world.rare_labels().tolist() == [0, 1, 9, 10]


def test_a_world_is_what_its_seed_says(tmp_path):
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        prepare(tmp_path / name, samples=20, test_samples=5, seed=seed)
    train = (tmp_path / "one/train.jsonl").read_text()
    assert train == (tmp_path / "same/train.jsonl").read_text()
    assert train != (tmp_path / "other/train.jsonl").read_text()
    lines = [json.loads(line) for line in train.splitlines()]
    assert len(lines) == 20
    for line in lines:
        x = PlanePoint().read(line["point"])[None].double().numpy()
        assert [int(line["label"])] == world.labels_of(x).tolist()
    with pytest.raises(ValueError, match="samples is 0, allowed is 1 or more"):
        prepare(tmp_path, samples=0)


def test_the_judge_reads_cells():
    x = points(50)
    features = CellJudge().features("plane-point", list(torch.from_numpy(x)))
    assert CellJudge().read(features)[:, 0].tolist() == world.labels_of(x).tolist()


def test_distances_in_closed_form():
    """Of a set moved by d the sliced distance is |d| / sqrt(2)."""
    x = torch.from_numpy(points(500))
    shift = torch.tensor([0.3, -0.4]).double()
    assert sliced_wasserstein(x, x) == 0
    moved = sliced_wasserstein(x, x + shift)
    assert moved == pytest.approx(0.5 / 2**0.5)

    metric = PlaneDistance()
    same = metric.compute(x, x.flip(0))
    assert same == {"wasserstein[2,sliced]": 0.0, "rare-share[cells]": 1.0}
    middle = torch.from_numpy(world.centres())[torch.arange(500) % 6]
    collapsed = metric.compute(middle, x)
    assert collapsed["rare-share[cells]"] == 0
    assert collapsed["wasserstein[2,sliced]"] > 0.3
