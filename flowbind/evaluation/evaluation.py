"""Evaluation: what `flowbind test` measures on samples that have every modality.

Every direction is generated from codec latents, decoded to raw samples and encoded again, so that what is judged is
what a user gets. Judged are the labels that probes read, the Frechet distance, retrieval, the way there and back, and
how well the modalities' shared latents agree.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from flowbind import draws
from flowbind.batch import Batch
from flowbind.data.manifest import Manifest
from flowbind.data.store import LatentStore
from flowbind.defaults import torch_defaults
from flowbind.evaluation.gallery import Row, compose
from flowbind.evaluation.labels import classes_of, draw_rows, lines_with, measurable_factors
from flowbind.evaluation.measures import accuracies, alignment, cycle, likeness, means, same_ids
from flowbind.evaluation.metric_suite import MetricSuite
from flowbind.evaluation.provenance import describe_data, describe_machine, describe_model
from flowbind.evaluation.published import read_published
from flowbind.evaluation.report import summarise
from flowbind.generation import Model
from flowbind.method import Direction, State, concatenate, select
from flowbind.metric import Metric
from flowbind.metrics.probe import Probe, fit_probe
from flowbind.progress import is_first_process, say, track

BATCH_ROWS = 64  # test samples a step; each is decoded once per direction
PROBE_ROWS = 50_000  # training rows a probe is fitted on, at most


@dataclass(frozen=True)
class EvaluationConfig:
    """What `flowbind test` does.

    Args:
        sampling: Sampling choices of the method (`flowbind generate MODEL --help` lists them), other
            than its defaults. The released model keeps them as its own.
        seed: Seed of what is drawn, of the probes, and of which samples are taken.
        limit: Test samples at most, drawn at random; all of them if None.
        gallery: Rows of the gallery picture, shared out among the modalities as sources; 0 for no picture.
        between: Modalities that are judged, for test samples that have these alone; all of the model's if None.
        metrics: Published metrics, such as FID, one or several; each judges the directions that it can (`flowbind
            modalities` lists them).
        repeats: Times that everything is generated again, from other random draws on the same samples; figures are then
            means, with their spread beside them.
        published: JSON file of published figures that the report puts beside these (recipes/published.json).
    """

    sampling: dict[str, Any] = field(default_factory=dict)
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
        for name, least in (("limit", 2), ("gallery", 0), ("repeats", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(
                    f"evaluation.{name} must be at least {least}, not {getattr(self, name)}"
                )


def _plainly(method: Callable) -> Callable:
    """In the networks' own precision and with torch's defaults, as `flowbind generate` does it, whatever the Trainer's are."""

    @wraps(method)
    def plainly(self: "Evaluation", *args: Any, **named: Any) -> Any:
        with torch_defaults(), torch.autocast(self.model.device.type, enabled=False):
            return method(self, *args, **named)

    return plainly


class Way(NamedTuple):
    """One target of a direction: what is judged."""

    direction: Direction
    target: str

    @property
    def sources(self) -> tuple[str, ...]:
        """The direction's sources."""
        return self.direction.sources

    def __str__(self) -> str:
        alone = len(self.direction.targets) == 1
        return str(self.direction) if alone else f"{self.direction}: {self.target}"


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
        self.sampling = model.sampling
        self.standard = copy.deepcopy(
            model.networks.standard
        ).float()  # what judges is exact, whatever the networks' precision
        self.first_draw = config.seed + repeat * len(test_manifest.samples)
        self.train_store, self.train_manifest = train_store, train_manifest
        self.test_store, self.test_manifest = test_store, test_manifest
        self.names = list(model.modalities) if config.between is None else config.between
        for name in self.names:
            model.modality(name)
        # A bound model's data may lack some; of ids a probe reads nothing.
        self.probed = [
            name
            for name in self.names
            if name in train_store.fields and model.modalities[name].codec.vocabulary is None
        ]
        rows = {name: lines_with(train_store, [name]) for name in self.probed}
        factors = measurable_factors(
            train_manifest, rows, test_manifest, lines_with(test_store, self.names)
        )
        self.values = factors.values
        if repeat == 0 and is_first_process():
            for remark in factors.remarks:
                say(f"{test_store.source}: {remark}")
        labels = classes_of(test_manifest, self.values)
        complete = (labels >= 0).all(1)
        self.real, self.lines = draw_rows(
            test_store, self.names, complete, config.limit, config.seed
        )
        self.labels, self.count = labels[self.lines], len(self.lines)
        self.batches = list(torch.arange(self.count).split(BATCH_ROWS))
        self.seconds: dict[str, float] = {}
        self.directions = [
            d for d in model.method.directions() if {*d.sources, *d.targets} <= set(self.names)
        ]
        self.published = read_published(Path(config.published)) if config.published else []
        self.ways = [Way(d, target) for d in self.directions for target in d.targets]
        self.metrics = MetricSuite(
            [metric.to(model.device) for metric in config.metrics],
            model.modalities, {str(w): (w.sources, w.target) for w in self.ways}, test_manifest, self.lines, test_store,
        )  # fmt: skip

        # What the steps find, each row at its sample's position; a row no step has reached is 0.
        self.seen = torch.zeros(self.count, dtype=torch.float32)
        self.made = {way: torch.zeros_like(self.real[way.target]) for way in self.ways}
        self.trips = {name: torch.zeros_like(x) for name, x in self.real.items()}
        self.states = self._room_for_states()
        self.cycles = {
            d: torch.zeros(self.count, dtype=torch.float32)
            for d in self.directions
            if self._returns(d)
        }
        self.measures = {
            name: torch.zeros(self.count, dtype=torch.float32)
            for name in self._measure(torch.tensor([0]))
        }

    def _returns(self, direction: Direction) -> bool:
        """Whether there is a way back from a direction's target to its source."""
        back = Direction(direction.targets, direction.sources)
        one_each = len(direction.sources) == len(direction.targets) == 1
        return one_each and direction != back and back in self.directions

    @_plainly
    def _room_for_states(self) -> dict[str, Tensor]:
        """Zeros for what flows begin from, of the modalities that are sources, where that can be compared."""
        sources = [name for name in self.names if any(name in d.sources for d in self.directions)]
        if not self.model.method.linear:
            return {}
        one = torch.tensor([0])
        shapes = {name: self._start(name, self.real[name][one], one).shape[1:] for name in sources}
        return {
            name: torch.zeros(self.count, *shape, dtype=torch.float32)
            for name, shape in shapes.items()
        }

    @_plainly
    @torch.no_grad()
    def step(self, rows: Tensor) -> None:
        """Generates every direction from the test samples at these positions and keeps what came out, encoded again.

        Raises:
            ValueError: a generated latent is not finite.
        """
        generator = torch.Generator(self.model.device).manual_seed(self.first_draw + int(rows[0]))
        sources = {name for d in self.directions for name in d.sources}
        states = {
            name: self._start(name, self.real[name][rows], rows)
            for name in self.names
            if name in sources
        }
        with self._timed("features"):
            self.metrics.update_real(rows)
        for name, kept in self.states.items():
            kept[rows] = states[name].to("cpu", torch.float32)
        for name, values in self._measure(rows).items():
            self.measures[name][rows] = values.to("cpu", torch.float32)

        left = list(self.names)  # whose codec's own round trip is still to be made
        for targets in dict.fromkeys(d.targets for d in self.directions):
            made = self._step_to(targets, states, rows)
            for target in targets:
                self._judge_made(target, made, rows, generator, trip=target in left)
                left = [name for name in left if name != target]
            self._step_back(targets, made, rows)
        for name in left:
            self._judge_made(name, {}, rows, generator, trip=True)
        self.seen[rows] += 1

    def _step_to(
        self, targets: tuple[str, ...], states: Mapping[str, State], rows: Tensor
    ) -> dict["Way", Tensor]:
        """Codec latents of all directions to the same targets, by one call for all."""
        method, here = self.model.method, [d for d in self.directions if d.targets == targets]
        streams = self._streams(rows)
        fused = [
            method.fuse([states[name] for name in d.sources], self.sampling, streams) for d in here
        ]
        made = self._finish(concatenate(fused), targets, streams.repeat(len(here)))
        parts = {target: made[target].split(len(rows)) for target in targets}
        by_way = {
            Way(d, target): parts[target][i] for i, d in enumerate(here) for target in targets
        }
        for way, x in by_way.items():
            if not x.isfinite().all():
                raise ValueError(
                    f"{way}: generated latents are not finite, so training diverged; lower the learning rate"
                )
        return by_way

    def _judge_made(
        self,
        target: str,
        made: Mapping["Way", Tensor],
        rows: Tensor,
        generator: torch.Generator,
        trip: bool,
    ) -> None:
        """Decodes what was made in one modality, and encodes it again; with `trip` the real latents beside it."""
        codec = self.model.modalities[target].codec
        here = {way: x for way, x in made.items() if way.target == target}
        real = self.real[target][rows].to(self.model.device, codec.dtype)
        latents = [*here.values(), *([real] if trip else [])]
        with self._timed(f"decode {target}"):
            raws = codec.decode(torch.cat(latents), generator)
        with self._timed(f"encode {target}"):
            again = codec.encode(raws).cpu().split(len(rows))
        with self._timed("features"):
            for number, way in enumerate(here):
                self.metrics.update(
                    str(way), target, raws[number * len(rows) : (number + 1) * len(rows)], rows
                )
        for way, x in zip(here, again, strict=False):
            self.made[way][rows] = x.to(self.made[way].dtype)
        if trip:
            self.trips[target][rows] = again[-1].to(self.trips[target].dtype)

    def _step_back(
        self, targets: tuple[str, ...], made: Mapping["Way", Tensor], rows: Tensor
    ) -> None:
        """The way back from what was made to its source, without the codecs, and how far off it ends."""
        there = {way.direction: x for way, x in made.items() if way.direction in self.cycles}
        if not there:
            return
        (target,) = targets
        streams = self._streams(rows)
        begun = self._start(target, torch.cat(list(there.values())), rows.repeat(len(there)))
        for number, direction in enumerate(there):
            (source,) = direction.sources
            part = select(begun, slice(number * len(rows), (number + 1) * len(rows)))
            state = self.model.method.fuse([part], self.sampling, streams)
            end = self._finish(state, (source,), streams)[source]
            error = self._standard(source, end) - self._standard(source, self.real[source][rows])
            self.cycles[direction][rows] = error.flatten(1).square().mean(1)

    @_plainly
    def finish(
        self, merge: Callable[[Tensor], Tensor] = lambda tensor: tensor, first: bool = True
    ) -> dict[str, Any]:
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

        for kept in (self.made, self.trips, self.states, self.cycles, self.measures):
            for key, tensor in kept.items():
                kept[key] = together(tensor, torch.arange(self.count))
        with self._timed("metrics"):
            judged = self.metrics.compute(together, keep=first)
        probes, ceilings = {}, {}
        if self.values:
            with self._timed("probes"):
                for name in track(self.probed, "fitting probes"):
                    probes[name], rows = self._probe(name)
                    ceilings[name] = {
                        "rows": rows,
                        **self._accuracies(name, self._standard(name, self.real[name]), probes),
                    }
        with self._timed("measures"):
            found = {
                str(way): self._judge_way(way, probes) | judged.get(str(way), {})
                for way in self.ways
            }
            codecs = {name: self._judge(name, trip, probes) for name, trip in self.trips.items()}
            aligned = {f"{a}~{b}": self._align(a, b) for a, b in combinations(self.states, 2)}
        return {
            "summary": summarise(found),
            "directions": found,
            "alignment": aligned,
            "measures": means(self.measures),
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
        order = torch.randperm(
            self.count, generator=torch.Generator().manual_seed(self.config.seed)
        )
        generator = torch.Generator(self.model.device).manual_seed(self.config.seed)
        rows = []
        for source, picked in zip(self.names, order.split(per), strict=False):
            targets = [
                name for name in self.names if Direction((source,), (name,)) in self.directions
            ]
            if not targets:
                continue
            made = self.model.translate(
                {source: self.real[source][picked]}, targets, seed=self.config.seed
            )
            shown = {
                name: [
                    self.model.modalities[name].preview(raw)
                    for raw in self.model.modalities[name].codec.decode(x, generator)
                ]
                for name, x in made.items()
            }
            unpaired = {
                name
                for name in targets
                if not self.paired(Way(Direction((source,), (name,)), name))
            }
            for i, line in enumerate(self.lines[picked].tolist()):
                sample, modality = self.test_manifest.samples[line], self.model.modalities[source]
                raw = self.test_manifest.read_raw(sample, source, modality)
                said = [sample.labels[factor] for factor in self.values]
                made_here = {name: previews[i] for name, previews in shown.items()}
                rows.append(
                    Row(
                        source,
                        sample.id,
                        " ".join(said),
                        modality.preview(raw),
                        made_here,
                        unpaired,
                    )
                )
        return compose(rows, self.names)

    def paired(self, way: "Way") -> bool:
        """Whether some training samples have a source together with the target."""
        held = [set(stratum.modalities) for stratum in self.train_store.strata]
        return any({source, way.target} <= names for source in way.sources for names in held)

    def _streams(self, rows: Tensor) -> Tensor:
        """A random stream for each of these test samples, with shape (len(rows),)."""
        return draws.streams(draws.key(self.first_draw), rows.to(self.model.device))

    def _start(self, name: str, latents: Tensor, rows: Tensor) -> State:
        with self._timed("flows"):
            return self.model.start(name, latents, self.sampling, self._streams(rows))

    def _finish(self, state: State, targets: Sequence[str], streams: Tensor) -> dict[str, Tensor]:
        with self._timed("flows"):
            return self.model.finish(state, targets, self.sampling, streams)

    @_plainly
    @torch.no_grad()
    def _measure(self, rows: Tensor) -> dict[str, Tensor]:
        """The method's own figures on real samples, row by row."""
        networks = self.model.networks
        x = {n: networks.standard[n](self.real[n][rows].to(self.model.device)) for n in self.names}
        batch = Batch.of(x, {name: torch.arange(len(rows), device=self.model.device) for name in x})
        key = draws.key(self.first_draw, int(rows[0]))
        return self.model.method.measures(networks.nets, batch, key)

    @torch.no_grad()
    def _standard(self, name: str, latents: Tensor) -> Tensor:
        return self.standard[name](latents.to(self.model.device)).cpu()

    def _probe(self, name: str) -> tuple[Probe, int]:
        labels = classes_of(self.train_manifest, self.values)
        latents, lines = draw_rows(
            self.train_store, [name], (labels >= 0).any(1), PROBE_ROWS, self.config.seed
        )
        classes = [len(values) for values in self.values.values()]
        return fit_probe(
            self._standard(name, latents[name]), labels[lines], classes, self.config.seed
        ), len(lines)

    def _accuracies(self, name: str, x: Tensor, probes: Mapping[str, Probe]) -> dict[str, float]:
        return accuracies(probes[name], x, self.labels, self.values) if name in probes else {}

    def _judge(self, name: str, latents: Tensor, probes: Mapping[str, Probe]) -> dict[str, float]:
        """Latents of what was generated in one modality, against those of the same samples' real ones."""
        x, real = self._standard(name, latents), self._standard(name, self.real[name])
        if self.model.modalities[name].codec.vocabulary is not None:
            return same_ids(x, real)
        return self._accuracies(name, x, probes) | likeness(x, real)

    def _judge_way(self, way: "Way", probes: Mapping[str, Probe]) -> dict[str, Any]:
        described = {"sources": list(way.sources), "target": way.target, "paired": self.paired(way)}
        back = cycle(self.cycles[way.direction]) if way.direction in self.cycles else {}
        return described | self._judge(way.target, self.made[way], probes) | back

    def _align(self, a: str, b: str) -> dict[str, float]:
        latents = self._standard(a, self.real[a]), self._standard(b, self.real[b])
        return alignment((self.states[a], self.states[b]), latents)

    def _meta(self) -> dict[str, Any]:
        return {
            "samples": self.count,
            "left_out": len(self.test_manifest.samples) - self.count,
            "seed": self.config.seed,
            **describe_model(self.model, self.names),
            "metrics": self.metrics.describe(),
            **describe_data(self.train_store, self.test_store),
            **describe_machine(self.model.device, self.seconds),
        }

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin
