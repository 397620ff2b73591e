"""Numpy's array files (`.npy`), read without a copy and without running code."""

import io
import math
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from flowbind.errors import first_line

LONGEST = 10_000  # characters of a header


class Header(NamedTuple):
    """What a file says of its array, and where its numbers start.

    Attributes:
        shape: Shape of the array.
        by_columns: Whether the first axis runs fastest.
        dtype: Type of its numbers.
        start: Bytes before the first number.
    """

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype
    start: int


def read_header(content: bytes) -> Header:
    """The header of a file's content.

    Raises:
        ValueError: it has none that is whole; the reason, in half a line.
    """
    file = io.BytesIO(content)
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_2_0
        if version == (1, 0):
            read = npy.read_array_header_1_0
        shape, by_columns, dtype = read(file, max_header_size=LONGEST)
    except Exception as error:
        # The header is parsed as Python's literals, which fail in many ways.
        raise ValueError(first_line(error)[:80]) from None
    return Header(shape, by_columns, dtype, file.tell())


def read_numbers(content: bytes, header: Header) -> np.ndarray:
    """The array of a file's content, without a copy; what the header promises has to be there.

    Raises:
        ValueError: it is not; one line.
    """
    shape, by_columns, dtype, start = header
    count = math.prod(map(int, shape))
    present = len(content) - start
    needed = count * dtype.itemsize
    if count < 0 or present < needed:
        raise ValueError(f"truncated: {present} of {needed} bytes are there")

    flat = np.frombuffer(content, dtype, count, start)
    return flat.reshape(shape, order="F" if by_columns else "C")
