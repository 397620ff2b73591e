"""Batches of cached latents: store -> constant composition -> batch."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from flowbind.batch import Batch
from flowbind.data.batches import Numbers, Rows, Steps
from flowbind.data.manifest import Manifest
from flowbind.data.mixture import Mixture, apportion
from flowbind.data.resident import Resident, RowNumbers, fits
from flowbind.data.store import MANIFEST, LatentStore
from flowbind.method import Method
from flowbind.modality import Modality
from flowbind.registry import nearest

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

    decides_nothing: ClassVar = (
        "manifests",
        "store",
        "workers",
        "device_resident",
    )  # `inputs` do, by their content

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

    def open(
        self, split: str, modalities: Mapping[str, Modality], needed: Collection[str] = ()
    ) -> LatentStore:
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
            raise ValueError(
                f"the recipe has no manifest of the split '{split}'; add it to data.manifests"
            )
        store = LatentStore(self.folder(split))
        absent = self._absent(
            split, modalities, [name for name in needed if name not in store.fields]
        )
        if absent:
            raise ValueError(take_out(self.manifests[split], absent))
        asked = [name for name in modalities if name in store.fields or name in needed]
        store.check({name: modalities[name].codec.fingerprint() for name in asked})
        store.check_source(self.manifests[split])
        return store

    def _absent(
        self, split: str, modalities: Mapping[str, Modality], names: Sequence[str]
    ) -> list[str]:
        """Those of the names that no sample of a split's manifest has, whatever was encoded of it."""
        path = self.manifests[split]
        if not names or not path.is_file():
            return []
        manifest = Manifest.read_for(path, modalities)
        return [
            name for name in names if not any(name in sample.values for sample in manifest.samples)
        ]

    def mixture(self, store: LatentStore, method: Method) -> Mixture:
        """The sampler over a store's strata; those that teach the method nothing get no rows.

        Raises:
            ValueError: a weight for a kind of samples that the store does not have, or a batch too small.
        """
        teaching = [method.trains_on(stratum.modalities) for stratum in store.strata]
        rows = {
            "+".join(s.modalities): s.rows
            for s, teaches in zip(store.strata, teaching, strict=True)
            if teaches
        }
        wanted = {
            "+".join(sorted(kind.split("+"))): weight
            for kind, weight in (self.weights or {}).items()
        }
        found = {"+".join(sorted(kind.split("+"))): kind for kind in rows}
        for kind in wanted:
            if kind not in found:
                raise ValueError(
                    f"data.weights: no samples with exactly the modalities '{kind}'; {nearest(kind, found)}"
                )
        weights = [wanted.get(kind, 1.0) if self.weights else rows[found[kind]] for kind in found]
        shares = iter(apportion(self.batch_size, weights))
        rows_of_all = [stratum.rows for stratum in store.strata]
        return Mixture(
            rows_of_all, [next(shares) if teaches else 0 for teaches in teaching], self.seed
        )

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
        self.steps = Steps(
            store,
            names,
            self.mixture(store, method),
            0,
            *self._share,
            self.trainer.overfit_batches,
            self._absent_from(store),
        )
        self.begin_at(self.trainer.global_step)
        resident = (
            fits(store, names, device) if self.device_resident == "auto" else self.device_resident
        )
        if resident:
            self.resident, self.frame = Resident(store, names, device), self.steps.frame.to(device)
        return DataLoader(
            Numbers(self.steps) if resident else self.steps,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),
        )

    def _absent_from(self, store: LatentStore) -> dict[str, Tensor]:
        """No latents of each modality that a store does not have, with shape (0, *shape)."""
        codecs = {name: m.codec for name, m in self._modalities.items() if name not in store.fields}
        return {name: torch.empty(0, *c.shape, dtype=c.dtype) for name, c in codecs.items()}

    def begin_at(self, step: int) -> None:
        """Where the next pass over the training batches begins: where `trainer.limit_train_batches` ends one, the next goes on."""
        self.steps.first = step * self.trainer.accumulate_grad_batches

    def on_after_batch_transfer(
        self, batch: Batch | RowNumbers | int, dataloader_idx: int
    ) -> Batch | int:
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
        rows = Rows(
            store,
            list(self._modalities),
            self.batch_size,
            *self._share,
            strata,
            self._absent_from(store),
        )
        return DataLoader(
            rows, batch_size=None, generator=torch.Generator()
        )  # nothing is drawn from torch's own

    def test_dataloader(self) -> DataLoader:
        self.open("test", self._modalities)
        return DataLoader(
            [0], batch_size=None
        )  # one step on each device, which evaluates its share


def take_out(manifest: Path, names: Sequence[str]) -> str:
    """What to do about modalities of a recipe that no sample of a manifest has."""
    which = " and ".join(f"'{name}'" for name in names)
    return f"{manifest}: no sample has {which}; take that out of model.modalities in the recipe, or add samples that have it"
