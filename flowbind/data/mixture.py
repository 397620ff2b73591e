"""The mixture sampler: which rows make up step k's batch.

A pure function of (seed, step): every batch has a constant number of rows of each stratum, so every
modality appears in every batch, at any world size. Within a stratum each epoch is a permutation,
computed row by row by a small cipher (a Feistel network walked back into range), in constant memory
and without state: resuming needs the step alone.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

# Of the Feistel network; 4 make a pseudo-random permutation (Luby and Rackoff, 1988).
ROUNDS = 4
# Of splitmix64: its increment, and the two multipliers of its finaliser.
_MIX = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)


def step_numbers(
    first: int,
    stride: int = 1,
    period: float = 0,
) -> Iterator[int]:
    """The numbers of the steps from one on, without end.

    Args:
        first: Step to begin with.
        stride: Distance to the next one.
        period: Number of steps that are repeated (`trainer.overfit_batches`); 0 for none.
    """
    steps = itertools.count(first, stride)
    if not period:
        return steps
    return (step % int(period) for step in steps)


def hashed(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: uint64 to well-mixed uint64, elementwise."""
    x = x + _MIX[0]  # arrays wrap around
    x ^= x >> np.uint64(30)
    x *= _MIX[1]
    x ^= x >> np.uint64(27)
    x *= _MIX[2]
    x ^= x >> np.uint64(31)
    return x


def permuted(
    positions: np.ndarray,
    count: int,
    key: np.ndarray,
) -> np.ndarray:
    """Where a keyed permutation of 0 .. count - 1 sends each position.

    Args:
        positions: Integers in [0, count), with shape (n,).
        count: Size of the permutation, at most 2^62.
        key: One key per position (equal keys: the same permutation), uint64, with shape (n,).

    Returns:
        Integers in [0, count), int64, with shape (n,).
    """
    # A position is a left and a right half of as many bits, enough for all of them.
    bits = (count - 1).bit_length()
    width = max(1, (bits + 1) // 2)
    half = np.uint64(width)
    mask = np.uint64((1 << width) - 1)

    # Each round's key for each of the distinct keys, and which of these a position has. A batch has
    # one or two: its epochs.
    keys, which = np.unique(key, return_inverse=True)
    round_keys = []
    for number in range(ROUNDS):
        round_keys.append(hashed(keys + np.uint64(number)))

    # A value outside the range walks on along its cycle, which must lead back in.
    out = positions.astype(np.uint64)
    walking = np.arange(len(out))
    while len(walking):
        left = out[walking] >> half
        right = out[walking] & mask
        chosen = which[walking]
        for keys_of_round in round_keys:
            mixed = hashed(right + keys_of_round[chosen]) & mask
            left, right = right, left ^ mixed
        out[walking] = (left << half) | right
        is_outside = out[walking] >= count
        walking = walking[is_outside]
    return out.astype(np.int64)


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Splits `total` into whole shares, by largest remainder, each weight > 0 getting at least one.

    Raises:
        ValueError: fewer to share than weights.
    """
    if total < len(weights):
        raise ValueError(
            f"a batch of {total} cannot hold a row of each of {len(weights)} kinds of samples; "
            "raise batch_size"
        )

    # One for each, and the rest by weight.
    rest = total - len(weights)
    normalized = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    exact = normalized * rest
    shares = np.floor(exact).astype(int)

    # What rounding down left over goes where it took most.
    most_cut = np.argsort(shares - exact, kind="stable")
    left = rest - shares.sum()
    shares[most_cut[:left]] += 1
    return (shares + 1).tolist()


class Kind(NamedTuple):
    """One kind of samples: how many there are, and how many of them a global batch has."""

    rows: int
    share: int


@runtime_checkable
class OfKinds(Protocol):
    """Data that tell their kinds of samples."""

    def kinds(self) -> dict[str, Kind]:
        """The kinds of samples in a training batch, by their modalities."""


@dataclass(frozen=True)
class Mixture:
    """Draws batches of constant composition.

    Args:
        rows: Rows of each stratum in the store.
        shares: Rows of each stratum in a global batch.
        seed: Seed of the order.
    """

    rows: Sequence[int]
    shares: Sequence[int]
    seed: int = 0

    def batch(
        self,
        step: int,
        rank: int = 0,
        world: int = 1,
    ) -> list[np.ndarray]:
        """Row numbers of each stratum in the batch of one step, on one rank.

        These are every world-th of the global batch's rows.
        """
        drawn = []
        start = 0  # number of a stratum's first row in the global batch
        counts_and_shares = zip(self.rows, self.shares, strict=True)
        for stratum, (count, share) in enumerate(counts_and_shares):
            first = (rank - start) % world
            own = np.arange(first, share, world)
            position = step * share + own
            start += share

            # Each epoch, each stratum and each seed has a permutation of its own.
            epoch = (position // count).astype(np.uint64)
            with np.errstate(over="ignore"):
                seed = np.uint64(self.seed) * _MIX[0]
                of_epoch = hashed(epoch + seed)
                key = hashed(of_epoch + np.uint64(stratum))
            rows = permuted(position % count, count, key)
            drawn.append(rows)
        return drawn
