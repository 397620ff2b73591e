"""Encoding: a manifest of raw samples to a latent store, on any number of devices.

Lightning's prediction loop does it. The work is cut into shards; a device encodes every world-th of
them, chunk by chunk, all devices at the same pace. What a shard holds is never encoded again unless
its samples, or how they are read and encoded, change. What it lacks, because it could not be read
or encoded, is tried again every time. The store's manifest comes last.
"""

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flowbind.codec import kind_of
from flowbind.companions import Stamps, noting
from flowbind.data.manifest import (
    Manifest,
    Sample,
    describe_fault,
    leave_out,
    refuse_bad,
)
from flowbind.data.plan import ShardPlan, is_finished, plan_shards, rows_of, unencoded
from flowbind.data.promise import Promises
from flowbind.data.shard import LINE, read_shard, write_shard
from flowbind.data.store import MANIFEST, LatentStore, finish_store
from flowbind.defaults import torch_defaults
from flowbind.distributed import all_gather
from flowbind.files import digest
from flowbind.lock import alone_in
from flowbind.modality import Modality
from flowbind.progress import say, track
from flowbind.readers import check_readers

BATCH_ROWS = 256  # samples read and encoded at a time
CANNOT = "cannot encode it: "
OPTION = "--skip-bad"  # how many bad samples may be left out


class Turn(NamedTuple):
    """What one device reads at a time.

    Attributes:
        plan: Shard that the samples are of.
        indices: Indices of the samples in the manifest; none where the device idles.
        last: Whether they end the shard.
    """

    plan: ShardPlan
    indices: list[int]
    last: bool


IDLE = Turn(ShardPlan("", [], [], ""), [], False)


class Chunks(Dataset):
    """Raw samples of one device, in chunks of at most `BATCH_ROWS` rows of one shard.

    A sample that cannot be read is its error. All devices have equally many chunks, the last ones
    of some empty: after each they exchange what they did.

    Args:
        manifest: Manifest of the samples.
        modalities: Modalities that read them, by name.
        shares: Shards of every device.
        rank: Number of this device.
    """

    def __init__(
        self,
        manifest: Manifest,
        modalities: Mapping[str, Modality],
        shares: Sequence[Sequence[ShardPlan]],
        rank: int,
    ) -> None:
        self.manifest = manifest
        self.modalities = modalities
        self.rank = rank

        # In each round every device has its turn.
        turns = [_turns(share) for share in shares]
        rounds = list(zip_longest(*turns, fillvalue=IDLE))
        nothing = (IDLE,) * len(shares)
        self.rounds = rounds or [nothing]

        self.samples = 0
        for share in shares:
            for plan in share:
                self.samples += len(plan.samples)

    def __len__(self) -> int:
        return len(self.rounds)

    def __getitem__(self, number: int) -> "Chunk":
        turns = self.rounds[number]
        plan, indices, last = turns[self.rank]
        raws: dict[str, list[Any]] = {name: [] for name in plan.modalities}
        of_all = sum(len(turn.indices) for turn in turns)
        chunk = Chunk(
            plan,
            indices=[],
            raws=raws,
            bad=[],
            last=last,
            of_all=of_all,
        )
        for index in indices:
            sample = self.manifest.samples[index]
            try:
                with noting() as stamps:
                    raws_of_sample = self._read(sample, plan.modalities)
            except ValueError as error:
                chunk.bad.append(str(error))
                continue

            chunk.indices.append(index)
            if stamps:
                chunk.beside[index] = self._located(stamps)
            for name, raw in raws_of_sample.items():
                chunk.raws[name].append(raw)
        return chunk

    def _read(self, sample: Sample, names: Sequence[str]) -> dict[str, Any]:
        raws = {}
        for name in names:
            modality = self.modalities[name]
            raws[name] = self.manifest.read_raw(sample, name, modality)
        return raws

    def _located(self, stamps: Stamps) -> Stamps:
        """Stamps by paths from the manifest's folder on."""
        root = self.manifest.path.parent
        located = {}
        for path in sorted(stamps):
            located[os.path.relpath(path, root)] = stamps[path]
        return located


def _turns(share: Sequence[ShardPlan]) -> list[Turn]:
    """The turns of one device, which has some shards."""
    turns = []
    for plan in share:
        size = len(plan.samples)
        for start in range(0, size, BATCH_ROWS):
            stop = start + BATCH_ROWS
            indices = plan.samples[start:stop]
            turns.append(Turn(plan, indices, last=stop >= size))
    return turns


@dataclass
class Chunk:
    """Raw samples of one shard, and the errors of those left out.

    Attributes:
        plan: Shard that they are of.
        indices: Indices of the samples in the manifest.
        raws: Raw samples by modality, in the order of the indices.
        bad: Errors of the samples left out.
        last: Whether they end the shard.
        of_all: Number of samples that all devices take at the same time.
        beside: By index, the files that were read beside a sample's own, from the manifest's folder
            on.
    """

    plan: ShardPlan
    indices: list[int]
    raws: dict[str, list[Any]]
    bad: list[str]
    last: bool
    of_all: int
    beside: dict[int, Stamps] = field(default_factory=dict)


class Done(NamedTuple):
    """What became of a chunk.

    Attributes:
        bad: Errors of the samples left out.
        faults: By modality, those of them that its codec raised.
        encoded: Modalities whose codecs encoded something.
    """

    bad: list[str]
    faults: dict[str, list[str]]
    encoded: set[str]


class Outcome(NamedTuple):
    """What came of some work on one device: its result, or the message of its error."""

    result: Any
    message: str | None


class Encoding(LightningModule):
    """Encodes what is not done yet, and writes each shard when its last chunk is done.

    The store's manifest comes last. The first device finds out which shards are pending, before any
    of them writes, and informs the others. An error of one device reaches all, so that none waits
    for another in vain; the first raises it, the others end silently.

    Args:
        modalities: Modalities to encode, by name.
        manifest: Manifest of the samples.
        plans: Shards that the manifest becomes.
        folder: Folder of the store.
        skip_bad: Number of samples, at most, that may be left out.
        workers: Number of processes that read raw samples.
        promises: What the codecs promise, compared with the first samples.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        manifest: Manifest,
        plans: Sequence[ShardPlan],
        folder: Path,
        skip_bad: int,
        workers: int,
        promises: Promises,
    ) -> None:
        super().__init__()
        self.modalities = modalities
        self.manifest = manifest
        self.plans = plans
        self.folder = folder
        self.skip_bad = skip_bad
        self.workers = workers
        self.promises = promises

        self.lock = ExitStack()  # holds the folder for this process
        # By modality and kind, of the samples of this device.
        self.caveats: dict[tuple[str, str], list[str]] = {}
        self._begin()

    def _begin(self) -> None:
        """Begins a shard."""
        self.latents: dict[str, list[Tensor]] = {}
        self.lines: list[int] = []
        self.beside: dict[int, Stamps] = {}

    def predict_dataloader(self) -> "_Shown | DataLoader":
        (todo, *_) = self._agree(self._find_todo)

        # Of all devices.
        self.bad: list[str] = []
        self.faults: dict[str, list[str]] = {}
        self.encoded: set[str] = set()

        pending = []
        for plan in self.plans:
            samples = todo[plan.file]
            if samples:
                pending.append(replace(plan, samples=samples))

        world = self.trainer.world_size
        shares = [pending[rank::world] for rank in range(world)]
        chunks = Chunks(
            self.manifest,
            self.modalities,
            shares,
            self.trainer.global_rank,
        )

        loader = DataLoader(chunks, batch_size=None, num_workers=self.workers)
        if not pending or not self.trainer.is_global_zero:
            return loader

        description = f"encoding {self.manifest.path}"
        return _Shown(loader, description, chunks.samples)

    def _find_todo(self) -> dict[str, list[int]]:
        if not self.trainer.is_global_zero:
            return {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock.enter_context(alone_in(self.folder, "encoding"))
        root = self.manifest.path.parent
        return unencoded(self.folder, self.plans, root)

    def on_predict_start(self) -> None:
        for modality in self.modalities.values():
            modality.codec.to(self.device)

    def on_predict_end(self) -> None:
        self._agree(self._finish)
        caveats: dict[tuple[str, str], list[str]] = {}
        for caveats_of_device in self._agree(lambda: self.caveats):
            for kind, lines in caveats_of_device.items():
                caveats.setdefault(kind, []).extend(lines)

        if not self.trainer.is_global_zero:
            return
        for name, kind in sorted(caveats):
            lines = caveats[name, kind]
            others = ""
            if len(lines) > 1:
                others = f", and {len(lines) - 1} more like it"
            say(f"'{name}' of {min(lines)}{others}")

    def _finish(self) -> None:
        if not self.trainer.is_global_zero:
            return

        strata: dict[tuple[str, ...], list[str]] = {}
        for plan in self.plans:
            if rows_of(self.folder / plan.file, plan.key):
                kind = tuple(plan.modalities)
                strata.setdefault(kind, []).append(plan.file)

        lost = _modalities_of(self.plans).difference(*strata)
        self._refuse_codecs(lost - self.encoded, "")
        leave_out(self.folder, self.bad, self.skip_bad, OPTION)

        path = self.manifest.path
        if is_finished(self.folder, path, self.plans):
            say(f"{self.folder}: all others are encoded already")
            return
        if not strata:
            raise ValueError(
                f"{path}: none of its samples could be read, such as {min(self.bad)}"
            )

        for name in sorted(lost):
            say(
                f"{self.folder}: no sample with '{name}' could be read, so the store is without it"
            )

        (self.folder / MANIFEST).unlink(missing_ok=True)
        shards = set().union(*strata.values())
        self._remove_all_but(shards)
        fingerprints = {}
        for name, modality in self.modalities.items():
            fingerprints[name] = modality.codec.fingerprint()
        finish_store(
            self.folder,
            list(strata.items()),
            fingerprints,
            source=self.manifest.name,
            source_sha256=digest(path),
        )

    def _remove_all_but(self, shards: Collection[str]) -> None:
        """Removes shards of another plan, and what a killed run began."""
        for path in self.folder.glob("*.safetensors*"):
            if path.name in shards:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _check(self) -> None:
        """Ends the work where more samples are bad than may be left out."""
        try:
            if len(self.bad) > self.skip_bad:
                hint = f"; if the samples are at fault, {OPTION} N leaves out at most N of them"
                failed = self.faults.keys() - self.encoded
                self._refuse_codecs(failed, hint)
            refuse_bad(self.bad, self.skip_bad, OPTION)
        except ValueError as refusal:
            self._stop(refusal)

    def _refuse_codecs(self, names: Collection[str], hint: str) -> None:
        """Refuses codecs of these modalities that failed for several samples.

        Raises:
            ValueError: one did; one line.
        """
        for name in sorted(names):
            faults = self.faults.get(name, ())
            if len(faults) > 1:
                fault = faults[0].removeprefix(CANNOT)
                tried = f"none of the {len(faults)} samples tried"
                raise ValueError(
                    f"the codec of '{name}' encodes {tried}: {fault}{hint}"
                )

    def _agree(self, work: Callable[[], Any]) -> list[Any]:
        """Does something on every device. Returns what came of it on each.

        Raises:
            ValueError, OSError: what one of the devices raised, on the first.
            SystemExit: the same, on the others.
        """
        result = None
        own_error = None
        try:
            result = work()
        except (ValueError, OSError) as error:
            own_error = error

        message = str(own_error) if own_error else None
        outcomes = all_gather(Outcome(result, message))
        for outcome in outcomes:
            if outcome.message:
                self._stop(own_error or ValueError(outcome.message))
        return [outcome.result for outcome in outcomes]

    def _stop(self, error: Exception) -> NoReturn:
        if self.trainer.is_global_zero:
            raise error
        raise SystemExit(0)  # at any other code Lightning kills the first process

    def transfer_batch_to_device(
        self,
        batch: Chunk,
        device: torch.device,
        dataloader_idx: int,
    ) -> Chunk:
        return batch  # raw samples: codecs move what they need

    def predict_step(self, chunk: Chunk, index: int) -> int:
        for done in self._agree(lambda: self._encode(chunk)):
            self.bad += done.bad
            self.encoded |= done.encoded
            for name, faults in done.faults.items():
                faults_of_all = self.faults.setdefault(name, [])
                faults_of_all += faults

        self._check()
        return len(chunk.indices)

    @torch_defaults()
    def _encode(self, chunk: Chunk) -> Done:
        """Encodes a chunk, and writes the shard that it ends."""
        latents: dict[str, Tensor] = {}
        errors: dict[int, str] = {}  # by row
        faults = {}
        encoded = set()

        for name, raws in chunk.raws.items():
            if not raws:
                continue

            modality = self.modalities[name]
            latents[name], fault_of = encode_rows(name, modality, raws)
            faults[name] = list(fault_of.values())
            if len(fault_of) < len(raws):
                encoded.add(name)

            # Of two codecs that fail for a sample, the first is named.
            own_errors = {}
            for row, fault in fault_of.items():
                own_errors[row] = f"the codec of '{name}' {fault}"
            errors = own_errors | errors

            self._note_caveats(name, chunk, raws)
            self._compare_promise(name, raws, latents[name], fault_of)

        good = [row for row in range(len(chunk.indices)) if row not in errors]
        for name, rows in latents.items():
            self.latents.setdefault(name, []).append(rows[good])
        self.lines += [chunk.indices[row] for row in good]
        self.beside |= chunk.beside
        if chunk.last:
            self._write(chunk.plan)
            self._begin()

        bad = list(chunk.bad)
        for row, error in errors.items():
            sample = self.manifest.samples[chunk.indices[row]]
            bad.append(f"{error} ({self._name(sample)})")
        return Done(bad, faults, encoded)

    def _note_caveats(
        self,
        name: str,
        chunk: Chunk,
        raws: Sequence[Any],
    ) -> None:
        codec = self.modalities[name].codec
        for index, raw in zip(chunk.indices, raws, strict=True):
            caveat = codec.caveat(raw)
            if caveat:
                sample = self.manifest.samples[index]
                caveats = self.caveats.setdefault((name, kind_of(caveat)), [])
                caveats.append(f"{self._name(sample)} {caveat}")

    def _compare_promise(
        self,
        name: str,
        raws: Sequence[Any],
        latents: Tensor,
        faults: Mapping[int, str],
    ) -> None:
        """Says where a codec was made for other samples.

        Only the first device looks, and only at those that it encodes.
        """
        if not self.trainer.is_global_zero:
            return

        good = [row for row in range(len(raws)) if row not in faults]
        good_raws = [raws[row] for row in good]
        codec = self.modalities[name].codec
        line = self.promises.look(name, codec, good_raws, latents[good])
        if line:
            say(f"{self.manifest.path}: {line}")

    def _name(self, sample: Sample) -> str:
        return f"sample '{sample.id}' of {self.manifest.path}"

    def _write(self, plan: ShardPlan) -> None:
        """Writes what was encoded of a shard, together with what it held before.

        Rows are in the manifest's order. What it held and was encoded again, or should have been,
        goes.
        """
        path = self.folder / plan.file
        rows = rows_of(path, plan.key)
        keep = rows.keys() - plan.samples
        if not self.lines and len(keep) == len(rows):
            return

        (self.folder / MANIFEST).unlink(missing_ok=True)  # it speaks of other shards
        if not self.lines and not keep:
            path.unlink()
            return

        # What was encoded now.
        parts: dict[str, list[Tensor]] = {}
        if self.lines:
            for name, latents in self.latents.items():
                parts[name] = list(latents)
        lines = list(self.lines)
        beside = {}
        for line in lines:
            if line in self.beside:
                beside[line] = self.beside[line]

        # What the shard held before.
        if keep:
            before = read_shard(path)
            is_kept = torch.tensor([line in keep for line in before[LINE].tolist()])
            for name in plan.modalities:
                parts.setdefault(name, []).append(before[name][is_kept])
            lines += before[LINE][is_kept].tolist()
            for line in keep:
                if rows[line]:
                    beside[line] = rows[line]

        numbers = torch.tensor(lines)
        order = numbers.argsort()
        tensors = {}
        for name, latents in parts.items():
            tensors[name] = torch.cat(latents)[order]
        tensors[LINE] = numbers[order]

        metadata: dict[str, Any] = {"key": plan.key}
        if beside:
            metadata["beside"] = {str(line): beside[line] for line in sorted(beside)}
        write_shard(path, tensors, metadata)


def _modalities_of(plans: Sequence[ShardPlan]) -> set[str]:
    names: set[str] = set()
    for plan in plans:
        names.update(plan.modalities)
    return names


def encode_rows(
    name: str,
    modality: Modality,
    raws: Sequence[Any],
) -> tuple[Tensor, dict[int, str]]:
    """Latents of raw samples of one modality, on the CPU, and what is wrong with the others.

    Where a batch fails, its samples are encoded one by one.

    Returns:
        Latents with shape (n, *shape), anything in the rows that failed, and the errors, which
        follow "the codec".

    Raises:
        ValueError: the codec cannot be used, or gives other latents than it promises.
        OSError, MemoryError, torch.OutOfMemoryError: as the codec raises them; they say nothing of
            a sample.
    """
    codec = modality.codec
    errors: dict[int, str] = {}
    try:
        latents = codec.encode(raws)
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:
        rows = []
        for row, raw in enumerate(raws):
            try:
                row_latents = codec.encode([raw]).to("cpu", codec.dtype)
            except Exception as error:
                fault = describe_fault(error)
                errors[row] = f"{CANNOT}{fault}"
                row_latents = torch.zeros(1, *codec.shape, dtype=codec.dtype)
            rows.append(row_latents)

        latents = torch.cat(rows)

    if latents.shape != (len(raws), *codec.shape):
        shape = tuple(latents.shape[1:])
        raise ValueError(
            f"the codec of '{name}' gave latents of shape {shape}, it promises "
            f"{tuple(codec.shape)}"
        )

    latents = latents.to("cpu", codec.dtype)
    finite = latents.isfinite().flatten(1).all(1)
    for row in (~finite).nonzero().flatten().tolist():
        errors[row] = "gives numbers for it that are not finite"
    return latents, errors


def encode(
    modalities: Mapping[str, Modality],
    manifest_path: Path,
    folder: Path,
    trainer: Trainer,
    skip_bad: int = 0,
    workers: int = 0,
    promises: Promises | None = None,
) -> LatentStore:
    """Encodes a manifest into a store, doing only what is not done yet.

    Args:
        modalities: Modalities by name; what a sample has besides is left aside.
        manifest_path: Manifest of the raw samples.
        folder: Folder of the store.
        trainer: Lightning's trainer, with the devices to use.
        skip_bad: Number of samples, at most, that may be left out as they cannot be read; they are
            listed.
        workers: Number of processes that read raw samples.
        promises: Promises that were compared already, where several manifests are encoded by the
            same codecs.

    Raises:
        ValueError: a sample that cannot be read, or no sample at all.
        OSError: the folder cannot be written.
        SystemExit: one of these on another device than the first, which raises it.
    """
    manifest = Manifest.read_for(manifest_path, modalities)
    manifest.bring(modalities)
    plans = plan_shards(manifest, modalities)
    todo = unencoded(folder, plans, manifest.path.parent)
    if not any(todo.values()) and is_finished(folder, manifest_path, plans):
        if trainer.is_global_zero:
            count = len(manifest.samples)
            say(f"{folder}: {count} samples are encoded already")
        return LatentStore(folder)

    for name in sorted(_modalities_of(plans)):
        files = _files_of(name, manifest, plans, todo)
        _check_readable(name, modalities[name], files, manifest.path, skip_bad)

    encoding = Encoding(
        modalities,
        manifest,
        plans,
        folder,
        skip_bad=skip_bad,
        workers=workers,
        promises=promises or Promises(),
    )
    try:
        with encoding.lock:
            trainer.predict(encoding, return_predictions=False)
    except SystemExit as stop:
        if stop.code:  # how Lightning ends on Ctrl-C
            raise KeyboardInterrupt from None
        raise
    return LatentStore(folder)


def _check_readable(
    name: str,
    modality: Modality,
    files: Sequence[str],
    manifest: Path,
    skip_bad: int,
) -> None:
    """Refuses what no sample of a modality could be read or encoded without."""
    # Without them each of its samples would be called bad.
    modality.check_libraries()
    modality.codec.check_libraries("encode")
    check_readers(
        name,
        modality,
        files,
        what=str(manifest),
        most=skip_bad,
        option=OPTION,
    )


def _files_of(
    name: str,
    manifest: Manifest,
    plans: Sequence[ShardPlan],
    todo: Mapping[str, Sequence[int]],
) -> list[str]:
    """The values of a modality that are to be read."""
    values = []
    for plan in plans:
        if name in plan.modalities:
            for index in todo[plan.file]:
                values.append(manifest.samples[index].values[name])
    return values


class _Shown:
    """A loader that shows how many samples of all devices are done."""

    def __init__(
        self,
        loader: DataLoader,
        description: str,
        samples: int,
    ) -> None:
        self.loader = loader
        self.description = description
        self.samples = samples

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        return track(
            self.loader,
            self.description,
            total=self.samples,
            unit="samples",
            size=lambda chunk: chunk.of_all,
        )
