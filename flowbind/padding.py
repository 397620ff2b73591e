"""Rows computed in whole blocks, so that a sample comes out the same alone and in a batch.

Libraries multiply a few rows by other kernels than many, which add in another order: float32
results then differ by some 1e-6, and a flow makes that ten times as much. On a processor rows are
computed alike from a block on, whatever their number; on a GPU only where their number is the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Rows.
BLOCK = 16  # 4 a thread are enough for MKL, and 16 cost no more than reading the weights does
GPU_BLOCK = 256  # more make one sample slow, fewer make many slow (docs/performance.md)
GPU_POSITIONS = 1024  # of a block's rows, where each has several


def in_blocks(
    compute: Callable[[Tensor], Tensor],
    x: Tensor,
    positions: int = 1,
) -> Tensor:
    """A function's rows, computed all at once on a processor, else `GPU_BLOCK` at once.

    Where a network sees each row as many positions, fewer rows fill a GPU, and one alone should
    not cost what 256 of them do: there are as many as have `GPU_POSITIONS`.

    On a GPU whose products of float32 may be rounded, they are computed all at once, too.

    Args:
        compute: Function of any number of rows, row by row: (n, *) -> (n, *).
        x: Rows, with shape (n, *).
        positions: Positions that a network sees of each row, such as tokens.
    """
    if x.device.type == "cpu":
        rows = compute(padded(x))
        return rows[: len(x)]

    # Whoever lets products of float32 be rounded (TF32) asks for speed, not for the same bits.
    if torch.get_float32_matmul_precision() != "highest":
        return compute(x)

    block = min(GPU_BLOCK, max(GPU_POSITIONS // positions, 1))
    with _exact_convolutions():
        parts = []
        for part in x.split(block):
            parts.append(compute(padded(part, block)))

    rows = torch.cat(parts)
    return rows[: len(x)]


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """A block in which cuDNN rounds convolutions of float32 as it should, and the same every time.

    By default it rounds them to TF32, unlike products of matrices.
    """
    cudnn = torch.backends.cudnn
    # Torch puts an object in this module's place, and its types are the module's.
    convolutions = cudnn.conv  # type: ignore[attr-defined]
    precision = convolutions.fp32_precision
    deterministic = cudnn.deterministic
    convolutions.fp32_precision = "ieee"
    cudnn.deterministic = True

    try:
        yield
    finally:
        convolutions.fp32_precision = precision
        cudnn.deterministic = deterministic


def padded(x: Tensor, block: int = BLOCK) -> Tensor:
    """Rows, with shape (n, *), and the last again, up to a multiple of `block`; none stays none."""
    missing = -len(x) % block
    if missing == 0:  # so it is for no row, which has no last one
        return x
    last = x[-1:].expand(missing, *x.shape[1:])
    return torch.cat([x, last])
