"""Generation, any sources to any targets: read, encode, start each flow, fuse, finish, decode."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowbind import draws
from flowbind.codec import Codec
from flowbind.data.manifest import take_raw
from flowbind.defaults import torch_defaults
from flowbind.method import Direction, Method, Networks, State
from flowbind.modality import Modality
from flowbind.progress import say
from flowbind.registry import nearest
from flowbind.samples import listed, named, together

# Standard deviations, root mean square over a latent: of samples like those of training about 1.
FAR = 4.0


class Model:
    """A trained model: what `flowbind.load` returns.

    Args:
        method: how its latents become one another.
        networks: those of the method, with trained weights.
        sampling: what generation chooses where nothing else is said; the method's defaults if None.
    """

    def __init__(self, method: Method, networks: Networks, sampling: Any = None) -> None:
        self.method = method
        self.networks = networks
        self.sampling = sampling or method.Sampling()
        self.stamps: dict[
            tuple[str, str], list[tuple]
        ] = {}  # of files still to be read, by modality and use

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
                f"this model has no modality '{name}'; {nearest(name, self.modalities)}"
            )
        return self.modalities[name]

    def codec(self, name: str, use: str) -> Codec:
        """The codec of a modality, once it is sure to be the one that was loaded: it reads its files when it is first used.

        Args:
            name: of the modality.
            use: `encode` or `decode`; a codec may read other files for each.

        Raises:
            ValueError: one of these files was replaced since.
        """
        codec = self.modality(name).codec
        loaded = self.stamps.get((name, use))
        if loaded is not None and loaded != stamp(codec):
            files = ", ".join(map(str, codec.files().values()))
            raise ValueError(f"{files}: replaced since the model was loaded; load it again")
        self.stamps.pop((name, use), None)
        return codec

    @torch_defaults()
    @torch.no_grad()
    def encode(self, name: str, samples: Sequence[Any]) -> Tensor:
        """Codec latents of B samples, with shape (B, *shape). A string or path is read; what else is given, `accept` makes a sample.

        Args:
            name: of the modality.
            samples: B of them; a string or a path alone is one.

        Raises:
            ValueError: a sample that cannot be read, or no such modality.
        """
        modality = self.modality(name)
        codec = self.codec(name, "encode")
        what = f"source '{name}'"
        samples = listed(samples, what)
        raws = [take_raw(modality, s, f"{what}[{number}]") for number, s in enumerate(samples)]
        latents = codec.encode(raws)
        self._say_what_is_lost(name, samples, raws, latents)
        return latents

    def _say_what_is_lost(
        self, name: str, samples: Sequence[Any], raws: Sequence[Any], latents: Tensor
    ) -> None:
        """In a line: of which samples the codec has caveats, or latents far from those of training."""
        standard = self.networks.standard[name](latents.to(self.device)).flatten(1).float()
        distances = standard.square().mean(1).sqrt().tolist()
        if self.modalities[name].codec.vocabulary is not None:  # ids are near or far from nothing
            distances = [0.0] * len(samples)
        caveats = [self.modalities[name].codec.caveat(raw) for raw in raws]
        for number, distance in enumerate(distances):
            if distance > FAR and not caveats[number]:
                caveats[number] = (
                    f"is far from all that the model was trained on ({distance:.3g} standard deviations, "
                    "where 1 is usual)"
                )

        numbers = [number for number, caveat in enumerate(caveats) if caveat]
        if numbers:
            first = numbers[0]
            source = f" ({samples[first]!s:.60})" if isinstance(samples[first], str | Path) else ""
            others = f", and {len(numbers) - 1} more like it" if len(numbers) > 1 else ""
            say(f"source '{name}'[{first}]{source} {caveats[first]}{others}")

    def streams(self, rows: int, seed: int = 0, first: int = 0) -> Tensor:
        """A random stream for each of B samples, with shape (B,): of the seed and of a sample's number, `first` on."""
        numbers = torch.arange(first, first + rows, device=self.device)
        return draws.streams(draws.key(seed), numbers)

    @torch.no_grad()
    def start(self, name: str, latents: Tensor, sampling: Any, streams: Tensor) -> State:
        """Where the flow of one source begins, from its codec latents, with shape (B, *shape)."""
        x = self.networks.standard[name](latents.to(self.device))
        return self.method.start(self.networks.nets, name, x, sampling, streams)

    @torch.no_grad()
    def finish(
        self, state: State, targets: Sequence[str], sampling: Any, streams: Tensor
    ) -> dict[str, Tensor]:
        """Codec latents of every target, with shape (B, *shape) each, from where a flow begins."""
        made = self.method.finish(self.networks.nets, state, targets, sampling, streams)
        return {name: self._to_codec(name, x) for name, x in made.items()}

    def _to_codec(self, name: str, x: Tensor) -> Tensor:
        return self.networks.standard[name].inverse(x).to(self.modalities[name].codec.dtype)

    def check_direction(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        """Refuses what this model does not generate.

        Raises:
            ValueError: no source, no target, a modality that it does not have, or a direction that its
                method does not offer.
        """
        sources, targets = tuple(sources), tuple(targets)
        if not sources or not targets:
            raise ValueError("generation needs at least one source and one target")
        for name in (*sources, *targets):
            self.modality(name)
        if not self.method.offers(sources, targets):
            known = ", ".join(map(str, self.method.directions()))
            raise ValueError(
                f"this model does not make {Direction(sources, targets)}; it makes {known}"
            )

    @torch_defaults()
    @torch.no_grad()
    def translate(
        self,
        latents: Mapping[str, Tensor],
        to: Sequence[str],
        *,
        seed: int = 0,
        first: int = 0,
        **choices: Any,
    ) -> dict[str, Tensor]:
        """Codec latents of every target from those of the sources.

        Args:
            latents: codec latents per source, with shape (B, *shape) each.
            to: targets.
            seed: of the noise; with a sample's number it decides the noise of that sample.
            first: number of the first sample.
            choices: sampling choices of the model's method, such as `steps`, other than its own.

        Raises:
            ValueError: a direction that the model does not have, a choice that cannot be, or latents
                that are not finite.
        """
        self.check_direction(latents, to)
        sampling = self.method.choose(self.sampling, **choices)
        streams = self.streams(len(next(iter(latents.values()))), seed, first)

        states = [self.start(name, x, sampling, streams) for name, x in latents.items()]
        state = self.method.fuse(states, sampling, streams)
        made = self.finish(state, list(to), sampling, streams)

        for name, latent in made.items():
            if not latent.isfinite().all():
                raise ValueError(
                    f"{'+'.join(latents)}->{name}: a number overflowed on the way; use float32, "
                    "more steps, or another checkpoint"
                )
        return made

    @torch_defaults()
    @torch.no_grad()
    def generate(
        self,
        sources: Mapping[str, str | Path | Iterable[Any]],
        to: str | Sequence[str],
        *,
        seed: int = 0,
        first: int = 0,
        **choices: Any,
    ) -> dict[str, list[Any]]:
        """Generates every target from all sources together.

        Args:
            sources: per modality, B samples: a file's path, a literal where the modality has them, or whatever the
                modality's `accept` takes. A string or a path alone is one sample, and one sample is used with all of the
                other sources.
            to: targets, or one.
            seed: of everything that is drawn.
            first: number of the first sample, where these are a part of a longer list: what is drawn for a sample depends
                on the seed and its number. What a decoder draws depends on the first number of its part.
            choices: sampling choices of the model's method other than the model's own (`sampling`),
                such as `steps=10`.

        Returns:
            Per target, B raw samples.

        Raises:
            ValueError: samples or targets that cannot be told apart, sources of different lengths, a sample that cannot be
                read, a direction that the model does not have, a library that is not installed, or a choice that cannot be.
        """
        sources, to = together(sources), named(to, "targets")
        self.check_direction(sources, to)
        self.method.choose(self.sampling, **choices)
        for use, names in (("encode", sources), ("decode", to)):
            for name in names:
                self.modality(name).codec.check_libraries(use)
        seed, first = whole_number(seed, "seed"), whole_number(first, "first")

        latents = {name: self.encode(name, samples) for name, samples in sources.items()}
        made = self.translate(latents, to, seed=seed, first=first, **choices)
        generator = torch.Generator(self.device).manual_seed(draws.key(seed, first) % 2**63)
        return {
            name: self.codec(name, "decode").decode(latent, generator)
            for name, latent in made.items()
        }


def stamp(codec: Codec) -> list[tuple]:
    """What changes when a file of a codec is replaced, of each: where it lies on the disk, its size and its time."""
    parts = [part for path in codec.files().values() for part in (path, *path.rglob("*"))]
    return [
        (str(part), (stat := part.stat()).st_ino, stat.st_size, stat.st_mtime_ns)
        for part in sorted(parts)
    ]


def whole_number(value: Any, name: str) -> int:
    """An integer, numpy's among them, as Python's own, which has no end.

    Raises:
        ValueError: it is something else; one line with its name.
    """
    if not isinstance(value, Integral):
        raise ValueError(f"{name} must be an integer, not {value!r:.60}")
    return int(value)


def find_device(name: str) -> torch.device:
    """A device of this machine.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        accelerator = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        numbered = (
            [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())]
            if accelerator
            else []
        )
        here = ["cpu", *([accelerator.type] if accelerator else []), *numbered]
        raise ValueError(f"no device '{name}' on this machine; it has {', '.join(here)}") from None
    if device.type == "meta":
        raise ValueError("the device 'meta' holds no numbers; nothing can be generated on it")
    return device
