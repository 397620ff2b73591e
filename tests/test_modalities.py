"""The laws over every installed modality, laws that are broken, the registry, and what codecs share."""

import threading
import tomllib
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from flowbind_shapes.dataset import EVERYTHING, SUFFIX, prepare
from safetensors.torch import save as safetensors
from safetensors.torch import save_file
from torch import nn

from flowbind import Head, Modality, NeuralCodec
from flowbind.arrays import as_tensor
from flowbind.data.manifest import Manifest
from flowbind.registry import GROUPS, installed, load, name_of
from flowbind.testing import LAWS, Subject, check_modality
from tests.distribution import distribution
from tests.toy import ToyCodec, Vector

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())[
    "project"
]
BUILT_IN = sorted(PROJECT["entry-points"]["flowbind.modalities"])
EMBEDDED = [name for name in BUILT_IN if name in {*EVERYTHING, *SUFFIX}]
SAMPLES = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A manifest whose samples have every modality of the embedded world."""
    out = tmp_path_factory.mktemp("shapes")
    modalities = "+".join(EMBEDDED)
    prepare(out, samples=3, test_samples=SAMPLES, modalities=modalities)
    return Manifest.read(out / "test.jsonl", installed("modalities"))


def test_all_built_in_modalities_are_installed():
    for kind, group in GROUPS.items():
        assert (
            PROJECT["entry-points"][group].items()
            <= {n: e.value for n, e in installed(kind).items()}.items()
        )


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_laws_hold(name, world, tmp_path):
    modality = load("modalities", name)()
    raws = [world.read_raw(sample, name, modality) for sample in world.samples]
    check_modality(modality, raws, tmp_path)


# The laws on a toy that obeys them, and on toys that break one each.


class Toy(Vector):
    """A modality that obeys every law."""


class Changed(ToyCodec):
    """A codec with one method replaced."""

    def __init__(self, **methods):
        super().__init__()
        self.__dict__ |= {
            name: method.__get__(self) for name, method in methods.items()
        }


def toy(modality=None, **codec):
    """A toy with methods replaced in the modality or in its codec."""
    return type("Broken", (Toy,), modality or {})(Changed(**codec) if codec else None)


def read_anything(self, source):
    try:
        return Vector.read(self, source)
    except (OSError, ValueError):
        return torch.zeros(3)


def read_namelessly(self, source):
    try:
        return Vector.read(self, source)
    except (OSError, ValueError):
        raise ValueError("damaged") from None


def read_at_length(self, source):
    try:
        return Vector.read(self, source)
    except ValueError as error:
        raise ValueError(f"{error}\nand more") from None


def read_carelessly(self, source):
    return Vector.read(self, source) if source.is_file() else {}["missing"]


def accept_holes(self, raw):
    return Vector.accept(
        self, raw.nan_to_num() if isinstance(raw, torch.Tensor) else raw
    )


def accept_at_length(self, raw):
    try:
        return Vector.accept(self, raw)
    except ValueError as error:
        raise ValueError(f"{error}\nand more") from None


def accept_by_container(self, raw):
    return Vector.accept(self, raw) / (2 if isinstance(raw, np.ndarray) else 1)


def write_and_leave(self, raw, path):
    Vector.write(self, raw, path)
    path.with_suffix(".log").write_text("")


def preview_the_known(self, raw):
    next(known for known in vectors() if torch.allclose(raw, known, atol=1e-4))
    return ""


def encode_changed(change):
    return {"encode": lambda self, raws: change(ToyCodec.encode(self, raws))}


def decode_changed(change):
    return {
        "decode": lambda self, latents, generator=None: change(
            ToyCodec.decode(self, latents)
        )
    }


def drift_of(change):
    def build(self, config):
        net = Vector.build_drift(self, config)
        change(net)
        return net

    return {"build_drift": build}


class Unkept(ToyCodec):
    def __init__(self, bits: int = 8):
        super().__init__(bits)


class Listed(ToyCodec):
    def __init__(self, sizes=(8, 3)):
        super().__init__()
        self.sizes = sizes


class Counting(ToyCodec):
    calls = 0

    def encode(self, raws):
        self.calls += 1
        return super().encode(raws)

    def fingerprint(self):
        return super().fingerprint() | {"calls": self.calls}


class Locked(ToyCodec):
    def __init__(self, width: int = 8, seed: int = 0):
        super().__init__(width, seed)
        self.lock = threading.Lock()


class Learning(ToyCodec):
    def __init__(self, width: int = 8, seed: int = 0):
        super().__init__(width, seed)
        self.net = nn.Linear(3, 3)


class Forgetful(NeuralCodec):
    """A codec whose network has a layer that training alone makes random: `where` is `encode` or `decode`."""

    shape = (8,)

    def __init__(self, where="encode"):
        super().__init__()
        self.where = where

    def build(self):
        net = nn.Module()
        net.encode, net.decode = nn.Linear(3, 8), nn.Linear(8, 3)
        setattr(
            net, self.where, nn.Sequential(getattr(net, self.where), nn.Dropout(0.1))
        )
        return net

    @cached_property
    def net(self):
        return self.build().eval().requires_grad_(False)

    def prepare(self, raws):
        return torch.stack(list(raws))

    def finish(self, outputs):
        return list(outputs)


class AsLong(nn.Sequential):
    """Rows as long as the longest of those with them, as a writer that stops early gives them."""

    def forward(self, x):
        outputs = super().forward(x)
        longest = int((x[:, 0] > 0).sum()) + 1
        return outputs[:, :longest]


class Uneven(Forgetful):
    """A codec whose decoder gives a row a shape that depends on the others."""

    def build(self):
        net = nn.Module()
        net.encode = nn.Linear(3, 8)
        net.decode = AsLong(nn.Linear(8, 3))
        return net


class Joined(nn.Module, ToyCodec):
    def __init__(self):
        nn.Module.__init__(self)
        ToyCodec.__init__(self)


class Whitened(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x, streams):
        return self.scale * (x - x.mean(0)) if len(x) else self.scale * x


class Scaled(Head):
    def __init__(self, width):
        super().__init__(width, width=8, depth=1)
        self.register_buffer("two", torch.full((width,), 2.0), persistent=False)

    def forward(self, x, streams):
        return super().forward(x) * self.two


class ForgetfulHead(nn.Linear):
    def forward(self, x, streams):
        return nn.functional.dropout(super().forward(x), 0.5)


def widened(net):
    net.proj_out = nn.Linear(net.proj_out.in_features, 9)


def idle(net):
    net.spare = nn.Linear(1, 1)


def head_of(build):
    return {"build_head": lambda self, config: build(*self.codec.shape)}


def nearness(raws, again):
    """1 where nothing was lost, below it elsewhere."""
    return torch.exp(
        -(torch.stack(list(raws)) - torch.stack(list(again))).abs().mean(1)
    )


BROKEN = {
    "files_keep_samples": [
        (toy({"suffixes": ("VEC",)}), "in lower case"),
        (toy({"write": write_and_leave}), r"the folder holds .*\.log"),
        (
            toy(
                {"write": lambda self, raw, path: Vector.write(self, raw.round(), path)}
            ),
            "going through a file moves",
        ),
    ],
    "samples_are_accepted_as_they_are": [
        (
            toy({"accept": lambda self, raw: Vector.accept(self, raw) + 1}),
            "of a sample that was given it makes another",
        ),
        (
            toy({"accept": lambda self, raw: Vector.accept(self, raw).numpy()}),
            "makes another",
        ),
        (toy({"accept": lambda self, raw: raw.mul_(1.5)}), "changed in place"),
    ],
    "what_is_no_sample_is_refused": [
        (toy({"accept": lambda self, raw: raw}), "None is accepted"),
        (toy({"accept": lambda self, raw: raw * 1.0}), "TypeError.* is raised"),
        (
            toy({"accept": accept_holes}),
            r"a tensor of float32 with shape \(3,\) is accepted",
        ),
        (toy({"accept": accept_at_length}), "of None it says '.* more'"),
    ],
    "another_container_holds_the_same_sample": [
        (toy({"accept": accept_by_container}), "an array of float32"),
        (
            toy({"accept": lambda self, raw: as_tensor(raw, "numbers")}),
            "a tensor of float64",
        ),
    ],
    "damaged_files_are_refused": [
        (toy({"read": read_anything}), "an empty file is read as a sample"),
        (toy({"read": read_namelessly}), "does not name it"),
        (toy({"read": read_at_length}), "several lines"),
        (
            toy({"read": lambda self, source: torch.tensor(eval(source.read_bytes()))}),
            "is raised",
        ),
    ],
    "missing_files_are_refused": [
        (toy({"read": read_anything}), "it is read as a sample"),
        (toy({"read": read_namelessly}), "does not name it"),
        (toy({"read": read_carelessly}), "KeyError.* is raised"),
    ],
    "latents_are_as_promised": [
        (
            toy(**encode_changed(lambda latents: latents[:, :7])),
            r"the shape is \(4, 7\), not \(4, 8\)",
        ),
        (toy(**encode_changed(torch.Tensor.double)), "the dtype is torch.float64"),
        (toy(**encode_changed(lambda latents: latents.log())), "not finite"),
        (toy(**encode_changed(torch.zeros_like)), "all 4 samples have the same"),
        (toy(**encode_changed(torch.Tensor.requires_grad_)), "require a gradient"),
        (
            toy(**encode_changed(lambda latents: latents.to("meta"))),
            "the device is meta",
        ),
    ],
    "a_latent_depends_on_its_sample_alone": [
        (
            toy(**encode_changed(lambda latents: latents - latents.mean(0))),
            "encoding one by one",
        ),
        (
            toy(**encode_changed(lambda latents: latents + torch.rand(8))),
            "encoding again",
        ),
        (
            toy(
                **encode_changed(
                    lambda latents: latents + torch.arange(len(latents))[:, None]
                )
            ),
            "encoding one by one",
        ),
    ],
    "decoding_gives_samples": [
        (toy(**decode_changed(torch.stack)), "not a list"),
        (toy(**decode_changed(lambda raws: raws[:1])), "4 latents give 1 samples"),
        (toy(**decode_changed(lambda raws: [raw / 0 for raw in raws])), "not finite"),
        (toy({"preview": preview_the_known}), "is raised"),
    ],
    "decoding_obeys_its_generator": [
        (
            toy(**decode_changed(lambda raws: [raw + torch.rand(3) for raw in raws])),
            "another global seed",
        ),
    ],
    "what_is_promised_is_measured": [
        (toy(promise=lambda self: 0.1), "measures none"),
        (toy(promise=lambda self: -1.0), "it promises -1"),
        (
            toy(
                promise=lambda self: 0.1,
                errors=lambda self, raws, again: torch.zeros(1),
            ),
            r"the shape \(1,\)",
        ),
        (
            toy(
                promise=lambda self: 0.1,
                errors=lambda self, raws, again: torch.ones(len(raws)),
            ),
            "nothing was lost",
        ),
        (
            toy(
                promise=lambda self: 0.1,
                errors=lambda self, raws, again: torch.log(nearness(raws, again)),
            ),
            "round trip",
        ),
    ],
    "the_fingerprint_is_flat_json": [
        (
            toy(fingerprint=lambda self: {"codec": "Changed", "inner": {}}),
            "hold objects",
        ),
        (
            toy(fingerprint=lambda self: {"codec": torch.zeros(1)}),
            "not JSON serializable",
        ),
        (Toy(Listed()), "comes back from JSON"),
        (Toy(Counting()), "after use"),
    ],
    "the_description_makes_it_again": [
        (Toy(Unkept()), "no attribute 'bits'"),
        (toy(), "not registered"),
    ],
    "copies_encode_alike": [(Toy(Locked()), "pickle")],
    "the_codec_is_frozen": [
        (Toy(Learning()), "weight, bias of Learning require gradients"),
        (Toy(Joined()), "is a torch module"),
    ],
    "a_codec_in_training_draws_nothing": [
        (Toy(Forgetful()), "its encode draws from the generator of torch"),
        (Toy(Forgetful("decode")), "its decode draws from the generator of torch"),
    ],
    "outputs_of_a_codec_have_one_shape": [
        (Toy(Uneven()), r"its decode gives rows of the shapes \[\(\d,\), \(\d,\)"),
    ],
    "networks_fit_the_latents": [
        (toy(drift_of(widened)), r"gives the shape \(3, 9\) where \(3, 8\)"),
        (
            toy(drift_of(idle)),
            r"spare\.weight of the drift net gets no finite gradient",
        ),
        (toy(head_of(Whitened)), "a row of the head depends on the other rows"),
    ],
    "networks_draw_from_their_arguments_alone": [
        (
            toy(head_of(lambda width: ForgetfulHead(width, width))),
            "the head draws from torch's global generator",
        ),
    ],
    "networks_are_their_weights": [
        (toy(head_of(Scaled)), "two of the head is no part of its state_dict")
    ],
    "previews_can_be_shown": [
        (toy({"preview": lambda self, raw: raw.numpy()}), "it is ndarray")
    ],
    "exhibits_can_be_shown": [
        (toy({"exhibit": lambda self, raw: raw.numpy()}), "it is ndarray")
    ],
}


@pytest.fixture
def registered(tmp_path):
    """The toy as an installed modality."""
    entry_points = {
        "flowbind.modalities": {"toy": f"{__name__}:Toy"},
        "flowbind.codecs": {
            "toy": "tests.toy:ToyCodec",
            "unkept": f"{__name__}:Unkept",
        },
    }
    with distribution(tmp_path / "site", "toys", entry_points):
        yield


def vectors():
    return list(torch.rand(4, 3, generator=torch.Generator().manual_seed(0)))


def test_a_lawful_toy_passes(registered, tmp_path):
    check_modality(Toy(), vectors(), tmp_path)


def test_a_plugin_that_says_nothing_of_what_it_accepts_is_lawful_too(
    registered, tmp_path, monkeypatch
):
    monkeypatch.setattr(Toy, "accept", Modality.accept)
    check_modality(Toy(), vectors(), tmp_path)


class GridCodec(ToyCodec):
    """The toy's latents as grids, for which a modality has no networks by itself."""

    def __init__(self, width=8, seed=0):
        super().__init__(width, seed)
        self.shape = (2, 2, 2)

    def encode(self, raws):
        return super().encode(raws).unflatten(1, self.shape)

    def decode(self, latents, generator=None):
        return super().decode(latents.flatten(1), generator)


class Headed(Vector):
    """A modality with a head of its own, which does not fit grids."""

    def build_head(self, config):
        return Head(8)


def test_latents_that_are_no_vectors_may_be_left_to_methods_with_networks(tmp_path):
    entry_points = {
        "flowbind.modalities": {
            "vec": "tests.toy:Vector",
            "headed": f"{__name__}:Headed",
        },
        "flowbind.codecs": {"grid": f"{__name__}:GridCodec"},
    }
    with distribution(tmp_path / "site", "toys", entry_points):
        check_modality(Vector(GridCodec()), vectors(), tmp_path)
        with pytest.raises(AssertionError, match="Headed breaks the law 'networks_fit"):
            check_modality(Headed(GridCodec()), vectors(), tmp_path)


def test_every_law_has_a_toy_that_breaks_it():
    assert {law.__name__ for law in LAWS} == set(BROKEN)


@pytest.mark.parametrize(
    ("name", "modality", "seen"),
    [(name, *case) for name, cases in BROKEN.items() for case in cases],
)
def test_a_broken_law_is_named(name, modality, seen, registered, tmp_path):
    law = next(law for law in LAWS if law.__name__ == name)
    with pytest.raises(AssertionError, match=f"breaks the law '{name}'.*{seen}"):
        law(Subject(modality, vectors(), tmp_path))


def test_the_laws_need_two_samples(tmp_path):
    with pytest.raises(ValueError, match="at least two raw samples"):
        check_modality(Toy(), vectors()[:1], tmp_path)


# The registry


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(
        ValueError,
        match=r"no modalities named 'txet' is installed; did you mean 'text'\? allowed: a",
    ):
        load("modalities", "txet")


def test_two_packages_with_one_name_are_both_named(tmp_path):
    with (
        distribution(
            tmp_path / "a", "first", {"flowbind.codecs": {"same": "tests.toy:ToyCodec"}}
        ),
        distribution(
            tmp_path / "b",
            "second",
            {"flowbind.codecs": {"same": "tests.toy:WordCodec"}},
            version="2.1",
        ),
        pytest.raises(
            ValueError, match=r"'same' is claimed by both second 2\.1 and first 1\.0"
        ),
    ):
        installed("codecs")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_package:Ink", "No module named 'no_such_package'"),
        ("tests.toy:Ink", "no attribute 'Ink'"),
    ],
)
def test_a_package_that_cannot_be_imported_is_named(value, reason, tmp_path):
    with distribution(tmp_path, "broken-ink", {"flowbind.modalities": {"ink": value}}):
        assert "ink" in installed("modalities")  # listing imports nothing
        with pytest.raises(
            ValueError, match=f"'ink' of broken-ink 1.0 cannot be imported: .*{reason}"
        ):
            load("modalities", "ink")


def test_a_class_is_found_by_its_name_wherever_its_package_exports_it(tmp_path):
    assert name_of("modalities", load("modalities", BUILT_IN[0])) == BUILT_IN[0]
    # Defined in tests.toy.
    entry_points = {"flowbind.codecs": {"elsewhere": f"{__name__}:ToyCodec"}}
    with distribution(tmp_path, "toys", entry_points):
        assert name_of("codecs", ToyCodec) == "elsewhere"
    with pytest.raises(
        ValueError, match=r"tests\.toy:ToyCodec is not registered; .*'flowbind\.codecs'"
    ):
        name_of("codecs", ToyCodec)


# What codecs share


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(3, 2, bias=False)

    def encode(self, x):
        return self.map(x)

    def decode(self, latents):
        return latents @ self.map.weight


class LinearCodec(NeuralCodec):
    shape = (2,)

    def build(self):
        return Net()

    def prepare(self, raws):
        return torch.stack(list(raws))

    def finish(self, outputs):
        return list(outputs)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"map.weight": torch.eye(2, 3).half()}, path)
    return path


def test_a_neural_codec_takes_its_weights_on_first_use(weights):
    codec = LinearCodec(str(weights))
    assert "net" not in vars(codec)
    latents = codec.encode([torch.tensor([1.0, 2.0, 3.0])])
    assert latents.tolist() == [[1, 2]]
    assert latents.dtype == torch.float32
    assert codec.decode(latents)[0].tolist() == [1, 2, 0]
    assert not codec.net.training
    assert not any(parameter.requires_grad for parameter in codec.net.parameters())


def test_a_neural_codec_that_was_used_can_be_moved(weights):
    """Weights made in the inference mode of encoding would be of no use on another device."""
    codec = LinearCodec(str(weights))
    codec.encode([torch.ones(3)])
    assert not any(tensor.is_inference() for tensor in codec.net.state_dict().values())


WRONG = {
    "another shape": safetensors({"map.weight": torch.eye(3)}),
    "other names": safetensors({"map.bias": torch.eye(2)}),
    "empty": b"",
    "noise": b"\xff" * 99,
}


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_wrong_weights_are_one_line_that_names_the_file(weights, content):
    weights.write_bytes(content)
    with pytest.raises(
        ValueError,
        match=r"weights\.safetensors: these are not weights of the codec LinearCodec",
    ) as caught:
        LinearCodec(str(weights)).encode([torch.zeros(3)])
    assert "\n" not in str(caught.value)


def test_a_network_that_was_built_moves_along(weights):
    codec = LinearCodec(str(weights))
    assert codec.to("meta") is codec
    assert "net" not in vars(codec)
    codec = LinearCodec(str(weights))
    assert codec.net.map.weight.device.type == "cpu"
    assert codec.to("meta").net.map.weight.device.type == "meta"


def test_a_buffer_that_weights_leave_out_is_an_error(weights):
    class Table(LinearCodec):
        def build(self):
            net = Net()
            net.register_buffer("table", torch.arange(3), persistent=False)
            return net

    with pytest.raises(
        ValueError,
        match="Table: the buffers table are not in its weights; make them persistent",
    ):
        Table(str(weights)).encode([torch.zeros(3)])


def test_missing_weights_say_how_to_make_them(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"none: no such weights for the codec LinearCodec; train them",
    ):
        LinearCodec(str(tmp_path / "none")).encode([torch.zeros(3)])


def test_a_fingerprint_tells_versions_arguments_and_weights_apart(weights, monkeypatch):
    def fingerprint():
        return LinearCodec(str(weights)).fingerprint()

    first = fingerprint()
    assert first == fingerprint()
    assert (first["codec"], first["version"]) == ("LinearCodec", 1)
    save_file({"map.weight": torch.ones(2, 3)}, weights)
    assert fingerprint()["weights"] != first["weights"]
    monkeypatch.setattr(LinearCodec, "version", 2)
    assert fingerprint()["version"] == 2
    assert ToyCodec(seed=1).fingerprint() != ToyCodec(seed=2).fingerprint()


def test_the_same_weights_elsewhere_have_the_same_fingerprint(weights, tmp_path):
    other = tmp_path / "moved.safetensors"
    other.write_bytes(weights.read_bytes())
    assert (
        LinearCodec(str(other)).fingerprint() == LinearCodec(str(weights)).fingerprint()
    )
