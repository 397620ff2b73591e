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

SHARD_ROWS = 2048  # at most: what a killed run loses, and what one device takes at a time


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be: its file, modalities, samples (indices into the manifest) and what decides its content."""

    file: str
    modalities: list[str]
    samples: list[int]
    key: str


def plan_shards(manifest: Manifest, modalities: Mapping[str, Modality]) -> list[ShardPlan]:
    """Cuts a manifest into shards: samples grouped by their subset of `modalities`, in the manifest's order.

    Raises:
        ValueError: no sample has any of the modalities.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, sample in enumerate(manifest.samples):
        groups.setdefault(tuple(name for name in modalities if name in sample.values), []).append(
            index
        )
    unused = groups.pop((), [])
    if not groups:
        raise ValueError(
            f"{manifest.path}: no sample has any of {', '.join(modalities)}; nothing to encode"
        )
    if unused:
        say(
            f"{manifest.path}: {len(unused)} of {len(manifest.samples)} samples have none of {', '.join(modalities)} and are left out"
        )
    prints = {name: modality.codec.fingerprint() for name, modality in modalities.items()}
    readings = {name: describe_reading(modality) for name, modality in modalities.items()}

    plans = []
    for number, (names, indices) in enumerate(sorted(groups.items())):
        for part, start in enumerate(range(0, len(indices), SHARD_ROWS)):
            rows = indices[start : start + SHARD_ROWS]
            makers = {name: [readings[name], prints[name]] for name in names}
            key = hashlib.sha256(json.dumps(makers, sort_keys=True, default=str).encode())
            for index in rows:
                sample = manifest.samples[index]
                for name in names:
                    source = manifest.source(sample, name, modalities[name])
                    own = stamp(source) if isinstance(source, Path) else ""
                    entry = f"{index} {sample.values[name]} {own}\n"
                    key.update(
                        entry.encode(errors="backslashreplace")
                    )  # JSON can hold halves of characters
            plans.append(
                ShardPlan(f"{number}-{part:05d}.safetensors", list(names), rows, key.hexdigest())
            )
    return plans


def unencoded(folder: Path, plans: Sequence[ShardPlan], root: Path) -> dict[str, list[int]]:
    """By shard the samples that it lacks: all of one that is not there, is damaged, or was made from something else.

    A sample is lacking, too, where a file that was read beside its own has changed since; `root` is the manifest's folder.
    """
    todo = {}
    for plan in plans:
        rows = rows_of(folder / plan.file, plan.key)
        lines = {
            line
            for line, stamps in rows.items()
            if all(stamp(root / path) == stamps[path] for path in stamps)
        }
        todo[plan.file] = [index for index in plan.samples if index not in lines]
    return todo


def rows_of(path: Path, key: str) -> dict[int, Stamps]:
    """The manifest's lines that a shard holds, and of each the stamps of what was read beside it, by path.

    None unless it is whole and was made from what `key` tells.
    """
    made = shard_metadata(path)
    if not made or made.get("key") != key:
        return {}
    beside = made.get("beside", {})
    with safe_open(path, "pt") as shard:
        return {line: beside.get(str(line), {}) for line in shard.get_tensor(LINE).tolist()}


def is_finished(folder: Path, manifest_path: Path, plans: Sequence[ShardPlan]) -> bool:
    """Whether a store was written over the shards that are there, from this very manifest."""
    try:
        store = LatentStore(folder)
    except (FileNotFoundError, ValueError):
        return False
    files = {shard.file for stratum in store.strata for shard in stratum.shards}
    there = {plan.file for plan in plans if rows_of(folder / plan.file, plan.key)}
    return store.source_sha256 == digest(manifest_path) and files == there
