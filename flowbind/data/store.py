"""The latent store: a folder of latents, read at random without copying what is not asked for.

    manifest.json                  written last, atomically: what the store holds
    0-00000.safetensors            rows of stratum 0: one tensor per modality, plus `@line`, the line of each row's sample

Rows are grouped by stratum, the subset of modalities that their samples have. Latents have any fixed shape and dtype.
Shards are memory-mapped: opening costs the manifest and the shards' headers, and a batch costs its own rows, however many
the shards.

Everything is under a checksum: the manifest holds its own, those of the shards' headers, compared on opening, and those
of the whole shards, compared by `flowbind verify`.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flowbind.atomic import replacing
from flowbind.codec import digest, digest_json
from flowbind.data.memory_map import Mapped
from flowbind.progress import track
from flowbind.regular import check_regular, open_regular, read_json
from flowbind.tensors import save_tensors

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
            for name in {name for stratum in self.strata for name in stratum.modalities}:
                self._entry(name)  # a KeyError if no field tells of it
            self.source: str = manifest["source"]
            self.source_sha256: str = manifest["source_sha256"]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            why = str(error) if type(error) is ValueError else repr(error)
            raise ValueError(
                f"{path}: not a latent store's manifest ({why}); delete it and run `flowbind encode` again, which keeps "
                "the shards that are whole"
            ) from None
        self._layouts = [[self._layout(stratum, shard) for shard in stratum.shards] for stratum in self.strata]

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

    def tied_groups(self, names: Sequence[str], tied: Sequence[str] = ()) -> list[list[str]]:
        """Modalities in groups: two are in one where a chain of samples that have both links leads from one to the other.

        Args:
            names: of the modalities; one without any sample is a group of its own.
            tied: names that something else ties together already.
        """
        groups = [{name} for name in names]
        for linked in [tied, *(stratum.modalities for stratum in self.strata)]:
            joined = [group for group in groups if not group.isdisjoint(linked)]
            groups = [group for group in groups if group.isdisjoint(linked)]
            groups += [set().union(*joined)] if joined else []
        return [[name for name in names if name in group] for group in sorted(groups, key=lambda group: min(map(list(names).index, group)))]

    def bytes_of(self, names: Collection[str]) -> int:
        """Bytes of all latents of these modalities."""
        wide = {
            name: torch.Size(field.shape).numel() * DTYPES[field.dtype].itemsize for name, field in self.fields.items()
        }
        return sum(s.rows * sum(wide[name] for name in s.modalities if name in names) for s in self.strata)

    def _layout(self, stratum: Stratum, shard: Shard) -> dict[str, int]:
        """Where each tensor of a shard begins in its file, once size, header and tensors are what the manifest tells."""
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
        held = layout(path, raw, header, size, shard.rows)
        wanted = {name: self._entry(name) for name in [*stratum.modalities, LINE]}
        if {name: (dtype, shape) for name, (dtype, shape, _) in held.items()} != wanted:
            raise _unusable(path, f"holds other tensors than {MANIFEST} tells")
        return {name: begin for name, (_, _, begin) in held.items()}

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

    def check(self, fingerprints: Mapping[str, Mapping[str, Any]]) -> None:
        """Compares the codecs that made the store with those of a recipe.

        Raises:
            ValueError: the store lacks a modality, or a fingerprint differs; the field is named.
        """
        for name, wanted in fingerprints.items():
            if name not in self.fields:
                raise ValueError(
                    f"{self.folder}: the store has no '{name}', only {', '.join(self.fields)}; run `flowbind encode` with this "
                    f"recipe, or leave '{name}' out of it if no sample of {self.source} has it"
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

    def __reduce__(self):
        return LatentStore, (self.folder,)  # another process opens it anew: memory maps do not travel

    @cached_property
    def _files(self) -> Mapped:
        return Mapped((self.folder / shard.file, shard.bytes) for shard in self._shards())

    def _entry(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Dtype and shape of a row of a tensor."""
        return (torch.int64, ()) if name == LINE else (DTYPES[self.fields[name].dtype], tuple(self.fields[name].shape))

    @cached_property
    def _begins(self) -> list[dict[str, np.ndarray]]:
        """Per stratum and tensor name, the address of each shard's first row."""
        addresses, begins = iter(self._files.addresses), []
        for stratum, layouts in zip(self.strata, self._layouts, strict=True):
            begins.append({name: np.empty(len(stratum.shards), np.int64) for name in [*stratum.modalities, LINE]})
            for number, (held, address) in enumerate(zip(layouts, addresses)):  # noqa: B905 - strata share it
                for name, begin in held.items():
                    begins[-1][name][number] = address + begin
        return begins

    @cached_property
    def _starts(self) -> list[np.ndarray]:
        """Per stratum, the first row of each shard, and the number of rows."""
        return [np.cumsum([0] + [shard.rows for shard in stratum.shards]) for stratum in self.strata]

    def gather(self, stratum: int, rows: np.ndarray, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Copies rows of one stratum: per name (default: its modalities) a tensor with shape (len(rows), *shape).

        Raises:
            IndexError: the stratum has no such row.
        """
        starts = self._starts[stratum]
        if len(rows) and not 0 <= rows.min() <= rows.max() < starts[-1]:
            raise IndexError(
                f"{self.folder}: stratum {stratum} has {starts[-1]} rows; asked for {rows.min()} to {rows.max()}"
            )
        shard = np.searchsorted(starts, rows, side="right") - 1
        within = rows - starts[shard]
        found = {}
        for name in self.strata[stratum].modalities if names is None else names:
            dtype, shape = self._entry(name)
            size = dtype.itemsize * math.prod(shape)
            raw = self._files.rows(self._begins[stratum][name][shard] + within * size, size)
            found[name] = torch.from_numpy(raw.reshape(-1)).view(dtype).reshape(len(rows), *shape)
        return found

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


def layout(
    path: str | Path, raw: bytes, header: Mapping[str, Any], whole: int, rows: int
) -> dict[str, tuple[torch.dtype, tuple[int, ...], int]]:
    """What a shard holds: per tensor its dtype, the shape of a row, and the byte of the file at which it begins.

    Args:
        path: of the shard.
        raw: its header as bytes, ...
        header: ... what that says, ...
        whole: ... and the size of the file, as `read_header` gives them.
        rows: that it should have.

    Raises:
        ValueError: the header is damaged or speaks of other data.
    """
    size = whole - len(raw)
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, (count, *shape), (start, stop) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            if (
                count != rows
                or not 0 <= start <= stop <= size
                or stop - start != rows * dtype.itemsize * math.prod(shape)
            ):
                raise ValueError(f"'{name}' has shape {entry['shape']}, {rows} rows were written")
            found[name] = dtype, tuple(shape), len(raw) + start
        except (KeyError, TypeError, ValueError) as error:
            raise _unusable(path, f"is corrupted (header: {error})") from None
    return found


def write_shard(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes one shard, beside and then renamed: the same bytes whenever its content is the same.

    `metadata` (JSON) says what it was made from, so that a resumed run can trust it; a checksum of the data is added, so
    that what is damaged before the store is finished does not pass for whole.

    Raises:
        OSError: it cannot be written, for want of space or permission.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_tensors(whole, path, {MADE: json.dumps({**metadata, DATA: _sha256(whole)})})


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


def read_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard.

    Raises:
        ValueError: they are not what was written.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise _unusable(path, f"is corrupted ({error})") from None
    if (shard_metadata(path) or {}).get(DATA) != _sha256(tensors):
        raise _unusable(path, "is corrupted (data: checksum)")
    return tensors


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
        for file in track(files, f"statistics and checksums of {'+'.join(modalities)}"):
            path = folder / file
            raw, header, size = read_header(path)
            rows = header[LINE]["shape"][0]
            # Once, for statistics and checksums: memory holds one shard at a time.
            content = bytearray(path.read_bytes())
            tensors = {
                name: torch.frombuffer(content, dtype=dtype, count=rows * math.prod(shape), offset=begin).reshape(
                    rows, *shape
                )
                for name, (dtype, shape, begin) in layout(path, raw, header, size, rows).items()
            }
            if (shard_metadata(path) or {}).get(DATA) not in (None, _sha256(tensors)):  # None: an older shard
                raise _unusable(path, "is corrupted (data: checksum)")
            for name in modalities:
                shapes[name] = header[name]["shape"][1:], header[name]["dtype"]
                moments[name] = _merge(moments.get(name), tensors[name].to(torch.float64, copy=True))
            whole = hashlib.sha256(content).hexdigest()
            shards.append(Shard(file, rows, len(content), hashlib.sha256(raw).hexdigest(), whole))
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
    """Adds rows, which it uses up, to running (count, mean, sum of squared deviations): Chan's update, stable for any offset."""
    count, mean = len(x), x.mean(0)
    squares = x.sub_(mean).square_().sum(0)
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
