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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
    _sha256,
    _unusable,
    layout,
    read_header,
    shard_metadata,
)
from flowbind.files import digest, digest_json, open_regular, read_json, replacing
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
    """What the store knows of one modality: latents' shape and dtype, statistics per feature, the codec's fingerprint."""

    shape: list[int]
    dtype: str
    mean: list
    std: list
    fingerprint: dict[str, Any]

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over rows, float64 with shape (*shape,) each."""
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std))
        return mean, std

    @property
    def empty(self) -> Tensor:
        """No latents, with shape (0, *shape)."""
        return torch.empty(0, *self.shape, dtype=DTYPES[self.dtype])


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
            raise FileNotFoundError(
                f"{self.folder}: {state}; run `flowbind encode` with the same recipe"
            )
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
        self._layouts = [
            [self._layout(stratum, shard) for shard in stratum.shards] for stratum in self.strata
        ]

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
        return [
            [name for name in names if name in group]
            for group in sorted(groups, key=lambda group: min(map(list(names).index, group)))
        ]

    def bytes_of(self, names: Collection[str]) -> int:
        """Bytes of all latents of these modalities."""
        wide = {
            name: torch.Size(field.shape).numel() * DTYPES[field.dtype].itemsize
            for name, field in self.fields.items()
        }
        return sum(
            s.rows * sum(wide[name] for name in s.modalities if name in names) for s in self.strata
        )

    def _layout(self, stratum: Stratum, shard: Shard) -> dict[str, int]:
        """Where each tensor of a shard begins in its file, once size, header and tensors are what the manifest tells."""
        path = os.path.join(
            self.folder, shard.file
        )  # there may be many: nothing slow is done for one
        if shard.file != os.path.basename(shard.file) or not shard.file.endswith(".safetensors"):
            raise ValueError(
                f"{self.folder / MANIFEST}: names the shard '{shard.file}', which is not in the store"
            )
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
        return LatentStore, (
            self.folder,
        )  # another process opens it anew: memory maps do not travel

    @cached_property
    def _files(self) -> Mapped:
        return Mapped((self.folder / shard.file, shard.bytes) for shard in self._shards())

    def _entry(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Dtype and shape of a row of a tensor."""
        return (
            (torch.int64, ())
            if name == LINE
            else (DTYPES[self.fields[name].dtype], tuple(self.fields[name].shape))
        )

    @cached_property
    def _begins(self) -> list[dict[str, np.ndarray]]:
        """Per stratum and tensor name, the address of each shard's first row."""
        addresses, begins = iter(self._files.addresses), []
        for stratum, layouts in zip(self.strata, self._layouts, strict=True):
            begins.append(
                {
                    name: np.empty(len(stratum.shards), np.int64)
                    for name in [*stratum.modalities, LINE]
                }
            )
            for number, (held, address) in enumerate(zip(layouts, addresses)):  # noqa: B905 - strata share it
                for name, begin in held.items():
                    begins[-1][name][number] = address + begin
        return begins

    @cached_property
    def _starts(self) -> list[np.ndarray]:
        """Per stratum, the first row of each shard, and the number of rows."""
        return [
            np.cumsum([0] + [shard.rows for shard in stratum.shards]) for stratum in self.strata
        ]

    def gather(
        self, stratum: int, rows: np.ndarray, names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
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
            [
                self.gather(i, np.arange(s.rows), [name])[name]
                for i, s in enumerate(self.strata)
                if name in s.modalities
            ]
        )

    def lines(self, name: str) -> Tensor:
        """The manifest line index (from 0, samples only) of each row of `all(name)`."""
        return torch.cat(
            [
                self.gather(i, np.arange(s.rows), [LINE])[LINE]
                for i, s in enumerate(self.strata)
                if name in s.modalities
            ]
        )


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
                name: torch.frombuffer(
                    content, dtype=dtype, count=rows * math.prod(shape), offset=begin
                ).reshape(rows, *shape)
                for name, (dtype, shape, begin) in layout(path, raw, header, size, rows).items()
            }
            if (shard_metadata(path) or {}).get(DATA) not in (
                None,
                _sha256(tensors),
            ):  # None: an older shard
                raise _unusable(path, "is corrupted (data: checksum)")
            for name in modalities:
                shapes[name] = header[name]["shape"][1:], header[name]["dtype"]
                moments[name] = _merge(
                    moments.get(name), tensors[name].to(torch.float64, copy=True)
                )
            whole = hashlib.sha256(content).hexdigest()
            shards.append(Shard(file, rows, len(content), hashlib.sha256(raw).hexdigest(), whole))
        found.append(Stratum(list(modalities), shards))
    fields = {}
    for name, fingerprint in fingerprints.items():
        if name in shapes:
            count, mean, squares = moments[name]
            std = (squares / count).sqrt()
            fields[name] = Field(
                list(shapes[name][0]),
                shapes[name][1],
                mean.tolist(),
                std.tolist(),
                dict(fingerprint),
            )
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
