"""Generation, any sources to any targets: read, encode, start each flow, fuse, finish, decode."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowbind import draws
from flowbind.codec import Codec, kind_of
from flowbind.data.manifest import take_raw
from flowbind.defaults import torch_defaults
from flowbind.flow.arithmetic import between, shift, standardize, weigh
from flowbind.method import Direction, Method, Networks, State, check_decodable
from flowbind.modality import Modality
from flowbind.outputs import Outputs
from flowbind.progress import say
from flowbind.registry import did_you_mean
from flowbind.samples import Terms, listed, named, terms, together

# Standard deviations, root mean square over a latent: of samples like those of training about 1.
FAR = 4.0


class Model:
    """A trained model: what `flowbind.load` returns.

    Args:
        method: Method by which its latents become one another.
        networks: Networks of the method, with trained weights.
        sampling: Choices of generation where nothing else is chosen; the method's defaults if None.
    """

    def __init__(
        self,
        method: Method,
        networks: Networks,
        sampling: Any = None,
    ) -> None:
        self.method = method
        self.networks = networks
        self.sampling = sampling or method.Sampling()
        # Of files still to be read, by modality and use.
        self.stamps: dict[tuple[str, str], list[tuple]] = {}

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.networks.parameters())
        method = type(self.method).__name__
        lines = [f"Model: {method}, {count:,} parameters, on {self.device}"]
        width = max(map(len, self.modalities))
        for name, modality in self.modalities.items():
            lines.append(f"  {name:{width}}  {describe_codec(modality.codec)}")

        choices = ", ".join(f"{k}={v}" for k, v in asdict(self.sampling).items())
        return "\n".join([*lines, f"  generates with {choices}"])

    @property
    def modalities(self) -> dict[str, Modality]:
        """Its modalities by name."""
        return self.method.modalities

    def to(self, device: torch.device | str) -> "Model":
        """Moves networks and codecs to a device. Returns the model."""
        self.networks.to(device)
        for modality in self.modalities.values():
            modality.codec.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.networks.parameters()).device

    def modality(self, name: str) -> Modality:
        """A modality of this model by name.

        Raises:
            ValueError: the model has none of that name.
        """
        if name not in self.modalities:
            raise ValueError(
                f"this model has no modality '{name}'; {did_you_mean(name, self.modalities)}"
            )
        return self.modalities[name]

    def codec(self, name: str, use: str) -> Codec:
        """The codec of a modality, once it is sure to be the one that was loaded.

        It reads its files when it is first used, and these may have been replaced.

        Args:
            name: Name of the modality.
            use: `encode` or `decode`; a codec may read other files for each.

        Raises:
            ValueError: one of these files was replaced since.
        """
        codec = self.modality(name).codec
        loaded = self.stamps.get((name, use))
        if loaded is not None and loaded != stamp(codec):
            files = ", ".join(str(file) for file in codec.files().values())
            raise ValueError(
                f"{files}: replaced since the model was loaded; load it again"
            )
        self.stamps.pop((name, use), None)
        return codec

    @torch_defaults()
    @torch.no_grad()
    def encode(self, name: str, samples: Sequence[Any]) -> Tensor:
        """Codec latents of B samples, with shape (B, *shape).

        A string or path is read; all else becomes a sample by the modality's `accept`.

        Args:
            name: Name of the modality.
            samples: B samples; a string or a path alone is one.

        Raises:
            ValueError: a sample that cannot be read, or no such modality.
        """
        return self._encode(name, samples, f"source '{name}'")

    def _encode(self, name: str, samples: Sequence[Any], what: str) -> Tensor:
        """The same, of samples that are called `what` where something is said of them."""
        samples = listed(samples, what)
        raws = self._read(name, samples, what)
        return self._encode_raws(name, samples, raws, what)

    def _read(self, name: str, samples: Sequence[Any], what: str) -> list[Any]:
        """Raw samples of what was given for them."""
        modality = self.modality(name)
        raws = []
        for number, sample in enumerate(samples):
            where = f"{what}[{number}]"
            raws.append(take_raw(modality, sample, where))
        return raws

    def _encode_raws(
        self,
        name: str,
        samples: Sequence[Any],
        raws: Sequence[Any],
        what: str,
    ) -> Tensor:
        latents = self.codec(name, "encode").encode(raws)
        self._say_what_is_lost(name, samples, raws, latents, what)
        return latents

    def _known(
        self,
        name: str,
        masks: Sequence[Any],
        raws: Sequence[Any],
    ) -> Tensor:
        """Which numbers of latents are known, bool with shape (B, *shape); one mask is that of all.

        Raises:
            ValueError: a mask does not fit its sample, or the codec takes none; it is named.
        """
        modality = self.modality(name)
        masks = list(masks) * (len(raws) // len(masks))
        parts = []
        for number, (mask, raw) in enumerate(zip(masks, raws, strict=True)):
            try:
                parts.append(modality.read_mask(mask, raw))
            except (OSError, ValueError) as error:
                raise ValueError(f"mask '{name}'[{number}]: {error}") from None
        return modality.codec.known(parts)

    def _encode_terms(
        self,
        terms: Sequence[tuple[str, Sequence[Any]]],
        what: str,
    ) -> list[tuple[str, Tensor]]:
        """Latents of what is added or taken away."""
        pairs = []
        for name, samples in terms:
            latents = self._encode(name, samples, f"{what} '{name}'")
            pairs.append((name, latents))
        return pairs

    def _say_what_is_lost(
        self,
        name: str,
        samples: Sequence[Any],
        raws: Sequence[Any],
        latents: Tensor,
        what: str,
    ) -> None:
        """Says which samples have a codec's caveat or latents far from training's.

        Those that differ in their numbers and quoted words alone are said in one line.
        """
        codec = self.modalities[name].codec
        standard = self.networks.standard[name](latents.to(self.device))
        squares = standard.flatten(1).float().square()
        distances = squares.mean(1).sqrt().tolist()
        if codec.vocabulary is not None:  # ids are near or far from nothing
            distances = [0.0] * len(samples)

        caveats = {}  # by number of the sample
        for number, (raw, distance) in enumerate(zip(raws, distances, strict=True)):
            caveat = codec.caveat(raw)
            if not caveat and distance > FAR:
                caveat = (
                    f"is far from all that the model was trained on ({distance:.3g} standard "
                    "deviations, where 1 is usual)"
                )
            if caveat:
                caveats[number] = caveat

        alike: dict[str, list[int]] = {}
        for number, caveat in caveats.items():
            alike.setdefault(kind_of(caveat), []).append(number)
        for first, *more in alike.values():
            source = ""
            if isinstance(samples[first], str | Path):
                source = f" ({samples[first]!s:.60})"
            others = ""
            if more:
                others = f", and {len(more)} more like it"
            say(f"{what}[{first}]{source} {caveats[first]}{others}")

    def streams(self, rows: int, seed: int = 0, first: int = 0) -> Tensor:
        """A random stream for each of B samples, with shape (B,).

        Args:
            rows: Number B of samples.
            seed: Seed, which decides all of them.
            first: Number of the first sample; each sample's number decides its own.
        """
        numbers = torch.arange(first, first + rows, device=self.device)
        return draws.streams(draws.key(seed), numbers)

    @torch.no_grad()
    def start(
        self,
        name: str,
        latents: Tensor,
        sampling: Any,
        streams: Tensor,
    ) -> State:
        """Where the flow of one source begins, from its codec latents, with shape (B, *shape)."""
        standard = self.networks.standard[name]
        x = standard(latents.to(self.device))
        return self.method.start(self.networks.nets, name, x, sampling, streams)

    @torch.no_grad()
    def finish(
        self,
        state: State,
        targets: Sequence[str],
        sampling: Any,
        streams: Tensor,
    ) -> dict[str, Tensor]:
        """Codec latents of every target, with shape (B, *shape) each, from a flow's beginning."""
        generated = self.method.finish(
            self.networks.nets,
            state,
            targets,
            sampling,
            streams,
        )
        latents = {}
        for name, x in generated.items():
            standard = self.networks.standard[name]
            dtype = self.modalities[name].codec.dtype
            latents[name] = standard.inverse(x).to(dtype)
        return latents

    def check_direction(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        """Refuses what this model does not generate.

        Raises:
            ValueError: no target, a modality that it does not have, a direction that its method
                does not offer, such as one from no source, or a target whose codec encodes only.
        """
        sources = tuple(sources)
        targets = tuple(targets)
        from_nothing = not sources and not self.method.offers(sources, targets)
        if not targets or from_nothing:
            raise ValueError("generation needs at least one source and one target")

        for name in (*sources, *targets):
            self.modality(name)
        if not self.method.offers(sources, targets):
            direction = Direction(sources, targets)
            known = ", ".join(str(known) for known in self.method.directions())
            raise ValueError(f"this model does not make {direction}; it makes {known}")
        check_decodable(self.modalities, targets)

    def choose(
        self,
        sources: Iterable[str],
        targets: Iterable[str],
        masked: Collection[str] = (),
        **choices: Any,
    ) -> Any:
        """Sampling choices for a direction: the model's own, with others.

        Args:
            sources: Modalities of the sources.
            targets: Modalities to generate.
            masked: Sources of which a part alone is known.
            choices: Other choices, by name.

        Raises:
            ValueError: a choice that cannot be, choices that do not go together with the direction,
                or a mask of what is not both source and target.
        """
        direction = Direction(tuple(sources), tuple(targets))
        for name in masked:
            if name not in direction.sources or name not in direction.targets:
                raise ValueError(
                    f"a mask of '{name}' says which part of a source is made anew, so '{name}' has "
                    f"to be a source and a target; this is {direction}"
                )
        sampling = self.method.choose(self.sampling, **choices)
        self.method.check(direction, sampling, masked)
        return sampling

    def check_linear(self, what: str) -> None:
        """Refuses what adds or mixes states where the method's are not `linear`.

        Args:
            what: What is asked for, for the message.

        Raises:
            ValueError: they are not.
        """
        if not self.method.linear:
            raise ValueError(
                f"{what}: the states of {type(self.method).__name__} cannot be added or mixed; "
                "generate from the sources as they are"
            )

    def check_terms(
        self,
        terms: Iterable[str],
        sources: Collection[str],
        targets: Sequence[str],
    ) -> None:
        """Refuses to add or to take away what this model cannot.

        Args:
            terms: Modalities of what is added and taken away.
            sources: Modalities of the sources.
            targets: Modalities to generate.

        Raises:
            ValueError: the method is not `linear`, there is no source, or the targets are not
                generated from a term.
        """
        for name in terms:
            self.check_linear("plus and minus")
            if not sources:
                raise ValueError("plus and minus change a source, and there is none")
            self.check_direction([name], targets)

    def check_weights(
        self,
        weights: Mapping[str, float],
        sources: Iterable[str],
    ) -> list[float]:
        """The weight of each source, 1 where nothing is said; none where nothing is said at all.

        Args:
            weights: Weights by source.
            sources: Modalities of the sources.

        Raises:
            ValueError: the method is not `linear`, a weight is of no source or below 0, or all are
                0.
        """
        if not weights:
            return []

        self.check_linear("weights")
        names = list(sources)
        for name in weights:
            if name not in names:
                raise ValueError(
                    f"a weight of '{name}', which is no source; allowed: {', '.join(names)}"
                )
        numbers = finite_numbers([weights.get(name, 1.0) for name in names], "weights")
        if min(numbers) < 0 or not any(numbers):
            raise ValueError(
                f"weights are at least 0, and one of them above 0, not {numbers}"
            )
        return numbers

    @torch_defaults()
    @torch.no_grad()
    def translate(
        self,
        latents: Mapping[str, Tensor],
        to: Sequence[str],
        *,
        plus: Sequence[tuple[str, Tensor]] = (),
        minus: Sequence[tuple[str, Tensor]] = (),
        strength: float = 1.0,
        restandardize: bool = False,
        weights: Mapping[str, float] | None = None,
        known: Mapping[str, Tensor] | None = None,
        count: int = 1,
        seed: int = 0,
        first: int = 0,
        **choices: Any,
    ) -> dict[str, Tensor]:
        """Codec latents of every target from those of the sources.

        Args:
            latents: Codec latents per source, with shape (B, *shape) each; none where the method
                makes something of noise alone.
            to: Targets by name.
            plus: What is added to every source: modalities, each with its codec's latents, with
                shape (B, *shape), or (1, *shape) for all samples.
            minus: What is taken away, likewise.
            strength: Factor of what is added and taken away.
            restandardize: Whether each source's state is then standardised as a whole.
            weights: By source, how much it counts beside the others, 1 where nothing is said.
            known: By source that is a target too, whether a number of its latents is known and to
                be held, bool with shape (B, *shape); None where no part is held.
            count: Number B of samples where there is no source.
            seed: Seed of the noise; with a sample's number it decides the noise of that sample.
            first: Number of the first sample.
            choices: Sampling choices of the model's method other than the model's own (`sampling`),
                such as `steps=10`.

        Raises:
            ValueError: a direction that the model does not have, a choice that cannot be, or
                latents that are not finite.
        """
        self.check_direction(latents, to)
        self.check_terms([name for name, _ in (*plus, *minus)], latents, to)
        if restandardize:
            self.check_linear("restandardize")
        shares = self.check_weights(weights or {}, latents)
        sampling = self.choose(latents, to, known or (), **choices)
        if latents:
            count = len(next(iter(latents.values())))
        streams = self.streams(count, seed, first)

        states = self._starts(latents.items(), sampling, streams)
        if plus or minus:
            added = self._starts(plus, sampling, streams)
            taken = self._starts(minus, sampling, streams)
            states = [shift(state, added, taken, strength) for state in states]
        if restandardize:
            states = [standardize(state) for state in states]
        if shares:
            states = weigh(states, shares)

        state = self.method.fuse(states, sampling, streams)
        if known:
            on_device = {name: part.to(self.device) for name, part in known.items()}
            state = self.method.hold(state, on_device)
        generated = self.finish(state, list(to), sampling, streams)
        check_finite(generated, latents)
        return generated

    def _starts(
        self,
        terms: Iterable[tuple[str, Tensor]],
        sampling: Any,
        streams: Tensor,
    ) -> list[State]:
        """Where the flow of each term begins; latents of one row are those of all samples.

        A sample's terms share its stream: what a method draws for one is what it draws for all of
        them, so the same term added and taken away cancels, and noise does not pile up.
        """
        states = []
        for name, x in terms:
            rows = x.expand(len(streams), *x.shape[1:])
            states.append(self.start(name, rows, sampling, streams))
        return states

    @torch_defaults()
    @torch.no_grad()
    def generate(
        self,
        sources: Mapping[str, str | Path | Iterable[Any]],
        to: str | Sequence[str],
        *,
        plus: Terms = (),
        minus: Terms = (),
        strength: float = 1.0,
        restandardize: bool = False,
        weights: Mapping[str, float] | None = None,
        mask: Mapping[str, Any] | None = None,
        count: int | None = None,
        seed: int = 0,
        first: int = 0,
        **choices: Any,
    ) -> Outputs:
        """Generates every target from all sources together.

        Targets of one number belong together. Without a source a method that can makes `count` of
        them of noise alone: `generate({}, to=["a", "b"], count=16)`.

        Where the method is `linear`, the state that each source's flow begins from may be changed:
        `plus={"text": "blue"}, minus={"text": "red"}` adds the state of one and takes that of the
        other away.

        Args:
            sources: Per modality, B samples: a file's path, a literal where the modality has them,
                or whatever the modality's `accept` takes. A string or a path alone is one sample,
                and one sample is used with all of the other sources. None where the method makes
                something of noise alone.
            to: Targets by name, or one name.
            plus: What is added to every source: samples by modality as for `sources`, one for all
                of them or B; or several such mappings.
            minus: What is taken away, likewise.
            strength: Factor of what is added and taken away.
            restandardize: Whether each source's state is then brought to mean 0 and standard
                deviation 1, each sample as a whole, as CrossFlow's authors do.
            weights: By source, how much it counts beside the others, 1 where nothing is said, where
                the method is `linear`: `weights={"a": 2}`.
            mask: By source that is a target too, which part of it is unknown and made anew: a file
                or whatever the modality's `read_mask` takes, one for all samples or B.
            count: Number B of samples where there is no source; 1 if None.
            seed: Seed of everything that is drawn.
            first: Number of the first sample, where these are a part of a longer list: what is
                drawn for a sample depends on the seed and its number. What a decoder draws depends
                on the first number of its part.
            choices: Sampling choices of the model's method other than the model's own (`sampling`),
                such as `steps=10`.

        Returns:
            Per target, B raw samples; `save(folder)` writes them, and notebooks show them.

        Raises:
            ValueError: samples or targets that cannot be told apart, sources of different lengths,
                a sample that cannot be read, a direction that the model does not have, a library
                that is not installed, choices that cannot be or do not go together, a count beside
                sources, a mask that does not fit, or terms where there is nothing to add them to.
        """
        lists = {} if sources == {} else together(sources)
        to = named(to, "targets")
        rows = max(map(len, lists.values()), default=0)
        added = terms(plus, "plus", rows)
        taken = terms(minus, "minus", rows)
        # Before long work begins.
        self.check_direction(lists, to)
        others = [name for name, _ in (*added, *taken)]
        self.check_terms(others, lists, to)
        self.check_weights(weights or {}, lists)
        masks = dict(terms(mask or {}, "mask", rows))
        self.choose(lists, to, masks, **choices)
        self._check_libraries([*lists, *others], to)
        seed = whole_number(seed, "seed")
        first = whole_number(first, "first")
        count = self._count(count, lists)
        (strength,) = finite_numbers([strength], "strength")

        latents = {}
        known = {}
        for name, samples in lists.items():
            what = f"source '{name}'"
            raws = self._read(name, samples, what)
            if name in masks:
                known[name] = self._known(name, masks[name], raws)
            latents[name] = self._encode_raws(name, samples, raws, what)
        generated = self.translate(
            latents,
            to,
            plus=self._encode_terms(added, "plus"),
            minus=self._encode_terms(taken, "minus"),
            strength=strength,
            restandardize=restandardize,
            weights=weights,
            known=known,
            count=count,
            seed=seed,
            first=first,
            **choices,
        )
        decoded = self._decode(generated, draws.key(seed, first))
        return Outputs(decoded, self.modalities)

    @torch_defaults()
    @torch.no_grad()
    def interpolate(
        self,
        sources: Mapping[str, Sequence[Any]],
        to: str | Sequence[str],
        shares: Iterable[float],
        *,
        restandardize: bool = False,
        seed: int = 0,
        **choices: Any,
    ) -> Outputs:
        """Generates every target from states on the line between those of two samples.

        All have the same noise, that of a sample alone: at the shares 0 and 1 they are what
        `generate` gives of the first and of the second sample.

        Args:
            sources: Per modality, two samples, or one for both ends; as for `generate`.
            to: Targets by name, or one name.
            shares: Share of the second sample in each of N results, such as
                `torch.linspace(0, 1, 9)`; below 0 and above 1 the line goes on.
            restandardize: Whether each state is then brought to mean 0 and standard deviation 1.
            seed: Seed of everything that is drawn.
            choices: Sampling choices, as for `generate`.

        Returns:
            Per target, N raw samples; `save(folder)` writes them, and notebooks show them.

        Raises:
            ValueError: not two samples, a method that is not `linear`, shares that are no numbers,
                or what `generate` refuses.
        """
        sources = together(sources)
        to = named(to, "targets")
        self.check_direction(sources, to)
        self.check_linear("interpolation")
        sampling = self.method.choose(self.sampling, **choices)
        self._check_libraries(sources, to)
        seed = whole_number(seed, "seed")
        numbers = finite_numbers(shares, "shares")
        rows = max(map(len, sources.values()))
        if rows != 2:
            raise ValueError(
                f"an interpolation goes between two samples, not {rows}; give two of one source"
            )

        alone = self.streams(1, seed)
        streams = alone.expand(len(numbers))
        states = []
        for name, samples in sources.items():
            latents = self.encode(name, samples)
            ends = self.start(name, latents, sampling, alone.expand(2))
            along = torch.tensor(numbers, dtype=ends.dtype, device=ends.device)
            state = between(ends[:1], ends[1:], along)
            states.append(standardize(state) if restandardize else state)
        state = self.method.fuse(states, sampling, streams)
        generated = self.finish(state, to, sampling, streams)
        check_finite(generated, sources)

        # One by one, so that what decoding draws is the same for all.
        raws: dict[str, list[Any]] = {name: [] for name in generated}
        for row in range(len(numbers)):
            one = {name: x[row : row + 1] for name, x in generated.items()}
            for name, decoded in self._decode(one, draws.key(seed, 0)).items():
                raws[name] += decoded
        return Outputs(raws, self.modalities)

    def _decode(self, latents: Mapping[str, Tensor], key: int) -> dict[str, list[Any]]:
        """Raw samples of latents, whatever decoding draws from a key."""
        generator = torch.Generator(self.device)
        generator.manual_seed(key % 2**63)
        raws = {}
        for name, latent in latents.items():
            codec = self.codec(name, "decode")
            raws[name] = codec.decode(latent, generator)
        return raws

    def _count(self, count: int | None, sources: Collection[str]) -> int:
        """The number of samples where there is no source.

        Raises:
            ValueError: there are sources, or it is no whole number from 1 on.
        """
        if count is None:
            return 1
        if sources:
            raise ValueError(
                "count is the number of samples where there is no source; leave it out, the "
                "sources say how many there are"
            )
        number = whole_number(count, "count")
        if number < 1:
            raise ValueError(f"count must be at least 1, not {number}")
        return number

    def _check_libraries(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        for name in sources:
            self.modality(name).codec.check_libraries("encode")
        for name in targets:
            self.modality(name).codec.check_libraries("decode")


def describe_codec(codec: Codec) -> str:
    """A codec in a line: its class, the shape of its latents, and which way it goes."""
    shape = " x ".join(map(str, codec.shape))
    kind = f"{shape} numbers"
    if codec.vocabulary is not None:
        kind = f"{shape} ids of {codec.vocabulary:,}"
    alone = "" if codec.decodes else ", a source alone"
    return f"{type(codec).__name__}, {kind}{alone}"


def stamp(codec: Codec) -> list[tuple]:
    """What changes when a codec's file is replaced: of each file its path, inode, size and time."""
    files: list[Path] = []
    for path in codec.files().values():
        files += [path, *path.rglob("*")]

    stamps = []
    for file in sorted(files):
        status = file.stat()
        stamps.append((str(file), status.st_ino, status.st_size, status.st_mtime_ns))
    return stamps


def whole_number(value: Any, name: str) -> int:
    """An integer, numpy's among them, as Python's own, which has no end.

    Raises:
        ValueError: it is something else; one line with its name.
    """
    if not isinstance(value, Integral):
        raise ValueError(f"{name} must be an integer, not {value!r:.60}")
    return int(value)


def finite_numbers(values: Iterable[Any], name: str) -> list[float]:
    """Numbers as Python's own floats.

    Raises:
        ValueError: there is none, or one is no finite number; one line with their name.
    """
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} must be finite numbers, not {values!r:.60}")
    return numbers


def check_finite(latents: Mapping[str, Tensor], sources: Iterable[str]) -> None:
    """Refuses generated latents that are not finite.

    Args:
        latents: Latents of each target, with shape (B, *shape).
        sources: Modalities that they were generated from.

    Raises:
        ValueError: some are not; one line that names the direction.
    """
    for name, latent in latents.items():
        if not latent.isfinite().all():
            direction = f"{'+'.join(sources)}->{name}"
            raise ValueError(
                f"{direction}: a number overflowed on the way; use float32, "
                "more steps, or another checkpoint"
            )


def find_device(name: str) -> torch.device:
    """A device of this machine.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        devices = ", ".join(_devices())
        raise ValueError(
            f"no device '{name}' on this machine; it has {devices}"
        ) from None

    if device.type == "meta":
        raise ValueError(
            "the device 'meta' holds no numbers; nothing can be generated on it"
        )
    return device


def _devices() -> list[str]:
    """The names of this machine's devices."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or not torch.accelerator.is_available():
        return ["cpu"]

    kind = accelerator.type
    numbers = range(torch.accelerator.device_count())
    numbered = [f"{kind}:{number}" for number in numbers]
    return ["cpu", kind, *numbered]
