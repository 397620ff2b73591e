"""Raw samples of one modality, prepared once and kept in memory, for training its codec."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from flowbind.manifest import Manifest, Sample
from flowbind.modality import Modality
from flowbind.progress import Progress
from flowbind.registry import installed, name_of


class RawDataModule(LightningDataModule):
    """Every sample of a manifest that has the modality, prepared once by the codec in training and kept in memory.

    Raw samples are read as the codec asks for them, and not kept.

    A batch is a tuple of tensors: the codec's training inputs, each with shape (B, *), then the labels, with shape
    (B, number of factors), -1 where a sample has none.

    Args:
        modality: how samples are read; the codec is the one that the module trains.
        train: manifest to train on.
        val: manifest to validate on.
        batch_size: B.
        seed: of the order of samples.
    """

    def __init__(self, modality: Modality, train: str, val: str, batch_size: int = 128, seed: int = 0) -> None:
        super().__init__()
        self.modality, self.train, self.val, self.batch_size, self.seed = modality, train, val, batch_size, seed
        self.classes: dict[str, list[str]] = {}  # values of each labelled factor
        self.parts: dict[str, TensorDataset] = {}

    def inputs(self, module: LightningModule) -> list[Path]:
        """The files that decide what a module trains on."""
        return [Path(self.train), Path(self.val)]

    def setup(self, stage: str) -> None:
        if self.parts:
            return
        name = name_of("modalities", type(self.modality))
        known = [*installed("modalities"), name]
        manifests = {part: Manifest.read(path, known) for part, path in (("train", self.train), ("val", self.val))}
        values: dict[str, set[str]] = {}
        for sample in manifests["train"].samples:
            for factor, value in sample.labels.items():
                values.setdefault(factor, set()).add(value)
        self.classes = {factor: sorted(found) for factor, found in sorted(values.items())}
        self.parts = {part: self._load(manifest, name) for part, manifest in manifests.items()}

    def _load(self, manifest: Manifest, name: str) -> TensorDataset:
        samples = [sample for sample in manifest.samples if name in sample.values]
        if not samples:
            raise ValueError(f"{manifest.path}: no sample has the modality '{name}', whose codec is to be trained")
        codec = self.trainer.lightning_module.codec.to(self.trainer.strategy.root_device)  # it may embed samples
        index = {factor: {value: i for i, value in enumerate(found)} for factor, found in self.classes.items()}
        labels = [[index[factor].get(sample.labels.get(factor, ""), -1) for factor in index] for sample in samples]
        with closing(Progress(f"reading {manifest.path.name}", len(samples), "samples")) as progress:
            inputs = codec.training_inputs(Raws(manifest, samples, name, self.modality, progress))
        return TensorDataset(*inputs, torch.tensor(labels, dtype=torch.long).reshape(len(samples), -1))

    def train_dataloader(self) -> DataLoader:
        order = torch.Generator().manual_seed(self.seed)
        batches = _Batches(self.parts["train"], self.batch_size, order)
        return DataLoader(batches, batch_size=None, generator=torch.Generator())

    def val_dataloader(self) -> DataLoader:
        batches = _Batches(self.parts["val"], self.batch_size, None)
        return DataLoader(batches, batch_size=None, generator=torch.Generator())  # not the one that weights hang on


class Raws(Sequence):
    """The raw samples of one modality, each read when it is asked for, which `progress` counts.

    Raises:
        ValueError: on reading, a sample that is missing or damaged; one line that names it.
    """

    def __init__(
        self, manifest: Manifest, samples: Sequence[Sample], name: str, modality: Modality, progress: Progress
    ) -> None:
        self.manifest, self.samples, self.name, self.modality = manifest, samples, name, modality
        self.progress = progress

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, which: int | slice) -> Any:
        if isinstance(which, slice):
            return [self[number] for number in range(*which.indices(len(self)))]
        raw = self.manifest.read_raw(self.samples[which], self.name, self.modality)
        self.progress.advance()
        return raw


class _Batches(torch.utils.data.IterableDataset):
    """Whole batches by one indexing each, shuffled if there is a generator."""

    def __init__(self, rows: TensorDataset, size: int, order: torch.Generator | None) -> None:
        self.rows, self.size, self.order = rows, min(size, len(rows)), order

    def __len__(self) -> int:
        return len(self.rows) // self.size if self.order else -(-len(self.rows) // self.size)

    def __iter__(self):
        count = len(self.rows)
        order = torch.arange(count) if self.order is None else torch.randperm(count, generator=self.order)
        for i in range(len(self)):
            yield self.rows[order[i * self.size : (i + 1) * self.size]]


def labels_of(batch: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
    """Splits a batch into the codec's training inputs and the labels."""
    return batch[:-1], batch[-1]
