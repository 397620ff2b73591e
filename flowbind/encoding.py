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
    except (OSError, ValueError):  # not there, or no name that a file can have
        stat = None
    return f"{stat.st_size} {stat.st_mtime_ns}" if stat else ""


IDLE = ShardPlan("", [], [], "")


class Chunks(Dataset):
    """Raw samples, read in chunks of at most `BATCH_ROWS` rows of one shard; a sample that cannot be read is its error."""

    def __init__(self, manifest: Manifest, modalities: Mapping[str, Modality], plans: Sequence[ShardPlan]) -> None:
        self.manifest, self.modalities = manifest, modalities
        self.parts = [
            (plan, plan.samples[start : start + BATCH_ROWS], start + BATCH_ROWS >= len(plan.samples))
            for plan in plans
            for start in range(0, len(plan.samples), BATCH_ROWS)
        ] or [(IDLE, [], False)]  # a device with nothing to do must still meet the others

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
    """Encodes what is not done yet, and writes each shard when its last chunk is done; in the end, the store's manifest.

    Which shards are pending is found out when all devices have come together, and before any of them writes.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        manifest: Manifest,
        plans: Sequence[ShardPlan],
        folder: Path,
        skip_bad: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.modalities, self.manifest, self.plans, self.folder = modalities, manifest, plans, folder
        self.skip_bad, self.workers = skip_bad, workers
        self._begin()

    def _begin(self) -> None:
        self.latents: dict[str, list[Tensor]] = {}
        self.lines: list[int] = []
        self.shard_bad: list[str] = []

    def predict_dataloader(self) -> "_Shown | DataLoader":
        done = finished_shards(self.folder, self.plans)
        self.bad = [line for held in done.values() for line in held]
        self.before = len(self.bad)
        pending = [plan for plan in self.plans if plan.file not in done]
        mine = pending[self.trainer.global_rank :: self.trainer.world_size]
        self.trainer.strategy.barrier()
        (self.folder / MANIFEST).unlink(missing_ok=True)
        loader = DataLoader(Chunks(self.manifest, self.modalities, mine), batch_size=None, num_workers=self.workers)
        return _Shown(loader, f"encoding {self.manifest.path}") if mine and self.trainer.is_global_zero else loader

    def on_predict_start(self) -> None:
        for modality in self.modalities.values():
            modality.codec.to(self.device)

    def on_predict_end(self) -> None:
        self.trainer.strategy.barrier()
        bad = [*self.bad[: self.before], *gathered(self.bad[self.before :])]
        if self.trainer.is_global_zero:
            self._finish(bad)
        self.trainer.strategy.barrier()

    def _finish(self, bad: Sequence[str]) -> None:
        if bad:
            say(f"{self.folder}: {len(bad)} samples could not be read and are left out:")
            for line in bad:
                say(f"  {line}")
        self._check(bad)
        strata: dict[tuple[str, ...], list[str]] = {}
        for plan in self.plans:
            if (self.folder / plan.file).is_file():
                strata.setdefault(tuple(plan.modalities), []).append(plan.file)
        wanted = {file for files in strata.values() for file in files}
        for stale in self.folder.glob("*.safetensors"):
            if stale.name not in wanted:
                stale.unlink()
        prints = {name: modality.codec.fingerprint() for name, modality in self.modalities.items()}
        path = self.manifest.path
        finish_store(self.folder, list(strata.items()), prints, str(path), digest(path))

    def _check(self, bad: Sequence[str]) -> None:
        if len(bad) > self.skip_bad:
            allowed = (
                f" (more than the {self.skip_bad} that --skip-bad allows)"
                if self.skip_bad
                else "; --skip-bad N leaves out at most N such samples"
            )
            raise ValueError(f"{bad[-1]}{allowed}")

    def transfer_batch_to_device(self, batch: Chunk, device: torch.device, dataloader_idx: int) -> Chunk:
        return batch  # raw samples: codecs move what they need

    def predict_step(self, chunk: Chunk, index: int) -> int:
        self.bad += chunk.bad
        self.shard_bad += chunk.bad
        self._check(self.bad)
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
    if len(finished_shards(folder, plans)) == len(plans) and _finished(folder, manifest_path, plans):
        if trainer.is_global_zero:
            say(f"{folder}: {len(manifest.samples)} samples are encoded already")
        return LatentStore(folder)
    try:
        trainer.predict(Encoding(modalities, manifest, plans, folder, skip_bad, workers), return_predictions=False)
    except SystemExit:  # how Lightning ends on Ctrl-C
        raise KeyboardInterrupt from None
    return LatentStore(folder)


def finished_shards(folder: Path, plans: Sequence[ShardPlan]) -> dict[str, list[str]]:
    """Files of the shards that are whole and made from the same samples by the same codecs, each with the errors of what it lacks."""
    held = ((plan, shard_metadata(folder / plan.file)) for plan in plans)
    return {plan.file: json.loads(meta["bad"]) for plan, meta in held if meta and meta.get("key") == plan.key}


def gathered(lines: list[str]) -> list[str]:
    """The lines of all devices, one device after the other."""
    if not torch.distributed.is_initialized():
        return lines
    found: list[list[str]] = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, lines)
    return [line for part in found for line in part]


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
