"""Every recipe that ships: it parses, it builds, and it trains for two steps at small width on latents of its own codecs."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flowbind.cli.check import load_yaml
from flowbind.cli.overrides import merge
from flowbind.cli.recipe import build, quiet
from flowbind.component import flatten
from flowbind.data.shard import LINE, write_shard
from flowbind.data.store import finish_store
from flowbind.files import digest
from flowbind.method import Networks
from tests import recipes
from tests.conftest import spare
from tests.recipes import BASES, CODECS, JUDGES, MODELS

ROOT = Path(__file__).parents[1]
VALUES = {
    "text": "a dog barks",
    "image": "a.png",
    "audio": "a.wav",
    "points": "a.ply",
    "depth": "a.npy",
    "point": "0.5 -1.25",
    "label": "7",
}
ROWS = 16
TRAINED_ON = ("train", "val")  # splits that `fit` reads
SMALL = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.precision=32-true",
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    "--data.init_args.batch_size=8",
    "--training.samples=0",  # or codecs are built and decode
    "--trainer.logger=false",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, with the recipes in it."""
    quiet()
    spare(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


def prepare(name: str) -> None:
    """Manifests, weights of codecs and latent stores of random latents, as a recipe names them."""
    told = recipes.merged(name)
    written = "".join((ROOT / path).read_text() for path in recipes.configs(name))
    for weights in re.findall(r"weights: (\S+\.safetensors)", written):
        Path(weights).parent.mkdir(parents=True, exist_ok=True)
        save_file({"made": torch.tensor([len(weights)])}, weights)
    modalities = recipes.modalities(name)
    generator = torch.Generator().manual_seed(0)
    latents = {
        name: recipes.random_latents(modality.codec, ROWS, generator)
        for name, modality in modalities.items()
    }
    prints = {
        name: modality.codec.fingerprint() for name, modality in modalities.items()
    }

    data = told["data"]["init_args"]
    for split in TRAINED_ON:
        path = Path(data["manifests"][split])
        path.parent.mkdir(parents=True, exist_ok=True)
        read = [modality.reads or name for name, modality in modalities.items()]
        sample = {name: VALUES[name] for name in read}
        path.write_text((json.dumps(sample) + "\n") * ROWS)

        stores = data["store"]
        store = Path(stores[split] if isinstance(stores, dict) else f"{stores}/{split}")
        store.mkdir(parents=True, exist_ok=True)
        write_shard(store / "0.safetensors", latents | {LINE: torch.arange(ROWS)}, {})
        strata = [(list(modalities), ["0.safetensors"])]
        finish_store(store, strata, prints, str(path), digest(path))


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name not in BASES.values()]
)
def test_a_model_s_recipe_trains(name, folder, command):
    """Those that others are bound to are trained with these."""
    for each in filter(None, (BASES.get(name), name)):
        prepare(each)
        small = [*SMALL, *recipes.small(each)]
        code, _, err = command("fit", *recipes.options(each), *small)
        assert code == 0, err
        run = recipes.merged(each)["trainer"]["default_root_dir"]
        assert (folder / run / "model/model.safetensors").is_file()


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_s_recipe_builds_its_training(name, folder):
    arguments = [
        *recipes.options(name),
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
    ]
    cli = build([*arguments, "--trainer.precision=32-true"])
    assert cli.model.codec.shape
    assert Path(cli.model.export).parts[:2] == ("runs", "codecs")


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_s_recipe_builds_its_training(name, folder):
    cli = build([*recipes.options(name), "--trainer.accelerator=cpu"])
    assert cli.model.judge.judges == Path(name).name
    assert Path(cli.model.export).parts[:2] == ("runs", "judges")


@pytest.mark.parametrize("name", [*MODELS, *CODECS, *JUDGES])
def test_a_recipe_s_head_tells_command_and_hardware(name):
    text = (ROOT / f"recipes/{name}.yaml").read_text()
    head = re.match(r"(#.*\n)+", text)[0]
    assert f"recipes/{name}.yaml" in head
    if Path(name).stem not in (
        "shapes",
        "shapes_base",
        "shapes_bind",
        "digits",
        "paper",
    ):
        assert re.search(r"Hardware|Time", head)
    assert not re.search(r"\b[A-Z]+_[A-Z]+\b", head), "a placeholder was left"


@pytest.mark.parametrize(
    "name",
    [
        "crossflow/coco_captions",
        "crossflow/coco_text_to_image",
        "crossflow/imagenet_super_resolution",
        "crossflow/kitti_depth",
        "crossflow/nyuv2_depth",
    ],
)
def test_a_head_tells_the_parameters_which_are_near_the_paper_s(name, folder):
    cli = build([*recipes.options(name), "--trainer.accelerator=cpu"])
    with torch.device("meta"):
        nets = Networks(cli.model.method).nets
    counts = {
        part: sum(parameter.numel() for parameter in net.parameters())
        for part, net in nets.named_children()
    }
    generating = counts["start"] + counts["velocity"]

    text = (ROOT / f"recipes/{name}.yaml").read_text()
    (told,) = re.findall(r"^# Parameters: ((?:.*\n)*?)# Hardware", text, re.MULTILINE)
    numbers = re.findall(r"\d{1,3}(?:,\d{3})+", told)
    assert {int(number.replace(",", "")) for number in numbers} == {
        generating,
        *filter(None, counts.values()),
    }
    value, unit = re.findall(r"paper's are ([\d.]+) (\w+)", told)[0]
    paper = float(value) * {"million": 1e6, "billion": 1e9}[unit]
    assert generating == pytest.approx(paper, rel=0.02)


def test_a_head_tells_the_parameters_of_a_joint_flow(folder):
    name = "crossmodal/coco"
    cli = build([*recipes.options(name), "--trainer.accelerator=cpu"])
    with torch.device("meta"):
        nets = Networks(cli.model.method).nets
    counts = [
        sum(parameter.numel() for parameter in net.parameters())
        for net in (nets.velocity, nets.posterior, nets.projection)
    ]
    text = (ROOT / f"recipes/{name}.yaml").read_text()
    (told,) = re.findall(r"^# Parameters: ((?:.*\n)*?)# Hardware", text, re.MULTILINE)
    numbers = [int(n.replace(",", "")) for n in re.findall(r"\d+(?:,\d{3})+", told)]
    assert numbers == [counts[0] + counts[1], *counts]


@pytest.mark.parametrize("name", MODELS)
def test_a_recipe_over_another_says_nothing_that_this_says_already(name):
    """A variant names what differs, and nothing else."""
    *below, own = (
        load_yaml((ROOT / path).read_text()) for path in recipes.configs(name)
    )
    if not below:
        return
    base = dict(flatten(merge(below)))
    again = {key for key, value in flatten(own) if key in base and base[key] == value}
    assert not again
