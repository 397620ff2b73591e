"""Batches of cached latents: store -> constant composition -> batch."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from flowbind.batch import Batch
from flowbind.data.batches import Numbers, Rows, Steps
from flowbind.data.loading import TimedLoader
from flowbind.data.manifest import Manifest
from flowbind.data.mixture import Kind, Mixture, apportion
from flowbind.data.remote import brought, place_of
from flowbind.data.remote_store import open_store
from flowbind.data.resident import Resident, RowNumbers, fits
from flowbind.data.store import MANIFEST, LatentStore
from flowbind.method import Method
from flowbind.modality import Modality
from flowbind.registry import did_you_mean
from flowbind.trainer import Connected

SPLITS = ("train", "val", "test")


class OnLatents(Protocol):
    """What is trained on latents.

    Attributes:
        method: Method that is trained.
        inputs: Files that decide what is trained, besides the data.
    """

    method: Method

    @property
    def inputs(self) -> list[Path]: ...


class LatentDataModule(LightningDataModule):
    """Latents of raw samples, from a store that `flowbind encode` made.

    Args:
        manifests: Manifests of raw samples, by split (train, val, test); val and test may be left
            out. Paths, or addresses in object storage, such as `s3://bucket/train.jsonl`.
        store: Folder of the latent stores, each split a folder in it; or a folder for each split.
            Paths, or addresses.
        batch_size: Samples in a global batch, over all devices.
        weights: Relative share of a kind of samples in a batch, by its modalities (`text+image:
            2`); 1 where not named. By default kinds are drawn in proportion to their number of
            samples.
        seed: Seed of the order of samples.
        workers: Processes that gather training batches. None is fastest from a local disk
            (docs/performance.md); some hide the delays of a network's disk.
        device_resident: Whether the training latents are kept on the device, so that loading gives
            row numbers alone; `auto`: on a GPU that has room for them.
    """

    trainer: Connected[object]

    # `inputs` do, by their content.
    decides_nothing: ClassVar = ("manifests", "store", "workers", "device_resident")

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
            splits = ", ".join(SPLITS)
            raise ValueError(f"manifests names no split; allowed: {splits}")

        for split in manifests:
            if split not in SPLITS:
                hint = did_you_mean(split, SPLITS)
                raise ValueError(f"no split '{split}'; {hint}")

        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")

        for name, value in (("seed", seed), ("workers", workers)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, not {value}")

        # Of what lies in object storage, where the copies are.
        self.manifests = {split: place_of(path) for split, path in manifests.items()}
        self.store = store
        self.batch_size = batch_size
        self.weights = weights
        self.seed = seed
        self.workers = workers
        self.device_resident = device_resident

    def folder(self, split: str) -> Path:
        """Where a split's latents are, or their copies."""
        if isinstance(self.store, dict):
            return place_of(self.store[split])
        return place_of(self.store) / split

    def inputs(self, module: OnLatents) -> list[Path]:
        """The files that decide what a module trains on."""
        method = module.method
        self.open("train", method.modalities, method.trained)
        return [self.folder("train") / MANIFEST, *module.inputs]

    def open(
        self,
        split: str,
        modalities: Mapping[str, Modality],
        needed: Collection[str] = (),
    ) -> LatentStore:
        """Opens a split's store, and compares it with the codecs and with the split's manifest.

        Args:
            split: Name of the split: train, val or test.
            modalities: Modalities by name; the store may lack some.
            needed: Names of those that it may not lack.

        Raises:
            FileNotFoundError: there is no store.
            ValueError: it was made by other codecs or from another manifest.
        """
        if split not in self.manifests:
            raise ValueError(
                f"the recipe has no manifest of the split '{split}'; add it to data.manifests"
            )

        store = open_store(self.folder(split))
        with suppress(FileNotFoundError):  # a store is enough
            brought(self.manifests[split])
        missing = [name for name in needed if name not in store.fields]
        absent = self._absent(split, modalities, missing)
        if absent:
            raise ValueError(take_out(self.manifests[split], absent))

        fingerprints = {}
        for name, modality in modalities.items():
            if name in store.fields or name in needed:
                fingerprints[name] = modality.codec.fingerprint()

        store.check(fingerprints)
        store.check_source(self.manifests[split])
        return store

    def _absent(
        self,
        split: str,
        modalities: Mapping[str, Modality],
        names: Sequence[str],
    ) -> list[str]:
        """Those of the names that no sample of a split's manifest has, whatever was encoded."""
        path = self.manifests[split]
        if not names or not path.is_file():
            return []

        present: set[str] = set()
        for sample in Manifest.read_for(path, modalities).samples:
            present.update(sample.values)
        return [name for name in names if name not in present]

    def mixture(self, store: LatentStore, method: Method) -> Mixture:
        """The sampler over a store's strata; those that teach the method nothing get no rows.

        Raises:
            ValueError: a weight for a kind of samples that the store does not have, or a batch too
                small.
        """
        # The strata that teach, by their kind of samples.
        numbers = {}
        for number, stratum in enumerate(store.strata):
            if method.trains_on(stratum.modalities):
                numbers[kind_of(stratum.modalities)] = number

        given_weights = {}
        for names, weight in (self.weights or {}).items():
            given_weights[kind_of(names.split("+"))] = weight
        for kind in given_weights:
            if kind not in numbers:
                raise ValueError(
                    f"data.weights: no samples with exactly the modalities '{kind}'; "
                    f"{did_you_mean(kind, numbers)}"
                )

        rows = [stratum.rows for stratum in store.strata]
        if self.weights:
            weights = [given_weights.get(kind, 1.0) for kind in numbers]
        else:
            weights = [rows[number] for number in numbers.values()]

        shares = [0] * len(rows)
        own_shares = apportion(self.batch_size, weights)
        for number, share in zip(numbers.values(), own_shares, strict=True):
            shares[number] = share
        return Mixture(rows, shares, self.seed)

    @property
    def _share(self) -> tuple[int, int]:
        """Which part of a batch this process has: rank and number of ranks."""
        return self.trainer.global_rank, self.trainer.world_size

    @property
    def _method(self) -> Method:
        """The method that is trained.

        Raises:
            ValueError: none is.
        """
        module = self.trainer.lightning_module
        method = getattr(module, "method", None)
        if not isinstance(method, Method):
            raise ValueError(
                f"latents train a method, and {type(module).__name__} has none; choose other data, "
                "or flowbind.Training"
            )
        return method

    def train_dataloader(self) -> TimedLoader:
        method = self._method
        store = self.open("train", method.modalities, method.trained)
        names = list(method.modalities)
        rank, world = self._share
        self.steps = Steps(
            store,
            names,
            self.mixture(store, method),
            rank=rank,
            world=world,
            period=self.trainer.overfit_batches,
            absent=absent_from(store, method.modalities),
        )
        self.begin_at(self.trainer.global_step)

        device = self.trainer.strategy.root_device
        is_resident = self.device_resident
        if is_resident == "auto":
            is_resident = fits(store, names, device)
        if is_resident:
            self.resident = Resident(store, names, device)
            self.frame = self.steps.frame.to(device)

        return TimedLoader(
            Numbers(self.steps) if is_resident else self.steps,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),
        )

    def kinds(self) -> dict[str, Kind]:
        """The kinds of samples in a training batch, by their modalities, once it is loaded."""
        kinds = {}
        strata = self.steps.store.strata
        for stratum, share in zip(strata, self.steps.mixture.shares, strict=True):
            if share:
                kinds[kind_of(stratum.modalities)] = Kind(stratum.rows, share)
        return kinds

    def begin_at(self, step: int) -> None:
        """Sets the step at which the next pass over the training batches begins.

        Where `trainer.limit_train_batches` ends one pass, the next continues.
        """
        self.steps.first = step * self.trainer.accumulate_grad_batches

    def on_after_batch_transfer(
        self,
        batch: Batch | RowNumbers | int,
        dataloader_idx: int,
    ) -> Batch | int:
        if isinstance(batch, RowNumbers):
            rows = batch.rows.split(self.frame.sizes)
            return self.frame.fill(self.resident, rows, batch.step)
        return batch

    def sample(self, split: str, size: int) -> Batch:
        """A batch of all kinds of samples of a split that teach, by their number.

        Args:
            split: Name of the split.
            size: Samples, at most; at least one of each kind.

        Raises:
            ValueError: there is none.
        """
        method = self._method
        store = self.open(split, method.modalities)
        rows = [stratum.rows for stratum in store.strata]
        shares = [0] * len(rows)
        teaching = self._teaching(store, split)
        weights = [rows[number] for number in teaching]
        size = max(min(size, sum(weights)), len(teaching))
        for number, share in zip(teaching, apportion(size, weights), strict=True):
            shares[number] = share

        steps = Steps(
            store,
            list(method.modalities),
            Mixture(rows, shares, self.seed),
            absent=absent_from(store, method.modalities),
        )
        # A validation's autocast is around this, which takes no float16 beside bfloat16.
        with torch.autocast("cpu", enabled=False):
            return steps.at(0)

    def _teaching(self, store: LatentStore, split: str) -> list[int]:
        """The strata of a split's store that teach the method something.

        Raises:
            ValueError: there is none.
        """
        strata = []
        for number, stratum in enumerate(store.strata):
            if self._method.trains_on(stratum.modalities):
                strata.append(number)
        if not strata:
            raise ValueError(
                f"{self.manifests[split]}: no sample has the modalities that the method trains on; "
                "add some, or take the split out of data.manifests"
            )
        return strata

    def val_dataloader(self) -> DataLoader | list:
        if (
            "val" not in self.manifests
            and self.trainer.state.fn != TrainerFn.VALIDATING
        ):
            return []

        modalities = self._method.modalities
        store = self.open("val", modalities)
        strata = self._teaching(store, "val")
        rank, world = self._share
        rows = Rows(
            store,
            list(modalities),
            self.batch_size,
            rank=rank,
            world=world,
            strata=strata,
            absent=absent_from(store, modalities),
        )
        # A generator of its own: nothing is drawn from torch's global one.
        return DataLoader(rows, batch_size=None, generator=torch.Generator())

    def test_dataloader(self) -> DataLoader:
        self.open("test", self._method.modalities)
        # One step on each device evaluates its share.
        # Torch's types leave out that any sequence will do.
        return DataLoader([0], batch_size=None)  # type: ignore[arg-type]


def absent_from(
    store: LatentStore,
    modalities: Mapping[str, Modality],
) -> dict[str, Tensor]:
    """No latents of each modality that a store does not have, with shape (0, *shape)."""
    empty = {}
    for name, modality in modalities.items():
        if name not in store.fields:
            codec = modality.codec
            empty[name] = torch.empty(0, *codec.shape, dtype=codec.dtype)
    return empty


def kind_of(names: Iterable[str]) -> str:
    """A kind of samples, by the modalities that they have: `image+text`."""
    return "+".join(sorted(names))


def take_out(manifest: Path, names: Sequence[str]) -> str:
    """What to do about modalities of a recipe that no sample of a manifest has."""
    which = " and ".join(f"'{name}'" for name in names)
    return (
        f"{manifest}: no sample has {which}; take that out of model.modalities in the recipe, or "
        "add samples that have it"
    )
