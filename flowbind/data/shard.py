"""A shard: one safetensors file of latents, rows of one stratum, whole or not there."""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flowbind.files import check_regular
from flowbind.tensors import save_tensors

LARGEST = 2**40  # bytes of a shard
HEADER = 100_000_000  # bytes of a header at most, as in the safetensors library
DATA = "sha256"  # in what a shard was made from
LINE = "@line"  # cannot clash with a modality: names are identifiers
# The one entry of a shard's metadata, as JSON: safetensors keeps several in an order of chance.
MADE = "made"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Shard:
    """One file: its rows, size in bytes, and the SHA-256 of its header and of all of it."""

    file: str
    rows: int
    bytes: int
    header: str
    sha256: str

    def __post_init__(self) -> None:
        types = [type(value) for value in vars(self).values()]
        if types != [str, int, int, str, str]:
            content = str(vars(self))[:200]
            raise TypeError(f"a shard is {content}")


class TensorEntry(NamedTuple):
    """A tensor of a shard: dtype, shape of a row, and the byte of the file at which it begins."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int


def unusable_shard(path: str | Path, fault: str) -> ValueError:
    """The error for a shard that cannot be used; `fault` follows "this shard"."""
    return ValueError(
        f"{path}: this shard {fault}; delete it and run `flowbind encode` again"
    )


def read_header(path: str | Path) -> tuple[bytes, dict[str, Any], int]:
    """The header of a safetensors file.

    It is given as its bytes, length included, what they say, and the size of the whole file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a safetensors file, or its header is damaged.
    """
    try:
        file_size = check_regular(path, LARGEST)
        with open(path, "rb", buffering=0) as file:
            # The header's length, and then the header.
            length = file.read(8)
            (size,) = struct.unpack("<Q", length)
            if size > min(file_size, HEADER):
                raise ValueError("the header is longer than the file")
            content = file.read(size)
        header = json.loads(content)
        return length + content, header, file_size
    except (struct.error, ValueError, RecursionError) as error:
        raise unusable_shard(path, f"is corrupted (header: {error})") from None


def layout(
    path: str | Path,
    raw: bytes,
    header: Mapping[str, Any],
    whole: int,
    rows: int,
) -> dict[str, TensorEntry]:
    """What a shard holds, by the names of its tensors.

    Args:
        path: Path of the shard.
        raw: Header as bytes, as `read_header` gives it.
        header: What the header says.
        whole: Bytes of the whole file.
        rows: Number of rows that the shard should have.

    Raises:
        ValueError: the header is damaged or speaks of other data.
    """
    size = whole - len(raw)
    entries = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue

        try:
            dtype = DTYPES[entry["dtype"]]
            count, *shape = entry["shape"]
            start, stop = entry["data_offsets"]
            bytes_of_rows = rows * dtype.itemsize * math.prod(shape)
            is_inside = 0 <= start <= stop <= size
            if count != rows or not is_inside or stop - start != bytes_of_rows:
                raise ValueError(
                    f"'{name}' has shape {entry['shape']}, {rows} rows were written"
                )
            begin = len(raw) + start
            entries[name] = TensorEntry(dtype, tuple(shape), begin)
        except (KeyError, TypeError, ValueError) as error:
            raise unusable_shard(path, f"is corrupted (header: {error})") from None
    return entries


def write_shard(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
) -> None:
    """Writes one shard, beside and then renamed: the same bytes whenever its content is the same.

    `metadata` (JSON) says what it was made from, so that a resumed run can trust it; a checksum of
    the data is added, so that what is damaged before the store is finished does not pass for whole.

    Raises:
        OSError: it cannot be written, for want of space or permission.
    """
    contiguous = {}
    for name, tensor in tensors.items():
        contiguous[name] = tensor.contiguous()
    content = json.dumps({**metadata, DATA: digest_of_data(contiguous)})
    save_tensors(contiguous, path, {MADE: content})


def shard_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata a complete shard was written with; None if there is no whole shard."""
    if not path.is_file():
        return None

    try:
        raw, header, size = read_header(path)
        ends = []
        for name, entry in header.items():
            if name != "__metadata__":
                _, end = entry["data_offsets"]
                ends.append(end)
        if len(raw) + max(ends) != size:
            return None
        described = header["__metadata__"][MADE]
        return json.loads(described)
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def read_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard.

    Raises:
        ValueError: they are not what was written.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise unusable_shard(path, f"is corrupted ({error})") from None

    metadata = shard_metadata(path) or {}
    if metadata.get(DATA) != digest_of_data(tensors):
        raise unusable_shard(path, "is corrupted (data: checksum)")

    return tensors


def digest_of_data(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the data of tensors, in the order of their names, in hexadecimal."""
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        flat = tensors[name].flatten()
        sha256.update(flat.view(torch.uint8).numpy().data)
    return sha256.hexdigest()
