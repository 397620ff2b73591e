"""Random numbers by place: they are splitmix64's, with the laws they claim, and a row's do not hang on other rows."""

import itertools

import pytest
import torch

from flowbind import draws
from flowbind.nets.mlp import Dropout

# The first numbers of splitmix64 from the seed 1234567, as published with reference implementations.
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
]


def test_a_stream_is_splitmix64():
    start = torch.tensor([1234567 + draws.GOLDEN - draws.WORD])
    high, low = draws._halves(start, 2 * len(PUBLISHED))
    words = [
        (h << 32) + l for h, l in zip(high[0].tolist(), low[0].tolist(), strict=True)
    ]
    assert words == PUBLISHED


def test_tensors_and_integers_are_mixed_alike():
    numbers = [0, 1, 2**31, 2**63 - 1, -1, -(2**63)]
    mixed = draws._mix(torch.tensor(numbers)).tolist()
    assert [value % draws.WORD for value in mixed] == [
        draws._finalise(number) for number in numbers
    ]


def test_keys_depend_on_every_part_and_on_their_order():
    positions = [
        *itertools.product(range(-2, 3), repeat=3),
        (0,),
        (0, 0),
        (1,),
        (7, 7, 7, 7),
    ]
    assert len({draws.key(*position) for position in positions}) == len(positions)
    assert draws.key(3, 4) == draws.key(3, 4)


@pytest.mark.parametrize("draw", [draws.uniform, draws.normal])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3, 5)])
def test_a_rows_numbers_are_its_own(draw, shape):
    whole = draw(draws.streams(5, torch.arange(100)), *shape)
    assert whole.shape == (100, *shape)
    for rows in (
        torch.tensor([41]),
        torch.arange(1, 100, 3),
        torch.arange(99, -1, -1),
        torch.arange(0),
    ):
        assert torch.equal(draw(draws.streams(5, rows), *shape), whole[rows])


@pytest.mark.parametrize("draw", ["uniform", "normal"])
def test_numbers_have_the_laws_they_claim_and_are_independent(draw):
    """Of neighbouring rows, keys, purposes and places in a row, which are the ones that a weak mixing would tie together."""
    rows = torch.arange(2000)
    starts = [draws.streams(key, rows + first) for key in (0, 1) for first in (0, 1)]
    starts += [draws.fork(starts[0], purpose) for purpose in (0, 1)]
    parts = [getattr(draws, draw)(start, 200).double() for start in starts]
    # Rows of the same key, a number apart, are the same rows: of the four only those that differ are compared.
    parts = [
        parts[0][::2],
        parts[1][::2],
        parts[2][::2],
        parts[4][::2],
        parts[5][::2],
        parts[0][::2].roll(1, 1),
    ]
    numbers = torch.stack([part.flatten() for part in parts])
    if draw == "uniform":
        numbers = 12**0.5 * (numbers - 0.5)

    bound, count = 6 / numbers.shape[1] ** 0.5, len(numbers)
    torch.testing.assert_close(
        numbers.mean(1), torch.zeros(count).double(), rtol=0, atol=bound
    )
    torch.testing.assert_close(
        torch.cov(numbers), torch.eye(count).double(), rtol=0, atol=2 * bound
    )
    fourth = torch.full((count,), 1.8 if draw == "uniform" else 3.0).double()
    torch.testing.assert_close((numbers**4).mean(1), fourth, rtol=0, atol=10 * bound)


def test_uniform_numbers_stay_below_one_and_fill_their_range():
    numbers = draws.uniform(draws.streams(0, torch.arange(1000)), 1000)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, 64, 0, 1)
    expected = numbers.numel() / 64
    assert ((counts - expected).square() / expected).sum() < 63 + 6 * (
        2 * 63
    ) ** 0.5  # chi-square


def test_the_largest_normal_number_is_finite():
    """Where the 32 bits of the radius are all 0, and where they are all 1."""
    ends = torch.tensor([[0, 2**32 - 1]])

    def halves(*_):
        return ends, torch.tensor([[0, 0]])

    original, draws._halves = draws._halves, halves
    try:
        numbers = draws.normal(torch.zeros(1, dtype=torch.int64), 4)
    finally:
        draws._halves = original
    torch.testing.assert_close(
        numbers,
        torch.tensor([[(2 * 32 * torch.tensor(2.0).log()).sqrt().item(), 0, 0, 0]]),
    )


def test_dropout_keeps_the_mean_and_drops_its_share():
    layer, x = Dropout(0.25), torch.ones(500, 400)
    streams = draws.streams(0, torch.arange(500))
    dropped = layer(x, streams)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert torch.equal(layer(x[7:9], streams[7:9]), dropped[7:9])
    assert torch.equal(layer.eval()(x, streams), x)
    assert torch.equal(layer.train()(x, None), x)
