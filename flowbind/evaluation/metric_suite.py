"""Metrics of record on generations: the features of what was made and of what it is compared with, then the figures.

Features of real samples do not depend on the model: they are computed once and kept beside the latent store, in a file
named by a hash of the metric, the data and which samples.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from flowbind.data.manifest import Manifest
from flowbind.data.store import MANIFEST, LatentStore
from flowbind.files import digest
from flowbind.metric import Metric, counted
from flowbind.modality import Modality
from flowbind.registry import name_of
from flowbind.tensors import save_tensors


class MetricSuite:
    """Metrics over all directions of one evaluation.

    Args:
        metrics: what judges.
        modalities: of the model, by name.
        directions: per direction, its sources and its target.
        manifest: of the test samples.
        lines: sample in the manifest of each of the n rows, with shape (n,).
        store: of their latents; features of real samples are kept in it, for as long as it stays the same.

    Raises:
        ValueError: fewer samples than a metric needs, or a metric that cannot be built: its weights or a package that
            it needs are not there.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        modalities: Mapping[str, Modality],
        directions: Mapping[Any, tuple[Sequence[str], str]],
        manifest: Manifest,
        lines: Tensor,
        store: LatentStore,
    ) -> None:
        self.modalities, self.manifest, self.lines, self.store = modalities, manifest, lines, store
        self.metrics = list(metrics)
        count = len(lines)
        self.kinds = (
            {name: name_of("modalities", type(m)) for name, m in modalities.items()}
            if self.metrics
            else {}
        )
        self.against: dict[
            tuple[Any, int], str
        ] = {}  # per direction and metric, the modality to compare with
        for direction, (sources, target) in directions.items():
            for number, metric in enumerate(self.metrics):
                if self.kinds[target] == metric.judges:
                    same = metric.against == metric.judges
                    found = (
                        [target]
                        if same
                        else [name for name in sources if self.kinds[name] == metric.against]
                    )
                    if found:
                        self.against[direction, number] = found[0]
        for metric in [
            self.metrics[number] for number in sorted({number for _, number in self.against})
        ]:
            if count < metric.minimum:
                raise ValueError(
                    f"{type(metric).__name__} needs at least {metric.minimum} test samples, there are {count}; "
                    "raise evaluation.limit, or leave the metric out"
                )
        wanted = sorted({(number, name) for (_, number), name in self.against.items()})
        self.references = {
            key: self._count_references(*key) for key in wanted
        }  # per real sample, shape (n,)
        # One sample tells the shape of the features, and shows what is missing before hours of work.
        found = {key: self._load(*key) for key in wanted}
        self.kept = {key for key, features in found.items() if features is not None}
        self.real = {
            key: self._room(*key, len(self._sample(key))) if held is None else held
            for key, held in found.items()
        }
        targets = {key: (key[1], directions[key[0]][1]) for key in self.against}
        rooms = {kind: self._room(*kind, count) for kind in set(targets.values())}
        self.made = {key: rooms[kind].clone() for key, kind in targets.items()}

    @property
    def missing(self) -> list[tuple[int, str]]:
        """Metric and modality of the real samples whose features are not kept yet."""
        return [key for key in self.real if key not in self.kept]

    def update_real(self, rows: Tensor) -> None:
        """Computes the features of the real samples of these rows, where they are not kept already."""
        for number, name in self.missing:
            counts = self.references[number, name]
            places = ranges(counts.cumsum(0) - counts, counts, rows)
            raws = (
                self._references(name, rows)
                if self.metrics[number].multi_reference
                else self._raws(name, rows)
            )
            self.real[number, name][places] = self._features(number, name, raws)

    def update(self, direction: Any, target: str, raws: Sequence[Any], rows: Tensor) -> None:
        """Computes the features of what was generated for these rows."""
        for number in range(len(self.metrics)):
            if (direction, number) in self.made:
                self.made[direction, number][rows] = self._features(number, target, raws)

    def compute(
        self, merge: Callable[[Tensor, Tensor], Tensor], keep: bool
    ) -> dict[Any, dict[str, float]]:
        """The figures of every direction, after the last step.

        Args:
            merge: makes one tensor of what all devices have seen; its second argument is the sample of each row.
            keep: whether this process writes the features of real samples down.
        """
        for key in self.missing:  # in the same order on all devices
            self.real[key] = merge(self.real[key], self._sample(key))
            if keep:
                self._save(*key)
        found: dict[Any, dict[str, float]] = {}
        for (direction, number), made in self.made.items():
            metric, key = self.metrics[number], (number, self.against[direction, number])
            sample = [self._sample(key)] if metric.multi_reference else []
            figures = metric.compute(merge(made, torch.arange(len(made))), self.real[key], *sample)
            found.setdefault(direction, {}).update(
                {counted(name, len(self.lines)): value for name, value in figures.items()}
            )
        return found

    def describe(self) -> list[dict[str, Any]]:
        """The metrics, as JSON."""
        return [metric.fingerprint() for metric in self.metrics]

    def _raws(self, name: str, rows: Tensor) -> list[Any]:
        samples = [self.manifest.samples[line] for line in self.lines[rows].tolist()]
        return [self.manifest.read_raw(sample, name, self.modalities[name]) for sample in samples]

    def _references(self, name: str, rows: Tensor) -> list[Any]:
        samples = [self.manifest.samples[line] for line in self.lines[rows].tolist()]
        modality = self.modalities[name]
        return [
            raw
            for sample in samples
            for raw in self.manifest.read_references(sample, name, modality)
        ]

    def _count_references(self, number: int, name: str) -> Tensor:
        if not self.metrics[number].multi_reference:
            return torch.ones(len(self.lines), dtype=torch.long)
        samples = [self.manifest.samples[line] for line in self.lines.tolist()]
        return torch.tensor([len(sample.all_references(name)) for sample in samples])

    def _sample(self, key: tuple[int, str]) -> Tensor:
        """The sample that each row of real features belongs to."""
        return torch.arange(len(self.lines)).repeat_interleave(self.references[key])

    @torch.no_grad()
    def _features(self, number: int, name: str, raws: Sequence[Any]) -> Tensor:
        return self.metrics[number].features(self.kinds[name], raws).cpu()

    def _room(self, number: int, name: str, rows: int) -> Tensor:
        """Zeros for the features of all rows."""
        one = self._features(number, name, self._raws(name, torch.tensor([0])))
        return torch.zeros(rows, *one.shape[1:], dtype=one.dtype)

    def _file(self, number: int, name: str) -> Path:
        chosen = [self.manifest.samples[line].id for line in self.lines.tolist()]
        decides = [
            self.metrics[number].fingerprint(),
            name,
            digest(self.store.folder / MANIFEST),
            chosen,
        ]
        name = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
        return self.store.folder / "features" / f"{name}.safetensors"

    def _load(self, number: int, name: str) -> Tensor | None:
        path = self._file(number, name)
        return load_file(path)["features"] if path.is_file() else None

    def _save(self, number: int, name: str) -> None:
        save_tensors({"features": self.real[number, name]}, self._file(number, name))


def ranges(starts: Tensor, counts: Tensor, rows: Tensor) -> Tensor:
    """The numbers `starts[row]` to `starts[row] + counts[row] - 1` of each row, one row after the other."""
    parts = [
        torch.arange(start, start + count)
        for start, count in zip(starts[rows], counts[rows], strict=True)
    ]
    return torch.cat(parts)
