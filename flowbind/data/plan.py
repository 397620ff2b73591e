"""What is to be encoded: the shards that a manifest becomes, and which samples they lack."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from flowbind.companions import Stamps, stamp
from flowbind.data.manifest import Manifest
from flowbind.data.shard import LINE, shard_metadata
from flowbind.data.store import LatentStore
from flowbind.files import digest
from flowbind.modality import Modality, describe_reading
from flowbind.progress import say

# At most: what a killed run loses, and what one device takes at a time.
SHARD_ROWS = 2048


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be.

    Attributes:
        file: Name of its file.
        modalities: Names of the modalities that its samples have.
        samples: Indices of its samples in the manifest.
        key: SHA-256, in hexadecimal, of what decides its content.
    """

    file: str
    modalities: list[str]
    samples: list[int]
    key: str


def plan_shards(
    manifest: Manifest,
    modalities: Mapping[str, Modality],
) -> list[ShardPlan]:
    """Cuts a manifest into shards.

    Samples are grouped by their subset of `modalities`, in the manifest's order.

    Raises:
        ValueError: no sample has any of the modalities.
    """
    groups = _groups(manifest, modalities)

    # What encodes each modality, as JSON.
    makers = {}
    for name, modality in modalities.items():
        reading = describe_reading(modality)
        makers[name] = [reading, modality.codec.fingerprint()]

    plans = []
    for number, (names, samples) in enumerate(sorted(groups.items())):
        content = {name: makers[name] for name in names}
        head = json.dumps(content, sort_keys=True, default=str)
        for part, start in enumerate(range(0, len(samples), SHARD_ROWS)):
            rows = samples[start : start + SHARD_ROWS]
            key = hashlib.sha256(head.encode())
            for index in rows:
                for name in names:
                    entry = _entry(manifest, index, name, modalities[name])
                    key.update(entry)

            file = f"{number}-{part:05d}.safetensors"
            plan = ShardPlan(
                file=file,
                modalities=list(names),
                samples=rows,
                key=key.hexdigest(),
            )
            plans.append(plan)
    return plans


def _groups(
    manifest: Manifest,
    modalities: Mapping[str, Modality],
) -> dict[tuple[str, ...], list[int]]:
    """Indices of samples by those of the modalities that they have; a line says how many have none.

    Raises:
        ValueError: none has any.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, sample in enumerate(manifest.samples):
        names = tuple(name for name in modalities if name in sample.values)
        groups.setdefault(names, []).append(index)

    unused = groups.pop((), [])
    listed = ", ".join(modalities)
    if not groups:
        raise ValueError(
            f"{manifest.path}: no sample has any of {listed}; nothing to encode"
        )

    if unused:
        total = len(manifest.samples)
        say(
            f"{manifest.path}: {len(unused)} of {total} samples have none of "
            f"{listed} and are left out"
        )
    return groups


def _entry(
    manifest: Manifest,
    index: int,
    name: str,
    modality: Modality,
) -> bytes:
    """What decides one latent besides its codec: the sample's value, and the stamp of its file."""
    sample = manifest.samples[index]
    source = manifest.source(sample, name, modality)
    mark = ""
    if isinstance(source, Path):
        mark = stamp(source)
    entry = f"{index} {sample.values[name]} {mark}\n"
    return entry.encode(errors="backslashreplace")  # JSON can hold halves of characters


def unencoded(
    folder: Path,
    plans: Sequence[ShardPlan],
    root: Path,
) -> dict[str, list[int]]:
    """By shard, the samples that it lacks.

    These are all of one that is not there, is damaged, or was made from something else. A sample is
    lacking, too, where a file that was read beside its own has changed since.

    Args:
        folder: Folder of the store.
        plans: Shards that the manifest becomes.
        root: Folder of the manifest.
    """
    todo = {}
    for plan in plans:
        encoded = set()
        for line, stamps in rows_of(folder / plan.file, plan.key).items():
            if all(stamp(root / path) == stamps[path] for path in stamps):
                encoded.add(line)
        missing = [index for index in plan.samples if index not in encoded]
        todo[plan.file] = missing
    return todo


def rows_of(path: Path, key: str) -> dict[int, Stamps]:
    """The manifest's lines that a shard holds, with the stamps of what was read beside each.

    None unless it is whole and was made from what `key` says.
    """
    metadata = shard_metadata(path)
    if not metadata or metadata.get("key") != key:
        return {}

    beside = metadata.get("beside", {})
    with safe_open(path, "pt") as shard:
        lines = shard.get_tensor(LINE).tolist()
    stamps = {}
    for line in lines:
        stamps[line] = beside.get(str(line), {})
    return stamps


def is_finished(
    folder: Path,
    manifest_path: Path,
    plans: Sequence[ShardPlan],
) -> bool:
    """Whether a store was written over the shards that are there, from this very manifest."""
    try:
        store = LatentStore(folder)
    except (FileNotFoundError, ValueError):
        return False

    in_store = set()
    for stratum in store.strata:
        for shard in stratum.shards:
            in_store.add(shard.file)
    whole = set()
    for plan in plans:
        if rows_of(folder / plan.file, plan.key):
            whole.add(plan.file)
    is_of_manifest = store.source_sha256 == digest(manifest_path)
    return is_of_manifest and in_store == whole
