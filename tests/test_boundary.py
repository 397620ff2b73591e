"""A method's boundary from outside: plain Lightning, a plain LightningCLI, recipes of before there were methods."""

import sys

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI

import flowbind
from flowbind.data.latents import LatentDataModule
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.train.training import TrainingConfig
from tests.toy import Vector, Word

SIZES = DriftConfig(width=16, depth=1), HeadConfig(width=16, depth=1)

# Of the average of the weights, which is never trained; flowbind's own command says nothing of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*in eval mode:UserWarning")


def data_of(world) -> LatentDataModule:
    manifests = {
        split: str(world / f"data/{split}.jsonl") for split in ("train", "val", "test")
    }
    return LatentDataModule(manifests, str(world / "data/latents"), batch_size=64)


def test_a_method_trains_in_plain_lightning(world, encoded, command, tmp_path):
    method = flowbind.FlowBind({"word": Word(), "vector": Vector()}, *SIZES)
    quiet = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = Trainer(
        max_steps=4,
        accelerator="cpu",
        default_root_dir=tmp_path,
        limit_val_batches=0,
        **quiet,
    )
    trainer.fit(
        flowbind.Training(method, TrainingConfig(seed=3)), datamodule=data_of(world)
    )
    model = flowbind.load(tmp_path / "model")
    assert len(model.generate({"word": ["302", "113"]}, to="vector")["vector"]) == 2


def test_training_stands_under_a_plain_lightning_cli(
    world, encoded, tmp_path, monkeypatch
):
    sizes = {"drift": {"width": 16, "depth": 1}, "head": {"width": 16, "depth": 1}}
    modalities = {
        "word": {"class_path": "tests.toy.Word"},
        "vector": {"class_path": "tests.toy.Vector"},
    }
    manifests = {
        split: str(world / f"data/{split}.jsonl") for split in ("train", "val", "test")
    }
    recipe = {
        "model": {
            "class_path": "flowbind.Training",
            "init_args": {
                "method": {
                    "class_path": "flowbind.FlowBind",
                    "init_args": {"modalities": modalities, **sizes},
                },
                "training": {"learning_rate": 1e-3},
            },
        },
        "data": {
            "class_path": "flowbind.data.latents.LatentDataModule",
            "init_args": {"manifests": manifests, "store": str(world / "data/latents")},
        },
        "trainer": {
            "max_steps": 3,
            "accelerator": "cpu",
            "default_root_dir": str(tmp_path / "run"),
            "limit_val_batches": 0,
            "logger": False,
        },
    }
    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(sys, "argv", ["plain"])
    LightningCLI(
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        seed_everything_default=0,
        args=["fit", "--config", str(path)],
    )
    assert (tmp_path / "run/model/model.json").is_file()


EARLIER = """
model:
  class_path: flowbind.FlowBind
  init_args:
    learning_rate: 0.25
    average_decay: 0.5
    seed: 7
    evaluation: {steps: 3, method: rk4, limit: 9}
"""


def test_a_recipe_of_before_there_were_methods_is_read_and_told_where_its_keys_stand(
    world, command, tmp_path
):
    (tmp_path / "earlier.yaml").write_text(EARLIER)
    recipes = ["--config", world / "recipe.yaml", "--config", tmp_path / "earlier.yaml"]
    code, out, err = command("fit", *recipes, "--print_config")
    assert code == 0, err
    recipe = yaml.safe_load(out)
    training, evaluation = recipe["training"], recipe["evaluation"]
    assert (training["learning_rate"], training["ema_decay"], training["seed"]) == (
        0.25,
        0.5,
        7,
    )
    assert evaluation["sampling"] == {
        "steps": 3,
        "source_steps": None,
        "solver": "rk4",
        "variety": 0.0,
    }
    assert evaluation["limit"] == 9
    (line,) = err.strip().splitlines()
    for place in (
        "model.learning_rate is now training.learning_rate",
        "model.average_decay is now training.ema_decay",
        "model.evaluation.method is now evaluation.sampling.solver",
    ):
        assert place in line


@pytest.mark.parametrize(
    ("option", "place", "value"),
    [
        ("--model.learning_rate=0.5", "training.learning_rate", 0.5),
        ("--model.init_args.average_decay=0.0", "training.ema_decay", 0.0),
        ("--model.evaluation.limit=3", "evaluation.limit", 3),
        ("--evaluation.method=rk4", "evaluation.sampling.solver", "rk4"),
    ],
)
def test_an_option_of_before_there_were_methods_is_taken_and_told_where_it_stands(
    option, place, value, world, command
):
    code, out, err = command(
        "fit", "--config", world / "recipe.yaml", option, "--print_config"
    )
    name = option.partition("=")[0]
    assert (code, err) == (0, f"{name} is now --{place}\n")
    recipe = yaml.safe_load(out)
    for key in place.split("."):
        recipe = recipe[key]
    assert recipe == value


@pytest.mark.parametrize("sampling", ["{step: 3}", "{steps: 0}", "{solver: eule}"])
def test_mistaken_choices_are_one_line(sampling, world, command):
    code, _, err = command(
        "fit", "--config", world / "recipe.yaml", f"--evaluation.sampling={sampling}"
    )
    assert (code, len(err.strip().splitlines()), "evaluation.sampling: " in err) == (
        2,
        1,
        True,
    ), err


def test_a_released_model_keeps_the_choices_of_its_recipe(world, encoded, command):
    recipe = world / "recipe.yaml"
    short = ["--trainer.max_steps=3", "--trainer.val_check_interval=3"]
    choices = ["--evaluation.sampling.steps=7", "--evaluation.sampling.variety=0.5"]
    assert command("fit", "--config", recipe, *short, *choices)[0] == 0
    model = flowbind.load(world / "run/model")
    assert (model.sampling.steps, model.sampling.variety) == (7, 0.5)

    words = {"word": model.encode("word", ["302"])}
    own = model.translate(words, ["vector"])["vector"]
    assert torch.equal(
        own, model.translate(words, ["vector"], steps=7, variety=0.5)["vector"]
    )
    assert not torch.equal(own, model.translate(words, ["vector"], steps=2)["vector"])
    _, out, _ = command("generate", world / "run/model", "--help")
    assert "(default: 7)" in out
