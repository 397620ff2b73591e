"""Evaluation: what `flowbind test` measures on samples that have every modality.

Every direction is generated from codec latents, decoded to raw samples and encoded again, so that what is judged is
what a user gets. Judged are the labels that probes read, the Frechet distance, retrieval, the way there and back, and
how well the modalities' shared latents agree.
"""

import copy
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from flowbind.defaults import torch_defaults
from flowbind.gallery import Row, compose
from flowbind.generation import Model, average
from flowbind.judging import Judging
from flowbind.manifest import Manifest
from flowbind.metrics.cknna import NEIGHBOURS, cknna
from flowbind.metrics.frechet import frechet
from flowbind.metrics.labelled import classes_of, draw_rows, lines_with, measurable_factors
from flowbind.metrics.metric import Metric
from flowbind.metrics.probe import Probe, accuracy, fit_probe
from flowbind.metrics.published import read_published
from flowbind.metrics.report import summarise
from flowbind.metrics.retrieval import recall_at_1
from flowbind.progress import is_first_process, say, track
from flowbind.solver import METHODS, Method
from flowbind.store import LatentStore

BATCH_ROWS = 64  # test samples a step; each is decoded once per direction
PROBE_ROWS = 50_000  # training rows a probe is fitted on, at most


@dataclass(frozen=True)
class EvaluationConfig:
    """What `flowbind test` does.

    Args:
        steps: of the solver, from the shared latent to the target.
        source_steps: of the solver, from a source to the shared latent; as many as `steps` if None.
        method: of the solver: euler, midpoint, rk4 or dopri5.
        seed: of what decoders draw, of the probes, and of which samples are taken.
        limit: test samples at most, drawn at random; all of them if None.
        gallery: rows of the gallery picture, shared out among the modalities as sources; 0 for no picture.
        between: modalities that are judged, for test samples that have these alone; all of the model's if None.
        metrics: of record, such as FID, one or several; each judges the directions that it can (`flowbind modalities`
            lists them).
        repeats: times that everything is generated anew, from other random draws on the same samples; figures are then
            means, with their spread beside them.
        published: JSON file of published figures that the report puts beside these (recipes/published.json).
    """

    steps: int = 10
    source_steps: int | None = None
    method: Method = "euler"
    seed: int = 0
    limit: int | None = None
    gallery: int = 8
    between: list[str] | None = None
    metrics: list[Metric] | Metric = field(default_factory=list)
    repeats: int = 1
    published: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.metrics, Metric):
            object.__setattr__(self, "metrics", [self.metrics])
        if self.method not in METHODS:
            raise ValueError(f"evaluation.method: no solver '{self.method}'; allowed: {', '.join(METHODS)}")
        for name, least in (("steps", 1), ("source_steps", 1), ("limit", 2), ("gallery", 0), ("repeats", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"evaluation.{name} must be at least {least}, not {getattr(self, name)}")


class Direction(NamedTuple):
    """From which modalities to which; said as `image+audio->text`."""

    sources: tuple[str, ...]
    target: str

    def __str__(self) -> str:
        return f"{'+'.join(self.sources)}->{self.target}"


def directions(names: Sequence[str]) -> list[Direction]:
    """From each modality to each, itself included, then from every two to each other one."""
    one = [Direction((a,), b) for a in names for b in names]
    return one + [Direction(two, b) for two in combinations(names, 2) for b in names if b not in two]


def _plainly(method: Callable) -> Callable:
    """In the networks' own precision and with torch's defaults, as `flowbind generate` does it, whatever the Trainer's are."""

    @wraps(method)
    def plainly(self: "Evaluation", *args: Any, **named: Any) -> Any:
        with torch_defaults(), torch.autocast(self.model.device.type, enabled=False):
            return method(self, *args, **named)

    return plainly


class Evaluation:
    """One run over the test samples: `step` for each of `batches`, in any order and on any device, then `finish`.

    Args:
        model: what is judged.
        train_store: latents the probes are fitted on, and which modalities were seen together.
        train_manifest: what that store was made from.
        test_store: latents of samples with every modality of the model.
        test_manifest: what that store was made from.
        config: what to do.
        repeat: which of the repetitions this is, from 0; decides what decoders draw.

    Attributes:
        count: n, the test samples that enter: those with every modality and every labelled factor.
        batches: positions in [0, n), one tensor for each step.

    Raises:
        ValueError: fewer than two test samples have every modality and label.
    """

    def __init__(
        self,
        model: Model,
        train_store: LatentStore,
        train_manifest: Manifest,
        test_store: LatentStore,
        test_manifest: Manifest,
        config: EvaluationConfig,
        repeat: int = 0,
    ) -> None:
        self.model, self.config = model.to(model.device), config
        self.standard = copy.deepcopy(model.flows.standard).float()  # what judges is exact, whatever the networks' precision
        self.first_draw = config.seed + repeat * len(test_manifest.samples)
        self.train_store, self.train_manifest = train_store, train_manifest
        self.test_store, self.test_manifest = test_store, test_manifest
        self.names = list(model.modalities) if config.between is None else config.between
        for name in self.names:
            model.modality(name)
        self.probed = [name for name in self.names if name in train_store.fields]  # a bound model's data may lack some
        rows = {name: lines_with(train_store, [name]) for name in self.probed}
        factors = measurable_factors(train_manifest, rows, test_manifest, lines_with(test_store, self.names))
        self.values = factors.values
        if repeat == 0 and is_first_process():
            for remark in factors.remarks:
                say(f"{test_store.source}: {remark}")
        labels = classes_of(test_manifest, self.values)
        complete = (labels >= 0).all(1)
        self.real, self.lines = draw_rows(test_store, self.names, complete, config.limit, config.seed)
        self.labels, self.count = labels[self.lines], len(self.lines)
        self.batches = list(torch.arange(self.count).split(BATCH_ROWS))
        self.seconds: dict[str, float] = {}
        self.directions = directions(self.names)
        self.published = read_published(Path(config.published)) if config.published else []
        ways = {str(d): (d.sources, d.target) for d in self.directions}
        self.judging = Judging(
            [metric.to(model.device) for metric in config.metrics],
            model.modalities, ways, test_manifest, self.lines, test_store,
        )  # fmt: skip
        # What the steps find, each row at its sample's position; a row no step has reached is 0.
        self.seen = torch.zeros(self.count, dtype=torch.float32)
        self.made = {d: torch.zeros_like(self.real[d.target]) for d in self.directions}
        self.trips = {name: torch.zeros_like(x) for name, x in self.real.items()}
        self.shared = {name: torch.zeros_like(x, dtype=torch.float32) for name, x in self.real.items()}
        self.cycles = {
            d: torch.zeros(self.count, dtype=torch.float32) for d in self.directions if len(d.sources) == 1 and d.sources != (d.target,)
        }

    @_plainly
    @torch.no_grad()
    def step(self, rows: Tensor) -> None:
        """Generates every direction from the test samples at these positions and keeps what came out, encoded again.

        Raises:
            ValueError: a generated latent is not finite.
        """
        generator = torch.Generator(self.model.device).manual_seed(self.first_draw + int(rows[0]))
        z = {name: self._inverse(name, self.real[name][rows]) for name in self.names}
        with self._timed("features"):
            self.judging.see_real(rows)
        for name in self.names:
            self.shared[name][rows] = z[name].to("cpu", torch.float32)
            self._step_to(name, z, rows, generator)
        self.seen[rows] += 1

    def _step_to(self, target: str, z: Mapping[str, Tensor], rows: Tensor, generator: torch.Generator) -> None:
        """All directions to one target at once, and the codec's own round trip beside them."""
        codec, real = self.model.modalities[target].codec, self.real[target][rows].to(self.model.device)
        here = [d for d in self.directions if d.target == target]
        made = self._outward(torch.cat([average([z[name] for name in d.sources]) for d in here]), target).split(
            len(rows)
        )
        for d, x in zip(here, made, strict=True):
            if not x.isfinite().all():
                raise ValueError(
                    f"{d}: generated latents are not finite, so training diverged; lower the learning rate"
                )
        with self._timed(f"decode {target}"):
            raws = codec.decode(torch.cat([*made, real.to(made[0].dtype)]), generator)
        with self._timed(f"encode {target}"):
            *again, trip = codec.encode(raws).cpu().split(len(rows))
        with self._timed("features"):
            for number, d in enumerate(here):
                self.judging.see(str(d), target, raws[number * len(rows) : (number + 1) * len(rows)], rows)
        self.trips[target][rows] = trip.to(self.trips[target].dtype)
        for d, x in zip(here, again, strict=True):
            self.made[d][rows] = x.to(self.made[d].dtype)
        there = [(d, x) for d, x in zip(here, made, strict=True) if d in self.cycles]
        ends = self._inverse(target, torch.cat([x for _, x in there])).split(len(rows))
        for (d, _), end in zip(there, ends, strict=True):
            (source,) = d.sources
            error = self._standard(source, self._outward(end, source)) - self._standard(source, self.real[source][rows])
            self.cycles[d][rows] = error.flatten(1).square().mean(1)

    @_plainly
    def finish(self, merge: Callable[[Tensor], Tensor] = lambda tensor: tensor, first: bool = True) -> dict[str, Any]:
        """Computes every measure, after the last step.

        Args:
            merge: sums a tensor on the model's device over all devices, where several took steps. A row that several
                took is averaged.
            first: whether this device is the one that writes.

        Returns:
            What `metrics.json` holds.
        """
        device = self.model.device
        seen = merge(self.seen.to(device)).cpu()
        assert (seen > 0).all(), "a test sample was never generated from"

        def together(tensor: Tensor, sample: Tensor) -> Tensor:
            """What all devices have seen: row by row, with the sample of each."""
            merged = merge(tensor.to(device)).cpu()
            return (merged / seen[sample].reshape(-1, *[1] * (tensor.ndim - 1))).to(tensor.dtype)

        for kept in (self.made, self.trips, self.shared, self.cycles):
            for key, tensor in kept.items():
                kept[key] = together(tensor, torch.arange(self.count))
        with self._timed("metrics"):
            judged = self.judging.finish(together, keep=first)
        probes, ceilings = {}, {}
        if self.values:
            with self._timed("probes"):
                for name in track(self.probed, "fitting probes"):
                    probes[name], rows = self._probe(name)
                    ceilings[name] = {
                        "rows": rows,
                        **self._accuracy(probes[name], self._standard(name, self.real[name])),
                    }
        with self._timed("measures"):
            found = {str(d): self._judge_direction(d, probes) | judged.get(str(d), {}) for d in self.directions}
            codecs = {name: self._judge(name, trip, probes) for name, trip in self.trips.items()}
            alignment = {f"{a}~{b}": self._align(a, b) for a, b in combinations(self.names, 2)}
        return {
            "summary": summarise(found),
            "directions": found,
            "alignment": alignment,
            "probes": ceilings,
            "codecs": codecs,
            "spread": {},
            "published": self.published,
            "meta": self._meta(),
        }

    @_plainly
    def gallery(self) -> Image.Image:
        """Source samples, drawn by the seed, and what is generated from them in every modality."""
        per = max(self.config.gallery // len(self.names), 1)
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.config.seed))
        generator = torch.Generator(self.model.device).manual_seed(self.config.seed)
        steps = (self.config.source_steps or self.config.steps, self.config.steps)
        rows = []
        for source, picked in zip(self.names, order.split(per), strict=False):
            made = self.model.translate({source: self.real[source][picked]}, self.names, steps, self.config.method)
            shown = {
                name: [
                    self.model.modalities[name].preview(raw)
                    for raw in self.model.modalities[name].codec.decode(x, generator)
                ]
                for name, x in made.items()
            }
            unpaired = {name for name in self.names if not self.paired(Direction((source,), name))}
            for i, line in enumerate(self.lines[picked].tolist()):
                sample, modality = self.test_manifest.samples[line], self.model.modalities[source]
                raw = self.test_manifest.read_raw(sample, source, modality)
                said = [sample.labels[factor] for factor in self.values]
                made_here = {name: previews[i] for name, previews in shown.items()}
                rows.append(Row(source, sample.id, " ".join(said), modality.preview(raw), made_here, unpaired))
        return compose(rows, self.names)

    def paired(self, direction: Direction) -> bool:
        """Whether some training samples have a source together with the target."""
        held = [set(stratum.modalities) for stratum in self.train_store.strata]
        return any({source, direction.target} <= names for source in direction.sources for names in held)

    def _inverse(self, name: str, latents: Tensor) -> Tensor:
        with self._timed("flows"):
            return self.model.inverse(name, latents, self.config.source_steps or self.config.steps, self.config.method)

    def _outward(self, z: Tensor, name: str) -> Tensor:
        with self._timed("flows"):
            return self.model.from_shared(z, name, self.config.steps, self.config.method)

    @torch.no_grad()
    def _standard(self, name: str, latents: Tensor) -> Tensor:
        return self.standard[name](latents.to(self.model.device)).cpu()

    def _probe(self, name: str) -> tuple[Probe, int]:
        labels = classes_of(self.train_manifest, self.values)
        latents, lines = draw_rows(self.train_store, [name], (labels >= 0).any(1), PROBE_ROWS, self.config.seed)
        classes = [len(values) for values in self.values.values()]
        return fit_probe(self._standard(name, latents[name]), labels[lines], classes, self.config.seed), len(lines)

    def _accuracy(self, probe: Probe, x: Tensor) -> dict[str, float]:
        factors, joint = accuracy(probe(x), self.labels)
        named = {**dict(zip(self.values, factors.tolist(), strict=True)), "joint": joint}
        return {f"accuracy/{factor}[probe,n={self.count}]": value for factor, value in named.items()}

    def _judge(self, name: str, latents: Tensor, probes: Mapping[str, Probe]) -> dict[str, float]:
        """Latents of what was generated in one modality, against those of the same samples' real ones."""
        x, real = self._standard(name, latents), self._standard(name, self.real[name])
        read = self._accuracy(probes[name], x) if name in probes else {}
        return {
            **read,
            f"frechet[codec,n={self.count}]": frechet(x, real),
            f"recall@1[codec,n={self.count}]": recall_at_1(x, real),
        }

    def _judge_direction(self, direction: Direction, probes: Mapping[str, Probe]) -> dict[str, Any]:
        described = {"sources": list(direction.sources), "target": direction.target, "paired": self.paired(direction)}
        found = described | self._judge(direction.target, self.made[direction], probes)
        if direction in self.cycles:
            found[f"cycle[rms,n={self.count}]"] = self.cycles[direction].mean().sqrt().item()
        return found

    def _align(self, a: str, b: str) -> dict[str, float]:
        k = min(NEIGHBOURS, self.count - 1)
        own = self._standard(a, self.real[a]), self._standard(b, self.real[b])
        return {
            f"cknna[shared,k={k},n={self.count}]": cknna(self.shared[a], self.shared[b], k),
            f"cknna[codec,k={k},n={self.count}]": cknna(*own, k),
        }

    def _meta(self) -> dict[str, Any]:
        model, device = self.model, self.model.device
        versions = {name: version(name) for name in ("flowbind", "torch", "lightning", "torchdiffeq", "numpy")}
        return {
            "samples": self.count,
            "left_out": len(self.test_manifest.samples) - self.count,
            "seed": self.config.seed,
            "steps": self.config.steps,
            "source_steps": self.config.source_steps or self.config.steps,
            "method": self.config.method,
            "model": {
                "modalities": self.names,
                "drift": asdict(model.drift),
                "head": asdict(model.head),
                "objective": asdict(model.objective),
                "parameters": sum(p.numel() for p in model.flows.parameters()),
            },
            "codecs": {name: modality.codec.fingerprint() for name, modality in model.modalities.items()},
            "metrics": self.judging.describe(),
            "data": {
                split: {"manifest": store.source, "sha256": store.source_sha256, "samples": store.rows}
                for split, store in (("train", self.train_store), ("test", self.test_store))
            },
            "trained_on": {"+".join(stratum.modalities): stratum.rows for stratum in self.train_store.strata},
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{device.type} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version(), **versions},
            "seconds": {part: round(spent, 2) for part, spent in self.seconds.items()},
        }

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin
