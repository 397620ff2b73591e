"""Evaluation: what `flowbind test` measures on samples that have every modality.

Every direction is generated from codec latents, decoded to raw samples and encoded again, so that
what is judged is what a user gets. Judged are the labels that probes read, the Frechet distance,
retrieval, the way there and back, and how well the modalities' shared latents agree.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, wraps
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor

from flowbind import draws
from flowbind.batch import Batch
from flowbind.data.manifest import Manifest, Sample
from flowbind.data.store import LatentStore
from flowbind.defaults import torch_defaults
from flowbind.evaluation.gallery import Row, compose
from flowbind.evaluation.judging import Judging, difference
from flowbind.evaluation.labels import (
    FEWEST,
    classes_of,
    draw_numbers,
    draw_rows,
    latents_of,
    lines_with,
    measurable_factors,
)
from flowbind.evaluation.measures import (
    accuracies,
    alignment,
    cycle,
    cycle_errors,
    distance,
    likeness,
    means,
    same_ids,
)
from flowbind.evaluation.metric_suite import MetricSuite
from flowbind.evaluation.previews import (
    draws_of,
    exhibits_of,
    previews_of,
    raws_of,
    seen_together,
)
from flowbind.evaluation.provenance import (
    describe_data,
    describe_machine,
    describe_model,
)
from flowbind.evaluation.published import read_published
from flowbind.evaluation.report import summarise
from flowbind.evaluation.space import Space, SpaceConfig
from flowbind.evaluation.stand_ins import StandIns, choose
from flowbind.evaluation.verdicts import ByClass
from flowbind.exhibit import Exhibit
from flowbind.generation import Model
from flowbind.judge import Judge
from flowbind.method import Direction, State, concatenate, feasible, select
from flowbind.metric import Metric
from flowbind.metrics.probe import Probe, fit_probe
from flowbind.progress import is_first_process, say, track

DRAWS = 3  # seeds that the gallery shows of each direction
BATCH_ROWS = 64  # test samples a step; each is decoded once per direction
TRAINING_ROWS = 50_000  # training rows of a modality to fit and compare with, at most


Named = TypeVar("Named", bound=Metric)
Key = TypeVar("Key")


def as_list(metrics: list[Named] | Named) -> list[Named]:
    """Metrics, of which one may stand without a list."""
    return [metrics] if isinstance(metrics, Metric) else metrics


@dataclass(frozen=True)
class EvaluationConfig:
    """What `flowbind test` does.

    Args:
        sampling: Sampling choices of the method (`flowbind generate MODEL --help` lists them),
            other than its defaults. The released model keeps them as its own.
        seed: Seed of what is drawn, of the probes, and of which samples are taken.
        limit: Test samples at most, drawn at random; all of them if None.
        gallery: Rows of the gallery picture, shared out among the modalities as sources; 0 for no
            picture.
        between: Modalities that are judged, for test samples that have these alone; all of the
            model's if None.
        metrics: Published metrics, such as FID, one or several; each judges the directions that it
            can (`flowbind plugins` lists them).
        judges: Judges that read the labelled factors of generations as they are, one for each
            modality at most.
        space: Another latent store of the same manifests, in whose latents generations are measured,
            so that models with other codecs are compared alike; the model's own if None.
        repeats: Times that everything is generated again, from other random draws on the same
            samples; results are then means, with their spread beside them.
        published: JSON file of published results that the report puts beside these
            (recipes/published.json).
    """

    sampling: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    limit: int | None = None
    gallery: int = 8
    between: list[str] | None = None
    metrics: list[Metric] | Metric = field(default_factory=list)
    judges: list[Judge] | Judge = field(default_factory=list)
    space: SpaceConfig | None = None
    repeats: int = 1
    published: str | None = None

    def __post_init__(self) -> None:
        metrics = as_list(self.metrics)
        object.__setattr__(self, "metrics", metrics)
        object.__setattr__(self, "judges", as_list(self.judges))
        for metric in metrics:
            if isinstance(metric, Judge):
                raise ValueError(
                    f"evaluation.metrics: {type(metric).__name__} is a judge; give it as one of "
                    "evaluation.judges"
                )

        for name, least in (("limit", 2), ("gallery", 0), ("repeats", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(
                    f"evaluation.{name} must be at least {least}, not {value}"
                )


def _plainly(method: Callable) -> Callable:
    """In the networks' own precision, with torch's defaults, as `generate`; not the Trainer's."""

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


# Codec latents of what was generated, with shape (B, *shape).
ByWay = Mapping[Way, Tensor]
Probes = Mapping[str, Probe]  # by modality


def _ways_of(directions: Iterable[Direction]) -> Iterator[Way]:
    """Every target of every direction."""
    for direction in directions:
        for target in direction.targets:
            yield Way(direction, target)


class Evaluation:
    """One run over the test samples: `step` for each of `batches`, then `finish`.

    The steps may come in any order and be shared out among devices.

    Args:
        model: Released or trained model that is judged.
        train_store: Latents the probes are fitted on, and which modalities were seen together.
        train_manifest: Samples that store was encoded from.
        test_store: Latents of samples with every modality of the model.
        test_manifest: Samples that store was encoded from.
        config: What to measure, and on how much.
        repeat: Number of this repetition, from 0; decides what decoders draw.
        space: Space in which generations are measured; the model's own if None.

    Attributes:
        count: n, the test samples that enter: those with every modality and every labelled factor.
        batches: Positions in [0, n), one tensor for each step.
        generated: Per way, codec latents of what was generated, decoded and encoded again, with
            shape (n, *shape).
        trips: Per modality that can be decoded, codec latents of the real samples, decoded and
            encoded again, with shape (n, *shape).
        states: Per source, what its flow begins from, with shape (n, *); empty where methods do not
            compare them.
        cycles: Per direction with a way back, mean squared errors of the way there and back, with
            shape (n,).
        measures: The method's own measures on real latents, with shape (n,) each.
        train_labels: Class of each factor of each training sample, with shape (samples, F), -1
            where it has none.
        is_usable: Which training samples have a label, if there are labels, with shape (samples,).

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
        space: Space | None = None,
    ) -> None:
        self.model = model.to(model.device)
        self.config = config
        self.sampling = model.sampling
        self.own = Space.own(model, train_store, test_store)
        self.space = space or self.own
        self.first_draw = config.seed + repeat * len(test_manifest.samples)
        self.seconds: dict[str, float] = {}

        self.train_store = train_store
        self.train_manifest = train_manifest
        self.test_store = test_store
        self.test_manifest = test_manifest

        self.names = (
            list(model.modalities) if config.between is None else config.between
        )
        for name in self.names:
            model.modality(name)  # raises if the model has no such modality
        self.probed = [name for name in self.names if self._can_be_probed(name)]
        reports = repeat == 0 and is_first_process()
        self.values = self._measurable_values(reports)
        # One reading of the training manifest, for stand-ins and probes of all modalities.
        self.train_labels = classes_of(train_manifest, self.values)
        has_label = (self.train_labels >= 0).any(1)
        self.is_usable = has_label | (len(self.values) == 0)

        self._draw_test_samples()

        self.directions = self._measurable_directions(reports)
        self.ways = list(_ways_of(self.directions))
        self.published = (
            read_published(Path(config.published)) if config.published else []
        )
        self.metrics = self._metric_suite()
        self.judging = self._judging()
        self.stand_ins = self._stand_ins()
        self._make_room()

    def _draw_test_samples(self) -> None:
        """The test samples that enter: their latents, samples, classes and batches."""
        labels = classes_of(self.test_manifest, self.values)
        real, lines = draw_rows(
            self.test_store,
            self.names,
            (labels >= 0).all(1),
            self.config.limit,
            self.config.seed,
        )

        self.real = real
        self.lines = lines
        self.measured = real
        if self.space is not self.own:
            count = len(self.test_manifest.samples)
            self.measured = self.space.real(self.names, lines, count)
        self.labels = labels[lines]
        self.count = len(self.lines)
        self.batches = list(torch.arange(self.count).split(BATCH_ROWS))

    def _make_room(self) -> None:
        """Zeros for what the steps compute, each row at its sample's position."""
        self.seen = self._zeros()
        self.states = self._room_for_states()

        self.generated: dict[Way, Tensor] = {}
        for way in self.ways:
            self.generated[way] = torch.zeros_like(self.measured[way.target])

        self.trips: dict[str, Tensor] = {}
        for name, x in self.measured.items():
            if self.model.modalities[name].codec.decodes:
                self.trips[name] = torch.zeros_like(x)

        self.cycles: dict[Direction, Tensor] = {}
        for direction in self.directions:
            if self._returns(direction):
                self.cycles[direction] = self._zeros()

        self.measures: dict[str, Tensor] = {}
        for name in self._measure(torch.tensor([0])):
            self.measures[name] = self._zeros()

    def _can_be_probed(self, name: str) -> bool:
        """Whether a probe reads it: a bound model's data may lack it, and no probe reads ids."""
        is_trained_on = name in self.space.train.fields
        return is_trained_on and self.space.codecs[name].vocabulary is None

    def _measurable_values(self, reports: bool) -> dict[str, list[str]]:
        """The factors to judge by and their values; with `reports`, a line for each other one."""
        train_lines = {}
        for name in self.probed:
            train_lines[name] = lines_with(self.space.train, [name])
        test_lines = lines_with(self.test_store, self.names)
        factors = measurable_factors(
            self.train_manifest,
            train_lines,
            self.test_manifest,
            test_lines,
        )

        if reports:
            for remark in factors.remarks:
                say(f"{self.test_store.source}: {remark}")
        return factors.values

    def _measurable_directions(self, reports: bool) -> list[Direction]:
        """The directions to judge; with `reports`, a line for each that the choices exclude."""
        directions, refused = feasible(self.model.method, self.sampling)
        for direction, reason in refused.items():
            if reports and self._is_between(direction):
                say(f"{direction} is not measured: {reason}")
        return [direction for direction in directions if self._is_between(direction)]

    def _is_between(self, direction: Direction) -> bool:
        """Whether all modalities of a direction are judged."""
        return {*direction.sources, *direction.targets} <= set(self.names)

    @_plainly
    def _metric_suite(self) -> MetricSuite:
        metrics = [
            metric.to(self.model.device) for metric in as_list(self.config.metrics)
        ]
        directions = {str(way): (way.sources, way.target) for way in self.ways}
        return MetricSuite(
            metrics,
            self.model.modalities,
            directions,
            self.test_manifest,
            self.lines,
            self.test_store,
        )

    @_plainly
    def _judging(self) -> Judging:
        judges = [judge.to(self.model.device) for judge in as_list(self.config.judges)]
        modalities = {name: self.model.modalities[name] for name in self.names}
        directions = {str(way): (way.sources, way.target) for way in self.ways}
        return Judging(
            judges,
            modalities,
            directions,
            self.test_manifest,
            self.lines,
            self.test_store,
            self.values,
            self.labels,
        )

    @_plainly
    def _stand_ins(self) -> StandIns:
        """Training samples with the labels of the test samples, of each target trained on."""
        latents = {}
        lines = {}
        targets = {way.target for way in self.ways}
        for name in [name for name in self.names if name in targets]:
            if self._count_training_rows(name) >= FEWEST:
                drawn, drawn_lines = self._draw_training_rows(name)
                labels = self.train_labels[drawn_lines]
                chosen = choose(labels, self.labels, self.config.seed)
                # Of thousands of rows few are chosen, some of them more than once.
                rows, place = drawn[chosen].unique(return_inverse=True)
                latents[name] = latents_of(self.space.train, [name], rows)[name][place]
                lines[name] = drawn_lines[chosen]

        return StandIns(
            latents,
            lines,
            self.judging.of,
            self.model.modalities,
            self.train_manifest,
            self.train_store,
        )

    def _training_rows(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Labelled training samples of one modality, drawn at random where there are many.

        Returns:
            Latents, with shape (N, *shape), samples in the manifest, with shape (N,), and classes,
            with shape (N, F), -1 where a sample has none.
        """
        drawn, lines = self._draw_training_rows(name)
        latents = latents_of(self.space.train, [name], drawn)
        return latents[name], lines, self.train_labels[lines]

    def _draw_training_rows(self, name: str) -> tuple[Tensor, Tensor]:
        """Numbers of those rows in the store, and their samples in the manifest, with shape (N,)."""
        return draw_numbers(
            self.space.train,
            [name],
            self.is_usable,
            TRAINING_ROWS,
            self.config.seed,
        )

    def _count_training_rows(self, name: str) -> int:
        lines = lines_with(self.space.train, [name])
        return int(self.is_usable[lines].sum())

    def _zeros(self, *shape: int) -> Tensor:
        """Room for one value of each test sample, with shape (n, *shape)."""
        return torch.zeros(self.count, *shape, dtype=torch.float32)

    def _returns(self, direction: Direction) -> bool:
        """Whether there is a way back from a direction's target to its source."""
        back = Direction(direction.targets, direction.sources)
        one_each = len(direction.sources) == len(direction.targets) == 1
        return one_each and direction != back and back in self.directions

    def _sources(self) -> list[str]:
        """The modalities that are a source of some direction, in the model's order."""
        sources: set[str] = set()
        for direction in self.directions:
            sources.update(direction.sources)
        return [name for name in self.names if name in sources]

    @_plainly
    def _room_for_states(self) -> dict[str, Tensor]:
        """Zeros for what flows begin from, of each source, where that can be compared."""
        if not self.model.method.linear:
            return {}

        first = torch.tensor([0])
        states = {}
        for name in self._sources():
            start = self._start(name, self.real[name][first], first)
            states[name] = self._zeros(*start.shape[1:])
        return states

    @_plainly
    @torch.no_grad()
    def step(self, rows: Tensor) -> None:
        """Generates every direction from some test samples, and keeps what came out, encoded again.

        Args:
            rows: Positions of the samples, in [0, n), with shape (B,).

        Raises:
            ValueError: a generated latent is not finite.
        """
        generator = torch.Generator(self.model.device)
        generator.manual_seed(self.first_draw + int(rows[0]))

        states = {}
        for name in self._sources():
            states[name] = self._start(name, self.real[name][rows], rows)

        # Of the real samples: features for metrics, the flows' beginnings, the method's measures.
        with self._timed("features"):
            self.metrics.update_real(rows)
            self.judging.suite.update_real(rows)
            self.stand_ins.update(rows)
        for name, accumulated in self.states.items():
            accumulated[rows] = states[name].to("cpu", torch.float32)
        for name, values in self._measure(rows).items():
            self.measures[name][rows] = values.to("cpu", torch.float32)

        # Each codec's own round trip is made once, beside what is first generated in its modality.
        with_trip = set()
        for targets in dict.fromkeys(d.targets for d in self.directions):
            latents = self._generate(targets, states, rows)
            for target in targets:
                trip = target not in with_trip
                self._reencode(target, latents, rows, generator, trip)
                with_trip.add(target)
            self._step_back(targets, latents, rows)

        for name in self.trips:
            if name not in with_trip:
                self._reencode(name, {}, rows, generator, trip=True)
        self.seen[rows] += 1

    def _generate(
        self,
        targets: tuple[str, ...],
        states: Mapping[str, State],
        rows: Tensor,
    ) -> ByWay:
        """Codec latents of all directions to the same targets, by one call for all."""
        directions = [d for d in self.directions if d.targets == targets]
        streams = self._streams(rows)

        fused = []
        for direction in directions:
            parts = [states[name] for name in direction.sources]
            fused.append(self.model.method.fuse(parts, self.sampling, streams))
        latents = self._finish(
            concatenate(fused),
            targets,
            streams.repeat(len(directions)),
        )

        # One direction's rows after another's.
        split = {target: latents[target].split(len(rows)) for target in targets}
        by_way = {}
        for number, direction in enumerate(directions):
            for target in targets:
                by_way[Way(direction, target)] = split[target][number]

        for way, x in by_way.items():
            if not x.isfinite().all():
                raise ValueError(
                    f"{way}: generated latents are not finite, so training diverged; "
                    "lower the learning rate"
                )
        return by_way

    def _reencode(
        self,
        target: str,
        generated: ByWay,
        rows: Tensor,
        generator: torch.Generator,
        trip: bool,
    ) -> None:
        """Decodes what was generated in a modality, and encodes it again.

        With `trip` the real latents of the same samples take the same way beside it.
        """
        codec = self.model.modalities[target].codec
        latents = {way: x for way, x in generated.items() if way.target == target}
        real = self.real[target][rows].to(self.model.device, codec.dtype)

        parts = list(latents.values())
        if trip:
            parts.append(real)
        with self._timed(f"decode {target}"):
            raws = codec.decode(torch.cat(parts), generator)
        with self._timed(f"encode {target}"):
            encoded = self.space.codecs[target].encode(raws).cpu()
        encoded = encoded.split(len(rows))

        with self._timed("features"):
            self._update_features(target, list(latents), raws, rows)
            if trip:
                self.judging.suite.update(target, target, raws[-len(rows) :], rows)

        for way, x in zip(latents, encoded, strict=False):
            self.generated[way][rows] = x.to(self.generated[way].dtype)
        if trip:
            self.trips[target][rows] = encoded[-1].to(self.trips[target].dtype)

    def _update_features(
        self,
        target: str,
        ways: Sequence[Way],
        raws: Sequence[Any],
        rows: Tensor,
    ) -> None:
        """What metrics and judges see of the raw samples of all ways to a modality.

        Args:
            target: Modality that was generated.
            ways: Ways to it.
            raws: Raw samples, one way's after another's; there may be others behind them.
            rows: Positions of the samples, in [0, n), with shape (B,).
        """
        for number, way in enumerate(ways):
            begin = number * len(rows)
            raws_of_way = raws[begin : begin + len(rows)]
            self.metrics.update(str(way), target, raws_of_way, rows)
            self.judging.suite.update(str(way), target, raws_of_way, rows)

    def _step_back(
        self,
        targets: tuple[str, ...],
        generated: ByWay,
        rows: Tensor,
    ) -> None:
        """The way back from what was generated to its source, without codecs, and its error."""
        there = {}
        for way, x in generated.items():
            if way.direction in self.cycles:
                there[way.direction] = x
        if not there:
            return

        (target,) = targets
        streams = self._streams(rows)
        states = self._start(
            target,
            torch.cat(list(there.values())),
            rows.repeat(len(there)),
        )

        for number, direction in enumerate(there):
            (source,) = direction.sources
            begin = number * len(rows)
            part = select(states, slice(begin, begin + len(rows)))
            state = self.model.method.fuse([part], self.sampling, streams)
            end = self._finish(state, (source,), streams)[source]

            real = self._standard(source, self.real[source][rows])
            again = self._standard(source, end)
            self.cycles[direction][rows] = cycle_errors(again, real)

    @_plainly
    def finish(
        self,
        merge: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        first: bool = True,
    ) -> dict[str, Any]:
        """Computes every measure, after the last step.

        Args:
            merge: Function that sums a tensor on the model's device over all devices, where several
                took steps. A row that several took is averaged.
            first: Whether this device is the one that writes.

        Returns:
            What `metrics.json` holds.
        """
        together = self._gather_steps(merge)
        with self._timed("metrics"):
            by_metrics = self.metrics.compute(together, keep=first)
            self.judging.gather(together, keep=first)
            self.stand_ins.gather(together, keep=first)

        probes, ceilings = self._fit_probes()
        with self._timed("measures"):
            directions = {}
            for way in self.ways:
                directions[str(way)] = self._judge_way(way, probes)
                directions[str(way)] |= by_metrics.get(str(way), {})
            codecs = {name: self._judge_trip(name, probes) for name in self.trips}
            floors = {}
            for name in self.stand_ins.latents:
                floors[name] = self._judge_stand_ins(name, probes)
            classes = self._classes()
            aligned = self._alignments()

        return {
            "summary": summarise(directions, classes, floors),
            "directions": directions,
            "floors": floors,
            "judges": self._judges(),
            "classes": classes,
            "alignment": aligned,
            "measures": means(self.measures),
            "probes": ceilings,
            "codecs": codecs,
            "spread": {},
            "published": self.published,
            "meta": self._meta(),
        }

    def _gather_steps(
        self,
        merge: Callable[[Tensor], Tensor],
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Brings together what the steps of all devices computed.

        Args:
            merge: Function that sums a tensor on the model's device over all devices.

        Returns:
            Function that does so with what else they saw: rows, with shape (N, *), and the sample
            of each, with shape (N,).
        """
        device = self.model.device
        seen = merge(self.seen.to(device)).cpu()
        assert (seen > 0).all(), "a test sample was never generated from"

        def together(tensor: Tensor, sample: Tensor) -> Tensor:
            """What all devices have seen: row by row, with the sample of each."""
            merged = merge(tensor.to(device)).cpu()
            times = seen[sample].reshape(-1, *[1] * (tensor.ndim - 1))
            return (merged / times).to(tensor.dtype)

        def bring_together(accumulated: dict[Key, Tensor]) -> None:
            for key, tensor in accumulated.items():
                accumulated[key] = together(tensor, torch.arange(self.count))

        bring_together(self.generated)
        bring_together(self.trips)
        bring_together(self.states)
        bring_together(self.cycles)
        bring_together(self.measures)
        return together

    @_plainly
    def gallery(self) -> Image.Image:
        """Source samples, drawn by the seed, and what is generated from them in every modality."""
        return compose(self.gallery_rows, self.gallery_names)

    @property
    def gallery_names(self) -> list[str]:
        """The modalities that are generated from something, in their order."""
        targets = {way.target for way in self.ways}
        return [name for name in self.names if name in targets]

    @cached_property
    @_plainly
    def gallery_rows(self) -> list[Row]:
        """Rows of the gallery, shared out among the modalities from which something is made."""
        seed = self.config.seed
        sources = [n for n in self.names if self._gallery_targets(n)]
        rows_each = max(self.config.gallery // max(len(sources), 1), 1)
        shuffler = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.count, generator=shuffler)
        generator = torch.Generator(self.model.device).manual_seed(seed)

        rows: list[Row] = []
        for source, positions in zip(sources, order.split(rows_each), strict=False):
            rows += self._gallery_rows(source, positions, generator)
        return rows

    def _gallery_targets(self, source: str) -> list[str]:
        """What is generated from one modality alone."""
        ways = [Way(Direction((source,), (name,)), name) for name in self.names]
        return [way.target for way in ways if way.direction in self.directions]

    def _gallery_rows(
        self,
        source: str,
        positions: Tensor,
        generator: torch.Generator,
    ) -> Iterator[Row]:
        """The gallery's rows with one modality as source."""
        targets = self._gallery_targets(source)
        unpaired = set()
        for name in targets:
            if not self.paired(Way(Direction((source,), (name,)), name)):
                unpaired.add(name)

        # Rows of the gallery are numbered through, so that no two have the same noise.
        seed = self.config.seed
        draws = draws_of(
            self.model,
            {source: self.real[source][positions]},
            targets,
            range(seed, seed + DRAWS),
            first=self.names.index(source) * len(positions),
        )
        raws = raws_of(self.model, draws, generator)

        modality = self.model.modalities[source]
        for number, line in enumerate(self.lines[positions].tolist()):
            sample = self.test_manifest.samples[line]
            raw = self._source_in_gallery(sample, source)
            labels = " ".join(sample.labels[factor] for factor in self.values)
            exhibits: dict[str | None, Sequence[Exhibit]]
            exhibits = {None: [modality.exhibit(raw)]}
            for target, of_seeds in exhibits_of(self.model, raws, number).items():
                exhibits[target] = of_seeds

            yield Row(
                source,
                sample.id,
                labels,
                modality.preview(raw),
                previews_of(self.model, raws, number),
                unpaired,
                exhibits,
            )

    def _source_in_gallery(self, sample: Sample, name: str) -> Any:
        """A source sample: of files that are another modality's too, what its own codec sees of them."""
        modality = self.model.modalities[name]
        raw = self.test_manifest.read_raw(sample, name, modality)
        if modality.reads is None or not modality.codec.decodes:
            return raw
        (seen,) = modality.codec.decode(modality.codec.encode([raw]))
        return seen

    def paired(self, way: Way) -> bool:
        """Whether some training samples have a source together with the target."""
        return seen_together(self.train_store, way.sources, way.target)

    def _streams(self, rows: Tensor) -> Tensor:
        """A random stream for each of these test samples, with shape (len(rows),)."""
        return draws.streams(draws.key(self.first_draw), rows.to(self.model.device))

    def _start(self, name: str, latents: Tensor, rows: Tensor) -> State:
        with self._timed("flows"):
            return self.model.start(name, latents, self.sampling, self._streams(rows))

    def _finish(
        self,
        state: State,
        targets: Sequence[str],
        streams: Tensor,
    ) -> dict[str, Tensor]:
        with self._timed("flows"):
            return self.model.finish(state, targets, self.sampling, streams)

    @_plainly
    @torch.no_grad()
    def _measure(self, rows: Tensor) -> dict[str, Tensor]:
        """The method's own measures on real samples, row by row."""
        device = self.model.device
        networks = self.model.networks

        latents = {}
        samples = {}
        for name in self.names:
            latents[name] = networks.standard[name](self.real[name][rows].to(device))
            samples[name] = torch.arange(len(rows), device=device)

        key = draws.key(self.first_draw, int(rows[0]))
        return self.model.method.measures(
            networks.nets,
            Batch.of(latents, samples),
            key,
        )

    @torch.no_grad()
    def _standard(self, name: str, latents: Tensor) -> Tensor:
        """The model's own latents, standardised, on the CPU."""
        return self.own.standardised(name, latents, self.model.device)

    def _standard_measured(self, name: str, latents: Tensor) -> Tensor:
        """Latents in which generations are measured, standardised, on the CPU."""
        return self.space.standardised(name, latents, self.model.device)

    def _fit_probes(self) -> tuple[dict[str, Probe], dict[str, dict[str, float]]]:
        """Probes by modality, and what each reads from real test latents; none without labels."""
        probes: dict[str, Probe] = {}
        ceilings: dict[str, dict[str, float]] = {}
        if not self.values:
            return probes, ceilings

        with self._timed("probes"):
            for name in track(self.probed, "fitting probes"):
                probes[name], rows = self._fit_probe(name)
                x = self._standard_measured(name, self.measured[name])
                ceilings[name] = {"rows": rows, **self._accuracies(name, x, probes)}
        return probes, ceilings

    def _fit_probe(self, name: str) -> tuple[Probe, int]:
        """A probe of one modality's training latents, and the number of rows it was fitted on."""
        latents, _, labels = self._training_rows(name)
        x = self._standard_measured(name, latents)
        classes = [len(values) for values in self.values.values()]
        return fit_probe(x, labels, classes, self.config.seed), len(x)

    def _accuracies(
        self,
        name: str,
        x: Tensor,
        probes: Probes,
    ) -> dict[str, float]:
        if name not in probes:
            return {}
        return accuracies(probes[name], x, self.labels, self.values)

    def _judge(
        self,
        name: str,
        latents: Tensor,
        probes: Probes,
    ) -> dict[str, float]:
        """Latents generated in one modality, against those of the same samples' real ones."""
        x = self._standard_measured(name, latents)
        real = self._standard_measured(name, self.measured[name])
        if self.space.codecs[name].vocabulary is not None:
            return same_ids(x, real)
        return self._accuracies(name, x, probes) | likeness(x, real, self.labels)

    def _judge_trip(self, name: str, probes: Probes) -> dict[str, float]:
        """The codec's own round trip of one modality."""
        measures = self.judging.measures(name, name)
        measures |= self._judge(name, self.trips[name], probes)
        return measures | self.judging.likeness(name, name)

    def _judge_stand_ins(self, name: str, probes: Probes) -> dict[str, float]:
        """Real training samples of one modality in the place of generations."""
        measures = self._judge(name, self.stand_ins.latents[name], probes)
        features = self.stand_ins.features(name)
        if features is not None:
            measures |= self.judging.compare(name, features)
        return measures

    def _judge_way(self, way: Way, probes: Probes) -> dict[str, Any]:
        described = {
            "sources": list(way.sources),
            "target": way.target,
            "paired": self.paired(way),
        }
        if not way.sources:
            return described | self._judge_of_noise(way)

        measures = self.judging.measures(way.target, str(way))
        measures |= self._judge(way.target, self.generated[way], probes)
        measures |= self._difference(way, probes)
        measures |= self.judging.likeness(way.target, str(way))
        if way.direction in self.cycles:
            (source,) = way.sources
            is_of_ids = self.model.modalities[source].codec.vocabulary is not None
            measures |= cycle(self.cycles[way.direction], is_of_ids)
        return described | measures

    def _judge_of_noise(self, way: Way) -> dict[str, float]:
        """What was made of noise alone: there are no labels that it should have."""
        keys = {name: str(Way(way.direction, name)) for name in way.direction.targets}
        measures = self.judging.together(way.direction.targets, way.target, keys)

        if self.space.codecs[way.target].vocabulary is None:
            x = self._standard_measured(way.target, self.generated[way])
            real = self._standard_measured(way.target, self.measured[way.target])
            measures |= distance(x, real)
        return measures | self.judging.likeness(way.target, str(way))

    def _classes(self) -> dict[str, ByClass]:
        """Per direction and round trip that a judge reads, its shares by class."""
        keys = {str(way): way.target for way in self.ways if way.sources}
        keys |= {name: name for name in self.trips}

        tables = {}
        for key, name in keys.items():
            table = self.judging.by_class(name, key)
            if table:
                tables[key] = table
        return tables

    def _difference(self, way: Way, probes: Probes) -> dict[str, float]:
        """How judge and probe differ on what a direction generated, where both read it."""
        judged = self.judging.right(way.target, str(way))
        if judged is None or way.target not in probes:
            return {}

        x = self._standard_measured(way.target, self.generated[way])
        return difference(judged, probes[way.target](x) == self.labels)

    def _judges(self) -> dict[str, dict[str, Any]]:
        """What each judge reads from real samples; none without labels."""
        if not self.values:
            return {}
        return {name: self.judging.measures(name, None) for name in self.judging.of}

    def _alignments(self) -> dict[str, dict[str, float]]:
        """How well the flows of each two sources begin from the same."""
        aligned = {}
        for a, b in combinations(self.states, 2):
            aligned[f"{a}~{b}"] = self._align(a, b)
        return aligned

    def _align(self, a: str, b: str) -> dict[str, float]:
        states = (self.states[a], self.states[b])
        latents = (
            self._standard(a, self.real[a]),
            self._standard(b, self.real[b]),
        )
        return alignment(states, latents)

    def _meta(self) -> dict[str, Any]:
        return {
            "samples": self.count,
            "left_out": len(self.test_manifest.samples) - self.count,
            "seed": self.config.seed,
            **describe_model(self.model, self.names),
            "metrics": self.metrics.describe(),
            "judges": self.judging.describe(),
            **({"space": self.space.describe()} if self.space is not self.own else {}),
            **describe_data(self.train_store, self.test_store),
            **describe_machine(self.model.device, self.seconds),
        }

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """Adds the seconds of a block to those of a part."""
        begin = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin
