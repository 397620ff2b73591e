"""The latent store: a folder of latents, read at random without copying what is not asked for.

    manifest.json                  written last, atomically: what the store holds
    0-00000.safetensors            rows of stratum 0: one tensor per modality, plus `@line`, the line of each row's sample

Rows are grouped by stratum, the subset of modalities that their samples have. Latents have any fixed shape and dtype.
Shards are memory-mapped: opening costs the manifest and the shards' headers, and a batch costs its own rows.

Everything is under a checksum: the manifest holds its own, those of the shards' headers, compared on opening, and those
of the whole shards, compared by `flowbind verify`.
"""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from flowbind.atomic import replacing
from flowbind.codec import digest, digest_json
from flowbind.regular import check_regular, open_regular, read_json

FORMAT = 2
MANIFEST = "manifest.json"
LARGEST = 2**40  # bytes of a shard
HEADER = 100_000_000  # bytes of a header at most, as in the safetensors library
DATA = "sha256"  # in what a shard was made from
LINE = "@line"  # cannot clash with a modality: names are identifiers
MADE = "made"  # the one entry of a shard's metadata, as JSON: safetensors keeps several in an order of chance

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """One file: its rows, size in bytes, and the SHA-256 of its header and of all of it."""

    file: str
    rows: int
    bytes: int
    header: str
    sha256: str

    def __post_init__(self) -> None:
        if [type(value) for value in vars(self).values()] != [str, int, int, str, str]:
            raise TypeError(f"a shard is {str(vars(self))[:200]}")


@dataclass(frozen=True)
class Stratum:
    """The rows whose samples have exactly these modalities."""

    modalities: list[str]
    shards: list[Shard]

    @property
    def rows(self) -> int:
        """Number of samples."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True)
class Field:
    """What the store knows of one modality: latents' shape and dtype, statistics per feature, the codec's fingerprint."""

    shape: list[int]
    dtype: str
    mean: list
    std: list
    fingerprint: dict[str, Any]


class LatentStore:
    """A store opened for reading.

    Args:
        folder: the store.

    Raises:
        FileNotFoundError: there is no store, or it was never finished.
        ValueError: the manifest is not one or was changed, or a shard is missing or has another size or header; the
            file is named.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            state = "an unfinished latent store" if self.folder.is_dir() else "no such latent store"
            raise FileNotFoundError(f"{self.folder}: {state}; run `flowbind encode` with the same recipe")
        try:
            manifest = read_json(path)
            if manifest["format"] != FORMAT:
                raise ValueError(f"format {manifest['format']}, this flowbind reads {FORMAT}")
            if manifest.pop("sha256") != digest_json(manifest):  # of all but itself
                raise ValueError("changed since it was written (checksum)")
            self.fields = {name: Field(**field) for name, field in manifest["fields"].items()}
            self.strata = [
                Stratum(stratum["modalities"], [Shard(**shard) for shard in stratum["shards"]])
                for stratum in manifest["strata"]
            ]
            self.source: str = manifest["source"]
            self.source_sha256: str = manifest["source_sha256"]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            why = str(error) if type(error) is ValueError else repr(error)
            raise ValueError(
                f"{path}: not a latent store's manifest ({why}); delete it and run `flowbind encode` again, which keeps "
                "the shards that are whole"
            ) from None
        for stratum in self.strata:
            for shard in stratum.shards:
                self._check_header(stratum, shard)

    def _shards(self) -> list[Shard]:
        return [shard for stratum in self.strata for shard in stratum.shards]

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self._shards())

    @property
    def rows(self) -> int:
        """Number of samples."""
        return sum(stratum.rows for stratum in self.strata)

    def _check_header(self, stratum: Stratum, shard: Shard) -> None:
        path = os.path.join(self.folder, shard.file)  # there may be many: nothing slow is done for one
        if shard.file != os.path.basename(shard.file) or not shard.file.endswith(".safetensors"):
            raise ValueError(f"{self.folder / MANIFEST}: names the shard '{shard.file}', which is not in the store")
        try:
            raw, header, size = read_header(path)
        except FileNotFoundError:
            raise _unusable(path, "is missing") from None
        if size != shard.bytes:
            raise _unusable(path, f"has {size} bytes, not {shard.bytes}")
        if hashlib.sha256(raw).hexdigest() != shard.header:
            raise _unusable(path, "is corrupted (header: checksum)")
        try:
            held = {n: (entry["dtype"], entry["shape"]) for n, entry in header.items() if n != "__metadata__"}
            fields = {name: self.fields[name] for name in stratum.modalities}
            told = {name: (field.dtype, [shard.rows, *field.shape]) for name, field in fields.items()}
        except (KeyError, TypeError, AttributeError):
            held = told = None
        if held is None or held != told | {LINE: ("I64", [shard.rows])}:
            raise _unusable(path, f"holds other tensors than {MANIFEST} tells")

    def verify(self, shown: Callable[[Iterable[Shard]], Iterable[Shard]] = iter) -> None:
        """Reads every byte and compares checksums.

        Args:
            shown: wraps the shards to show progress over them.

        Raises:
            ValueError: a shard's content changed; it is named.
        """
        for shard in shown(self._shards()):
            path = self.folder / shard.file
            with open_regular(path, LARGEST) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                    raise _unusable(path, "is corrupted (checksum)")
            map_shard(path, shard.rows)

    def check(self, fingerprints: Mapping[str, Mapping[str, Any]]) -> None:
        """Compares the codecs that made the store with those of a recipe.

        Raises:
            ValueError: the store lacks a modality, or a fingerprint differs; the field is named.
        """
        for name, wanted in fingerprints.items():
            if name not in self.fields:
                raise ValueError(
                    f"{self.folder}: the store has no '{name}', only {', '.join(self.fields)}; run `flowbind encode` with this recipe"
                )
            held = self.fields[name].fingerprint
            for key in [*wanted, *held]:
                if held.get(key) != wanted.get(key):
                    raise ValueError(
                        f"{self.folder}: '{name}' was encoded by another codec: {key} is {held.get(key)!r} in the store, "
                        f"{wanted.get(key)!r} in the recipe; run `flowbind encode` with this recipe"
                    )

    def check_source(self, manifest: Path) -> None:
        """Compares the manifest the store was made from with the recipe's.

        Raises:
            ValueError: the manifest has changed since, or is another one.
        """
        if manifest.is_file() and digest(manifest) != self.source_sha256:
            raise ValueError(
                f"{self.folder}: encoded from another version of {manifest}; run `flowbind encode` with this recipe"
            )

    @cached_property
    def _maps(self) -> list[dict[str, list[np.ndarray]]]:
        """Per stratum and tensor name, the memory maps of its shards."""
        maps: list[dict[str, list[np.ndarray]]] = []
        for stratum in self.strata:
            found: dict[str, list[np.ndarray]] = {name: [] for name in [*stratum.modalities, LINE]}
            for shard in stratum.shards:
                for name, array in map_shard(self.folder / shard.file, shard.rows).items():
                    found[name].append(array)
            maps.append(found)
        return maps

    @cached_property
    def _starts(self) -> list[np.ndarray]:
        """Per stratum, the first row of each shard."""
        return [np.cumsum([0] + [shard.rows for shard in stratum.shards])[:-1] for stratum in self.strata]

    def gather(self, stratum: int, rows: np.ndarray, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Copies rows of one stratum: per name (default: its modalities) a tensor with shape (len(rows), *shape)."""
        names = self.strata[stratum].modalities if names is None else names
        shard = np.searchsorted(self._starts[stratum], rows, side="right") - 1
        within = rows - self._starts[stratum][shard]
        return {name: self._gather(self._maps[stratum][name], shard, within, name) for name in names}

    def _gather(self, maps: list[np.ndarray], shard: np.ndarray, within: np.ndarray, name: str) -> Tensor:
        if len(maps) == 1:
            array = maps[0][within]
        else:
            array = np.empty((len(within), *maps[0].shape[1:]), maps[0].dtype)
            for number in np.unique(shard):
                here = shard == number
                array[here] = maps[number][within[here]]
        dtype = torch.int64 if name == LINE else DTYPES[self.fields[name].dtype]
        return torch.from_numpy(array).view(dtype)

    def all(self, name: str) -> Tensor:
        """Every latent of a modality, with shape (rows, *shape), stratum after stratum."""
        return torch.cat(
            [self.gather(i, np.arange(s.rows), [name])[name] for i, s in enumerate(self.strata) if name in s.modalities]
        )

    def lines(self, name: str) -> Tensor:
        """The manifest line index (from 0, samples only) of each row of `all(name)`."""
        return torch.cat(
            [self.gather(i, np.arange(s.rows), [LINE])[LINE] for i, s in enumerate(self.strata) if name in s.modalities]
        )


def _unusable(path: str | Path, found: str) -> ValueError:
    return ValueError(f"{path}: this shard {found}; delete it and run `flowbind encode` again")


def read_header(path: str | Path) -> tuple[bytes, dict[str, Any], int]:
    """The header of a safetensors file: its bytes, length included, what they say, and the size of the whole file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a safetensors file, or its header is damaged.
    """
    try:
        whole = check_regular(path, LARGEST)
        with open(path, "rb", buffering=0) as file:
            length = file.read(8)
            (size,) = struct.unpack("<Q", length)
            if size > min(whole, HEADER):
                raise ValueError("the header is longer than the file")
            content = file.read(size)
        return length + content, json.loads(content), whole
    except (struct.error, ValueError, RecursionError) as error:
        raise _unusable(path, f"is corrupted (header: {error})") from None


def map_shard(path: Path, rows: int) -> dict[str, np.ndarray]:
    """Memory-maps the tensors of a shard; bfloat16 as int16, which torch views back.

    Raises:
        ValueError: the header is damaged or speaks of other data.
    """
    raw, header, _ = read_header(path)
    begin = len(raw)
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype = (
                np.dtype(np.int16)
                if entry["dtype"] == "BF16"
                else torch.empty(0, dtype=DTYPES[entry["dtype"]]).numpy().dtype
            )
            start, stop = entry["data_offsets"]
            shape = tuple(entry["shape"])
            if shape[0] != rows or stop - start != dtype.itemsize * int(np.prod(shape)):
                raise ValueError(f"'{name}' has shape {shape}, {rows} rows were written")
            arrays[name] = np.memmap(path, dtype, mode="r", offset=begin + start, shape=shape)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _unusable(path, f"is corrupted (header: {error})") from None
    return arrays


def write_shard(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes one shard, beside and then renamed: the same bytes whenever its content is the same.

    `metadata` (JSON) says what it was made from, so that a resumed run can trust it; a checksum of the data is added, so
    that what is damaged before the store is finished does not pass for whole.

    Raises:
        OSError: it cannot be written, for want of space or permission.
    """
    try:
        with replacing(path) as partial:
            whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
            made = {**metadata, DATA: _sha256(whole)}
            save_file(whole, partial, metadata={MADE: json.dumps(made)})
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(f"{path}: cannot be written ({error}); free some space and run the same command again") from None


def shard_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata a complete shard was written with; None if there is no whole shard."""
    if not path.is_file():
        return None
    try:
        raw, header, size = read_header(path)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return json.loads(header["__metadata__"][MADE]) if len(raw) + max(ends) == size else None
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def finish_store(
    folder: Path,
    strata: Sequence[tuple[Sequence[str], Sequence[str]]],
    fingerprints: Mapping[str, Mapping[str, Any]],
    source: str,
    source_sha256: str,
) -> LatentStore:
    """Writes the manifest over shards that lie in `folder`: statistics, checksums, fingerprints.

    Args:
        folder: the store.
        strata: per stratum its modalities and its shards' file names, in order.
        fingerprints: per modality, of the codec that made its latents.
        source: the manifest of raw samples the latents were made from.
        source_sha256: of that file.

    Raises:
        ValueError: a shard is damaged; it is named.
    """
    found: list[Stratum] = []
    moments: dict[str, list] = {}  # per modality: count, mean, sum of squared deviations
    shapes: dict[str, tuple[list[int], str]] = {}
    for modalities, files in strata:
        shards = []
        for file in files:
            path = folder / file
            raw, header, _ = read_header(path)
            rows = header[LINE]["shape"][0]
            tensors = {name: torch.from_numpy(np.array(array)) for name, array in map_shard(path, rows).items()}
            if (shard_metadata(path) or {}).get(DATA) not in (None, _sha256(tensors)):  # None: an older shard
                raise _unusable(path, "is corrupted (data: checksum)")
            for name, tensor in tensors.items():
                if name != LINE:
                    shapes[name] = header[name]["shape"][1:], header[name]["dtype"]
                    latents = tensor.view(DTYPES[header[name]["dtype"]])
                    moments[name] = _merge(moments.get(name), latents.double())
            with path.open("rb") as stream:
                whole = hashlib.file_digest(stream, "sha256").hexdigest()
            shards.append(Shard(file, rows, path.stat().st_size, hashlib.sha256(raw).hexdigest(), whole))
        found.append(Stratum(list(modalities), shards))
    fields = {}
    for name, fingerprint in fingerprints.items():
        if name in shapes:
            count, mean, squares = moments[name]
            std = (squares / count).sqrt()
            fields[name] = Field(list(shapes[name][0]), shapes[name][1], mean.tolist(), std.tolist(), dict(fingerprint))
    manifest = {
        "format": FORMAT,
        "source": source,
        "source_sha256": source_sha256,
        "fields": {name: asdict(field) for name, field in fields.items()},
        "strata": [asdict(stratum) for stratum in found],
    }
    with replacing(folder / MANIFEST) as partial:
        partial.write_text(json.dumps({"sha256": digest_json(manifest)} | manifest, indent=1))
    return LatentStore(folder)


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    """Of the data of tensors, in the order of their names, in hexadecimal."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(tensors[name].flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _merge(moments: list | None, x: Tensor) -> list:
    """Adds rows to running (count, mean, sum of squared deviations): Chan's update, stable for any offset."""
    count, mean = len(x), x.mean(0)
    squares = (x - mean).square().sum(0)
    if moments is None:
        return [count, mean, squares]
    before, mean_before, squares_before = moments
    total = before + count
    delta = mean - mean_before
    return [
        total,
        mean_before + delta * count / total,
        squares_before + squares + delta.square() * before * count / total,
    ]
