"""Encoding: a manifest of raw samples to a latent store, by Lightning's prediction loop, on any number of devices.

The work is cut into shards; a device encodes every world-th of them, chunk by chunk, all devices at the same pace. A
finished shard is never encoded again unless its samples or its codecs change. The store's manifest comes last.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flowbind.codec import digest
from flowbind.defaults import torch_defaults
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


class Chunks(Dataset):
    """Raw samples of one device, in chunks of at most `BATCH_ROWS` rows of one shard; a sample that cannot be read is its error.

    All devices have equally many chunks, the last ones of some empty: after each they tell one another what they did.

    Args:
        manifest: of the samples.
        modalities: that read them.
        shares: every device's shards.
        rank: of this device.
    """

    def __init__(
        self,
        manifest: Manifest,
        modalities: Mapping[str, Modality],
        shares: Sequence[Sequence[ShardPlan]],
        rank: int,
    ) -> None:
        self.manifest, self.modalities, self.rank = manifest, modalities, rank
        parts = [
            [
                (plan, plan.samples[start : start + BATCH_ROWS], start + BATCH_ROWS >= len(plan.samples))
                for plan in share
                for start in range(0, len(plan.samples), BATCH_ROWS)
            ]
            for share in shares
        ]
        idle = (ShardPlan("", [], [], ""), [], False)
        self.rounds = list(zip_longest(*parts, fillvalue=idle)) or [(idle,) * len(shares)]
        self.samples = sum(len(plan.samples) for share in shares for plan in share)

    def __len__(self) -> int:
        return len(self.rounds)

    def __getitem__(self, number: int) -> "Chunk":
        plan, indices, last = self.rounds[number][self.rank]
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
        return Chunk(plan, good, raws, bad, last, sum(len(indices) for _, indices, _ in self.rounds[number]))


@dataclass
class Chunk:
    """Raw samples of one shard: their manifest indices, one list per modality, and the errors of those left out."""

    plan: ShardPlan
    indices: list[int]
    raws: dict[str, list[Any]]
    bad: list[str]
    last: bool
    of_all: int  # samples that all devices take at the same time


class Encoding(LightningModule):
    """Encodes what is not done yet, and writes each shard when its last chunk is done; in the end, the store's manifest.

    The first device finds out which shards are pending, before any of them writes, and tells the others. A mistake of
    one device is told to all, so that none waits for another in vain; the first raises it, the others end silently.
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
        (done, *_) = self._agree(self._find_done)
        self.bad = [line for held in done.values() for line in held]  # of all devices
        pending = [plan for plan in self.plans if plan.file not in done]
        world = self.trainer.world_size
        shares = [pending[rank::world] for rank in range(world)]
        chunks = Chunks(self.manifest, self.modalities, shares, self.trainer.global_rank)
        loader = DataLoader(chunks, batch_size=None, num_workers=self.workers)
        shown = pending and self.trainer.is_global_zero
        return _Shown(loader, f"encoding {self.manifest.path}", chunks.samples) if shown else loader

    def _find_done(self) -> dict[str, list[str]]:
        if not self.trainer.is_global_zero:
            return {}
        done = finished_shards(self.folder, self.plans)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        return done

    def on_predict_start(self) -> None:
        for modality in self.modalities.values():
            modality.codec.to(self.device)

    def on_predict_end(self) -> None:
        self._agree(self._finish)

    def _finish(self) -> None:
        if not self.trainer.is_global_zero:
            return
        if self.bad:
            say(f"{self.folder}: {len(self.bad)} samples could not be read and are left out:")
            for line in sorted(self.bad):  # the same with any number of devices
                say(f"  {line}")
        self._check()
        strata: dict[tuple[str, ...], list[str]] = {}
        for plan in self.plans:
            if (self.folder / plan.file).is_file():
                strata.setdefault(tuple(plan.modalities), []).append(plan.file)
        wanted = {file for files in strata.values() for file in files}
        for stale in self.folder.glob("*.safetensors*"):  # shards of another plan, and what a killed run began
            if stale.name not in wanted:
                stale.unlink()
        prints = {name: modality.codec.fingerprint() for name, modality in self.modalities.items()}
        path = self.manifest.path
        finish_store(self.folder, list(strata.items()), prints, str(path), digest(path))

    def _check(self) -> None:
        if len(self.bad) > self.skip_bad:
            allowed = (
                f" (more than the {self.skip_bad} that --skip-bad allows)"
                if self.skip_bad
                else "; --skip-bad N leaves out at most N such samples"
            )
            self._stop(ValueError(f"{self.bad[-1]}{allowed}"))

    def _agree(self, work: Callable[[], Any]) -> list[Any]:
        """Does something on every device. Returns what came of it on each.

        Raises:
            ValueError, OSError: what one of the devices raised, on the first.
            SystemExit: the same, on the others.
        """
        made, mistake = None, None
        try:
            made = work()
        except (ValueError, OSError) as error:
            mistake = error
        found = gathered((made, mistake and str(mistake)))
        told = next((said for _, said in found if said), None)
        if told is not None:
            self._stop(mistake or ValueError(told))
        return [made for made, _ in found]

    def _stop(self, mistake: Exception) -> NoReturn:
        raise mistake if self.trainer.is_global_zero else SystemExit(0)  # any other code, and Lightning kills the first

    def transfer_batch_to_device(self, batch: Chunk, device: torch.device, dataloader_idx: int) -> Chunk:
        return batch  # raw samples: codecs move what they need

    def predict_step(self, chunk: Chunk, index: int) -> int:
        for bad in self._agree(lambda: self._encode(chunk)):
            self.bad += bad
        self._check()
        return len(chunk.indices)

    @torch_defaults()
    def _encode(self, chunk: Chunk) -> list[str]:
        """Encodes a chunk, and writes the shard that it ends. Returns the errors of the samples left out."""
        self.shard_bad += chunk.bad
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
                made = {"key": chunk.plan.key, "bad": self.shard_bad}
                write_shard(self.folder / chunk.plan.file, tensors, made)
            self._begin()
        return chunk.bad


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
        SystemExit: one of these on another device than the first, which raises it.
    """
    manifest = Manifest.read(manifest_path, known_names(modalities))
    plans = plan_shards(manifest, modalities)
    if len(finished_shards(folder, plans)) == len(plans) and _finished(folder, manifest_path, plans):
        if trainer.is_global_zero:
            say(f"{folder}: {len(manifest.samples)} samples are encoded already")
        return LatentStore(folder)
    try:
        trainer.predict(Encoding(modalities, manifest, plans, folder, skip_bad, workers), return_predictions=False)
    except SystemExit as stop:
        if stop.code:  # how Lightning ends on Ctrl-C
            raise KeyboardInterrupt from None
        raise
    return LatentStore(folder)


def finished_shards(folder: Path, plans: Sequence[ShardPlan]) -> dict[str, list[str]]:
    """Files of the shards that are whole and made from the same samples by the same codecs, each with the errors of what it lacks."""
    held = ((plan, shard_metadata(folder / plan.file)) for plan in plans)
    return {plan.file: meta["bad"] for plan, meta in held if meta and meta.get("key") == plan.key}


def gathered(made: Any) -> list[Any]:
    """What every device made, in their order."""
    if not torch.distributed.is_initialized():
        return [made]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, made)
    return found


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
    """A loader that shows how many samples of all devices are done."""

    def __init__(self, loader: DataLoader, description: str, samples: int) -> None:
        self.loader, self.description, self.samples = loader, description, samples

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        return track(self.loader, self.description, self.samples, "samples", lambda chunk: chunk.of_all)
