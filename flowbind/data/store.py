"""The latent store: a folder of latents, read at random without copying what is not asked for.

    manifest.json                  written last, atomically: what the store holds
    0-00000.safetensors            rows of stratum 0: one tensor per modality, plus `@line`,
                                   the line of each row's sample

Rows are grouped by stratum, the subset of modalities that their samples have. Latents have any
fixed shape and dtype. Shards are memory-mapped: opening costs the manifest and the shards' headers,
and a batch costs its own rows, however many the shards.

Everything is under a checksum: the manifest holds its own, those of the shards' headers, compared
on opening, and those of the whole shards, compared by `flowbind verify`.
"""

import hashlib
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowbind.data.memory_map import Mapped
from flowbind.data.shard import (
    DATA,
    DTYPES,
    LARGEST,
    LINE,
    Shard,
    digest_of_data,
    layout,
    read_header,
    shard_metadata,
    unusable_shard,
)
from flowbind.files import digest, digest_json, open_regular, read_json, write_json
from flowbind.progress import track

FORMAT = 2
MANIFEST = "manifest.json"


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
    """What the store knows of one modality.

    Shape and dtype of its latents, statistics per feature, and the codec's fingerprint.
    """

    shape: list[int]
    dtype: str
    mean: list
    std: list
    fingerprint: dict[str, Any]

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over rows, float64 with shape (*shape,) each."""
        mean = torch.tensor(self.mean, dtype=torch.float64)
        std = torch.tensor(self.std, dtype=torch.float64)
        return mean, std

    @property
    def empty(self) -> Tensor:
        """No latents, with shape (0, *shape)."""
        dtype = DTYPES[self.dtype]
        return torch.empty(0, *self.shape, dtype=dtype)


class Contents(NamedTuple):
    """What a store's manifest says; as `LatentStore` has it."""

    fields: dict[str, Field]
    strata: list[Stratum]
    source: str
    source_sha256: str


def read_contents(path: Path) -> Contents:
    """Reads a store's manifest, without a look at its shards.

    Raises:
        ValueError: it is none, or was changed; the file is named.
    """
    try:
        manifest = read_json(path)
        if manifest["format"] != FORMAT:
            raise ValueError(
                f"format {manifest['format']}, this flowbind reads {FORMAT}"
            )
        if manifest.pop("sha256") != digest_json(manifest):  # of all but itself
            raise ValueError("changed since it was written (checksum)")

        fields: dict[str, Field] = {}
        for name, field in manifest["fields"].items():
            fields[name] = Field(**field)
            _ = DTYPES[fields[name].dtype], tuple(fields[name].shape)
        strata: list[Stratum] = []
        for stratum in manifest["strata"]:
            shards = [Shard(**shard) for shard in stratum["shards"]]
            strata.append(Stratum(stratum["modalities"], shards))
            for name in stratum["modalities"]:
                _ = fields[name]  # a KeyError if it has no field

        return Contents(fields, strata, manifest["source"], manifest["source_sha256"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = str(error)
        if type(error) is not ValueError:
            reason = repr(error)
        raise ValueError(
            f"{path}: not a latent store's manifest ({reason}); delete it and run `flowbind "
            "encode` again, which keeps the shards that are whole"
        ) from None


def check_inside(path: Path, shard: Shard) -> None:
    """Refuses a shard that a store's manifest names, and that lies elsewhere or is none.

    Raises:
        ValueError: its name leads out of the store.
    """
    is_inside = shard.file == os.path.basename(shard.file)
    if not is_inside or not shard.file.endswith(".safetensors"):
        raise ValueError(
            f"{path}: names the shard '{shard.file}', which is not in the store"
        )


class LatentStore:
    """A store opened for reading.

    Args:
        folder: Folder of the store.

    Attributes:
        fields: What the store knows of each modality, by its name.
        strata: Strata, in the order of their numbers.
        source: Path of the manifest of raw samples that the latents were made from.
        source_sha256: SHA-256 of that file, in hexadecimal.

    Raises:
        FileNotFoundError: there is no store, or it was never finished.
        ValueError: the manifest is not one or was changed, or a shard is missing or has another
            size or header; the file is named.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            state = "no such latent store"
            if self.folder.is_dir():
                state = "an unfinished latent store"
            raise FileNotFoundError(
                f"{self.folder}: {state}; run `flowbind encode` with the same recipe"
            )

        contents = read_contents(path)
        self.fields = contents.fields
        self.strata = contents.strata
        self.source = contents.source
        self.source_sha256 = contents.source_sha256

        # Per stratum and shard, the byte of the file at which each tensor begins.
        self._offsets: list[list[dict[str, int]]] = []
        for stratum in self.strata:
            offsets = []
            for shard in stratum.shards:
                offsets.append(self._offsets_in(shard, stratum))
            self._offsets.append(offsets)

    def _shards(self) -> list[Shard]:
        shards = []
        for stratum in self.strata:
            shards += stratum.shards
        return shards

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self._shards())

    @property
    def rows(self) -> int:
        """Number of samples."""
        return sum(stratum.rows for stratum in self.strata)

    def tied_groups(
        self,
        names: Sequence[str],
        tied: Sequence[str] = (),
    ) -> list[list[str]]:
        """Modalities in groups that samples tie together.

        Two are in one where a chain of samples that have both links leads from one to the other.

        Args:
            names: Names of the modalities; one without any sample is a group of its own.
            tied: Names that something else ties together already.
        """
        groups = [{name} for name in names]
        links = [tied, *(stratum.modalities for stratum in self.strata)]
        for linked in links:
            joined: set[str] = set()
            apart = []
            for group in groups:
                if group.isdisjoint(linked):
                    apart.append(group)
                else:
                    joined |= group
            groups = apart
            if joined:
                groups.append(joined)

        order = list(names)
        ordered = [sorted(group, key=order.index) for group in groups]
        ordered.sort(key=lambda group: order.index(group[0]))
        return ordered

    def bytes_of(self, names: Collection[str]) -> int:
        """Bytes of all latents of these modalities."""
        total = 0
        for stratum in self.strata:
            for name in stratum.modalities:
                if name in names:
                    dtype, shape = self._entry(name)
                    row = math.prod(shape) * dtype.itemsize
                    total += stratum.rows * row
        return total

    def _offsets_in(self, shard: Shard, stratum: Stratum) -> dict[str, int]:
        """The byte of a shard's file at which each tensor begins.

        Raises:
            ValueError: its size, header or tensors are not what the manifest says; the file is
                named.
        """
        # There may be many shards, so nothing slow is done for one.
        path = os.path.join(self.folder, shard.file)
        check_inside(self.folder / MANIFEST, shard)
        try:
            raw, header, size = read_header(path)
        except FileNotFoundError:
            raise unusable_shard(path, "is missing") from None

        if size != shard.bytes:
            raise unusable_shard(path, f"has {size} bytes, not {shard.bytes}")
        if hashlib.sha256(raw).hexdigest() != shard.header:
            raise unusable_shard(path, "is corrupted (header: checksum)")

        tensors = layout(path, raw, header, size, shard.rows)
        entries = {}
        for name, tensor in tensors.items():
            entries[name] = (tensor.dtype, tensor.shape)
        expected = {}
        for name in (*stratum.modalities, LINE):
            expected[name] = self._entry(name)
        if entries != expected:
            raise unusable_shard(path, f"holds other tensors than {MANIFEST} tells")

        return {name: tensor.begin for name, tensor in tensors.items()}

    def verify(
        self,
        shown: Callable[[Iterable[Shard]], Iterable[Shard]] = iter,
    ) -> None:
        """Reads every byte and compares checksums.

        Args:
            shown: Function that wraps the shards to show progress over them.

        Raises:
            ValueError: a shard's content changed; it is named.
        """
        for shard in shown(self._shards()):
            path = self.folder / shard.file
            with open_regular(path, LARGEST) as file:
                checksum = hashlib.file_digest(file, "sha256")
            if checksum.hexdigest() != shard.sha256:
                raise unusable_shard(path, "is corrupted (checksum)")

    def check(self, fingerprints: Mapping[str, Mapping[str, Any]]) -> None:
        """Compares the codecs that made the store with those of a recipe.

        Args:
            fingerprints: Fingerprint of each modality's codec in the recipe.

        Raises:
            ValueError: the store lacks a modality, or a fingerprint differs; the field is named.
        """
        for name, expected in fingerprints.items():
            if name not in self.fields:
                raise ValueError(
                    f"{self.folder}: the store has no '{name}', only {', '.join(self.fields)}; run "
                    f"`flowbind encode` with this recipe, or leave '{name}' out of it if no sample "
                    f"of {self.source} has it"
                )

            stored = self.fields[name].fingerprint
            for key in [*expected, *stored]:
                before = stored.get(key)
                now = expected.get(key)
                if before != now:
                    raise ValueError(
                        f"{self.folder}: '{name}' was encoded by another codec: {key} is "
                        f"{before!r} in the store, {now!r} in the recipe; "
                        "run `flowbind encode` with this recipe"
                    )

    def check_source(self, manifest: Path) -> None:
        """Compares the manifest the store was made from with the recipe's.

        Raises:
            ValueError: the manifest has changed since, or is another one.
        """
        if manifest.is_file() and digest(manifest) != self.source_sha256:
            raise ValueError(
                f"{self.folder}: encoded from another version of {manifest}; run `flowbind encode` "
                "with this recipe"
            )

    def __reduce__(self):
        # Another process opens it again: memory maps do not travel.
        return LatentStore, (self.folder,)

    @cached_property
    def _files(self) -> Mapped:
        files = []
        for shard in self._shards():
            files.append((self.folder / shard.file, shard.bytes))
        return Mapped(files)

    def _entry(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Dtype and shape of a row of a tensor."""
        if name == LINE:
            return torch.int64, ()

        field = self.fields[name]
        return DTYPES[field.dtype], tuple(field.shape)

    @cached_property
    def _begins(self) -> list[dict[str, np.ndarray]]:
        """Per stratum and tensor name, the address of each shard's first row."""
        addresses = iter(self._files.addresses)
        begins = []
        for stratum, offsets_of in zip(self.strata, self._offsets, strict=True):
            names = [*stratum.modalities, LINE]
            begin = {}
            for name in names:
                begin[name] = np.empty(len(stratum.shards), np.int64)
            for number, offsets in enumerate(offsets_of):
                address = next(addresses)
                for name in names:
                    begin[name][number] = address + offsets[name]
            begins.append(begin)
        return begins

    @cached_property
    def _starts(self) -> list[np.ndarray]:
        """Per stratum, the first row of each shard, and the number of rows."""
        starts = []
        for stratum in self.strata:
            rows = [shard.rows for shard in stratum.shards]
            starts.append(np.cumsum([0, *rows]))
        return starts

    def gather(
        self,
        stratum: int,
        rows: np.ndarray,
        names: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Copies rows of one stratum, by name a tensor with shape (len(rows), *shape).

        By default the names are those of its modalities.

        Raises:
            IndexError: the stratum has no such row.
        """
        starts = self._starts[stratum]
        if len(rows):
            first = rows.min()
            last = rows.max()
            if first < 0 or last >= starts[-1]:
                raise IndexError(
                    f"{self.folder}: stratum {stratum} has {starts[-1]} rows; "
                    f"asked for {first} to {last}"
                )

        # The shard of each row, and its number there.
        shard = np.searchsorted(starts, rows, side="right") - 1
        within = rows - starts[shard]

        if names is None:
            names = self.strata[stratum].modalities
        latents = {}
        for name in names:
            dtype, shape = self._entry(name)
            size = dtype.itemsize * math.prod(shape)
            begins = self._begins[stratum][name]
            raw = self._files.rows(begins[shard] + within * size, size)
            flat = torch.from_numpy(raw.reshape(-1))
            latents[name] = flat.view(dtype).reshape(len(rows), *shape)
        return latents

    def all(self, name: str) -> Tensor:
        """Every latent of a modality, with shape (rows, *shape), stratum after stratum."""
        return self._all(name, name)

    def lines(self, name: str) -> Tensor:
        """The manifest's line (from 0, samples only) of each row of `all(name)`, int64 (rows,)."""
        return self._all(name, LINE)

    def _all(self, name: str, tensor: str) -> Tensor:
        """Every row of a tensor in the strata that have a modality."""
        parts = []
        for number, stratum in enumerate(self.strata):
            if name in stratum.modalities:
                rows = np.arange(stratum.rows)
                gathered = self.gather(number, rows, [tensor])
                parts.append(gathered[tensor])
        return torch.cat(parts)


def finish_store(
    folder: Path,
    strata: Sequence[tuple[Sequence[str], Sequence[str]]],
    fingerprints: Mapping[str, Mapping[str, Any]],
    source: str,
    source_sha256: str,
) -> LatentStore:
    """Writes the manifest over shards that lie in `folder`: statistics, checksums, fingerprints.

    Args:
        folder: Folder of the store.
        strata: Modalities of each stratum and its shards' file names, in order.
        fingerprints: Per modality, the fingerprint of the codec that made its latents.
        source: Path of the manifest of raw samples that the latents were made from.
        source_sha256: SHA-256 of that file, in hexadecimal.

    Raises:
        ValueError: a shard is damaged; it is named.
    """
    finished: list[Stratum] = []
    moments: dict[str, _Moments] = {}
    entries: dict[str, Mapping[str, Any]] = {}  # of a header, by modality
    for modalities, files in strata:
        shards = []
        description = f"statistics and checksums of {'+'.join(modalities)}"
        for file in track(files, description):
            shard, header, tensors = _read_shard(folder, file)
            shards.append(shard)
            for name in modalities:
                entries[name] = header[name]
                latents = tensors[name].to(torch.float64, copy=True)
                moments[name] = _merge(moments.get(name), latents)
        finished.append(Stratum(list(modalities), shards))

    fields = {}
    for name, fingerprint in fingerprints.items():
        if name in entries:
            count, mean, squares = moments[name]
            std = (squares / count).sqrt()
            entry = entries[name]
            fields[name] = Field(
                shape=entry["shape"][1:],
                dtype=entry["dtype"],
                mean=mean.tolist(),
                std=std.tolist(),
                fingerprint=dict(fingerprint),
            )

    manifest = {
        "format": FORMAT,
        "source": source,
        "source_sha256": source_sha256,
        # Not by `asdict`, which copies statistics number by number.
        "fields": {name: vars(field) for name, field in fields.items()},
        "strata": [asdict(stratum) for stratum in finished],
    }
    write_json(folder / MANIFEST, {"sha256": digest_json(manifest)} | manifest)
    return LatentStore(folder)


def _read_shard(
    folder: Path,
    file: str,
) -> tuple[Shard, dict[str, Any], dict[str, Tensor]]:
    """A shard as the manifest has it, its header, and its tensors.

    It is read once, for statistics and checksums.

    Raises:
        ValueError: it is damaged; it is named.
    """
    path = folder / file
    raw, header, size = read_header(path)
    rows = header[LINE]["shape"][0]
    content = bytearray(path.read_bytes())

    tensors = {}
    for name, (dtype, shape, begin) in layout(path, raw, header, size, rows).items():
        count = rows * math.prod(shape)
        flat = torch.frombuffer(
            content,
            dtype=dtype,
            count=count,
            offset=begin,
        )
        tensors[name] = flat.reshape(rows, *shape)

    # An older shard has no checksum of its data.
    metadata = shard_metadata(path) or {}
    checksum = metadata.get(DATA)
    if checksum not in (None, digest_of_data(tensors)):
        raise unusable_shard(path, "is corrupted (data: checksum)")

    header_sha256 = hashlib.sha256(raw).hexdigest()
    sha256 = hashlib.sha256(content).hexdigest()
    shard = Shard(
        file=file,
        rows=rows,
        bytes=len(content),
        header=header_sha256,
        sha256=sha256,
    )
    return shard, header, tensors


class _Moments(NamedTuple):
    """Number of rows, their mean, and the sum of squared deviations from it.

    Both have shape (*shape,).
    """

    rows: int
    mean: Tensor
    squares: Tensor


def _merge(moments: _Moments | None, x: Tensor) -> _Moments:
    """Adds rows, with shape (n, *shape), which it uses up: Chan's update, stable for any offset."""
    count = len(x)
    mean = x.mean(0)
    deviations = x.sub_(mean)
    squares = deviations.square_().sum(0)
    if moments is None:
        return _Moments(count, mean, squares)

    total = moments.rows + count
    delta = mean - moments.mean
    between = delta.square() * moments.rows * count / total
    return _Moments(
        total,
        moments.mean + delta * count / total,
        moments.squares + squares + between,
    )
