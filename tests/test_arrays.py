"""What people have in Python: arrays of any library as tensors, the rest refused in one line."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import flowbind
from flowbind import Modality
from flowbind.arrays import as_tensor, describe
from flowbind.data.manifest import read_raw, take_raw
from tests.released import release
from tests.toy import Vector, Word, WordCodec

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


class Foreign:
    """An array of another library."""

    def __array__(self, dtype=None, copy=None):
        return NUMBERS


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


CONTAINERS = {
    "numpy": NUMBERS,
    "read-only": read_only(NUMBERS),
    "backwards": NUMBERS[::-1][::-1][:, ::-1][:, ::-1],
    "of the other byte order": NUMBERS.astype(">f4"),
    "in columns": np.asfortranarray(NUMBERS),
    "long double": NUMBERS.astype(np.longdouble),
    "half": NUMBERS.astype(np.float16),
    "masked nowhere": np.ma.masked_array(NUMBERS, mask=False),
    "lists": NUMBERS.tolist(),
    "a tuple of arrays": tuple(NUMBERS),
    "tensor": torch.from_numpy(NUMBERS),
    "with a gradient": torch.from_numpy(NUMBERS).clone().requires_grad_(),
    "bfloat16": torch.from_numpy(NUMBERS).bfloat16(),
    "a parameter": torch.nn.Parameter(torch.from_numpy(NUMBERS)),
    "transposed": torch.from_numpy(NUMBERS.T.copy()).T,
    "another library's": Foreign(),
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_the_same_numbers_in_any_container(container):
    tensor = as_tensor(container, "numbers", shape=(None, 3))
    assert type(tensor) is torch.Tensor
    assert not tensor.requires_grad
    assert torch.equal(tensor.float(), torch.from_numpy(NUMBERS))


@pytest.mark.parametrize(
    "dtype",
    [
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "float16",
        "float64",
        "bool",
    ],
)
def test_the_dtype_is_kept(dtype):
    assert str(as_tensor(NUMBERS.astype(dtype), "numbers").dtype) == f"torch.{dtype}"


def test_a_plain_tensor_is_not_copied():
    tensor = torch.rand(3)
    assert as_tensor(tensor, "numbers").data_ptr() == tensor.data_ptr()


REFUSED = {
    "None": None,
    "a number": 3,
    "numpy's number": np.float32(3),
    "a missing value": float("nan"),
    "a word": "cat",
    "bytes": b"cat",
    "strings": ["a", "b"],
    "numpy's strings": np.array(["a", "b"]),
    "objects": np.array([None, 1], dtype=object),
    "dates": np.array(["2026-01-01"], dtype="datetime64[D]"),
    "a table": np.zeros(3, [("x", "f4"), ("y", "f4")]),
    "complex": np.ones(3, np.complex64),
    "complex tensor": torch.ones(3, dtype=torch.complex64),
    "ragged": [[1.0, 2.0], [3.0]],
    "tensors": [torch.ones(2), torch.ones(3)],
    "empty": np.zeros((0, 3)),
    "an empty list": [],
    "not a number": np.array([1.0, np.nan]),
    "infinite": torch.tensor([1.0, float("inf")]),
    "masked": np.ma.masked_array([1.0, 2.0], mask=[False, True]),
    "sparse": torch.eye(3).to_sparse(),
    "meta": torch.ones(3, device="meta"),
    "a set": {1.0},
    "a dictionary": {"array": [1.0]},
    "an object": object(),
    "another shape": np.ones((3, 2)),
    "a flat one": np.ones(3),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_is_no_array_is_refused_in_one_line(value):
    with pytest.raises(ValueError, match="allowed: two numbers a row") as error:
        as_tensor(value, "two numbers a row", shape=(None, 4))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(describe(value))


class Silent(Vector):
    """A plugin that says nothing of what it accepts."""

    accept = Modality.accept


class Unprepared(Vector):
    """One whose `accept` breaks on what it did not expect."""

    def accept(self, raw):
        return raw["vector"].float()


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        float("nan"),
        b"0",
        [],
        ["a"],
        [None],
        np.zeros(0),
        np.array([np.nan]),
        2j,
    ],
)
@pytest.mark.parametrize(
    "modality",
    [Silent(), Unprepared(), Word()],
    ids=lambda modality: type(modality).__name__,
)
def test_nonsense_is_refused_at_every_plugin_s_door(modality, value):
    with pytest.raises(ValueError, match=r"^source 'x': [^\n]+$"):
        take_raw(modality, value, "source 'x'")


def test_what_a_reader_returns_is_looked_at_too(tmp_path):
    class Wrong(Silent):
        def read(self, source):
            return torch.tensor([1.0, torch.nan, 2.0])

    (tmp_path / "a.vec").touch()
    with pytest.raises(
        ValueError,
        match=r"a\.vec: a tensor of float32 with shape \(3,\) has numbers .* \(sample 'a'\)",
    ):
        read_raw(Wrong(), tmp_path / "a.vec", "sample 'a'")


def test_paths_and_literals_are_read(tmp_path):
    path = tmp_path / "a.vec"
    Vector().write(torch.ones(3), path)

    class Named:
        def __fspath__(self):
            return str(path)

    for source in (path, str(path), np.str_(path), Named()):
        assert torch.equal(take_raw(Vector(), source, "x"), torch.ones(3))
    assert take_raw(Word(), np.str_("123"), "x") == "123"
    assert type(take_raw(Word(), np.str_("123"), "x")) is str
    with pytest.raises(ValueError, match="no such file"):
        take_raw(Vector(), Path("none.vec"), "x")


@pytest.fixture
def model(tmp_path, toys):
    """A released model of the toy world, untrained."""
    return flowbind.load(release(tmp_path / "model", word=Word(), vector=Vector()))


def test_a_model_says_which_sample_it_refuses(model, capsys):
    says = r"^source 'vector'\[1\]: an array of float64 with shape \(2,\) has another shape"
    with pytest.raises(ValueError, match=says):
        model.encode("vector", [np.ones(3), np.ones(2)])
    latents = model.encode("vector", [np.ones(3), [1, 1, 1], torch.ones(3).double()])
    assert torch.equal(latents[:1].expand(3, -1), latents)
    assert capsys.readouterr().err == ""


def test_a_model_says_what_is_far_from_all_it_was_trained_on(model, capsys):
    model.generate(
        {"vector": [np.ones(3), np.full(3, 1e6), np.full(3, -70.0)]}, to=["word"]
    )
    (line,) = capsys.readouterr().err.splitlines()
    says = r"source 'vector'\[1\] is far from .* \(6.12e\+05 standard .* usual\), and 1 more like it"
    assert re.fullmatch(says, line)


def test_what_a_codec_cannot_keep_is_said_once(world, command, monkeypatch):
    """For each manifest and each source, with how many are like it; nothing is refused for it."""
    monkeypatch.setattr(
        WordCodec,
        "caveat",
        lambda self, raw: "has a zero, which this codec hardly keeps" * ("0" in raw),
    )
    code, _, err = command("encode", "--config", world / "recipe.yaml")
    assert code == 0
    lines = [line for line in err.splitlines() if "zero" in line]
    assert len(lines) == 3
    for line in lines:
        assert re.fullmatch(
            r"'word' of sample '\w+' of \S*\.jsonl has a zero, .*, and \d+ more like it",
            line,
        )
