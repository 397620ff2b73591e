"""What codecs promise of a round trip, and the line that says when it is not kept."""

import json
import math

import numpy as np
import pytest
import torch
from flowbind_shapes import prepare as prepare_shapes

from flowbind.codec import PROMISED, promise_file
from flowbind.data.manifest import Manifest
from flowbind.data.promise import (
    FACTOR,
    FEWEST,
    Promises,
    measure,
    round_trip,
    write_promise,
)
from flowbind.registry import load
from tests.conftest import TOYS
from tests.small_recipes import options, prepare
from tests.toy import ToyCodec

NAMES = ("text", "image", "audio", "points")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """Samples of the embedded world that no codec that ships was trained or measured on."""
    folder = tmp_path_factory.mktemp("promise") / "shapes"
    folder.mkdir()
    prepare_shapes(folder, samples=3, test_samples=12, seed=7)
    return Manifest.read(folder / "test.jsonl", NAMES)


def foreign(name):
    """Samples of a kind that no codec that ships was trained on."""
    generator = torch.Generator().manual_seed(0)
    if name == "text":
        return [
            "two dogs bark in the rain",
            "she opened a letter",
            "prices fell again",
            "a quick song",
            "hello there",
        ]
    if name == "image":
        return [
            torch.randint(256, (3, 48, 80), generator=generator, dtype=torch.uint8)
            for _ in range(6)
        ]
    if name == "audio":
        return [0.1 * torch.randn(16_000, generator=generator) for _ in range(6)]
    boxes = torch.rand(6, 1024, 6, generator=generator)
    return list(boxes * torch.tensor([6.0, 0.2, 0.2, 1, 1, 1]))


@pytest.mark.parametrize("name", NAMES)
def test_codecs_that_ship_keep_their_promise_on_their_world_alone(name, embedded):
    modality = load("modalities", name)()
    codec = modality.codec
    raws = [embedded.read_raw(sample, name, modality) for sample in embedded.samples]
    assert 0 < codec.promise() < math.inf
    assert Promises().look(name, codec, raws, codec.encode(raws)) is None

    others = foreign(name)
    line = Promises().look(name, codec, others, codec.encode(others))
    assert line.startswith(
        f"'{name}': the codec {type(codec).__name__} was made for other samples than these"
    )
    assert "\n" not in line


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_one_number_a_sample_and_nothing_where_nothing_is_lost(
    name, embedded
):
    modality = load("modalities", name)()
    raws = [
        embedded.read_raw(sample, name, modality) for sample in embedded.samples[:3]
    ]
    assert torch.allclose(modality.codec.errors(raws, raws), torch.zeros(3), atol=1e-6)
    lost = round_trip(modality.codec, raws + foreign(name)[:2])
    assert lost.shape == (5,)
    assert (lost >= 0).all()
    assert lost.isfinite().all()


class Promising(ToyCodec):
    """A plugin's codec in closed form: it promises to lose 0.1, and loses what its samples have beyond `bound`."""

    def __init__(
        self, width: int = 8, seed: int = 0, promised: float = 0.1, bound: float = 10.0
    ) -> None:
        super().__init__(width, seed)
        self.promised, self.bound = promised, bound

    def promise(self):
        return self.promised

    def numbers(self, raws):
        return super().numbers(raws).clamp(-self.bound, self.bound)

    def errors(self, raws, again):
        return (torch.stack(list(again)) - torch.stack(list(raws))).abs().mean(1)


@pytest.mark.parametrize("lost", [0.0, 0.15, 0.19, 0.21, 1.0])
def test_a_line_is_said_beyond_twice_the_promise(lost):
    codec = Promising(bound=1.0)
    raws = [torch.full((3,), 1.0 + lost)] * FEWEST
    line = Promises().look("vector", codec, raws, codec.encode(raws))
    assert (line is not None) == (lost > FACTOR * codec.promised)
    if line:
        assert (
            f"it loses {lost:.3g} of them (the median of {FEWEST}), of its own kind less than 0.1 (of 95%)"
            in line
        )


@pytest.mark.parametrize(("far", "told"), [(16, False), (33, True), (64, True)])
def test_a_glance_is_enough_where_the_promise_is_kept(far, told, monkeypatch):
    """Of 64 samples, some of them far: the first ones are, so the median of all decides."""
    codec, decoded = Promising(bound=1.0), []
    decode = codec.decode
    monkeypatch.setattr(
        codec,
        "decode",
        lambda latents, *more: decoded.append(len(latents)) or decode(latents, *more),
    )
    raws = [torch.full((3,), 9.0)] * far + [torch.full((3,), 1.0)] * (64 - far)
    line = Promises().look("vector", codec, raws, codec.encode(raws))
    assert (line is not None, sum(decoded)) == (told, 64)
    decoded.clear()
    assert (
        Promises().look("vector", codec, raws[::-1], codec.encode(raws[::-1])) is None
        or far == 64
    )
    assert sum(decoded) == (64 if far == 64 else 16)


def test_few_samples_and_codecs_that_promise_nothing_are_left_alone():
    far = [torch.full((3,), 9.0)] * FEWEST
    look = Promises().look
    assert look("vector", Promising(bound=1.0), far[1:], torch.zeros(3, 8)) is None
    assert look("vector", Promising(bound=1.0), far, Promising(bound=1.0).encode(far))
    assert look("vector", Promising(bound=1.0), far, torch.zeros(4, 8)) is None, (
        "it is said once"
    )
    assert Promises().look("vector", ToyCodec(), far, ToyCodec().encode(far)) is None


def test_encode_says_it_once(own_world, command, monkeypatch):
    monkeypatch.setitem(TOYS["codecs"], "promising", f"{__name__}:Promising")
    encode = [
        "encode",
        "--config",
        own_world / "recipe.yaml",
        "--model.modalities.vector.codec=promising",
    ]
    code, _, err = command(*encode, "--model.modalities.vector.codec.bound=0.5")
    assert code == 0, err
    (line,) = [
        line for line in err.splitlines() if "was made for other samples" in line
    ]
    assert line.startswith(
        f"{own_world}/data/train.jsonl: 'vector': the codec Promising"
    )
    code, _, err = command(*encode)
    assert (code, "other samples" in err) == (0, False)


def test_what_is_written_is_what_was_measured(tmp_path):
    codec = Promising(bound=0.0)
    raws = [torch.full((3,), n / 100) for n in range(101)]
    write_promise(codec, raws, tmp_path / "weights.json")
    assert json.loads((tmp_path / "weights.json").read_text()) == {
        PROMISED: 0.95,
        "samples": 101,
    }
    assert measure(codec, raws) == pytest.approx(0.95)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        f'{{"{PROMISED}": "a"}}',
        f'{{"{PROMISED}": -1}}',
        f'{{"{PROMISED}": NaN}}',
    ],
)
def test_a_promise_that_is_none_is_an_error_that_names_the_file(content, tmp_path):
    codec = load("codecs", "small-image")(weights=str(tmp_path / "own.safetensors"))
    assert codec.promise() is None
    promise_file(codec.file).write_text(content)
    with pytest.raises(ValueError, match=r"own\.json: ") as error:
        codec.promise()
    assert "\n" not in str(error.value)


def test_training_writes_what_its_weights_promise(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare("codecs/image", command)
    export = tmp_path / "own.safetensors"
    code, _, err = command(*options("codecs/image", "run", f"--model.export={export}"))
    assert code == 0, err
    codec = load("codecs", "small-image")(weights=str(export))
    modality = load("modalities", "image")()
    manifest = Manifest.read("data/shapes/val.jsonl", NAMES)
    raws = [manifest.read_raw(sample, "image", modality) for sample in manifest.samples]
    assert codec.promise() == pytest.approx(
        np.quantile(round_trip(codec, raws).double(), 0.95), rel=1e-3
    )
    assert Promises().look("image", codec, raws, codec.encode(raws)) is None
