"""Rows padded to whole blocks, so that a sample comes out the same alone and in a batch.

Libraries multiply a few rows by other kernels than many, which add in another order: float32 results then differ by some
1e-6, and a flow makes that ten times as much. From a block on, rows are computed alike whatever their number.
"""

import torch
from torch import Tensor

BLOCK = 16  # rows; 4 a thread are enough for MKL on two threads, and 16 cost no more than reading the weights does


def padded(x: Tensor) -> Tensor:
    """Rows, with shape (n, *), and the last one again, up to a multiple of `BLOCK`; no row stays none."""
    missing = -len(x) % BLOCK
    if missing == 0:  # which is so for no row
        return x
    return torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])
