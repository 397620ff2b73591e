"""Encoding: a manifest of raw samples to a latent store, by Lightning's prediction loop, on any number of devices.

The work is cut into shards; a device encodes every world-th of them, and a finished shard is never encoded again unless
its samples or its codecs change. The store's manifest comes last.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flowbind.codec import digest
from flowbind.manifest import Manifest
from flowbind.modality import Modality
from flowbind.progress import say, track
from flowbind.registry import installed
from flowbind.store import LINE, MANIFEST, LatentStore, finish_store, shard_metadata, write_shard

SHARD_ROWS = 2048  # at most: what a killed run loses, and what one device takes at a time
BATCH_ROWS = 256  # samples read and encoded at a time


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
        groups.setdefault(tuple(name for name in modalities if name in sample.values), []).append(index)
    unused = groups.pop((), [])
    if not groups:
        raise ValueError(f"{manifest.path}: no sample has any of {', '.join(modalities)}; nothing to encode")
    if unused:
        say(
            f"{manifest.path}: {len(unused)} of {len(manifest.samples)} samples have none of {', '.join(modalities)} and are left out"
        )
    prints = {name: modality.codec.fingerprint() for name, modality in modalities.items()}
    plans = []
    for number, (names, indices) in enumerate(sorted(groups.items())):
        for part, start in enumerate(range(0, len(indices), SHARD_ROWS)):
            rows = indices[start : start + SHARD_ROWS]
            key = hashlib.sha256(json.dumps({name: prints[name] for name in names}, sort_keys=True).encode())
            for index in rows:
                sample = manifest.samples[index]
                for name in names:
                    key.update(
                        f"{index} {sample.values[name]} {_stamp(manifest.source(sample, name, modalities[name]))}\n".encode()
                    )
            plans.append(ShardPlan(f"{number}-{part:05d}.safetensors", list(names), rows, key.hexdigest()))
    return plans


def _stamp(source: str | Path) -> str:
    """Size and time of change of a file; nothing for a literal or a file that is not there."""
    try:
        stat = source.stat() if isinstance(source, Path) else None
    except OSError:
        stat = None
    return f"{stat.st_size} {stat.st_mtime_ns}" if stat else ""


class Chunks(Dataset):
    """Raw samples, read in chunks of at most `BATCH_ROWS` rows of one shard; a sample that cannot be read is its error."""

    def __init__(self, manifest: Manifest, modalities: Mapping[str, Modality], plans: Sequence[ShardPlan]) -> None:
        self.manifest, self.modalities = manifest, modalities
        self.parts = [
            (plan, plan.samples[start : start + BATCH_ROWS], start + BATCH_ROWS >= len(plan.samples))
            for plan in plans
            for start in range(0, len(plan.samples), BATCH_ROWS)
        ]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> "Chunk":
        plan, indices, last = self.parts[number]
        raws: dict[str, list[Any]] = {name: [] for name in plan.modalities}
        good, bad = [], []
        for index in indices:
            sample = self.manifest.samples[index]
            try:
                read = {name: self.manifest.read_raw(sample, name, self.modalities[name]) for name in plan.modalities}
            except ValueError as error:
                bad.append(str(error))
                continue
            good.append(index)
            for name, raw in read.items():
                raws[name].append(raw)
        return Chunk(plan, good, raws, bad, last)


@dataclass
class Chunk:
    """Raw samples of one shard: their manifest indices, one list per modality, and the errors of those left out."""

    plan: ShardPlan
    indices: list[int]
    raws: dict[str, list[Any]]
    bad: list[str]
    last: bool


class Encoding(LightningModule):
    """Encodes chunks and writes each shard when its last chunk is done."""

    def __init__(self, modalities: Mapping[str, Modality], folder: Path, skip_bad: int) -> None:
        super().__init__()
        self.modalities, self.folder, self.skip_bad = modalities, folder, skip_bad
        self.bad: list[str] = []
        self._begin()

    def _begin(self) -> None:
        self.latents: dict[str, list[Tensor]] = {}
        self.lines: list[int] = []
        self.shard_bad: list[str] = []

    def on_predict_start(self) -> None:
        for modality in self.modalities.values():
            modality.codec.to(self.device)

    def transfer_batch_to_device(self, batch: Chunk, device: torch.device, dataloader_idx: int) -> Chunk:
        return batch  # raw samples: codecs move what they need

    def predict_step(self, chunk: Chunk, index: int) -> int:
        self.bad += chunk.bad
        self.shard_bad += chunk.bad
        if len(self.bad) > self.skip_bad:
            allowed = (
                f" (more than the {self.skip_bad} that --skip-bad allows)"
                if self.skip_bad
                else "; --skip-bad N leaves out at most N such samples"
            )
            raise ValueError(f"{self.bad[-1]}{allowed}")
        if chunk.indices:
            for name, raws in chunk.raws.items():
                codec = self.modalities[name].codec
                latents = codec.encode(raws)
                if latents.shape != (len(raws), *codec.shape):
                    raise ValueError(
                        f"the codec of '{name}' gave latents of shape {tuple(latents.shape[1:])}, it promises {tuple(codec.shape)}"
                    )
                self.latents.setdefault(name, []).append(latents.to("cpu", codec.dtype))
        self.lines += chunk.indices
        if chunk.last:
            if self.lines:
                tensors = {name: torch.cat(parts) for name, parts in self.latents.items()} | {
                    LINE: torch.tensor(self.lines)
                }
                write_shard(
                    self.folder / chunk.plan.file, tensors, {"key": chunk.plan.key, "bad": json.dumps(self.shard_bad)}
                )
            self._begin()
        return len(chunk.indices)


def encode(
    modalities: Mapping[str, Modality],
    manifest_path: Path,
    folder: Path,
    trainer: Trainer,
    skip_bad: int = 0,
    workers: int = 0,
) -> LatentStore:
    """Encodes a manifest into a store, doing only what is not done yet.

    Args:
        modalities: by name; what a sample has besides is left aside.
        manifest_path: raw samples.
        folder: the store.
        trainer: Lightning's, with the devices to use.
        skip_bad: how many samples that cannot be read may be left out; they are listed.
        workers: processes that read raw samples.

    Raises:
        ValueError: a sample that cannot be read, or no sample at all.
        OSError: the folder cannot be written.
    """
    manifest = Manifest.read(manifest_path, known_names(modalities))
    plans = plan_shards(manifest, modalities)
    done = {
        plan.file: meta
        for plan in plans
        if (meta := shard_metadata(folder / plan.file)) and meta.get("key") == plan.key
    }
    pending = [plan for plan in plans if plan.file not in done]
    if not pending and _finished(folder, manifest_path, plans):
        say(f"{folder}: {len(manifest.samples)} samples are encoded already")
        return LatentStore(folder)
    (folder / MANIFEST).unlink(missing_ok=True)
    module = Encoding(modalities, folder, skip_bad)
    module.bad = [line for meta in done.values() for line in json.loads(meta["bad"])]
    mine = pending[trainer.global_rank :: trainer.world_size]
    chunks = Chunks(manifest, modalities, mine)
    loader = DataLoader(chunks, batch_size=None, num_workers=workers)
    if mine:
        try:
            trainer.predict(module, _Shown(loader, f"encoding {manifest_path}"), return_predictions=False)
        except SystemExit:  # how Lightning ends on Ctrl-C
            raise KeyboardInterrupt from None
    trainer.strategy.barrier()
    if module.bad:
        say(f"{folder}: {len(module.bad)} samples could not be read and are left out:")
        for line in module.bad:
            say(f"  {line}")
    if trainer.is_global_zero:
        strata: dict[tuple[str, ...], list[str]] = {}
        for plan in plans:
            if (folder / plan.file).is_file():
                strata.setdefault(tuple(plan.modalities), []).append(plan.file)
        wanted = {file for files in strata.values() for file in files}
        for stale in folder.glob("*.safetensors"):
            if stale.name not in wanted:
                stale.unlink()
        prints = {name: modality.codec.fingerprint() for name, modality in modalities.items()}
        finish_store(folder, list(strata.items()), prints, str(manifest_path), digest(manifest_path))
    trainer.strategy.barrier()
    return LatentStore(folder)


def known_names(modalities: Mapping[str, Modality]) -> set[str]:
    """Names a manifest may use: the recipe's, and all that are installed."""
    return {*modalities, *installed("modalities")}


def _finished(folder: Path, manifest_path: Path, plans: Sequence[ShardPlan]) -> bool:
    try:
        store = LatentStore(folder)
    except (FileNotFoundError, ValueError):
        return False
    held = {shard.file for stratum in store.strata for shard in stratum.shards}
    return store.source_sha256 == digest(manifest_path) and held == {plan.file for plan in plans}


class _Shown:
    """A loader that shows its progress."""

    def __init__(self, loader: DataLoader, description: str) -> None:
        self.loader, self.description = loader, description

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        return track(self.loader, self.description, len(self.loader))
