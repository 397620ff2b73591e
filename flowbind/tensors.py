"""Named tensors: in safetensors files, complete or not there, and as one hash."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from flowbind.files import check_space, no_space, replacing

WRITING = ".writing"  # ends the name of the folder in which a file is written


def save_tensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes tensors as one safetensors file, once there is room for them.

    Raises:
        OSError: there is no room, or the file cannot be written; it is named.
    """
    plain = {}
    places = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        # What shares memory is written for each of its names.
        plain[name] = tensor.clone() if place in places else tensor
        places.add(place)
    check_space(path, size_of(plain.values()))

    # The library writes to a file of a random name beside the one that it is given. A kill would
    # leave that for good, so it is given a folder of its own, whose name the next attempt knows.
    writing = path.with_name(path.name + WRITING)
    try:
        with replacing(path) as partial:
            shutil.rmtree(writing, ignore_errors=True)
            writing.mkdir()
            save_file(plain, writing / "tensors", metadata=dict(metadata or {}) or None)
            os.replace(writing / "tensors", partial)
    except SafetensorError as error:  # how the library reports a full disk
        raise no_space(path, str(error)) from None
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the data of tensors."""
    size = 0
    for tensor in tensors:
        size += tensor.numel() * tensor.element_size()
    return size


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors, in hexadecimal: of name, dtype, shape and data, in the order of names.

    The same for the same numbers, wherever they are: in a checkpoint, in a released model, on a
    device.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        head = f"{name} {tensor.dtype} {list(tensor.shape)}\n"
        digest.update(head.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
