"""The laws of a method: what flowbind takes for granted of every plugin, as checks for its author.

def test_laws():
    check_method(Mine({"text": Text(), "image": Image()}))

A broken law raises AssertionError with one line: the method, the law, and what was seen.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from itertools import chain, combinations
from typing import Any

import torch
from torch import Tensor

from flowbind import draws
from flowbind.batch import Batch, part_of
from flowbind.codec import Codec
from flowbind.method import Direction, Loss, Method, Networks, select
from flowbind.testing.law import Law, adding_to, demand
from flowbind.testing.ranks import Ranks

ROWS = 6  # samples of each kind in a batch
SAME = 1e-5  # of the largest number: kernels add in another order when a batch is of another size


@dataclass(frozen=True)
class Subject:
    """What a law is tried on.

    Args:
        method: The plugin.
    """

    method: Method

    @cached_property
    def networks(self) -> Networks:
        """Networks with fresh weights, the same for each subject.

        None of the weights is 0: what starts as nothing would hide much.
        """
        networks = self.fresh()
        generator = torch.Generator().manual_seed(1)

        with torch.no_grad():
            for parameter in networks.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.05 * noise)
        return networks

    def fresh(self) -> Networks:
        """Networks as the method builds them, from a fixed seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Networks(self.method)

    @cached_property
    def sampling(self) -> Any:
        """The default choices."""
        return self.method.Sampling()

    def batch(
        self,
        *kinds: tuple[str, ...],
        dtype: torch.dtype = torch.float32,
    ) -> Batch:
        """A global batch of standardised latents.

        Args:
            kinds: Kinds of samples, by the modalities they have; `ROWS` samples of each.
            dtype: Type of the latents that are numbers.
        """
        generator = torch.Generator().manual_seed(2)
        latents = {}
        samples = {}
        for name, modality in self.method.modalities.items():
            numbers: list[int] = []
            for i, kind in enumerate(kinds):
                if name in kind:
                    first = i * ROWS
                    numbers.extend(range(first, first + ROWS))

            samples[name] = torch.tensor(numbers, dtype=torch.long)
            latents[name] = _latents(modality.codec, len(numbers), generator, dtype)
        return Batch.of(latents, samples)

    def terms(
        self,
        networks: Networks,
        batch: Batch,
        key: int = 3,
    ) -> dict[str, Loss]:
        """The objective's terms on a batch."""
        drawn = self.method.draw(batch, key)
        return self.method.losses(networks.nets, batch, drawn)

    @property
    def complete(self) -> tuple[str, ...]:
        """The kind of samples that have everything."""
        return tuple(self.method.modalities)

    def kinds(self) -> Iterator[tuple[str, ...]]:
        """The kinds of samples that teach the method something."""
        names = list(self.method.modalities)
        kinds: list[tuple[str, ...]] = []
        for size in range(1, len(names) + 1):
            kinds += combinations(names, size)
        return (kind for kind in kinds if self.method.trains_on(kind))


def _latents(
    codec: Codec,
    rows: int,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    """Latents as the framework hands them to a method: standardised numbers, or ids."""
    if codec.vocabulary is not None:
        return torch.randint(
            codec.vocabulary,
            (rows, *codec.shape),
            generator=generator,
        )

    x = torch.randn(rows, *codec.shape, generator=generator)
    x = x.to(dtype)
    if codec.masked:
        longest = codec.shape[0]
        lengths = torch.randint(1, longest + 1, (rows, 1), generator=generator)
        mask = torch.arange(longest) < lengths
        mask = mask[..., None].to(dtype)
        features = x[..., :-1] * mask
        x = torch.cat([features, mask], dim=-1)
    return x


LAWS: list[Law] = []
law = adding_to(LAWS, "method")


def check_method(method: Method) -> None:
    """Tries every law on a method.

    Args:
        method: The plugin, registered under an entry point, with networks small enough for a test.

    Raises:
        AssertionError: a law is broken; it is named.
    """
    subject = Subject(method)
    for each in LAWS:
        each(subject)


def _same(first: dict[str, Loss], second: dict[str, Loss]) -> bool:
    """Whether terms are the same, to the bit."""
    if first.keys() != second.keys():
        return False
    for name, term in first.items():
        if not torch.equal(term.errors, second[name].errors):
            return False
    return True


@law
def a_description_makes_it_again(subject: Subject) -> None:
    """What `describe` gives is JSON, from which a method is made that is described alike."""
    description = subject.method.describe()
    encoded = json.dumps(description)
    again = Method.rebuild(json.loads(encoded))

    kind = type(again)
    demand(kind is type(subject.method), f"a {kind.__name__} is made")
    after = again.describe()
    demand(after == description, f"what is made is {after}")


@law
def networks_take_their_weights_on_the_meta_device(subject: Subject) -> None:
    """Built on the meta device, networks work once they have their weights, like those built with them."""
    with torch.device("meta"):
        empty = Networks(subject.method)
    state = subject.networks.state_dict()
    empty.load_state_dict(state, assign=True)

    tensors = chain(empty.named_parameters(), empty.named_buffers())
    absent = [name for name, tensor in tensors if tensor.is_meta]
    names = ", ".join(absent[:3])
    demand(not absent, f"{names} are not in the weights; make buffers persistent")

    batch = subject.batch(subject.complete)
    terms = subject.terms(empty, batch)
    same = _same(terms, subject.terms(subject.networks, batch))
    demand(same, "they give other losses")


@law
def building_keeps_nothing(subject: Subject) -> None:
    """Networks are built afresh each time, from torch's global generator, and the method keeps none of them."""
    first = subject.fresh()
    second = subject.fresh()

    modules = {id(part) for part in second.modules()}
    shares = any(id(part) in modules for part in first.modules())
    demand(not shares, "two builds share a network")

    second_state = second.state_dict()
    for name, tensor in first.state_dict().items():
        same = torch.equal(tensor, second_state[name])
        demand(same, "one seed gives two sets of weights")

    networks = []
    for name, value in vars(subject.method).items():
        if isinstance(value, torch.nn.Module):
            networks.append(name)
    names = ", ".join(networks)
    demand(not networks, f"it keeps {names}")


@law
def losses_depend_on_networks_batch_and_draws_alone(subject: Subject) -> None:
    """Losses are the same again, whatever torch's global generator is; another key gives others."""
    batch = subject.batch(subject.complete)
    results = []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            terms = subject.terms(subject.networks, batch)
            results.append(terms)
    first, second = results
    demand(_same(first, second), "the global seed changes them")

    other = subject.terms(subject.networks, batch, key=4)
    demand(not _same(first, other), "a key does not")


@law
def losses_are_of_rows(subject: Subject) -> None:
    """Each term has one finite error for each row of the modality that it is of."""
    for kind in subject.kinds():
        batch = subject.batch(kind)
        terms = subject.terms(subject.networks, batch)
        for name, term in terms.items():
            is_known = term.of in batch.latents
            demand(is_known, f"the term '{name}' is of no modality: '{term.of}'")

            rows = len(batch.latents[term.of])
            shape = tuple(term.errors.shape)
            is_by_row = shape == (rows,)
            demand(is_by_row, f"'{name}' has the shape {shape}, its rows are {rows}")

            is_finite = term.errors.isfinite().all()
            modalities = "+".join(kind)
            demand(is_finite, f"'{name}' is not finite on {modalities}")


@law
def every_parameter_has_a_gradient(subject: Subject) -> None:
    """Every trained parameter gets a gradient from every batch, also from one without rows."""
    batches = {}
    for kind in subject.kinds():
        batches["+".join(kind)] = subject.batch(kind)
    batches["no rows"] = subject.batch()

    for rows, batch in batches.items():
        networks = subject.fresh()
        terms = subject.terms(networks, batch)
        losses = [term.mean(batch) for term in terms.values()]
        torch.stack(losses).sum().backward()

        absent = []
        for name, parameter in networks.named_parameters():
            if parameter.requires_grad and parameter.grad is None:
                absent.append(name)
        names = ", ".join(absent[:3])
        demand(not absent, f"from {rows} there is none for {names}")


@law
def two_ranks_average_to_one(subject: Subject) -> None:
    """The mean over two ranks of each term is that of the global batch, in float64."""
    networks = subject.fresh().double()
    batch = subject.batch(*subject.kinds(), dtype=torch.float64)
    parts = [share(batch, rank, 2) for rank in range(2)]
    terms = subject.terms(networks, batch)
    # Both at once, since ranks may need one another's rows.
    terms_of_rank = Ranks(2).run(lambda rank: subject.terms(networks, parts[rank]))

    for name, term in terms.items():
        expected = term.mean(batch)
        means = []
        for of_rank, part in zip(terms_of_rank, parts, strict=True):
            means.append(of_rank[name].mean(part))
        first, second = means
        off = (first + second) / 2 - expected
        off = off.abs().item()
        allowed = 1e-9 * max(1.0, expected.abs().item())
        demand(off <= allowed, f"'{name}' is off by {off:.2g}")


def share(batch: Batch, rank: int, world: int) -> Batch:
    """One rank's part of a global batch: every world-th sample, with its rows and links."""
    part = part_of(batch.samples, batch.links, rank, world)
    latents = {}
    for name, numbers in batch.samples.items():
        is_own = numbers % world == rank
        latents[name] = batch.latents[name][is_own]
    return replace(
        batch,
        latents=latents,
        samples=part.samples,
        links=part.links,
        place=part.place,
    )


@law
def choices_are_a_dataclass(subject: Subject) -> None:
    """`Sampling` is a dataclass whose fields all have defaults, and an unknown choice is refused by its name."""
    choices = subject.method.Sampling
    demand(is_dataclass(choices), f"it is {choices}")
    default = subject.method.choose()
    demand(default == subject.sampling, "the defaults are not what is chosen")

    names = sorted(field.name for field in fields(choices))
    try:
        subject.method.choose(no_such_choice=1)
    except ValueError as error:
        message = str(error)
        demand("no_such_choice" in message, f"it says {message!r}")
    else:
        demand(False, f"'no_such_choice' is taken, beside {names}")


@law
def directions_are_of_its_modalities(subject: Subject) -> None:
    """There is a direction, each is between modalities of the method, and is offered."""
    method = subject.method
    directions = method.directions()
    demand(directions, "there is none")

    for direction in directions:
        modalities = {*direction.sources, *direction.targets}
        unknown = modalities - method.modalities.keys()
        is_good = direction.targets and not unknown
        demand(is_good, f"{direction} has no target, or {unknown}")

        offered = method.offers(direction.sources, direction.targets)
        demand(offered, f"{direction} is not offered")


@law
def every_direction_gives_latents(subject: Subject) -> None:
    """Each direction gives finite latents of its target's shape; each sample the same alone and among others."""
    batch = subject.batch(subject.complete)
    streams = draws.streams(5, torch.arange(ROWS))

    for direction in subject.method.directions():
        # Under two seeds: nothing may come from torch's global generator either.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(6)
            together = _generate(subject, batch, direction, streams)
            torch.manual_seed(7)
            first = _generate(subject, batch, direction, streams, slice(0, 1))
            rows = slice(ROWS - 1, ROWS)
            last = _generate(subject, batch, direction, streams, rows)

        for target in direction.targets:
            x = together[target]
            shape = tuple(x.shape)
            codec = subject.method.modalities[target].codec
            expected = (ROWS, *codec.shape)
            demand(shape == expected, f"{direction} gives {shape}, not {expected}")
            is_finite = x.isfinite().all()
            demand(is_finite, f"{direction} gives numbers that are not finite")

            alone = torch.cat([first[target], last[target]])
            off = (alone - x[[0, ROWS - 1]]).abs().max().item()
            allowed = SAME * max(1.0, x.abs().max().item())
            demand(
                off <= allowed,
                f"{direction} gives a sample alone that is off by {off:.2g}",
            )


@law
def states_that_are_linear_may_be_mixed(subject: Subject) -> None:
    """Where a method is `linear`, the state of one source is a tensor of numbers, and so the mean of two gives finite latents."""
    method = subject.method
    batch = subject.batch(subject.complete)
    streams = draws.streams(5, torch.arange(ROWS))
    nets = subject.networks.nets
    alone = [one for one in method.directions() if len(one.sources) == 1]

    for direction in alone if method.linear else []:
        (name,) = direction.sources
        with torch.no_grad():
            x = batch.latents[name]
            state = method.start(nets, name, x, subject.sampling, streams)
            is_tensor = isinstance(state, Tensor) and state.is_floating_point()
            kind = type(state).__name__
            demand(is_tensor, f"the state of '{name}' is a {kind} of no such numbers")
            rows = len(state)
            demand(rows == ROWS, f"the state of '{name}' has {rows} rows, not {ROWS}")

            mixed = (state + state.flip(0)) / 2
            fused = method.fuse([mixed], subject.sampling, streams)
            targets = direction.targets
            made = method.finish(nets, fused, targets, subject.sampling, streams)
        for target in targets:
            is_finite = made[target].isfinite().all()
            demand(is_finite, f"{direction} gives numbers that are not finite")


def _generate(
    subject: Subject,
    batch: Batch,
    direction: Direction,
    streams: Tensor,
    rows: slice = slice(None),
) -> dict[str, Tensor]:
    """Latents of every target, from some rows of a batch."""
    method = subject.method
    nets = subject.networks.nets
    streams = streams[rows]
    with torch.no_grad():
        states = []
        for name in direction.sources:
            x = select(batch.latents[name], rows)
            state = method.start(nets, name, x, subject.sampling, streams)
            states.append(state)
        state = method.fuse(states, subject.sampling, streams)
        targets = direction.targets
        return method.finish(nets, state, targets, subject.sampling, streams)
