"""Random numbers that are a function of where they are used.

That is of a key (a seed, a step, a purpose) and of a row. A generator's numbers depend on how many
were drawn before, and on how many rows a device has. Here every row has a stream of its own, so
that a row is given the same numbers after a resume, on any number of devices, alone and in a batch
of any size; and a device draws for its own rows only.

A stream is splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
2014): number k of the stream that starts at s is `mix(s + k G)`, with the finaliser `mix` and the
odd constant G = 2^64 / golden ratio. Starts are made by the same finaliser. All arithmetic is
modulo 2^64, in int64 tensors, which wrap around.
"""

import math

import torch
from torch import Tensor

# Constants of splitmix64.
GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
WORD = 2**64


def key(*position: int) -> int:
    """One key, in [0, 2^64), of integers in their order.

    From k = 0, `k <- mix((k xor p) + G)` for each p.
    """
    value = 0
    for part in position:
        mixed = value ^ part % WORD
        value = _finalise(mixed + GOLDEN)
    return value


def streams(key: int, rows: Tensor) -> Tensor:
    """The stream of each row.

    Args:
        key: Key that decides all of them.
        rows: Numbers of the rows in the global batch, integers with shape (n,).

    Returns:
        Starts, int64 with shape (n,).
    """
    start = _signed(_finalise(key + GOLDEN))
    positions = rows.to(torch.int64) * _signed(GOLDEN)
    return _mix(positions + start)


def fork(streams: Tensor, purpose: int) -> Tensor:
    """Other streams of the same rows, with shape (n,), for a purpose, an integer from 0 on."""
    mark = _signed(_finalise(purpose + GOLDEN))
    return _mix(streams ^ mark)


def uniform(streams: Tensor, *shape: int) -> Tensor:
    """Uniform draws in [0, 1), multiples of 2^-24, float32 with shape (n, *shape)."""
    high, low = _halves(streams, math.prod(shape))
    bits = torch.cat([high, low], dim=1) >> 8
    numbers = bits.to(torch.float32) * 2.0**-24
    return _first(numbers, shape)


def normal(streams: Tensor, *shape: int) -> Tensor:
    """Standard normal draws, float32 with shape (n, *shape), at most 6.7 from 0.

    By Box and Muller (1958): `sqrt(-2 log u) (cos 2 pi v, sin 2 pi v)` of uniform u and v.
    """
    high, low = _halves(streams, math.prod(shape))

    radius = (high.to(torch.float32) + 1) * 2.0**-32
    radius = radius.log_().mul_(-2).sqrt_()
    angle = low.to(torch.float32) * (2 * math.pi * 2.0**-32)
    x = radius * angle.cos()
    y = radius * angle.sin()
    numbers = torch.cat([x, y], dim=1)

    return _first(numbers, shape)


def _halves(streams: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Two times 32 bits of each number of the streams, enough of them for `count` draws."""
    steps = torch.arange((count + 1) // 2, device=streams.device)
    steps = steps * _signed(GOLDEN)
    bits = _mix(streams[:, None] + steps)

    return _shifted(bits, 32), bits & 0xFFFFFFFF


def _first(numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As many numbers of each row as fit a shape, with shape (n, *shape)."""
    count = math.prod(shape)
    return numbers[:, :count].reshape(len(numbers), *shape)


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser, elementwise."""
    x = x ^ _shifted(x, 30)
    x *= _signed(FIRST)
    x ^= _shifted(x, 27)
    x *= _signed(SECOND)
    x ^= _shifted(x, 31)
    return x


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills with zeros; that of int64 tensors fills with the sign."""
    mask = 2 ** (64 - bits) - 1
    return (x >> bits) & mask


def _finalise(x: int) -> int:
    """splitmix64's finaliser of one integer, taken modulo 2^64."""
    x %= WORD
    x ^= x >> 30
    x = x * FIRST % WORD
    x ^= x >> 27
    x = x * SECOND % WORD
    return x ^ x >> 31


def _signed(x: int) -> int:
    """The int64 with the bits of an integer in [0, 2^64)."""
    if x >= WORD // 2:
        return x - WORD
    return x
