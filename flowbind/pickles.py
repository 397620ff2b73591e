"""Files of `torch.save`, of which tensors and plain containers are read, and nothing is run."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from flowbind.errors import first_line
from flowbind.files import UNFETCHED, WEIGHTS, check_regular, is_pointer

SCALAR: Any = np.float64(0).__reduce__()[0]  # how numpy makes a number of its bytes
# Numbers that checkpoints hold beside weights; reading them runs no code of theirs.
NUMBERS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(number)) for number in (np.float32, np.float64, np.int64)),
]
# What data-parallel training and torch.compile put before the names of weights.
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
UNKNOWN_CLASS = re.compile(r"GLOBAL ([\w.]+)")


def read_pickle(path: Path, what: str) -> Any:
    """What a file of `torch.save` holds, on the CPU.

    Tensors stay on the disk until they are used, where the file's format allows it.

    Args:
        path: File to read.
        what: What it should be, for messages: `the authors' checkpoint`.

    Raises:
        OSError: it is not there, or cannot be opened.
        ValueError: it is damaged, or holds more than tensors and plain containers; one line.
    """
    check_regular(path, WEIGHTS)

    try:
        with torch.serialization.safe_globals(NUMBERS):
            return torch.load(
                path,
                map_location="cpu",
                weights_only=True,
                mmap=is_zipfile(path),
            )
    except Exception as error:  # whatever the reader of archives and pickles says
        raise ValueError(
            f"{path}: not {what}, or a damaged one ({pickle_fault(path, error)})"
        ) from None


def pickle_fault(path: Path, error: Exception) -> str:
    """Why torch does not read a file as weights, as a clause; its own words say to trust the file."""
    if path.is_file() and is_pointer(path):
        return UNFETCHED
    unknown = UNKNOWN_CLASS.search(str(error))
    if unknown:
        return f"it holds {unknown[1]}, which is no tensor and no plain container"
    if isinstance(error, UnpicklingError | EOFError):
        return "no file of torch.save"
    return first_line(error)


def state_dict(value: Any, path: Path, what: str) -> dict[str, Tensor]:
    """A part of such a file as weights by name, without what wrappers of a network put before them.

    Raises:
        ValueError: it is something else; one line.
    """
    is_state = isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor)
        for name, tensor in value.items()
    )
    if not is_state or not value:
        names = ", ".join(map(str, value)) if isinstance(value, dict) else ""
        raise ValueError(
            f"{path}: another layout than that of {what}: no weights by name, but "
            f"{names[:200] or type(value).__name__}"
        )

    return {WRAPPERS.sub("", name): tensor for name, tensor in value.items()}


def check_shapes(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    path: Path,
    what: str,
) -> None:
    """Refuses weights of another layout.

    Raises:
        ValueError: one that is missing, not known, of another shape, or no finite numbers; the
            first is named.
    """
    for name in sorted(state.keys() | shapes.keys()):
        if name not in state:
            fault = f"it has no {name}"
        elif name not in shapes:
            fault = f"{name} is not known"
        elif tuple(state[name].shape) != shapes[name]:
            fault = (
                f"{name} has the shape {tuple(state[name].shape)}, not {shapes[name]}"
            )
        elif not state[name].is_floating_point():
            fault = f"{name} has whole numbers"
        elif not state[name].isfinite().all():
            fault = f"{name} has numbers that are not finite"
        else:
            continue
        raise ValueError(f"{path}: another layout than that of {what}: {fault}")
