"""Arrays of torch, numpy or any library that speaks `__array__`, as plain tensors."""

from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

LONGEST = 40  # characters of a value that a message repeats


def as_tensor(
    array: Any,
    allowed: str,
    shape: tuple[int | None, ...] | None = None,
) -> Tensor:
    """The numbers of an array as a plain tensor, of its own dtype and shape, on the CPU.

    Args:
        array: Tensor of any device, with a gradient or not, a numpy array, numbers in lists, or
            what turns itself into a numpy array.
        allowed: What would be taken, for the message.
        shape: Shape that it must have, None for an axis of any length; any shape if None.

    Raises:
        ValueError: it holds no numbers, none at all, or some that are missing or not finite, or has
            another shape; one line.
    """
    tensor = _from_torch(array) if isinstance(array, Tensor) else _from_numpy(array)
    if tensor is None:
        raise ValueError(
            f"{describe(array)} is no array of real numbers; allowed: {allowed}"
        )

    if not tensor.numel():
        raise ValueError(f"{describe(array)} is empty; allowed: {allowed}")
    if shape is not None and not _fits(tensor.shape, shape):
        raise ValueError(f"{describe(array)} has another shape; allowed: {allowed}")
    if tensor.is_floating_point() and not is_finite(tensor):
        raise ValueError(
            f"{describe(array)} has numbers that are missing or not finite; allowed: {allowed}"
        )
    return tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor of floats are finite."""
    # What is not finite makes a sum that is not, which is quick to tell; so may large numbers.
    total = tensor.sum()
    return bool(total.isfinite() or tensor.isfinite().all())


def describe(value: Any) -> str:
    """What a value is, in a few words of one line."""
    if value is None or isinstance(value, bool):
        return str(value)

    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a tensor of {dtype} with shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} with shape {value.shape}"

    if isinstance(value, Number):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the string {_cut(str(value))!r}"

    if isinstance(value, list | tuple):
        kind = type(value).__name__
        parts = sorted({type(part).__name__ for part in value})
        if not parts:
            return f"an empty {kind}"
        names = " and ".join(parts[:3])
        return f"a {kind} of {names}"
    return f"an object of the class {type(value).__name__}"


def _fits(shape: torch.Size, allowed: tuple[int | None, ...]) -> bool:
    """Whether each axis has the length that is allowed, or any length is."""
    if len(shape) != len(allowed):
        return False

    for size, needed in zip(shape, allowed, strict=True):
        if needed not in (None, size):
            return False
    return True


def _cut(words: str) -> str:
    """At most `LONGEST` characters."""
    if len(words) <= LONGEST:
        return words
    return words[: LONGEST - 1] + "…"


def _from_torch(tensor: Tensor) -> Tensor | None:
    """A tensor without gradient, on the CPU; None if it has no plain real numbers."""
    if tensor.is_complex() or tensor.is_quantized:
        return None
    if tensor.is_meta or tensor.layout != torch.strided:
        return None

    plain = tensor.as_subclass(Tensor) if type(tensor) is not Tensor else tensor
    return plain.detach().cpu().resolve_neg()


def _from_numpy(array: Any) -> Tensor | None:
    """A tensor of an array's numbers; None if it is no array, or has no real numbers."""
    if isinstance(array, str | bytes | Number) or array is None:
        return None
    is_list = isinstance(array, list | tuple)
    if is_list and any(isinstance(part, Tensor) for part in array):
        return None  # several arrays, not one

    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            array = np.ma.filled(array.astype(float), np.nan)
        else:
            array = array.data
    try:
        array = np.asarray(array)
    except Exception:  # whatever the other library raises
        return None
    if array.dtype.kind not in "biuf":
        return None

    # torch has no wider floats than float64, no byte order but the machine's, and neither arrays
    # that are read-only nor strides below 0.
    dtype = array.dtype.newbyteorder("=")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        dtype = np.float64
    array = array.astype(dtype, copy=False)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)
