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
        return (latents - latents.mean(0)).square().mean().sqrt().item()

    def moved(self, latents: Tensor, expected: Tensor) -> float:
        """The largest difference of two batches of latents, as a share of the spread.

        It is infinite where shapes differ.
        """
        if latents.shape != expected.shape:
            return float("inf")
        return (latents.double() - expected.double()).abs().max().item() / self.spread

    def new_folder(self) -> Path:
        """A new, empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def write(self, raw: Any, folder: Path, stem: str = "sample") -> Path:
        """Writes a sample to a file with the modality's first suffix. Returns the file."""
        path = folder / f"{stem}{self.modality.suffixes[0]}"
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
    modality: Modality, raws: Sequence[Any], folder: Path, tolerance: float = ROUNDING
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
    demand(
        latents.dtype == codec.dtype, f"the dtype is {latents.dtype}, not {codec.dtype}"
    )
    demand(
        latents.device.type == codec.device.type,
        f"the device is {latents.device}, not {codec.device}",
    )

    demand(
        latents.isfinite().all(),
        f"{(~latents.isfinite()).sum()} numbers are not finite",
    )
    demand(subject.spread > 0, f"all {len(subject.raws)} samples have the same")
    demand(not latents.requires_grad, "they require a gradient")

    if codec.vocabulary is not None:
        in_range = bool(((latents >= 0) & (latents < codec.vocabulary)).all())
        is_ids = latents.dtype == torch.int64 and in_range
        demand(is_ids, f"they are no ids of a vocabulary of {codec.vocabulary}")

    if codec.masked:
        mask = latents[..., -1:]
        is_mask = ((mask == 0) | (mask == 1)).all()
        demand(is_mask, "the last feature is neither 0 nor 1 somewhere")
        demand((latents == latents * mask).all(), "padding is not 0")


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
    paths = [
        subject.write(raw, folder, str(number))
        for number, raw in enumerate(subject.raws)
    ]
    names = {path.name for path in folder.iterdir()}
    demand(
        names == {path.name for path in paths}, f"the folder holds {sorted(names)[:9]}"
    )

    latents = subject.encode([subject.modality.read(path) for path in paths])
    _demand_same(
        subject, latents, subject.latents, "going through a file", subject.tolerance
    )

    # Over the file of the first sample.
    second = subject.encode(subject.through_files(subject.raws[1:2], folder))
    _demand_same(
        subject, second, subject.latents[1:2], "writing over a file", subject.tolerance
    )


@law
def samples_are_accepted_as_they_are(subject: Subject) -> None:
    """What is given, read or decoded is a sample already: `accept` gives the same, and changes nothing in place."""
    modality = subject.modality
    samples = {
        "given": subject.raws,
        "read": subject.through_files(subject.raws, subject.new_folder()),
        "decoded": modality.codec.decode(subject.latents),
    }
    for kind, raws in samples.items():
        for raw in raws:
            before = copy.deepcopy(raw)
            accepted = modality.accept(raw)
            demand(
                _is_same(accepted, raw), f"of a sample that was {kind} it makes another"
            )

            unchanged = not _is_array(raw) or _is_same(raw, before)
            demand(unchanged, f"a sample that was {kind} is changed in place")


@law
def what_is_no_sample_is_refused(subject: Subject) -> None:
    """Of None, a number, a list of strings, an empty array or a missing number `accept` raises ValueError, with one line."""
    raw = subject.raws[0]
    nonsense = [None, 3, 0.5, float("nan"), ["a", "b"], []]
    nonsense += [np.zeros((0, 3)), np.full((4, 3), np.nan), np.array(["a", "b"])]

    # What has the type of a sample may be one; arrays without numbers are none in any case.
    nonsense = [
        value for value in nonsense if type(value) is not type(raw) or _is_array(raw)
    ]
    nonsense += [torch.zeros(0), torch.full((4, 3), torch.nan)]
    if _is_array(raw):
        nonsense.append(raw[:0])
    if isinstance(raw, Tensor) and raw.is_floating_point():
        nonsense.append(torch.cat([raw[:-1], torch.full_like(raw[-1:], torch.nan)]))

    for value in nonsense:
        name = describe(value)
        try:
            subject.modality.accept(value)
        except ValueError as error:
            demand(
                str(error) and "\n" not in str(error),
                f"of {name} it says {str(error)!r}",
            )
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
        double = [raw.double()] if raw.is_floating_point() else []
        for container in (raw.numpy(), read_only, *double):
            try:
                accepted = subject.modality.accept(container)
            except ValueError:
                continue
            demand(
                _is_same(accepted, raw), f"{describe(container)} becomes another sample"
            )


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
    damages = {
        "an empty file": b"",
        "a file of noise": b"\xff\0" + np.random.default_rng(0).bytes(len(intact)),
    }
    if not subject.modality.literal:  # a literal cut in half is another literal
        damages["a file cut in half"] = intact[: len(intact) // 2]

    for damage, content in damages.items():
        path.write_bytes(content)
        try:
            subject.modality.read(path)
        except ValueError as error:
            names_it = path.name in str(error)
            demand(names_it, f"of {damage} it says '{error}', which does not name it")
            demand(
                "\n" not in str(error),
                f"of {damage} it says several lines: {str(error)!r}",
            )
        else:
            demand(False, f"{damage} is read as a sample")


@law
def missing_files_are_refused(subject: Subject) -> None:
    """A file that is not there raises FileNotFoundError or ValueError that names it."""
    path = subject.new_folder() / f"missing{subject.modality.suffixes[0]}"
    try:
        subject.modality.read(path)
    except (FileNotFoundError, ValueError) as error:
        demand(path.name in str(error), f"it says '{error}', which does not name it")
    else:
        demand(False, "it is read as a sample")


@law
def a_latent_depends_on_its_sample_alone(subject: Subject) -> None:
    """Encoding again, one by one or in another order gives the same latents, whatever the global seed is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = subject.encode(subject.raws)
        torch.manual_seed(2)
        _demand_same(subject, subject.encode(subject.raws), first, "encoding again")

    alone = torch.cat([subject.encode([raw]) for raw in subject.raws])
    _demand_same(subject, alone, first, "encoding one by one")
    _demand_same(
        subject, subject.encode(subject.raws[::-1]).flip(0), first, "another order"
    )


@law
def decoding_gives_samples(subject: Subject) -> None:
    """Latents, also those a little off, decode to as many samples, which can be encoded, kept in files and shown."""
    for latents in (subject.latents, subject.latents[:1], _disturbed(subject)):
        raws = subject.modality.codec.decode(latents)
        demand(isinstance(raws, list), f"it gives {type(raws).__name__}, not a list")
        demand(
            len(raws) == len(latents),
            f"{len(latents)} latents give {len(raws)} samples",
        )

        again = subject.encode(raws)
        shape = tuple(again.shape)
        demand(
            again.shape == latents.shape,
            f"the samples encode to latents of shape {shape}",
        )
        demand(
            again.isfinite().all(), "the samples encode to latents that are not finite"
        )

        read = subject.through_files(raws, subject.new_folder())
        moved = subject.encode(read)
        _demand_same(
            subject, moved, again, "a file of what is decoded", subject.tolerance
        )

        for raw in raws:
            subject.modality.preview(raw)


def _disturbed(subject: Subject) -> Tensor:
    """The latents with noise added, where they are numbers that can be off."""
    if not subject.latents.is_floating_point():
        return subject.latents

    noise = torch.randn(
        subject.latents.shape, generator=torch.Generator().manual_seed(0)
    )
    return subject.latents + DISTURBANCE * subject.spread * noise.to(subject.latents)


@law
def decoding_obeys_its_generator(subject: Subject) -> None:
    """What decoding draws, it draws from the generator it is given."""
    codec = subject.modality.codec

    latents = []
    with torch.random.fork_rng(devices=[]):
        for seed in (1, 2):
            torch.manual_seed(seed)
            generator = torch.Generator(codec.device).manual_seed(0)
            raws = codec.decode(subject.latents, generator)
            latents.append(subject.encode(raws))
    _demand_same(
        subject, latents[1], latents[0], "another global seed, with the same generator,"
    )


@law
def what_is_promised_is_measured(subject: Subject) -> None:
    """A codec that promises an error of its round trip measures it: a number for each sample, 0 where nothing was lost."""
    codec = subject.modality.codec
    raws = list(subject.raws)
    promised = codec.promise()
    if promised is None:
        return

    demand(
        isinstance(promised, float) and 0 <= promised < math.inf,
        f"it promises {promised}",
    )

    # Of samples to themselves.
    errors = codec.errors(raws, raws)
    demand(
        errors.shape == (len(raws),), f"the errors have the shape {tuple(errors.shape)}"
    )
    is_nothing = errors.abs().max() <= ROUNDING
    demand(is_nothing, f"where nothing was lost the errors are {errors.tolist()[:9]}")

    # Of a round trip.
    errors = codec.errors(raws, codec.decode(subject.latents))
    are_errors = errors.isfinite().all() and (errors >= 0).all()
    demand(are_errors, f"the errors of a round trip are {errors.tolist()[:9]}")


@law
def the_fingerprint_is_flat_json(subject: Subject) -> None:
    """The fingerprint is a flat JSON object that does not change with use."""
    codec = subject.modality.codec
    fingerprint = codec.fingerprint()
    back = json.loads(json.dumps(fingerprint))
    demand(back == fingerprint, f"{fingerprint} comes back from JSON as {back}")

    nested = [key for key, value in fingerprint.items() if isinstance(value, dict)]
    demand(not nested, f"{nested} hold objects")

    codec.decode(subject.encode(subject.raws))
    after = codec.fingerprint()
    demand(after == fingerprint, f"after use it is {after}, before {fingerprint}")


@law
def the_description_makes_it_again(subject: Subject) -> None:
    """Registered names and arguments, as JSON, make an equal modality."""
    modality = subject.modality
    description = modality.describe()
    again = Modality.rebuild(json.loads(json.dumps(description)))

    demand(type(again) is type(modality), f"{type(again).__qualname__} is made")
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
        _demand_same(subject, codec.encode(subject.raws[:1]), latents, f"being {way}")


@law
def the_codec_is_frozen(subject: Subject) -> None:
    """Codec and modality are no torch modules, and no network in the codec learns."""
    for part in (subject.modality, subject.modality.codec):
        kind = type(part).__name__
        demand(not isinstance(part, nn.Module), f"{kind} is a torch module")

        learning = []
        for value in vars(part).values():
            if isinstance(value, nn.Module):
                parameters = value.named_parameters()
                learning += [
                    name for name, parameter in parameters if parameter.requires_grad
                ]
        demand(not learning, f"{', '.join(learning[:3])} of {kind} require gradients")


@law
def a_codec_in_training_draws_nothing(subject: Subject) -> None:
    """The network of a `NeuralCodec` draws from no generator of the process, in training neither: a resumed run would draw other numbers."""
    codec = subject.modality.codec
    if not isinstance(codec, NeuralCodec):
        return

    net = copy.deepcopy(codec.net).train()
    inputs = codec.prepare(subject.raws).to(codec.device)
    latents = subject.latents.to(codec.device)
    ways = {"encode": lambda: net.encode(inputs), "decode": lambda: net.decode(latents)}
    for way, work in ways.items():
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            before = _generators()
            work()
            after = _generators()

        drawn = ", ".join(name for name in after if after[name] != before[name])
        demand(
            not drawn,
            f"its {way} draws from the generator of {drawn}, as nn.Dropout does",
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
                good = parameter.grad is not None and parameter.grad.isfinite().all()
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(ROWS, *subject.modality.codec.shape)
        for name, (net, argument) in _networks(subject).items():
            with torch.no_grad():
                # Gates that start at 0 would hide what is behind them.
                for parameter in net.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)

                first = net(x, argument)
                again = net(x, argument)
            demand(
                torch.equal(first, again),
                f"the {name} draws from torch's global generator, as nn.Dropout does",
            )


@law
def networks_are_their_weights(subject: Subject) -> None:
    """Drift net and head built on the meta device work once they are given weights, as a released model does it."""
    for name, build in (("drift net", _build_drift), ("head", _build_head)):
        with torch.random.fork_rng(devices=[]):
            weights = build(subject).state_dict()
        with torch.device("meta"):
            net = build(subject)
        net.load_state_dict(weights, assign=True)

        tensors = (*net.named_parameters(), *net.named_buffers())
        absent = ", ".join(key for key, tensor in tensors if tensor.is_meta)
        demand(
            not absent,
            f"{absent} of the {name} is no part of its state_dict; register it as persistent",
        )


def _networks(subject: Subject) -> dict[str, tuple[nn.Module, Tensor]]:
    """Fresh networks, each with the argument that it takes beside latents: times, and streams."""
    return {
        "drift net": (_build_drift(subject), torch.linspace(0, 1, ROWS)),
        "head": (_build_head(subject), streams(0, torch.arange(ROWS))),
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
        demand(
            isinstance(preview, Image.Image | str), f"it is {type(preview).__name__}"
        )
