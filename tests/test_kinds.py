"""Latents of other kinds than vectors: ids, masked sequences and grids, from the store to the released model."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import flowbind
from flowbind.data.batches import Steps
from flowbind.data.mixture import Mixture
from flowbind.data.resident import Resident
from flowbind.data.store import LatentStore
from flowbind.method import Networks
from flowbind.nets.standardizer import Standardizer
from flowbind.testing.method import LAWS, Subject
from tests import processes, toy_kinds
from tests.conftest import TOYS
from tests.distribution import write_distribution

WORDS = ["203", "111", "330", "002"]


@pytest.mark.parametrize("name", toy_kinds.KINDS)
def test_codecs_of_each_kind_give_their_words_back(name):
    codec = toy_kinds.KINDS[name]()
    assert codec.decode(codec.encode(WORDS)) == WORDS


def over_rows(x):
    """Statistics as a store has them: of each feature at each position."""
    return x.double().mean(0), x.double().std(0, correction=0)


@pytest.mark.parametrize("shape", [(5,), (7, 5), (3, 4, 6), (2, 3, 4, 5)])
def test_statistics_are_over_rows_and_positions(shape):
    """Re-derived: of every feature of a vector or sequence, and of every channel of a grid."""
    generator = torch.Generator().manual_seed(0)
    offset = 100 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    x = torch.randn(50, *shape, generator=generator, dtype=torch.float64) + offset
    standard = Standardizer(*shape).double()
    standard.set(*over_rows(x))

    channel = 1 if len(shape) > 2 else x.ndim - 1
    flat = x.movedim(channel, -1).reshape(-1, x.shape[channel])
    expected = [1] * len(shape)
    expected[channel - 1] = x.shape[channel]
    for buffer, value in (
        (standard.mean, flat.mean(0)),
        (standard.std, flat.std(0, correction=0)),
    ):
        torch.testing.assert_close(buffer, value.reshape(expected), rtol=1e-9, atol=0)
    torch.testing.assert_close(standard.inverse(standard(x)), x)


def test_statistics_of_a_masked_sequence_are_those_of_its_real_positions():
    generator = torch.Generator().manual_seed(1)
    there = torch.rand(200, 7, 1, generator=generator, dtype=torch.float64) < 0.4
    features = torch.randn(200, 7, 3, generator=generator, dtype=torch.float64) * 2 + 50
    x = torch.cat([features * there, there.double()], dim=-1)
    standard = Standardizer(7, 4, masked=True).double()
    standard.set(*over_rows(x))

    real = features[there[..., 0]]
    torch.testing.assert_close(standard.mean[0, :3], real.mean(0), rtol=1e-9, atol=0)
    torch.testing.assert_close(
        standard.std[0, :3], real.std(0, correction=0), rtol=1e-8, atol=0
    )
    z = standard(x)
    assert torch.equal(z[..., -1:], there.double())
    assert not z[~there[..., 0]].any()
    torch.testing.assert_close(standard.inverse(z), x)


def test_ids_stay_as_they_are(toys):
    networks = Networks(toy_kinds.Regression(toy_kinds.modalities()))
    ids = toy_kinds.DigitIds().encode(WORDS)
    assert networks.standard["ids"](ids) is ids
    assert not [
        name for name in networks.state_dict() if name.startswith("standard.ids")
    ]


@pytest.mark.parametrize(
    "law",
    [law for law in LAWS if "description" not in law.__name__],
    ids=lambda law: law.__name__,
)
def test_laws_of_a_method_over_every_kind(law, toys):
    law(Subject(toy_kinds.Regression(toy_kinds.modalities())))


@pytest.fixture
def recipe(world):
    """The toy world's recipe for a method over every kind of latent."""
    recipe = yaml.safe_load((world / "recipe.yaml").read_text())
    recipe["model"] = toy_kinds.MODEL
    recipe["evaluation"] = {"gallery": 4}
    (world / "kinds.yaml").write_text(yaml.safe_dump(recipe))
    return world / "kinds.yaml"


def test_every_kind_from_files_to_files(world, recipe, command):
    """Store, training, test, release and generation; what comes out is what words say."""
    for verb in ("encode", "fit", "test"):
        code, _, err = command(verb, "--config", recipe)
        assert code == 0, err
    directions = json.loads((world / "run/metrics.json").read_text())["directions"]
    assert directions["word->ids"]["same[ids,n=128]"] > 0.95
    for name in ("grid", "sequence"):
        assert directions[f"word->{name}"]["accuracy/joint[probe,n=128]"] > 0.9

    model = flowbind.load(world / "run/model")
    generated = model.generate({"word": WORDS}, to=["ids", "grid", "sequence"])
    assert generated["ids"] == generated["grid"] == WORDS
    assert model.networks.standard["grid"].mean.shape == (3, 1, 1)
    assert model.networks.standard["sequence"].mean.shape == (1, 4)


def test_resident_latents_of_every_kind_are_those_of_the_store(world, recipe, command):
    """Batches made on the device have the shapes, dtypes and numbers of those from disk."""
    assert command("encode", "--config", recipe)[0] == 0
    store = LatentStore(world / "data/latents/train")
    names = ["word", *toy_kinds.KINDS]
    mixture = Mixture(
        [stratum.rows for stratum in store.strata], [5] * len(store.strata)
    )
    steps = Steps(store, names, mixture)
    resident = Resident(store, names, torch.device("cpu"))
    numbers = steps.numbers(3)
    made = steps.frame.fill(resident, numbers.rows.split(steps.frame.sizes), 3)
    for name, latents in steps.at(3).latents.items():
        codec = toy_kinds.modalities()[name].codec
        assert latents.shape[1:] == tuple(codec.shape)
        assert latents.dtype == codec.dtype
        assert torch.equal(made.latents[name], latents)


def test_a_kind_that_no_sample_has_keeps_its_own_shape_and_dtype(
    world, recipe, command
):
    assert command("encode", "--config", recipe)[0] == 0
    store = LatentStore(world / "data/latents/train")
    absent = {"other": torch.empty(0, 2, 7, dtype=torch.int64)}
    mixture = Mixture(
        [stratum.rows for stratum in store.strata], [5] * len(store.strata)
    )
    batch = Steps(store, ["word", "ids", "other"], mixture, absent=absent).at(0)
    assert batch.latents["other"].shape == (0, 2, 7)
    assert batch.latents["other"].dtype == torch.int64


def test_a_method_of_noise_alone_is_tested_and_generates_by_number(
    world, recipe, command
):
    words = yaml.safe_load(recipe.read_text())
    words["model"] = toy_kinds.MODEL | {"class_path": "from-nothing"}
    words["evaluation"] = {"judges": [{"class_path": "word-reader"}], "gallery": 0}
    recipe.write_text(yaml.safe_dump(words))
    short = ("--trainer.max_steps=2", "--trainer.val_check_interval=2")
    for arguments in (["encode"], ["fit", *short], ["test", *short]):
        code, _, err = command(arguments[0], "--config", recipe, *arguments[1:])
        assert code == 0, err

    # Nothing was asked for, so nothing is right or wrong; but it is read, and may be as varied.
    measures = json.loads((world / "run/metrics.json").read_text())["directions"][
        "->word"
    ]
    kinds = {name.partition("[")[0] for name in measures}
    assert {"frechet", "readable", "combinations", "evenness"} <= kinds
    assert not any("accuracy" in kind or "private" in kind for kind in kinds)
    assert "From noise alone" in (world / "run/metrics.md").read_text()

    generate = (
        "generate",
        world / "run/model",
        "--to",
        "word",
        "--out",
        world / "made",
    )
    code, out, err = command(*generate, "--count", "3", "--batch", "2")
    assert code == 0, err
    files = [Path(line) for line in out.splitlines()]
    assert [file.name for file in files] == [
        f"{number}-sample.word.word" for number in range(3)
    ]
    model = flowbind.load(world / "run/model")
    assert model.generate({}, "word", count=3)["word"] == [
        file.read_text() for file in files
    ]
    code, _, err = command(*generate, "--from", "word=203")
    assert (code, "does not make word->word; it makes ->word" in err) == (2, True), err


@pytest.mark.slow
def test_two_processes_learn_every_kind_as_one_does(world, recipe, command, tmp_path):
    """To 1e-9 in float64."""
    groups = {f"flowbind.{kind}": names for kind, names in TOYS.items()}
    write_distribution(world / "site", "toys", groups)
    assert command("encode", "--config", recipe)[0] == 0
    short = ("--trainer.max_steps=20", "--trainer.val_check_interval=20")
    weights = []
    for count in (1, 2):
        run = tmp_path / str(count)
        options = (
            f"--trainer.devices={count}",
            f"--trainer.default_root_dir={run}",
            *short,
        )
        done = processes.flowbind(
            world, "fit", "--config", recipe, "--trainer.precision=64-true", *options
        )
        assert done.returncode == 0, done.stderr
        weights.append(load_file(run / "model/model.safetensors"))

    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0, atol=1e-9)
