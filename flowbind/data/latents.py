"""Batches of cached latents: store -> constant composition -> batch."""

import copy
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from flowbind.batch import Batch, Links, Place, find_links
from flowbind.data.manifest import Manifest
from flowbind.data.mixture import Mixture, apportion, step_numbers
from flowbind.data.resident import Resident, RowNumbers, fits
from flowbind.data.store import LINE, MANIFEST, LatentStore
from flowbind.method import Method
from flowbind.modality import Modality
from flowbind.registry import installed, nearest

SPLITS = ("train", "val", "test")


class LatentDataModule(LightningDataModule):
    """Latents of raw samples, from a store that `flowbind encode` made.

    Args:
        manifests: of raw samples, by split (train, val, test); val and test may be left out.
        store: folder of the latent stores, each split a folder in it; or a folder for each split.
        batch_size: samples in a global batch, over all devices.
        weights: relative share of a kind of samples in a batch, by its modalities (`text+image: 2`); 1 where not named.
            By default kinds are drawn in proportion to their number of samples.
        seed: of the order of samples.
        workers: processes that gather training batches. None is fastest from a local disk (docs/performance.md); some hide
            the delays of a network's disk.
        device_resident: keep the training latents on the device, so that loading gives row numbers alone; `auto`: on a
            GPU that has room for them.
    """

    decides_nothing: ClassVar = ("manifests", "store", "workers", "device_resident")  # `inputs` do, by their content

    def __init__(
        self,
        manifests: dict[str, str],
        store: str | dict[str, str],
        batch_size: int = 1024,
        weights: dict[str, float] | None = None,
        seed: int = 0,
        workers: int = 0,
        device_resident: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        if not manifests:
            raise ValueError(f"manifests names no split; allowed: {', '.join(SPLITS)}")
        for split in manifests:
            if split not in SPLITS:
                raise ValueError(f"no split '{split}'; {nearest(split, SPLITS)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        for name, value in (("seed", seed), ("workers", workers)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, not {value}")
        self.manifests, self.store = {split: Path(path) for split, path in manifests.items()}, store
        self.batch_size, self.weights, self.seed, self.workers = batch_size, weights, seed, workers
        self.device_resident = device_resident

    def folder(self, split: str) -> Path:
        """Where a split's latents are."""
        return Path(self.store[split]) if isinstance(self.store, dict) else Path(self.store) / split

    def inputs(self, module: LightningModule) -> list[Path]:
        """The files that decide what a module trains on."""
        self.open("train", module.method.modalities, module.method.learnt)
        return [self.folder("train") / MANIFEST, *module.inputs]

    def open(self, split: str, modalities: Mapping[str, Modality], needed: Collection[str] = ()) -> LatentStore:
        """Opens a split's store and compares it with the codecs of these modalities, and with its manifest.

        Args:
            split: train, val or test.
            modalities: by name; the store may lack some.
            needed: names that it may not lack.

        Raises:
            FileNotFoundError: there is no store.
            ValueError: it was made by other codecs or from another manifest.
        """
        if split not in self.manifests:
            raise ValueError(f"the recipe has no manifest of the split '{split}'; add it to data.manifests")
        store = LatentStore(self.folder(split))
        absent = self._absent(split, modalities, [name for name in needed if name not in store.fields])
        if absent:
            raise ValueError(take_out(self.manifests[split], absent))
        asked = [name for name in modalities if name in store.fields or name in needed]
        store.check({name: modalities[name].codec.fingerprint() for name in asked})
        store.check_source(self.manifests[split])
        return store

    def _absent(self, split: str, modalities: Mapping[str, Modality], names: Sequence[str]) -> list[str]:
        """Those of the names that no sample of a split's manifest has, whatever was encoded of it."""
        path = self.manifests[split]
        if not names or not path.is_file():
            return []
        manifest = Manifest.read(path, {*modalities, *installed("modalities")})
        return [name for name in names if not any(name in sample.values for sample in manifest.samples)]

    def mixture(self, store: LatentStore, method: Method) -> Mixture:
        """The sampler over a store's strata; those that teach the method nothing get no rows.

        Raises:
            ValueError: a weight for a kind of samples that the store does not have, or a batch too small.
        """
        teaching = [method.trains_on(stratum.modalities) for stratum in store.strata]
        rows = {"+".join(s.modalities): s.rows for s, teaches in zip(store.strata, teaching, strict=True) if teaches}
        wanted = {"+".join(sorted(kind.split("+"))): weight for kind, weight in (self.weights or {}).items()}
        found = {"+".join(sorted(kind.split("+"))): kind for kind in rows}
        for kind in wanted:
            if kind not in found:
                raise ValueError(
                    f"data.weights: no samples with exactly the modalities '{kind}'; {nearest(kind, found)}"
                )
        weights = [wanted.get(kind, 1.0) if self.weights else rows[found[kind]] for kind in found]
        shares = iter(apportion(self.batch_size, weights))
        rows_of_all = [stratum.rows for stratum in store.strata]
        return Mixture(rows_of_all, [next(shares) if teaches else 0 for teaches in teaching], self.seed)

    @property
    def _share(self) -> tuple[int, int]:
        """Which part of a batch this process has: rank and number of ranks."""
        return self.trainer.global_rank, self.trainer.world_size

    @property
    def _modalities(self) -> Mapping[str, Modality]:
        return self.trainer.lightning_module.method.modalities

    def train_dataloader(self) -> DataLoader:
        method = self.trainer.lightning_module.method
        store = self.open("train", self._modalities, method.learnt)
        names, device = list(self._modalities), self.trainer.strategy.root_device
        self.steps = Steps(store, names, self.mixture(store, method), 0, *self._share, self.trainer.overfit_batches)
        self.begin_at(self.trainer.global_step)
        resident = fits(store, names, device) if self.device_resident == "auto" else self.device_resident
        if resident:
            self.resident, self.frame = Resident(store, names, device), self.steps.frame.to(device)
        return DataLoader(
            Numbers(self.steps) if resident else self.steps,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),
        )

    def begin_at(self, step: int) -> None:
        """Where the next pass over the training batches begins: where `trainer.limit_train_batches` ends one, the next goes on."""
        self.steps.first = step * self.trainer.accumulate_grad_batches

    def on_after_batch_transfer(self, batch: Batch | RowNumbers | int, dataloader_idx: int) -> Batch | int:
        if isinstance(batch, RowNumbers):
            return self.frame.fill(self.resident, batch.rows.split(self.frame.sizes), batch.step)
        return batch

    def val_dataloader(self) -> DataLoader | list:
        if "val" not in self.manifests and self.trainer.state.fn != TrainerFn.VALIDATING:
            return []
        store = self.open("val", self._modalities)
        method = self.trainer.lightning_module.method
        strata = [i for i, s in enumerate(store.strata) if method.trains_on(s.modalities)]
        if not strata:
            raise ValueError(
                f"{self.manifests['val']}: no sample has the modalities that the method trains on; add "
                "some, or take the split out of data.manifests"
            )
        rows = Rows(store, list(self._modalities), self.batch_size, *self._share, strata)
        return DataLoader(rows, batch_size=None, generator=torch.Generator())  # nothing is drawn from torch's own

    def test_dataloader(self) -> DataLoader:
        self.open("test", self._modalities)
        return DataLoader([0], batch_size=None)  # one step on each device, which evaluates its share


def take_out(manifest: Path, names: Sequence[str]) -> str:
    """What to do about modalities of a recipe that no sample of a manifest has."""
    which = " and ".join(f"'{name}'" for name in names)
    return f"{manifest}: no sample has {which}; take that out of model.modalities in the recipe, or add samples that have it"


class Steps(IterableDataset):
    """The endless sequence of training batches, from one step on.

    Several loading processes take turns, so that the sequence stays the same. With a period, the first so many come
    again and again.
    """

    def __init__(
        self,
        store: LatentStore,
        names: Sequence[str],
        mixture: Mixture,
        first: int = 0,
        rank: int = 0,
        world: int = 1,
        period: float = 0,
    ) -> None:
        self.store, self.mixture, self.first, self.rank, self.world = store, mixture, first, rank, world
        self.period = period
        self.frame = Frame(store, names, mixture.shares, rank, world)

    def at(self, step: int) -> Batch:
        """The batch of one step."""
        return self.frame.fill(self.store, self.mixture.batch(step, self.rank, self.world), step)

    def lines(self, step: int) -> dict[str, Tensor]:
        """Per modality, the line in the manifest (from 0, samples only) of each row of a step's batch."""
        rows = self.mixture.batch(step, self.rank, self.world)
        lines = [self.store.gather(i, r, [LINE])[LINE] for i, r in enumerate(rows)]
        return {
            name: torch.cat([lines[i] for i in parts] or [lines[0][:0]]) for name, parts in self.frame.parts.items()
        }

    def numbers(self, step: int) -> RowNumbers:
        """The rows of one step's batch, not read."""
        rows = self.mixture.batch(step, self.rank, self.world)
        return RowNumbers(step, torch.from_numpy(np.concatenate(rows)))

    def __iter__(self) -> Iterator[Batch]:
        return map(self.at, self.turns())

    def turns(self) -> Iterator[int]:
        """The numbers of the steps whose turn it is in this loading process."""
        worker = get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        return step_numbers(self.first + start, stride, self.period)


class Numbers(IterableDataset):
    """The same sequence as row numbers, for latents that are on the device."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[RowNumbers]:
        return map(self.steps.numbers, self.steps.turns())


class Rows(IterableDataset):
    """Every row of some strata once, stratum after stratum, for validation; a rank has every world-th row of each batch."""

    def __init__(
        self,
        store: LatentStore,
        names: Sequence[str],
        size: int,
        rank: int = 0,
        world: int = 1,
        strata: Sequence[int] | None = None,
    ) -> None:
        self.store, self.names, self.size, self.rank, self.world = store, names, size, rank, world
        self.strata = range(len(store.strata)) if strata is None else strata

    def __iter__(self) -> Iterator[Batch]:
        step = itertools.count()
        for number in self.strata:
            stratum = self.store.strata[number]
            for start in range(0, stratum.rows, self.size):
                stop = min(start + self.size, stratum.rows)
                rows = [np.arange(0)] * len(self.store.strata)
                rows[number] = np.arange(start + self.rank, stop, self.world)
                shares = [stop - start if i == number else 0 for i in range(len(rows))]
                frame = Frame(self.store, self.names, shares, self.rank, self.world)
                yield frame.fill(self.store, rows, next(step))


class Frame:
    """What batches of equal composition share: the sample of each row, the links, and the place in the global batch.

    Args:
        store: where the latents are.
        names: of the modalities.
        shares: rows of each stratum in the global batch.
        rank: whose batches these are; it has every world-th sample.
        world: number of ranks.
    """

    def __init__(
        self, store: LatentStore, names: Sequence[str], shares: Sequence[int], rank: int = 0, world: int = 1
    ) -> None:
        self.parts = {
            name: [i for i, stratum in enumerate(store.strata) if name in stratum.modalities] for name in names
        }
        starts = np.cumsum([0, *shares])
        held = {
            name: torch.cat([torch.arange(starts[i], starts[i + 1]) for i in parts] or [torch.arange(0)])
            for name, parts in self.parts.items()
        }
        samples, links = torch.cat(list(held.values())), find_links(torch.cat(list(held.values())))
        mine = torch.arange(starts[-1]) % world == rank
        row, link = mine[samples], mine[samples][links.target]
        number = row.cumsum(0) - 1  # among this rank's rows
        self.samples = {name: ids[mine[ids]] for name, ids in held.items()}
        self.links = Links(number[links.target[link]], number[links.estimate[link]])
        self.place = None if world == 1 else Place(
            row.nonzero().flatten(), link.nonzero().flatten(), {name: len(ids) / world for name, ids in held.items()}
        )  # fmt: skip
        self.held = [[name for name in stratum.modalities if name in self.parts] for stratum in store.strata]
        self.sizes = [int(mine[start:stop].sum()) for start, stop in itertools.pairwise(starts.tolist())]
        shape, dtype = _like(store)
        self.none = torch.empty(0, *shape, dtype=dtype)

    def to(self, device: torch.device) -> "Frame":
        """The same on a device."""
        frame = copy.copy(self)
        moved = Batch({"": self.none}, self.samples, self.links, place=self.place).to(device)
        frame.none, frame.samples, frame.links, frame.place = moved.latents[""], moved.samples, moved.links, moved.place
        return frame

    def fill(self, source: LatentStore | Resident, rows: Sequence[np.ndarray | Tensor], step: int = 0) -> Batch:
        """The batch of these rows of each stratum."""
        found = [source.gather(i, r, self.held[i]) for i, r in enumerate(rows)]
        latents = {
            name: torch.cat([found[i][name] for i in parts]) if parts else self.none
            for name, parts in self.parts.items()
        }
        return Batch(latents, self.samples, self.links, step, self.place)


def _like(store: LatentStore) -> tuple[Sequence[int], torch.dtype]:
    name = next(iter(store.fields))
    latent = store.gather(next(i for i, s in enumerate(store.strata) if name in s.modalities), np.arange(0), [name])[
        name
    ]
    return latent.shape[1:], latent.dtype
