"""A method: how latents of several modalities become one another, as a plugin describes it.

A method is a light description, like a modality. It builds its networks when it is asked to, and is
handed them as an argument wherever they are used, so that trained, averaged, sharded and loaded
weights are one code path. It sees standardised latents alone: reading, codecs, standardisation,
files, checkpoints and devices are the framework's. It draws nothing at random but from the keys and
streams that it is given (`flowbind.draws`), so that a seed decides everything.

Letters of shapes: n rows of a modality in a batch, B samples to generate, * the axes of a latent.
"""

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from itertools import permutations
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from flowbind.batch import Batch
from flowbind.codec import Codec
from flowbind.component import Component, differences
from flowbind.errors import last_line
from flowbind.modality import Modality
from flowbind.nets.standardizer import Standardizer, Unchanged
from flowbind.registry import did_you_mean

# What a flow begins from: a tensor with one row a sample, or a mapping or tuple of such.
State = Any


class Direction(NamedTuple):
    """From which modalities to which, as `image+audio->text`; no source is noise alone."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def __str__(self) -> str:
        sources = "+".join(self.sources)
        targets = "+".join(self.targets)
        return f"{sources}->{targets}"


class Loss(NamedTuple):
    """One term of an objective, row by row.

    Attributes:
        of: Modality whose rows these are. Their number in the global batch is what the term is
            divided by, and their lines in the manifest name the samples where it is not finite.
        errors: Error of each of its rows, with shape (n,).
    """

    of: str
    errors: Tensor

    def mean(self, batch: Batch) -> Tensor:
        """The term, a scalar whose mean over the ranks is that over the global batch.

        Without rows it is 0, and so are its gradients.
        """
        rows = batch.mean_rows[self.of] or 1.0
        return self.errors.sum() / rows


class Sign(NamedTuple):
    """A value that shows whether training goes well.

    Attributes:
        value: Scalar.
        advice: What it means outside of the bounds, and what to do, as the end of a line.
        least: Least value at which all is well.
        most: Largest one.
    """

    value: Tensor
    advice: str
    least: float = -math.inf
    most: float = math.inf

    @property
    def complaint(self) -> str:
        """What is wrong, in a line; empty if nothing is."""
        value = float(self.value)
        if value < self.least:
            return f"{value:.2g}, below {self.least:.2g}: {self.advice}"
        if not value <= self.most:
            return f"{value:.2g}, above {self.most:.2g}: {self.advice}"
        return ""


class Method(Component):
    """How latents become one another: networks, what they are trained by, and how they generate.

    Args:
        modalities: Modalities by name, as manifests name them.

    Attributes:
        Sampling: Dataclass of what may be chosen at generation. Its fields are the options of
            `flowbind generate`, the keys of `evaluation.sampling` and the keywords of
            `Model.generate`; it refuses values that cannot be with ValueError.
        trained_by: Arguments that decide how networks are trained and not which they are: training
            may resume from a checkpoint with others.
        linear: Whether states, as `start` gives them, are tensors of numbers that may be averaged,
            added and subtracted before they are fused. Then sources may be compared, and `plus`,
            `minus` and interpolation are offered. All states of one sample are drawn from one
            stream: whatever `start` draws is to be the same for each of them, so that it cancels.
        version: Number that is raised when the same weights would generate something else.
        paper: Where the method was published, for a model's card, such as `arXiv 2512.15420`.

    Raises:
        ValueError: a name that is no identifier.
    """

    group: ClassVar = "methods"
    Sampling: ClassVar[type]
    trained_by: ClassVar[tuple[str, ...]] = ()
    linear: ClassVar[bool] = False
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""

    def __init__(self, modalities: dict[str, Modality]) -> None:
        for name in modalities:
            if not name.isidentifier():
                raise ValueError(
                    f"a modality's name is an identifier (letters, digits, _), not '{name}'"
                )
        self.modalities = dict(modalities)

    @abstractmethod
    def build(self) -> nn.Module:
        """Fresh networks, drawn from torch's global generator. They are not kept."""

    @abstractmethod
    def draw(self, batch: Batch, key: int) -> Any:
        """Everything random in a step, on the batch's device.

        What is drawn for a row depends on the row's place in the global batch.

        Args:
            batch: Standardised latents.
            key: Key of the step's draws (`flowbind.draws.key`).
        """

    @abstractmethod
    def losses(
        self,
        nets: Any,
        batch: Batch,
        draws: Any,
    ) -> dict[str, Loss]:
        """The terms of the objective, whose sum is minimised. Nothing here is random.

        A modality without rows has a term all the same, with no rows in it, so that every parameter
        gets a gradient from every batch.

        Args:
            nets: Networks as `build` makes them.
            batch: Standardised latents.
            draws: Draws of this batch, as `draw` gives them.
        """

    @abstractmethod
    def start(
        self,
        nets: Any,
        name: str,
        x: Tensor,
        sampling: Any,
        streams: Tensor,
    ) -> State:
        """Where the flow of one source begins.

        Args:
            nets: Networks as `build` makes them.
            name: Name of the source.
            x: Its standardised latents, with shape (B, *).
            sampling: Instance of `Sampling`.
            streams: Random stream for each sample, with shape (B,).
        """

    @abstractmethod
    def finish(
        self,
        nets: Any,
        state: State,
        targets: Sequence[str],
        sampling: Any,
        streams: Tensor,
    ) -> dict[str, Tensor]:
        """Standardised latents of every target, with shape (B, *) each, from a flow's beginning."""

    def fuse(
        self,
        states: Sequence[State],
        sampling: Any,
        streams: Tensor,
    ) -> State:
        """Where the flow of all sources together begins. Here a method takes exactly one.

        Args:
            states: States of each source, as `start` gives them; none where noise alone is asked
                for.
            sampling: Instance of `Sampling`.
            streams: Random stream for each sample, with shape (B,).
        """
        (state,) = states
        return state

    def check(
        self,
        direction: Direction,
        sampling: Any,
        masked: Collection[str] = (),
    ) -> None:
        """Refuses choices that do not go together with what is asked for, before long work begins.

        Here a mask is: a method that takes masks has a `hold` of its own, and refuses them no more.

        Args:
            direction: Direction that it offers; a source may be a target too.
            sampling: Instance of `Sampling`.
            masked: Sources of which a part alone is known.

        Raises:
            ValueError: they do not; one line.
        """
        if masked:
            raise ValueError(
                f"{type(self).__name__} holds no part of a source; leave out the mask"
            )

    def hold(self, state: State, known: Mapping[str, Tensor]) -> State:
        """Where all sources' flow begins, of whose latents the known numbers are to be held.

        Args:
            state: State, as `fuse` gives it.
            known: By source that is a target too, whether a number of its latents is known, bool
                with shape (B, *).
        """
        raise NotImplementedError(f"{type(self).__name__} takes no masks")

    def directions(self) -> list[Direction]:
        """What is judged: here each modality to each other one."""
        pairs = permutations(self.modalities, 2)
        return [Direction((source,), (target,)) for source, target in pairs]

    def offers(self, sources: Collection[str], targets: Collection[str]) -> bool:
        """Whether it can generate these targets from these sources: here what is judged."""
        known: set[str] = set()
        for direction in self.directions():
            if set(direction.sources) == set(sources):
                known.update(direction.targets)
        return bool(targets) and known.issuperset(targets)

    @property
    def trained(self) -> list[str]:
        """Modalities whose networks are trained, and whose samples are needed for it."""
        return list(self.modalities)

    def trains_on(self, present: Collection[str]) -> bool:
        """Whether samples that have these modalities teach anything."""
        return not set(present).isdisjoint(self.trained)

    def adopt(
        self,
        networks: "Networks",
        base: "Method",
        base_networks: "Networks",
    ) -> Collection[str]:
        """Takes over the weights of a released model to build on; here all of them.

        Args:
            networks: Fresh networks of this method.
            base: Method of the released model.
            base_networks: Networks of the released model.

        Returns:
            The modalities whose standardisation was taken over, too.

        Raises:
            ValueError: its weights do not fit.
        """
        check_same_codecs(self.modalities, base.modalities, self.modalities)
        try:
            networks.load_state_dict(base_networks.state_dict())
        except RuntimeError as error:
            reason = last_line(error)
            raise ValueError(f"its networks are others ({reason})") from None
        return list(self.modalities)

    def measures(
        self,
        nets: Any,
        batch: Batch,
        key: int,
    ) -> dict[str, Tensor]:
        """Values of real latents, such as a bound of their likelihood; here none.

        Args:
            nets: Networks as `build` makes them.
            batch: Standardised latents of complete samples.
            key: Key of what is drawn.

        Returns:
            By name, a value of each row.
        """
        return {}

    def signs(
        self,
        nets: Any,
        batch: Batch,
        sampling: Any,
        key: int,
    ) -> dict[str, Sign]:
        """Signs of failure that are looked for at every validation; here none.

        Args:
            nets: Networks as `build` makes them.
            batch: Standardised latents of samples of every kind.
            sampling: Instance of `Sampling`.
            key: Key of what is drawn.

        Returns:
            By name, such as `spread`.
        """
        return {}

    def choose(self, sampling: Any = None, **choices: Any) -> Any:
        """Sampling choices.

        Args:
            sampling: Choices that hold where nothing else is chosen; the defaults of `Sampling` if
                None.
            choices: Other choices, by name of the field.

        Raises:
            ValueError: no such choice, or a value that it cannot have.
        """
        names = [field.name for field in fields(self.Sampling)]
        for name in choices:
            if name not in names:
                raise ValueError(
                    f"no sampling choice '{name}'; {did_you_mean(name, names)}"
                )
        return replace(sampling or self.Sampling(), **choices)


class Networks(nn.Module):
    """What is trained, averaged, sharded and saved.

    That is a method's networks (`nets`) and the standardisation of latents (`standard`).

    Args:
        method: Method that builds them.
    """

    # Of types that the method and its codecs decide.
    nets: Any
    standard: Any

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.nets = method.build()
        self.standard = nn.ModuleDict()
        for name, modality in method.modalities.items():
            self.standard[name] = standardizer_of(modality.codec)

    def standardize(self, batch: Batch) -> Batch:
        """A batch of codec latents, standardised."""
        x = {}
        for name, latents in batch.latents.items():
            x[name] = self.standard[name](latents)
        return replace(batch, latents=x)


def standardizer_of(codec: Codec) -> Standardizer | Unchanged:
    """A standardisation of a codec's latents, without statistics; none of ids."""
    if codec.vocabulary is not None:
        return Unchanged()
    return Standardizer(*codec.shape, masked=codec.masked)


def decodable(method: Method) -> list[Direction]:
    """Those of a method's directions of whose targets all can be decoded."""
    directions = []
    for direction in method.directions():
        codecs = [method.modalities[name].codec for name in direction.targets]
        if all(codec.decodes for codec in codecs):
            directions.append(direction)
    return directions


def feasible(
    method: Method,
    sampling: Any,
) -> tuple[list[Direction], dict[Direction, str]]:
    """Those of the decodable directions that go with choices at generation, and why others do not.

    Args:
        method: Method, whose directions they are.
        sampling: Instance of its `Sampling`.

    Raises:
        ValueError: there are decodable ones, and none of them does; one line.
    """
    directions = []
    refused = {}
    for direction in decodable(method):
        try:
            method.check(direction, sampling)
        except ValueError as error:
            refused[direction] = str(error)
        else:
            directions.append(direction)

    if refused and not directions:
        raise ValueError(next(iter(refused.values())))
    return directions, refused


def check_decodable(
    modalities: Mapping[str, Modality],
    targets: Collection[str],
) -> None:
    """Refuses a target that cannot be decoded.

    Raises:
        ValueError: the codec of one encodes only; one line.
    """
    for name in targets:
        codec = modalities[name].codec
        if not codec.decodes:
            raise ValueError(
                f"'{name}' is a source alone: its codec, {type(codec).__name__}, encodes only; as a "
                "target it needs a codec that decodes"
            )


def check_same_codecs(
    modalities: Mapping[str, Modality],
    base_modalities: Mapping[str, Modality],
    names: Collection[str],
) -> None:
    """Refuses a model to build on whose latents are others.

    Raises:
        ValueError: it lacks a modality, or has another codec; what differs is named.
    """
    for name in names:
        if name not in base_modalities:
            raise ValueError(
                f"it has no modality '{name}'; {did_you_mean(name, base_modalities)}"
            )

        before = base_modalities[name].codec.fingerprint()
        now = modalities[name].codec.fingerprint()
        for key, value_there, value_here in differences(before, now):
            raise ValueError(
                f"its '{name}' has another codec: {key} is {value_there!r} there, "
                f"{value_here!r} in the recipe"
            )


def callable_networks(module: nn.Module) -> list[nn.Module]:
    """The outermost networks of a module: itself if it can be called, else those of its parts."""
    if type(module).forward is not nn.Module.forward:
        return [module]

    networks = []
    for part in module.children():
        networks += callable_networks(part)
    return networks


def concatenate(states: Sequence[State]) -> State:
    """States of several batches as one of all their samples."""
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat(list(states))
    if isinstance(first, Mapping):
        states_of = {}
        for key in first:
            states_of[key] = concatenate([state[key] for state in states])
        return states_of

    parts = zip(*states, strict=True)
    return type(first)(concatenate(part) for part in parts)


def select(state: State, rows: slice) -> State:
    """A state of some of its samples."""
    if isinstance(state, Tensor):
        return state[rows]
    if isinstance(state, Mapping):
        return {key: select(part, rows) for key, part in state.items()}
    return type(state)(select(part, rows) for part in state)
