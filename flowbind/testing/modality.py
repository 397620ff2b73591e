"""The laws of a modality: what flowbind takes for granted of every plugin, to be run by its author.

def test_laws(tmp_path):
    check_modality(Mine(), samples, tmp_path)

A broken law raises AssertionError with one line: the modality, the law, and what was seen.
"""

import copy
import json
import math
import pickle
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from flowbind.arrays import describe
from flowbind.codec import NeuralCodec
from flowbind.draws import streams
from flowbind.exhibit import Cloud, Recording, to_html
from flowbind.modality import Modality
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.testing.law import Law, adding_to, demand

# Shares of the latents' spread.
SAME = 1e-3  # kernels add in another order when the batch is of another size
ROUNDING = 0.01  # 8 bits a colour in files of the embedded world cost half of it
DISTURBANCE = 0.5  # how far off a flow that is half trained may be

# Of the networks that are built.
DRIFT = DriftConfig(width=32, depth=2)
HEAD = HeadConfig(width=32, depth=2)
ROWS = 3


@dataclass(frozen=True)
class Subject:
    """What a law is tried on.

    Args:
        modality: The plugin.
        raws: At least two raw samples that differ.
        folder: An existing folder for files.
        tolerance: Distance by which a latent may move when its sample goes through a file, as a
            share of the latents' spread.
    """

    modality: Modality
    raws: Sequence[Any]
    folder: Path
    tolerance: float = ROUNDING

    def encode(self, raws: Sequence[Any]) -> Tensor:
        """Latents of raw samples, with shape (B, *shape)."""
        return self.modality.codec.encode(raws)

    @cached_property
    def latents(self) -> Tensor:
        """Those of `raws`."""
        return self.encode(self.raws)

    @cached_property
    def spread(self) -> float:
        """Root mean square of the latents' deviations from their mean."""
        latents = self.latents.double()
        deviations = latents - latents.mean(0)
        return deviations.square().mean().sqrt().item()

    def moved(self, latents: Tensor, expected: Tensor) -> float:
        """The largest difference of two batches of latents, as a share of the spread.

        It is infinite where shapes differ.
        """
        if latents.shape != expected.shape:
            return float("inf")
        differences = latents.double() - expected.double()
        return differences.abs().max().item() / self.spread

    def new_folder(self) -> Path:
        """A new, empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def write(self, raw: Any, folder: Path, stem: str = "sample") -> Path:
        """Writes a sample to a file with the modality's first suffix. Returns the file."""
        suffix = self.modality.suffixes[0]
        path = folder / f"{stem}{suffix}"
        self.modality.write(raw, path)
        return path

    def through_files(self, raws: Sequence[Any], folder: Path) -> list[Any]:
        """The samples as they are read from files that they are written to, one after the other."""
        read = []
        for number, raw in enumerate(raws):
            path = self.write(raw, folder, str(number))
            read.append(self.modality.read(path))
        return read


LAWS: list[Law] = []
law = adding_to(LAWS, "modality")


def check_modality(
    modality: Modality,
    raws: Sequence[Any],
    folder: Path,
    tolerance: float = ROUNDING,
) -> None:
    """Tries every law on a modality.

    Args:
        modality: The plugin, registered under an entry point.
        raws: At least two raw samples that differ, as its `read` gives them.
        folder: An existing folder for files, such as pytest's `tmp_path`.
        tolerance: Distance by which a latent may move when its sample goes through a file, as a
            share of the latents' spread.

    Raises:
        AssertionError: a law is broken; it is named.
        ValueError: fewer than two samples.
    """
    subject = Subject(modality, raws, folder, tolerance)
    if len(raws) < 2:
        raise ValueError(
            f"the laws are tried on at least two raw samples that differ, not on {len(raws)}"
        )
    for each in LAWS:
        each(subject)


def _demand_same(
    subject: Subject,
    latents: Tensor,
    expected: Tensor,
    when: str,
    tolerance: float = SAME,
) -> None:
    moved = subject.moved(latents, expected)
    demand(
        moved <= tolerance,
        f"{when} moves latents by {moved:.2g} of their spread; {tolerance:g} is allowed",
    )


@law
def latents_are_as_promised(subject: Subject) -> None:
    """Latents have the codec's shape, dtype and device, are finite, tell samples apart and carry no gradient."""
    codec = subject.modality.codec
    latents = subject.latents

    shape = tuple(latents.shape)
    expected = (len(subject.raws), *codec.shape)
    demand(shape == expected, f"the shape is {shape}, not {expected}")
    is_dtype = latents.dtype == codec.dtype
    demand(is_dtype, f"the dtype is {latents.dtype}, not {codec.dtype}")
    is_there = latents.device.type == codec.device.type
    demand(is_there, f"the device is {latents.device}, not {codec.device}")

    infinite = (~latents.isfinite()).sum()
    demand(not infinite, f"{infinite} numbers are not finite")
    count = len(subject.raws)
    demand(subject.spread > 0, f"all {count} samples have the same")
    demand(not latents.requires_grad, "they require a gradient")

    if codec.vocabulary is not None:
        in_range = (latents >= 0) & (latents < codec.vocabulary)
        is_ids = latents.dtype == torch.int64 and bool(in_range.all())
        demand(is_ids, f"they are no ids of a vocabulary of {codec.vocabulary}")

    if codec.masked:
        mask = latents[..., -1:]
        is_mask = (mask == 0) | (mask == 1)
        demand(is_mask.all(), "the last feature is neither 0 nor 1 somewhere")
        is_padded = latents == latents * mask
        demand(is_padded.all(), "padding is not 0")


@law
def files_keep_samples(subject: Subject) -> None:
    """What is written to a file with the first suffix reads as the same sample, and nothing is left beside it."""
    suffixes = subject.modality.suffixes
    proper = all(
        suffix == suffix.lower() and suffix.startswith(".") for suffix in suffixes
    )
    demand(
        suffixes and proper,
        f"the suffixes are {suffixes}; they are in lower case and begin with a dot",
    )

    folder = subject.new_folder()
    paths = []
    for number, raw in enumerate(subject.raws):
        paths.append(subject.write(raw, folder, str(number)))
    names = {path.name for path in folder.iterdir()}
    is_complete = names == {path.name for path in paths}
    demand(is_complete, f"the folder holds {sorted(names)[:9]}")

    read = [subject.modality.read(path) for path in paths]
    latents = subject.encode(read)
    _demand_same(
        subject,
        latents,
        subject.latents,
        "going through a file",
        subject.tolerance,
    )

    # Over the file of the first sample.
    read = subject.through_files(subject.raws[1:2], folder)
    second = subject.encode(read)
    expected = subject.latents[1:2]
    _demand_same(subject, second, expected, "writing over a file", subject.tolerance)


@law
def samples_are_accepted_as_they_are(subject: Subject) -> None:
    """What is given, read or decoded is a sample already: `accept` gives the same, and changes nothing in place."""
    modality = subject.modality
    samples = {
        "given": subject.raws,
        "read": subject.through_files(subject.raws, subject.new_folder()),
    }
    if modality.codec.decodes:
        samples["decoded"] = modality.codec.decode(subject.latents)
    for kind, raws in samples.items():
        for raw in raws:
            before = copy.deepcopy(raw)
            accepted = modality.accept(raw)
            same = _is_same(accepted, raw)
            demand(same, f"of a sample that was {kind} it makes another")

            unchanged = not _is_array(raw) or _is_same(raw, before)
            demand(unchanged, f"a sample that was {kind} is changed in place")


@law
def what_is_no_sample_is_refused(subject: Subject) -> None:
    """Of None, a number, a list of strings, an empty array or a missing number `accept` raises ValueError, with one line."""
    raw = subject.raws[0]
    nonsense: list[Any] = [
        None,
        3,
        0.5,
        float("nan"),
        ["a", "b"],
        [],
        np.zeros((0, 3)),
        np.full((4, 3), np.nan),
        np.array(["a", "b"]),
    ]

    # What has the type of a sample may be one; arrays without numbers are none in any case.
    nonsense = [
        value for value in nonsense if type(value) is not type(raw) or _is_array(raw)
    ]
    nonsense.append(torch.zeros(0))
    nonsense.append(torch.full((4, 3), torch.nan))
    if _is_array(raw):
        nonsense.append(raw[:0])
    if isinstance(raw, Tensor) and raw.is_floating_point():
        missing = torch.full_like(raw[-1:], torch.nan)
        nonsense.append(torch.cat([raw[:-1], missing]))

    for value in nonsense:
        name = describe(value)
        try:
            subject.modality.accept(value)
        except ValueError as error:
            message = str(error)
            is_line = message and "\n" not in message
            demand(is_line, f"of {name} it says {message!r}")
        else:
            demand(False, f"{name} is accepted")


@law
def another_container_holds_the_same_sample(subject: Subject) -> None:
    """A sample in a numpy array, in one that is read-only, or in double precision is the same to an `accept` of one's own, or refused."""
    if type(subject.modality).accept is Modality.accept:
        return  # it knows no other container

    tensors = [raw for raw in subject.raws if isinstance(raw, Tensor)]
    for raw in tensors:
        read_only = raw.numpy().copy()
        read_only.flags.writeable = False
        containers: list[Any] = [raw.numpy(), read_only]
        if raw.is_floating_point():
            containers.append(raw.double())
        for container in containers:
            try:
                accepted = subject.modality.accept(container)
            except ValueError:
                continue
            same = _is_same(accepted, raw)
            demand(same, f"{describe(container)} becomes another sample")


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _is_same(first: Any, second: Any) -> bool:
    """Whether two samples are the same: arrays to the bit."""
    if type(first) is not type(second):
        return False
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    return first is second or bool(first == second)


@law
def damaged_files_are_refused(subject: Subject) -> None:
    """A file that is empty, noise or cut in half raises ValueError with one line that names it."""
    path = subject.write(subject.raws[0], subject.new_folder())
    intact = path.read_bytes()
    size = len(intact)
    damages = {
        "an empty file": b"",
        "a file of noise": b"\xff\0" + np.random.default_rng(0).bytes(size),
    }
    if not subject.modality.literal:  # a literal cut in half is another literal
        damages["a file cut in half"] = intact[: size // 2]

    for damage, content in damages.items():
        path.write_bytes(content)
        try:
            subject.modality.read(path)
        except ValueError as error:
            message = str(error)
            names_it = path.name in message
            demand(names_it, f"of {damage} it says '{message}', which does not name it")
            is_line = "\n" not in message
            demand(is_line, f"of {damage} it says several lines: {message!r}")
        else:
            demand(False, f"{damage} is read as a sample")


@law
def missing_files_are_refused(subject: Subject) -> None:
    """A file that is not there raises FileNotFoundError or ValueError that names it."""
    suffix = subject.modality.suffixes[0]
    path = subject.new_folder() / f"missing{suffix}"
    try:
        subject.modality.read(path)
    except (FileNotFoundError, ValueError) as error:
        names_it = path.name in str(error)
        demand(names_it, f"it says '{error}', which does not name it")
    else:
        demand(False, "it is read as a sample")


@law
def a_latent_depends_on_its_sample_alone(subject: Subject) -> None:
    """Encoding again, one by one or in another order gives the same latents, whatever the global seed is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = subject.encode(subject.raws)
        torch.manual_seed(2)
        again = subject.encode(subject.raws)
        _demand_same(subject, again, first, "encoding again")

    alone = [subject.encode([raw]) for raw in subject.raws]
    _demand_same(subject, torch.cat(alone), first, "encoding one by one")
    reverse = subject.encode(subject.raws[::-1])
    _demand_same(subject, reverse.flip(0), first, "another order")


@law
def decoding_gives_samples(subject: Subject) -> None:
    """Latents, also those a little off, decode to as many samples, which can be encoded, kept in files and shown; a codec that encodes only says so in a line."""
    if not subject.modality.codec.decodes:
        _demand_refusal(subject)
        return

    for latents in (subject.latents, subject.latents[:1], _disturbed(subject)):
        raws = subject.modality.codec.decode(latents)
        kind = type(raws).__name__
        demand(isinstance(raws, list), f"it gives {kind}, not a list")
        count = len(latents)
        demand(len(raws) == count, f"{count} latents give {len(raws)} samples")

        again = subject.encode(raws)
        shape = tuple(again.shape)
        is_shape = again.shape == latents.shape
        demand(is_shape, f"the samples encode to latents of shape {shape}")
        is_finite = again.isfinite().all()
        demand(is_finite, "the samples encode to latents that are not finite")

        read = subject.through_files(raws, subject.new_folder())
        moved = subject.encode(read)
        _demand_same(
            subject,
            moved,
            again,
            "a file of what is decoded",
            subject.tolerance,
        )

        for raw in raws:
            subject.modality.preview(raw)


def _demand_refusal(subject: Subject) -> None:
    """That decoding raises ValueError, with one line."""
    try:
        subject.modality.codec.decode(subject.latents)
    except ValueError as error:
        message = str(error)
        is_line = message and "\n" not in message
        demand(is_line, f"the codec encodes only, and decoding says {message!r}")
    else:
        demand(False, "the codec encodes only, and decodes all the same")


def _disturbed(subject: Subject) -> Tensor:
    """The latents with noise added, where they are numbers that can be off."""
    if not subject.latents.is_floating_point():
        return subject.latents

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(subject.latents.shape, generator=generator)
    scale = DISTURBANCE * subject.spread
    return subject.latents + scale * noise.to(subject.latents)


@law
def decoding_obeys_its_generator(subject: Subject) -> None:
    """What decoding draws, it draws from the generator it is given."""
    codec = subject.modality.codec
    if not codec.decodes:
        return

    latents = []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            generator = torch.Generator(codec.device).manual_seed(0)
            raws = codec.decode(subject.latents, generator)
            latents.append(subject.encode(raws))
    _demand_same(
        subject,
        latents[1],
        latents[0],
        "another global seed, with the same generator,",
    )


@law
def what_is_promised_is_measured(subject: Subject) -> None:
    """A codec that promises an error of its round trip measures it: a number for each sample, 0 where nothing was lost."""
    codec = subject.modality.codec
    raws = list(subject.raws)
    promised = codec.promise()
    if promised is None:
        return

    is_error = isinstance(promised, float) and 0 <= promised < math.inf
    demand(is_error, f"it promises {promised}")

    # Of samples to themselves.
    errors = codec.errors(raws, raws)
    shape = tuple(errors.shape)
    demand(shape == (len(raws),), f"the errors have the shape {shape}")
    is_nothing = errors.abs().max() <= ROUNDING
    values = errors.tolist()[:9]
    demand(is_nothing, f"where nothing was lost the errors are {values}")

    # Of a round trip.
    decoded = codec.decode(subject.latents)
    errors = codec.errors(raws, decoded)
    are_errors = errors.isfinite().all() and (errors >= 0).all()
    values = errors.tolist()[:9]
    demand(are_errors, f"the errors of a round trip are {values}")


@law
def the_fingerprint_is_flat_json(subject: Subject) -> None:
    """The fingerprint is a flat JSON object that does not change with use."""
    codec = subject.modality.codec
    fingerprint = codec.fingerprint()
    encoded = json.dumps(fingerprint)
    back = json.loads(encoded)
    demand(back == fingerprint, f"{fingerprint} comes back from JSON as {back}")

    nested = []
    for key, value in fingerprint.items():
        if isinstance(value, dict):
            nested.append(key)
    demand(not nested, f"{nested} hold objects")

    latents = subject.encode(subject.raws)
    if codec.decodes:
        codec.decode(latents)
    after = codec.fingerprint()
    demand(after == fingerprint, f"after use it is {after}, before {fingerprint}")


@law
def the_description_makes_it_again(subject: Subject) -> None:
    """Registered names and arguments, as JSON, make an equal modality."""
    modality = subject.modality
    description = modality.describe()
    encoded = json.dumps(description)
    again = Modality.rebuild(json.loads(encoded))

    kind = type(again)
    demand(kind is type(modality), f"{kind.__qualname__} is made")
    after = again.describe()
    demand(after == description, f"what is made is {after}, not {description}")

    expected = modality.codec.fingerprint()
    fingerprint = again.codec.fingerprint()
    demand(
        fingerprint == expected,
        f"the fingerprint of what is made is {fingerprint}, not {expected}",
    )


@law
def copies_encode_alike(subject: Subject) -> None:
    """A modality can be pickled and copied, also after its codec was used."""
    # Before the copies are made, so that the codec was used.
    latents = subject.latents[:1]
    ways = {
        "pickled": lambda part: pickle.loads(pickle.dumps(part)),
        "copied": copy.deepcopy,
    }
    for way, duplicate in ways.items():
        codec = duplicate(subject.modality).codec
        again = codec.encode(subject.raws[:1])
        _demand_same(subject, again, latents, f"being {way}")


@law
def the_codec_is_frozen(subject: Subject) -> None:
    """Codec and modality are no torch modules, and no network in the codec learns."""
    for part in (subject.modality, subject.modality.codec):
        kind = type(part).__name__
        is_module = isinstance(part, nn.Module)
        demand(not is_module, f"{kind} is a torch module")

        learning = []
        for value in vars(part).values():
            if isinstance(value, nn.Module):
                for name, parameter in value.named_parameters():
                    if parameter.requires_grad:
                        learning.append(name)
        names = ", ".join(learning[:3])
        demand(not learning, f"{names} of {kind} require gradients")


@law
def a_codec_in_training_draws_nothing(subject: Subject) -> None:
    """The network of a `NeuralCodec` draws from no generator of the process, in training neither: a resumed run would draw other numbers."""
    codec = subject.modality.codec
    if not isinstance(codec, NeuralCodec):
        return

    net: Any = copy.deepcopy(codec.net).train()
    inputs = codec.prepare(subject.raws).to(codec.device)
    latents = subject.latents.to(codec.device)
    ways = {
        "encode": lambda: net.encode(inputs),
        "decode": lambda: net.decode(latents),
    }
    for way, work in ways.items():
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            before = _generators()
            work()
            after = _generators()

        drawn = [name for name in after if after[name] != before[name]]
        names = ", ".join(drawn)
        demand(
            not drawn,
            f"its {way} draws from the generator of {names}, as nn.Dropout does",
        )


@law
def outputs_of_a_codec_have_one_shape(subject: Subject) -> None:
    """What the network of a `NeuralCodec` makes of a row has one shape, whichever rows are with it: on a GPU many rows are computed in blocks, and put together again."""
    codec = subject.modality.codec
    if not isinstance(codec, NeuralCodec):
        return

    inputs = codec.prepare(subject.raws).to(codec.device)
    latents = subject.latents.to(codec.device)
    for way, rows in (("encode", inputs), ("decode", latents)):
        work = getattr(codec.net, way)
        shapes: set[tuple[int, ...]] = set()
        with torch.inference_mode():
            for parts in (rows.split(1), [rows]):
                shapes.update(tuple(work(part).shape[1:]) for part in parts)
        demand(
            len(shapes) == 1,
            f"its {way} gives rows of the shapes {sorted(shapes)}",
        )


def _generators() -> dict[str, bytes]:
    """The state of the generators that a process has on the CPU."""
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state(legacy=False)).encode(),  # noqa: NPY002
        "random": repr(random.getstate()).encode(),
    }


@law
def networks_fit_the_latents(subject: Subject) -> None:
    """Drift net and head keep the latent's shape, row by row and on no row too, and every parameter gets a gradient."""
    if not _has_networks(subject.modality):
        return

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(ROWS, *subject.modality.codec.shape)
        networks = _networks(subject)

    for name, (net, argument) in networks.items():
        for rows in (ROWS, 0):
            net.zero_grad(set_to_none=True)
            output = net(x[:rows], argument[:rows])
            shape = tuple(output.shape)
            needed = (rows, *x.shape[1:])
            demand(
                shape == needed,
                f"the {name} gives the shape {shape} where {needed} is needed",
            )

            output.sum().backward()
            for key, parameter in net.named_parameters():
                gradient = parameter.grad
                good = gradient is not None and gradient.isfinite().all()
                demand(
                    good,
                    f"{key} of the {name} gets no finite gradient from {rows} rows",
                )

        net.eval()
        one = net(x[:1], argument[:1])
        many = net(x, argument)
        same = torch.allclose(one, many[:1], atol=1e-4)
        demand(same, f"a row of the {name} depends on the other rows")


@law
def networks_draw_from_their_arguments_alone(subject: Subject) -> None:
    """In training the same inputs give the same outputs, whatever the global seed is: what is drawn comes from the rows' streams."""
    if not _has_networks(subject.modality):
        return

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(ROWS, *subject.modality.codec.shape)
        for name, (net, argument) in _networks(subject).items():
            with torch.no_grad():
                # Gates that start at 0 would hide what is behind them.
                for parameter in net.parameters():
                    noise = torch.randn_like(parameter)
                    parameter.add_(noise, alpha=0.1)
                first = net(x, argument)
                again = net(x, argument)
            demand(
                torch.equal(first, again),
                f"the {name} draws from torch's global generator, as nn.Dropout does",
            )


@law
def networks_are_their_weights(subject: Subject) -> None:
    """Drift net and head built on the meta device work once they are given weights, as a released model does it."""
    if not _has_networks(subject.modality):
        return

    for name, build in (("drift net", _build_drift), ("head", _build_head)):
        with torch.random.fork_rng(devices=[]):
            weights = build(subject).state_dict()
        with torch.device("meta"):
            net = build(subject)
        net.load_state_dict(weights, assign=True)

        tensors = (*net.named_parameters(), *net.named_buffers())
        absent = [key for key, tensor in tensors if tensor.is_meta]
        names = ", ".join(absent)
        demand(
            not absent,
            f"{names} of the {name} is no part of its state_dict; register it as persistent",
        )


def _has_networks(modality: Modality) -> bool:
    """Whether it has a drift net and a head: its own, or those that take vectors.

    Other latents, such as grids, may be left to methods that bring their own networks.
    """
    takes_vectors = (
        type(modality).build_drift is Modality.build_drift
        and type(modality).build_head is Modality.build_head
    )
    return not takes_vectors or len(modality.codec.shape) == 1


def _networks(subject: Subject) -> dict[str, tuple[nn.Module, Tensor]]:
    """Fresh networks, each with the argument that it takes beside latents: times, and streams."""
    times = torch.linspace(0, 1, ROWS)
    rows = streams(0, torch.arange(ROWS))
    return {
        "drift net": (_build_drift(subject), times),
        "head": (_build_head(subject), rows),
    }


def _build_drift(subject: Subject) -> nn.Module:
    return subject.modality.build_drift(DRIFT)


def _build_head(subject: Subject) -> nn.Module:
    return subject.modality.build_head(HEAD)


@law
def previews_can_be_shown(subject: Subject) -> None:
    """A preview is a PIL picture, or a string."""
    for raw in subject.raws:
        preview = subject.modality.preview(raw)
        kind = type(preview).__name__
        demand(isinstance(preview, Image.Image | str), f"it is {kind}")


@law
def exhibits_can_be_shown(subject: Subject) -> None:
    """An exhibit is what a page can show: words, a picture, a recording or a cloud."""
    for raw in subject.raws:
        exhibit = subject.modality.exhibit(raw)
        kinds = str | Image.Image | Recording | Cloud
        kind = type(exhibit).__name__
        demand(isinstance(exhibit, kinds), f"it is {kind}")
        to_html(exhibit)
