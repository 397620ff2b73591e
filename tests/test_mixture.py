"""The mixture sampler: a pure function of (seed, step), of constant composition, that visits every row equally."""

import numpy as np
import pytest

from flowbind.data.mixture import Mixture, apportion, permuted


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 65, 1000])
@pytest.mark.parametrize("key", [0, 1, 2**63 + 7])
def test_permuted_is_a_permutation(count, key):
    out = permuted(np.arange(count), count, np.full(count, key, dtype=np.uint64))
    assert sorted(out.tolist()) == list(range(count))


def test_permutations_of_different_keys_differ_and_look_random():
    count = 2000
    first, second = (
        permuted(np.arange(count), count, np.full(count, key, dtype=np.uint64))
        for key in (1, 2)
    )
    assert (first == second).mean() < 0.01
    for out in (first, second):
        assert abs(np.corrcoef(out, np.arange(count))[0, 1]) < 0.1
        assert abs(np.corrcoef(out[1:], out[:-1])[0, 1]) < 0.1
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


def test_permuted_needs_no_memory_of_its_size():
    count = 10**15
    out = permuted(np.arange(1000), count, np.zeros(1000, dtype=np.uint64))
    assert len(set(out.tolist())) == 1000
    assert 0 <= out.min() < out.max() < count


def test_each_epoch_visits_every_row_once():
    mixture = Mixture(rows=[10, 35], shares=[4, 7], seed=3)
    drawn = [
        np.concatenate([mixture.batch(step)[stratum] for step in range(10)])
        for stratum in (0, 1)
    ]
    for epoch in range(4):
        assert sorted(drawn[0][10 * epoch : 10 * epoch + 10].tolist()) == list(
            range(10)
        )
    for epoch in range(2):
        assert sorted(drawn[1][35 * epoch : 35 * epoch + 35].tolist()) == list(
            range(35)
        )
    assert drawn[0][:10].tolist() != drawn[0][10:20].tolist()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_global_batch_does_not_depend_on_the_world(world):
    mixture = Mixture(rows=[100, 7, 50], shares=[8, 1, 12], seed=1)
    for step in (0, 5, 10**9):
        whole = mixture.batch(step)
        parts = [mixture.batch(step, rank, world) for rank in range(world)]
        for stratum, rows in enumerate(whole):
            assert sorted(rows.tolist()) == sorted(
                np.concatenate([part[stratum] for part in parts]).tolist()
            )


def test_steps_and_seeds_decide():
    def draw(seed, step):
        return [rows.tolist() for rows in Mixture([100, 100], [8, 8], seed).batch(step)]

    assert draw(0, 3) == draw(0, 3)
    assert draw(0, 3) != draw(0, 4)
    assert draw(0, 3) != draw(1, 3)
    assert draw(0, 3)[0] != draw(0, 3)[1]


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [
        (6, [1, 1, 1], [2, 2, 2]),
        (10, [1, 1000, 5], [1, 8, 1]),
        (3, [9, 1, 1], [1, 1, 1]),
        (1, [5], [1]),
    ],
)
def test_apportion(total, weights, shares):
    assert apportion(total, weights) == shares


def test_apportion_keeps_the_total():
    for total in range(3, 40):
        assert sum(apportion(total, [0.2, 3, 1.7])) == total


def test_a_batch_too_small_is_refused():
    with pytest.raises(ValueError, match="batch of 2 cannot hold a row of each of 3"):
        apportion(2, [1, 1, 1])
