"""Generation, any sources to any targets: read, encode, flow to the shared latent, average, flow out, decode."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowbind import draws
from flowbind.batch import Links
from flowbind.codec import Codec
from flowbind.defaults import torch_defaults
from flowbind.flows import Flows
from flowbind.fusion import add_noise, fuse
from flowbind.manifest import take_raw
from flowbind.modality import Modality
from flowbind.nets import DriftConfig, HeadConfig
from flowbind.objective import ObjectiveConfig
from flowbind.padding import padded
from flowbind.progress import say
from flowbind.registry import nearest
from flowbind.samples import listed, named, together
from flowbind.solver import METHODS, Method, integrate

# Standard deviations, root mean square over a latent: of samples like those of training about 1.
FAR = 4.0
STEPS = 10  # Euler steps a leg, as in the authors' code


class Model:
    """A trained model: what `flowbind.load` returns.

    Args:
        modalities: by name.
        flows: their networks, with trained weights.
        drift: size of the drift nets.
        head: size of the heads.
        objective: the settings it was trained with.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        flows: Flows,
        drift: DriftConfig,
        head: HeadConfig,
        objective: ObjectiveConfig,
    ) -> None:
        self.modalities = dict(modalities)
        self.flows = flows
        self.drift, self.head, self.objective = drift, head, objective
        self.stamps: dict[tuple[str, str], list[tuple]] = {}  # of files still to be read, by modality and use

    def to(self, device: torch.device | str) -> "Model":
        """Moves networks and codecs to a device. Returns the model."""
        self.flows.to(device)
        for modality in self.modalities.values():
            modality.codec.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.flows.parameters()).device

    def modality(self, name: str) -> Modality:
        """A modality of this model by name.

        Raises:
            ValueError: the model has none of that name.
        """
        if name not in self.modalities:
            raise ValueError(f"this model has no modality '{name}'; {nearest(name, self.modalities)}")
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
        standard = self.flows.standard[name](latents.to(self.device)).flatten(1).float()
        distances = standard.square().mean(1).sqrt().tolist()
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

    @torch.no_grad()
    def inverse(self, name: str, latents: Tensor, steps: int = STEPS, method: Method = "euler") -> Tensor:
        """The shared latent that one source tells, with shape (B, *shape): its flow from 1 to 0."""
        x = self.flows.standard[name](latents.to(self.device))
        return self._flow(name, x, 1.0, 0.0, steps, method)

    @torch.no_grad()
    def to_shared(self, latents: Mapping[str, Tensor], steps: int = STEPS, method: Method = "euler") -> Tensor:
        """The shared latent of B samples: each source's flow from 1 to 0, then the average.

        Args:
            latents: codec latents per source, with shape (B, *shape) each.
            steps: of the solver.
            method: of the solver.

        Returns:
            Latents with shape (B, *shape).
        """
        return average([self.inverse(name, latent, steps, method) for name, latent in latents.items()])

    @torch.no_grad()
    def from_shared(self, z: Tensor, name: str, steps: int = STEPS, method: Method = "euler") -> Tensor:
        """Codec latents of one target, with shape (B, *shape): its flow from 0 to 1."""
        x = self._flow(name, z, 0.0, 1.0, steps, method)
        return self.flows.standard[name].inverse(x).to(self.modalities[name].codec.dtype)

    def _flow(self, name: str, x: Tensor, start: float, stop: float, steps: int, method: Method) -> Tensor:
        """One leg, in float32 at least: where networks are in half precision, only their velocities are rounded to it."""
        drift, precision = self.flows.drifts[name], self.flows.standard[name].mean.dtype
        exact = torch.promote_types(precision, torch.float32)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return drift(x.to(precision), t.to(precision)).to(exact)

        rows = integrate(velocity, padded(x.to(exact)), start, stop, steps, method)
        return rows[: len(x)]

    @torch_defaults()
    @torch.no_grad()
    def translate(
        self,
        latents: Mapping[str, Tensor],
        to: Sequence[str],
        steps: int | tuple[int, int] = STEPS,
        method: Method = "euler",
        variety: float = 0.0,
        seed: int = 0,
        first: int = 0,
    ) -> dict[str, Tensor]:
        """Codec latents of every target from those of the sources.

        Args:
            latents: codec latents per source, with shape (B, *shape) each.
            to: targets.
            steps: of the solver, on both legs, or (source leg, target leg).
            method: of the solver.
            variety: noise added to the shared latent, as a share of the training noise's standard deviation.
            seed: of the noise; with a sample's number it decides the noise of that sample.
            first: number of the first sample.

        Raises:
            ValueError: no source, no target, a modality that the model does not have, or latents that are not finite.
        """
        if not latents or not to:
            raise ValueError("generation needs at least one source and one target")
        for name in [*latents, *to]:
            self.modality(name)
        inward, outward = legs(steps)
        z = self.to_shared(latents, inward, method)
        if variety:
            rows = torch.arange(first, first + len(z), device=z.device)
            noise = draws.normal(draws.streams(draws.key(seed), rows), *z.shape[1:]).to(z.dtype)
            z = add_noise(
                z, torch.ones(len(z), dtype=z.dtype, device=z.device), noise, variety**2 * self.objective.noise_variance
            )
        made = {name: self.from_shared(z, name, outward, method) for name in to}
        for name, latent in made.items():
            if not latent.isfinite().all():
                raise ValueError(
                    f"{'+'.join(latents)}->{name}: a number overflowed on the way; use float32, more steps, or another checkpoint"
                )
        return made

    @torch_defaults()
    @torch.no_grad()
    def generate(
        self,
        sources: Mapping[str, str | Path | Iterable[Any]],
        to: str | Sequence[str],
        steps: int | tuple[int, int] = STEPS,
        method: Method = "euler",
        variety: float = 0.0,
        seed: int = 0,
        first: int = 0,
    ) -> dict[str, list[Any]]:
        """Generates every target from all sources together.

        Args:
            sources: per modality, B samples: a file's path, a literal where the modality has them, or whatever the
                modality's `accept` takes. A string or a path alone is one sample, and one sample is used with all of the
                other sources.
            to: targets, or one.
            steps: of the solver, on both legs, or (source leg, target leg).
            method: of the solver: euler, midpoint, rk4 or dopri5.
            variety: noise added to the shared latent, as a share of the training noise's standard deviation; 0 is
                deterministic.
            seed: of everything that is drawn.
            first: number of the first sample, where these are a part of a longer list: what is drawn for a sample depends
                on the seed and its number. What a decoder draws depends on the first number of its part.

        Returns:
            Per target, B raw samples.

        Raises:
            ValueError: samples or targets that cannot be told apart, sources of different lengths, a sample that cannot be
                read, a modality the model does not have, a library that is not installed, or settings that no solver has.
        """
        sources, to = together(sources), named(to, "targets")
        for use, names in (("encode", sources), ("decode", to)):
            for name in names:
                self.modality(name).codec.check_libraries(use)
        check_sampling(steps, method, variety)
        latents = {name: self.encode(name, samples) for name, samples in sources.items()}
        made = self.translate(latents, to, steps, method, variety, seed, first)
        generator = torch.Generator(self.device).manual_seed(draws.key(seed, first) % 2**63)
        return {name: self.codec(name, "decode").decode(latent, generator) for name, latent in made.items()}


def stamp(codec: Codec) -> list[tuple]:
    """What changes when a file of a codec is replaced, of each: where it lies on the disk, its size and its time."""
    parts = [part for path in codec.files().values() for part in (path, *path.rglob("*"))]
    return [(str(part), (stat := part.stat()).st_ino, stat.st_size, stat.st_mtime_ns) for part in sorted(parts)]


def legs(steps: int | tuple[int, int]) -> tuple[int, int]:
    """Steps of the source leg and of the target leg.

    Raises:
        ValueError: neither a number nor two, or one below 1.
    """
    both = tuple(steps) if isinstance(steps, Sequence) else (steps, steps)
    if len(both) != 2 or not all(isinstance(number, Integral) and number >= 1 for number in both):
        raise ValueError(f"steps must be at least 1: one number, or those of both legs, not {steps}")
    return both


def check_sampling(steps: int | tuple[int, int], method: str, variety: float) -> None:
    """Refuses settings that no generation has, before anything is encoded.

    Raises:
        ValueError: one of them cannot be.
    """
    legs(steps)
    if method not in METHODS:
        raise ValueError(f"no solver '{method}'; {nearest(method, METHODS)}")
    if not 0 <= variety < math.inf:
        raise ValueError(f"variety must be a number, at least 0, not {variety}")


def find_device(name: str) -> torch.device:
    """A device of this machine.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        numbered = [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())] if accelerator else []
        here = ["cpu", *([accelerator.type] if accelerator else []), *numbered]
        raise ValueError(f"no device '{name}' on this machine; it has {', '.join(here)}") from None
    if device.type == "meta":
        raise ValueError("the device 'meta' holds no numbers; nothing can be generated on it")
    return device


def average(estimates: Sequence[Tensor]) -> Tensor:
    """The shared latent of B samples, with shape (B, *shape): the mean of what each source tells, of that shape each."""
    size, device = len(estimates[0]), estimates[0].device
    links = Links(
        torch.arange(size, device=device).repeat(len(estimates)), torch.arange(size * len(estimates), device=device)
    )
    return fuse(torch.cat(list(estimates)), links, torch.ones_like(links.target, dtype=torch.bool), size).mean
