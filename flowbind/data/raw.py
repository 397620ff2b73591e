"""Raw samples of one modality, prepared once and kept in memory, to train a codec or judge."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from flowbind.data.loading import TimedLoader
from flowbind.data.manifest import (
    Manifest,
    Sample,
    describe_fault,
    leave_out,
    refuse_bad,
)
from flowbind.data.mixture import Kind, Mixture, step_numbers
from flowbind.data.remote import brought
from flowbind.modality import Modality
from flowbind.progress import Progress, track
from flowbind.readers import check_readers
from flowbind.registry import installed, name_of
from flowbind.trainer import Connected

OPTION = "--data.skip_bad"  # how many bad samples may be left out


class RawBatch(NamedTuple):
    """A batch for a codec in training, or one rank's part of it: n samples.

    Attributes:
        inputs: Training inputs of the codec, each with shape (n, *).
        labels: Number of each factor's value, int64 with shape (n, factors), -1 where a sample has
            none.
        rows: Number of each sample in the global batch, int64 with shape (n,).
        step: Number of the batch in its sequence; with a seed and a row it decides what is drawn.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    rows: Tensor
    step: int

    @classmethod
    def of(
        cls,
        inputs: Sequence[Tensor],
        labels: Tensor | None = None,
        step: int = 0,
    ) -> "RawBatch":
        """A whole batch; without labels there are no factors."""
        count = len(inputs[0])
        if labels is None:
            labels = torch.empty(count, 0, dtype=torch.long)
        rows = torch.arange(count)
        return cls(tuple(inputs), labels, rows, step)


@runtime_checkable
class OnRaw(Protocol):
    """What is trained on raw samples.

    Attributes:
        kind: What it trains, such as `codec`.
        subject: The codec or judge, which makes training inputs of samples.
        least_batch: Fewest samples of a batch.
    """

    kind: ClassVar[str]

    @property
    def subject(self) -> Any: ...

    @property
    def least_batch(self) -> int: ...


class RawDataModule(LightningDataModule):
    """Every sample of a manifest that has the modality, kept in memory.

    Each is prepared once by the codec or judge in training. Raw samples are read as it asks for
    them, and not kept. Which of them make up a batch is a function of the seed and the step alone;
    each epoch is a permutation, and of several processes each has a part of every batch.

    Args:
        modality: Modality that reads the samples; its own codec is left alone.
        train: Manifest to train on.
        val: Manifest to validate on.
        batch_size: Samples in a global batch, over all devices; all of them where there are fewer.
        seed: Seed of the order of samples.
        skip_bad: Samples of each manifest, at most, that may be left out because they cannot be
            read, or give numbers that are not finite; they are listed. Above 0 every sample is read
            once more, to find them.
    """

    trainer: Connected[object]

    # `inputs` do, by their content.
    decides_nothing: ClassVar = (
        "train",
        "val",
        "skip_bad",
    )

    def __init__(
        self,
        modality: Modality,
        train: str,
        val: str,
        batch_size: int = 128,
        seed: int = 0,
        skip_bad: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("skip_bad", skip_bad, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")

        self.modality = modality
        self.train = train
        self.val = val
        self.batch_size = batch_size
        self.seed = seed
        self.skip_bad = skip_bad
        self.classes: dict[str, list[str]] = {}  # values of each labelled factor
        self.parts: dict[str, TensorDataset] = {}
        self.lines: dict[str, Tensor] = {}  # of the manifest, from 0, samples only

    def inputs(self, module: LightningModule) -> list[Path]:
        """The files that decide what a module trains on."""
        return [brought(self.train)]

    def setup(self, stage: str) -> None:
        if self.parts:
            return

        self.modality.check_libraries()
        name = name_of("modalities", type(self.modality))
        known = [*installed("modalities"), name]
        manifests = {
            "train": Manifest.read(self.train, known),
            "val": Manifest.read(self.val, known),
        }
        lines = {}
        for part, manifest in manifests.items():
            manifest.bring({name: self.modality})
            lines[part] = _lines(manifest, name)
        self._check_size(len(lines["train"]))

        values: dict[str, set[str]] = {}
        for sample in manifests["train"].samples:
            for factor, value in sample.labels.items():
                known_values = values.setdefault(factor, set())
                known_values.add(value)

        for factor in sorted(values):
            self.classes[factor] = sorted(values[factor])

        for part, manifest in manifests.items():
            files = []
            for line in lines[part]:
                files.append(manifest.samples[line].values[name])
            check_readers(
                name,
                self.modality,
                files,
                what=str(manifest.path),
                most=self.skip_bad,
                option=OPTION,
            )

        for part, manifest in manifests.items():
            self.lines[part], inputs = self._load(manifest, lines[part], name)
            samples = [manifest.samples[line] for line in self.lines[part]]
            labels = self._labels(samples)
            self.parts[part] = TensorDataset(*inputs, labels)

        self._check_size(len(self.lines["train"]))

    def _check_size(self, samples: int) -> None:
        """Refuses batches that are too small, before samples are read.

        Raises:
            ValueError: a device would have no sample, or a batch no statistics.
        """
        size = min(self.batch_size, samples)
        devices = self.trainer.world_size
        least = max(self._training.least_batch, devices)
        if size < least:
            reason = "a spread is taken over one"
            if devices == least:
                reason = f"{devices} devices share one"
            raise ValueError(
                f"a batch has {size} samples (batch_size {self.batch_size}, {samples} in "
                f"{self.train}), and at least {least} are needed, for {reason}; raise batch_size, "
                "or give more samples"
            )

    def raws(self, part: str, count: int) -> list[Any]:
        """The first raw samples of `train` or `val`, at most `count` loaded ones, read again."""
        name = name_of("modalities", type(self.modality))
        known = [*installed("modalities"), name]
        manifest = Manifest.read(getattr(self, part), known)
        raws = []
        for line in self.lines[part][:count]:
            sample = manifest.samples[line]
            raws.append(manifest.read_raw(sample, name, self.modality))
        return raws

    def _load(
        self,
        manifest: Manifest,
        lines: list[int],
        name: str,
    ) -> tuple[Tensor, list[Tensor]]:
        """The lines of the good samples, with shape (n,), and the codec's training inputs of these.

        Raises:
            ValueError: more samples are bad than may be left out.
        """
        bad: list[str] = []
        if self.skip_bad:
            lines = self._readable(manifest, lines, name, bad)
        samples = [manifest.samples[line] for line in lines]
        inputs = self._prepare(manifest, samples, name)

        # Of a cloud with one such point, most steps would draw others.
        is_finite = [part.isfinite().flatten(1).all(1) for part in inputs]
        finite = torch.stack(is_finite).all(0)
        for row in (~finite).nonzero().flatten().tolist():
            what = f"sample '{samples[row].id}' of {manifest.path}"
            bad.append(
                f"the {self._training.kind} of '{name}' makes numbers of it that "
                f"are not finite ({what})"
            )

        leave_out(manifest.path, bad, self.skip_bad, OPTION)

        if not finite.all():
            inputs = [part[finite] for part in inputs]
        good = torch.tensor(lines)[finite]
        return good, list(inputs)

    def _prepare(
        self,
        manifest: Manifest,
        samples: Sequence[Sample],
        name: str,
    ) -> Sequence[Tensor]:
        """The training inputs that the codec in training makes of samples, each with shape (n, *).

        Raises:
            ValueError: a sample cannot be read, or the codec fails.
        """
        training = self._training
        device = self.trainer.strategy.root_device
        subject = training.subject.to(device)  # it may embed samples

        # Whatever is drawn on the way decides no first weights.
        devices = [device] if device.type == "cuda" else []
        description = f"reading {manifest.path.name}"
        progress = Progress(description, len(samples), "samples")
        with torch.random.fork_rng(devices), closing(progress):
            raws = Raws(manifest, samples, name, self.modality, progress)
            try:
                return subject.training_inputs(raws)
            except (ValueError, OSError, MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                # Of a plugin, which does not say which sample it was.
                fault = describe_fault(error)
                raise ValueError(
                    f"the {training.kind} of '{name}' cannot prepare it: {fault} "
                    f"(at sample '{raws.last}' of {manifest.path}, or one just before)"
                ) from error

    def _readable(
        self,
        manifest: Manifest,
        lines: list[int],
        name: str,
        bad: list[str],
    ) -> list[int]:
        """Those of the lines whose samples can be read; what is wrong with others joins `bad`.

        Raises:
            ValueError: more of them are bad than may be left out, or none can be read.
        """
        readable = []
        description = f"looking for bad samples in {manifest.path.name}"
        for line in track(lines, description, unit="samples"):
            try:
                sample = manifest.samples[line]
                manifest.read_raw(sample, name, self.modality)
                readable.append(line)
            except ValueError as error:
                bad.append(str(error))
                refuse_bad(bad, self.skip_bad, OPTION)

        if not readable:
            raise ValueError(
                f"{manifest.path}: none of its samples can be read, such as {bad[0]}"
            )

        return readable

    def _labels(self, samples: Sequence[Sample]) -> Tensor:
        """The number of each factor's value, with shape (n, number of factors), -1 for none."""
        columns = []
        for factor, values in self.classes.items():
            numbers = {value: number for number, value in enumerate(values)}
            column = []
            for sample in samples:
                value = sample.labels.get(factor, "")
                column.append(numbers.get(value, -1))
            columns.append(column)

        table = torch.tensor(columns, dtype=torch.long)
        table = table.reshape(len(columns), len(samples))
        return table.T.contiguous()

    @property
    def _share(self) -> tuple[int, int]:
        """Which part of a batch this process has: rank and number of ranks."""
        return self.trainer.global_rank, self.trainer.world_size

    @property
    def _training(self) -> OnRaw:
        """What is trained.

        Raises:
            ValueError: it is trained on no raw samples.
        """
        module = self.trainer.lightning_module
        if not isinstance(module, OnRaw):
            raise ValueError(
                f"raw samples train a codec or a judge, and {type(module).__name__} has none; "
                "choose other data, or the training of one"
            )
        return module

    def train_dataloader(self) -> TimedLoader:
        rank, world = self._share
        self.steps = Steps(
            self.parts["train"],
            self.lines["train"],
            self.batch_size,
            self.seed,
            rank=rank,
            world=world,
            period=self.trainer.overfit_batches,
        )
        self.begin_at(self.trainer.global_step)

        # A generator of its own: first weights are drawn from torch's global one.
        return TimedLoader(self.steps, batch_size=None, generator=torch.Generator())

    def kinds(self) -> dict[str, Kind]:
        """The only kind of samples in a training batch, once it is loaded."""
        name = name_of("modalities", type(self.modality))
        mixture = self.steps.mixture
        return {name: Kind(mixture.rows[0], mixture.shares[0])}

    def begin_at(self, step: int) -> None:
        """Sets the step at which the next pass begins, as in `LatentDataModule`."""
        self.steps.first = step * self.trainer.accumulate_grad_batches

    def val_dataloader(self) -> DataLoader:
        rows = Rows(self.parts["val"], self.batch_size, *self._share)
        return DataLoader(rows, batch_size=None, generator=torch.Generator())


def _lines(manifest: Manifest, name: str) -> list[int]:
    """The lines of a manifest (from 0, samples only) whose samples have a modality.

    Raises:
        ValueError: there is none.
    """
    lines = []
    for line, sample in enumerate(manifest.samples):
        if name in sample.values:
            lines.append(line)
    if not lines:
        raise ValueError(
            f"{manifest.path}: no sample has the modality '{name}', which is to be trained on"
        )
    return lines


class Raws(Sequence):
    """The raw samples of one modality, each read when it is asked for, which `progress` counts.

    Attributes:
        last: Id of the sample that was read last.

    Raises:
        ValueError: on reading, a sample that is missing or damaged; one line that names it.
    """

    def __init__(
        self,
        manifest: Manifest,
        samples: Sequence[Sample],
        name: str,
        modality: Modality,
        progress: Progress,
    ) -> None:
        self.manifest = manifest
        self.samples = samples
        self.name = name
        self.modality = modality
        self.progress = progress
        self.last = ""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, which: int | slice) -> Any:
        if isinstance(which, slice):
            numbers = range(len(self))[which]
            return [self[number] for number in numbers]

        sample = self.samples[which]
        self.last = sample.id
        try:
            raw = self.manifest.read_raw(sample, self.name, self.modality)
        except ValueError as error:
            refuse_bad([str(error)], 0, OPTION)

        self.progress.advance()
        return raw


class Steps(IterableDataset):
    """The endless sequence of training batches, from one step on.

    Args:
        samples: All samples, prepared; the labels last.
        lines: Line of each in the manifest, from 0.
        size: Samples in a global batch.
        seed: Seed of the order.
        first: Step to begin with.
        rank: Process whose part of each batch this is: every world-th sample.
        world: Number of processes.
        period: Number of steps that are repeated; 0 for none.
    """

    def __init__(
        self,
        samples: TensorDataset,
        lines: Tensor,
        size: int,
        seed: int,
        first: int = 0,
        rank: int = 0,
        world: int = 1,
        period: float = 0,
    ) -> None:
        self.samples = samples
        self.from_line = lines
        rows = len(samples)
        share = min(size, rows)
        self.mixture = Mixture([rows], [share], seed)
        self.first = first
        self.rank = rank
        self.world = world
        self.period = period

    def at(self, step: int) -> RawBatch:
        """The batch of one step."""
        chosen = self._chosen(step)
        *inputs, labels = self.samples[chosen]
        numbers = torch.arange(len(chosen))
        rows = self.rank + self.world * numbers
        return RawBatch(tuple(inputs), labels, rows, step)

    def lines(self, step: int) -> Tensor:
        """The line in the manifest (from 0, samples only) of each row of a step's batch."""
        return self.from_line[self._chosen(step)]

    def _chosen(self, step: int) -> Tensor:
        (numbers,) = self.mixture.batch(step, self.rank, self.world)
        return torch.from_numpy(numbers)

    def __iter__(self) -> Iterator[RawBatch]:
        steps = step_numbers(self.first, period=self.period)
        return map(self.at, steps)


class Rows(IterableDataset):
    """Every sample once, in order, for validation; a rank has every world-th of each batch."""

    def __init__(
        self,
        samples: TensorDataset,
        size: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.samples = samples
        self.size = size
        self.rank = rank
        self.world = world

    def __iter__(self) -> Iterator[RawBatch]:
        for step, start in enumerate(range(0, len(self.samples), self.size)):
            size = min(self.size, len(self.samples) - start)
            rows = torch.arange(self.rank, size, self.world)
            *inputs, labels = self.samples[start + rows]
            yield RawBatch(tuple(inputs), labels, rows, step)
