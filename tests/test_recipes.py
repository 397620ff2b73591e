"""Every recipe that ships: it parses, it builds, and it trains for two steps at small width on latents of its own codecs."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from flowbind.cli.recipe import build, quiet
from flowbind.data.shard import LINE, write_shard
from flowbind.data.store import finish_store
from flowbind.files import digest

ROOT = Path(__file__).parents[1]
MODELS = sorted((ROOT / "recipes").glob("*.yaml"))
CODECS = sorted((ROOT / "recipes/codecs").glob("*.yaml"))
BASES = {
    "pix3d_bind": "flowbind_normalized",
    "shapes_bind": "shapes_base",
}  # what a recipe builds on
VALUES = {"text": "a dog barks", "image": "a.png", "audio": "a.wav", "points": "a.ply"}
ROWS = 16
SMALL = [
    "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.precision=32-true", "--trainer.max_steps=2",
    "--trainer.val_check_interval=2", "--data.init_args.batch_size=8", "--model.init_args.drift.width=16",
    "--model.init_args.drift.depth=1", "--model.init_args.head.width=16", "--model.init_args.head.depth=1",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, with the recipes in it."""
    quiet()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


def prepare(recipe: Path) -> None:
    """Manifests, weights of codecs and latent stores of random latents, as the recipe names them."""
    told = yaml.safe_load(recipe.read_text())
    for weights in re.findall(r"weights: (\S+\.safetensors)", recipe.read_text()):
        Path(weights).parent.mkdir(parents=True, exist_ok=True)
        save_file({"made": torch.tensor([len(weights)])}, weights)
    arguments = [
        "--config",
        str(recipe),
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        *SMALL,
    ]
    cli = build(arguments)
    modalities = cli.model.modalities
    for split, path in told["data"]["init_args"]["manifests"].items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        sample = {name: VALUES[name] for name in modalities}
        Path(path).write_text((json.dumps(sample) + "\n") * ROWS)
        store = cli.datamodule.folder(split)
        store.mkdir(parents=True, exist_ok=True)
        latents = {
            name: torch.randn(ROWS, *modality.codec.shape) for name, modality in modalities.items()
        }
        write_shard(store / "0.safetensors", latents | {LINE: torch.arange(ROWS)}, {})
        prints = {name: modality.codec.fingerprint() for name, modality in modalities.items()}
        finish_store(
            store, [(list(modalities), ["0.safetensors"])], prints, path, digest(Path(path))
        )


@pytest.mark.parametrize(
    "recipe",
    [path for path in MODELS if path.stem not in BASES.values()],
    ids=lambda path: path.stem,
)
def test_a_model_s_recipe_trains(recipe, folder, command):
    """Those that others are bound to are trained with these."""
    for name in filter(None, (BASES.get(recipe.stem), recipe.stem)):
        path = ROOT / f"recipes/{name}.yaml"
        prepare(path)
        code, _, err = command("fit", "--config", path, *SMALL)
        assert code == 0, err
        run = yaml.safe_load(path.read_text())["trainer"]["default_root_dir"]
        assert (folder / run / "model/model.safetensors").is_file()


@pytest.mark.parametrize("recipe", CODECS, ids=lambda path: path.stem)
def test_a_codec_s_recipe_builds_its_training(recipe, folder):
    arguments = ["--config", str(recipe), "--trainer.accelerator=cpu", "--trainer.devices=1"]
    cli = build([*arguments, "--trainer.precision=32-true"])
    assert cli.model.codec.shape
    assert Path(cli.model.export).parts[:2] == ("runs", "codecs")


@pytest.mark.parametrize("recipe", [*MODELS, *CODECS], ids=lambda path: path.stem)
def test_a_recipe_s_head_tells_command_and_hardware(recipe):
    head = recipe.read_text().partition("seed_everything")[0]
    assert f"recipes/{recipe.relative_to(ROOT / 'recipes')}" in head
    if recipe.stem not in ("shapes", "shapes_base", "shapes_bind", "digits", "paper"):
        assert re.search(r"Hardware|Time", head)
    assert not re.search(r"\b[A-Z]+_[A-Z]+\b", head), "a placeholder was left"
