"""Files of `torch.save`, of which tensors and plain containers are read, and nothing is run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from flowbind.errors import first_line
from flowbind.files import WEIGHTS, check_regular


def read_pickle(path: Path, what: str, allowed: Sequence[Any] = ()) -> Any:
    """What a file of `torch.save` holds, on the CPU.

    Tensors stay on the disk until they are used, where the file's format allows it.

    Args:
        path: File to read.
        what: What it should be, for messages: `the authors' checkpoint`.
        allowed: Further types that may be made, such as numpy's numbers.

    Raises:
        OSError: it is not there, or cannot be opened.
        ValueError: it is damaged, or holds more than tensors and plain containers; one line.
    """
    check_regular(path, WEIGHTS)

    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(
                path,
                map_location="cpu",
                weights_only=True,
                mmap=is_zipfile(path),
            )
    except Exception as error:  # whatever the reader of archives and pickles says
        raise ValueError(
            f"{path}: not {what}, or a damaged one ({first_line(error)})"
        ) from None


def state_dict(value: Any, path: Path, what: str) -> dict[str, Tensor]:
    """A part of such a file as weights by name, without the prefix that data-parallel training adds.

    Raises:
        ValueError: it is something else; one line.
    """
    is_state = isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor)
        for name, tensor in value.items()
    )
    if not is_state or not value:
        raise ValueError(f"{path}: holds no weights by name as {what}")

    return {name.removeprefix("module."): tensor for name, tensor in value.items()}


def check_shapes(
    state: dict[str, Tensor],
    shapes: dict[str, tuple[int, ...]],
    path: Path,
    what: str,
) -> None:
    """Refuses weights of another layout.

    Raises:
        ValueError: one that is missing, not known, or of another shape; the first is named.
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
        else:
            continue
        raise ValueError(f"{path}: another layout than that of {what}: {fault}")
