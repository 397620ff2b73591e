"""Published metrics on generations: features of generated and of real samples, then the values.

Features of real samples do not depend on the model: they are computed once and kept beside the
latent store, in a file named by a hash of the metric, the data and which samples.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from flowbind.data.manifest import Manifest, Sample
from flowbind.data.store import MANIFEST, LatentStore
from flowbind.files import digest
from flowbind.metric import Metric, counted
from flowbind.modality import Modality
from flowbind.progress import is_first_process, say
from flowbind.registry import did_you_mean, installed, name_of
from flowbind.tensors import save_tensors

Key = tuple[int, str]  # number of a metric, and the modality whose features it takes


class MetricSuite:
    """Metrics over all directions of one evaluation: `update_real` and `update`, then `compute`.

    Args:
        metrics: Metrics that judge.
        modalities: The model's modalities, by name.
        directions: Per direction, its sources and its target.
        manifest: Manifest of the test samples.
        lines: Sample in the manifest of each of the n rows, with shape (n,).
        store: Store of their latents; features of real samples are kept in it, for as long as it
            stays the same.

    Attributes:
        against: Per direction and metric that judges it, the modality it is compared with.
        stored: Keys of real features that the store has already.
        real: Per key, features of real samples, with shape (references, *).
        generated: Per direction and metric, features of generations, with shape (n, *).

    Raises:
        ValueError: a metric of a modality that nobody has, fewer samples than one needs, or one that
            cannot be built: its weights or a package that it needs are not there.
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
        self.metrics = list(metrics)
        self.modalities = modalities
        self.manifest = manifest
        self.lines = lines
        self.store = store

        self.kinds: dict[str, str] = {}
        if self.metrics:
            for name, modality in modalities.items():
                self.kinds[name] = name_of("modalities", type(modality))
        self._check_names()
        self.against = self._modalities_against(directions)
        self._check_count()

        judging: set[Key] = set()
        for (_, number), name in self.against.items():
            judging.add((number, name))
        keys = sorted(judging)
        self.references = {key: self._count_references(*key) for key in keys}

        # One sample gives the shape of features, and shows what is missing before hours of work.
        self.stored: set[Key] = set()
        self.real: dict[Key, Tensor] = {}
        features_of = {key: self._load(*key) for key in keys}
        for key, features in features_of.items():
            if features is None:
                self.real[key] = self._room(*key, len(self._sample(key)))
            else:
                self.stored.add(key)
                self.real[key] = features

        # Features of generations, of one shape for each metric and target.
        self.generated: dict[tuple[Any, int], Tensor] = {}
        rooms: dict[Key, Tensor] = {}
        for direction, number in self.against:
            _, target = directions[direction]
            if (number, target) not in rooms:
                rooms[number, target] = self._room(number, target, len(lines))
            self.generated[direction, number] = rooms[number, target].clone()

    def _check_names(self) -> None:
        """Refuses metrics of modalities that nobody has; what the model lacks is no mistake."""
        known = {*self.kinds.values(), *installed("modalities")}
        for metric in self.metrics:
            for name in (metric.judges, metric.against):
                if name not in known:
                    raise ValueError(
                        f"{type(metric).__name__}: no modality '{name}'; "
                        f"{did_you_mean(name, known)}"
                    )

    def _modalities_against(
        self,
        directions: Mapping[Any, tuple[Sequence[str], str]],
    ) -> dict[tuple[Any, int], str]:
        """Per direction and metric that can judge it, the modality to compare with."""
        against = {}
        for direction, (sources, target) in directions.items():
            for number, metric in enumerate(self.metrics):
                if self.kinds[target] != metric.judges:
                    continue

                candidates = sources
                if metric.against == metric.judges:
                    candidates = [target]
                for name in candidates:
                    if self.kinds[name] == metric.against:
                        against[direction, number] = name
                        break
        return against

    def _check_count(self) -> None:
        """Refuses fewer samples than a metric needs, and says which metrics judge nothing."""
        count = len(self.lines)
        judging = {number for _, number in self.against}
        for number, metric in enumerate(self.metrics):
            if number not in judging:
                if is_first_process():
                    say(idle(metric))
                continue
            if count < metric.minimum:
                raise ValueError(
                    f"{type(metric).__name__} needs at least {metric.minimum} test samples, "
                    f"there are {count}; raise evaluation.limit, or leave the metric out"
                )

    @property
    def missing(self) -> list[Key]:
        """Metric and modality of the real samples whose features are not stored yet."""
        return [key for key in self.real if key not in self.stored]

    def update_real(self, rows: Tensor) -> None:
        """Computes the features of the real samples of these rows, where they are not stored."""
        for number, name in self.missing:
            if self.metrics[number].multi_reference:
                raws = self._references(name, rows)
            else:
                raws = self._raws(name, rows)

            counts = self.references[number, name]
            positions = ranges(counts.cumsum(0) - counts, counts, rows)
            self.real[number, name][positions] = self._features(number, name, raws)

    def update(
        self,
        direction: Any,
        target: str,
        raws: Sequence[Any],
        rows: Tensor,
    ) -> None:
        """Computes the features of what was generated for these rows.

        Args:
            direction: Direction that generated them.
            target: Modality that they are of.
            raws: Raw samples, one for each row.
            rows: Positions of the samples, in [0, n), with shape (B,).
        """
        for number in range(len(self.metrics)):
            if (direction, number) in self.generated:
                features = self._features(number, target, raws)
                self.generated[direction, number][rows] = features

    def gather(self, merge: Callable[[Tensor, Tensor], Tensor], keep: bool) -> None:
        """Makes all features whole, once, after the last step.

        Args:
            merge: Function that makes one tensor of what all devices have seen; its second argument
                is the sample of each row.
            keep: Whether this process writes the features of real samples down.
        """
        # In the same order on all devices.
        for key in self.missing:
            self.real[key] = merge(self.real[key], self._sample(key))
            if keep:
                self._save(*key)

        for place, features in self.generated.items():
            self.generated[place] = merge(features, torch.arange(len(features)))

    def compute(
        self,
        merge: Callable[[Tensor, Tensor], Tensor],
        keep: bool,
    ) -> dict[Any, dict[str, float]]:
        """The values of every direction, after the last step; arguments as for `gather`."""
        self.gather(merge, keep)

        results: dict[Any, dict[str, float]] = {}
        for (direction, number), features in self.generated.items():
            metric = self.metrics[number]
            key = number, self.against[direction, number]
            sample = [self._sample(key)] if metric.multi_reference else []

            values = metric.compute(features, self.real[key], *sample)
            result = results.setdefault(direction, {})
            for name, value in values.items():
                result[counted(name, len(self.lines))] = value
        return results

    def describe(self) -> list[dict[str, Any]]:
        """The metrics, as JSON."""
        return [metric.fingerprint() for metric in self.metrics]

    def _samples(self, lines: Tensor) -> list[Sample]:
        return [self.manifest.samples[line] for line in lines.tolist()]

    def _raws(self, name: str, rows: Tensor) -> list[Any]:
        """Real samples of a modality, one for each row."""
        modality = self.modalities[name]
        samples = self._samples(self.lines[rows])
        return [self.manifest.read_raw(sample, name, modality) for sample in samples]

    def _references(self, name: str, rows: Tensor) -> list[Any]:
        """All references of these rows' samples, one sample's after another's."""
        modality = self.modalities[name]
        raws = []
        for sample in self._samples(self.lines[rows]):
            raws += self.manifest.read_references(sample, name, modality)
        return raws

    def _count_references(self, number: int, name: str) -> Tensor:
        """The number of real samples that each row is compared with, with shape (n,)."""
        if not self.metrics[number].multi_reference:
            return torch.ones(len(self.lines), dtype=torch.long)
        samples = self._samples(self.lines)
        return torch.tensor([len(sample.all_references(name)) for sample in samples])

    def _sample(self, key: Key) -> Tensor:
        """The row that each real sample's features belong to, with shape (references,)."""
        return torch.arange(len(self.lines)).repeat_interleave(self.references[key])

    @torch.no_grad()
    def _features(
        self,
        number: int,
        name: str,
        raws: Sequence[Any],
    ) -> Tensor:
        return self.metrics[number].features(self.kinds[name], raws).cpu()

    def _room(self, number: int, name: str, rows: int) -> Tensor:
        """Zeros for the features of all rows."""
        first = self._raws(name, torch.tensor([0]))
        features = self._features(number, name, first)
        return torch.zeros(rows, *features.shape[1:], dtype=features.dtype)

    def _file(self, number: int, name: str) -> Path:
        """Where features of real samples are stored: a file named by all that decides them."""
        decisive = [
            self.metrics[number].fingerprint(),
            name,
            digest(self.store.folder / MANIFEST),
            [sample.id for sample in self._samples(self.lines)],
        ]
        content = json.dumps(decisive, sort_keys=True)
        stem = hashlib.sha256(content.encode()).hexdigest()[:32]
        return self.store.folder / "features" / f"{stem}.safetensors"

    def _load(self, number: int, name: str) -> Tensor | None:
        path = self._file(number, name)
        return load_file(path)["features"] if path.is_file() else None

    def _save(self, number: int, name: str) -> None:
        save_tensors({"features": self.real[number, name]}, self._file(number, name))


def ranges(starts: Tensor, counts: Tensor, rows: Tensor) -> Tensor:
    """The numbers `starts[row]` to `starts[row] + counts[row] - 1` of each row, one after another.

    Args:
        starts: First number of each row, with shape (n,).
        counts: Numbers of each row, with shape (n,).
        rows: Rows to list, with shape (B,).
    """
    parts = []
    for start, count in zip(starts[rows], counts[rows], strict=True):
        parts.append(torch.arange(start, start + count))
    return torch.cat(parts)


def idle(metric: Metric) -> str:
    """A line on a metric that judges none of the directions."""
    name = type(metric).__name__
    if metric.against == metric.judges:
        return f"{name} judges nothing here: nothing is generated in '{metric.judges}'"
    return (
        f"{name} judges nothing here: no '{metric.judges}' is generated from "
        f"'{metric.against}'"
    )
