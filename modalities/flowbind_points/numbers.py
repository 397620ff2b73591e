"""Numbers in text, read fast."""

import warnings

import numpy as np


def parse(text: bytes) -> np.ndarray:
    """All numbers of a text, one after another: float64 with shape (k,).

    White space alone lies between them.

    Raises:
        ValueError: something else than a number stands there.
    """
    if not text or text.isspace():
        return np.empty(0)
    if b"\0" in text:
        raise ValueError("bytes where numbers are expected: no text")

    with warnings.catch_warnings():
        # By which numpy tells that it stopped at a word.
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text, np.float64, sep=" ")
        except (DeprecationWarning, ValueError):
            raise ValueError("something else where numbers are expected") from None


def whole(numbers: np.ndarray) -> np.ndarray:
    """Numbers of things, as int64.

    Raises:
        ValueError: one of them is no number of things.
    """
    # Nor where one is not a number.
    if numbers.size and not np.abs(numbers).max() < 2**53:
        raise ValueError("damaged: a number of things that there cannot be")
    return numbers.astype(np.int64)
