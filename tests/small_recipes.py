"""Every recipe at small size: stand-ins for what it reads, options that make it small, and a witness of its steps.

Nothing of a method is changed: dropout, noise, times, precision and labels are the recipe's own.
"""

import json
import random
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback
from safetensors.torch import save_file

from flowbind.cli.recipe import build
from flowbind.data.shard import LINE, write_shard
from flowbind.data.store import finish_store
from flowbind.files import digest
from tests import recipes
from tests.recipes import BASES, CODECS, JUDGES, MODELS, RECIPES
from tests.tiny_audio import save_clap
from tests.tiny_text import save_encoder, save_gemma

STEPS, EVERY = 4, 2  # of a run, and between two of its checkpoints
KILLED = 3  # the step in the midst of which a run is killed
SAMPLES = 17  # so that batches and ranks' shares of them are odd

RUN = (
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--trainer.callbacks+=tests.small_recipes.Witness",
    "--data.init_args.batch_size=7",
)
MODEL = (
    "--training.learning_rate=0.01",  # so that a difference shows at once
    "--training.warmup_steps=2",
)
BY_CLOCK = "--checkpoints.minutes=1e-9"
CODEC = "--model.init_args.codec.init_args"
OWN = {
    "codecs/audio_adapter": (f"{CODEC}.clap=models/clap",),
    "codecs/point_autoencoder": (f"{CODEC}.points=64", f"{CODEC}.width=16"),
    "codecs/text_decoder": (
        f"{CODEC}.encoder=models/encoder",
        f"{CODEC}.language_model=models/gemma",
        f"{CODEC}.longest=8",
        "--model.init_args.noise=0.1",  # the recipe has none
    ),
}


def options(
    name: str,
    run_folder: str | Path,
    *more: str,
    steps: int = STEPS,
    every: int = EVERY,
) -> list[str]:
    """The command that trains a recipe at small size, in a folder that `prepare` has prepared.

    Args:
        name: of the recipe.
        run_folder: where it trains.
        more: further arguments.
        steps: of the run; validation comes halfway and at the end.
        every: steps between two checkpoints.
    """
    run = (
        f"--trainer.default_root_dir={run_folder}",
        f"--trainer.max_steps={steps}",
        f"--trainer.val_check_interval={steps // 2}",
        f"--checkpoints.every={every}",
    )
    by_clock = "minutes" in recipes.merged(name).get("checkpoints", {})
    small = (*recipes.small(name), *MODEL) if name in MODELS else ()
    return [
        "fit",
        *recipes.options(name),
        *RUN,
        *run,
        *[BY_CLOCK] * by_clock,
        *small,
        *OWN.get(name, ()),
        *more,
    ]


def prepare(name: str, command) -> None:
    """Makes all that a recipe reads, in the working folder: latents or samples, codecs' weights, models of the hub, a base."""
    Path("recipes").symlink_to(RECIPES)
    if name in (*CODECS, *JUDGES):
        _prepare_samples(command)
    for model in filter(None, (BASES.get(name), name if name in MODELS else None)):
        _prepare_latents(model)
    if name in BASES:
        run_folder = recipes.merged(BASES[name])["trainer"]["default_root_dir"]
        code, _, err = command(*options(BASES[name], run_folder))
        assert code == 0, err

    if name == "codecs/text_decoder":
        save_encoder(Path("models/encoder"), Path("models/parts"), width=768)
        save_gemma(Path("models/gemma"))
    if name == "codecs/audio_adapter":
        save_clap(Path("models/clap"))


def _prepare_samples(command) -> None:
    """Samples of the embedded world, some without a label; for larger codecs, the same under their recipes' names."""
    made = ("--samples", 3 * SAMPLES, "--test-samples", 5, "--out", "data/shapes")
    code, _, err = command("prepare", "shapes", *made)
    assert code == 0, err
    for place in ("data/audiocaps", "data/coco-karpathy", "data/meshes"):
        Path(place).symlink_to("shapes")

    manifest = Path("data/shapes/train.jsonl")
    samples = [json.loads(line) for line in manifest.read_text().splitlines()]
    for sample in samples[::4]:
        del sample["labels"]["colour"]
    manifest.write_text("".join(json.dumps(sample) + "\n" for sample in samples))


def _prepare_latents(name: str) -> None:
    """Random latents: pairs of neighbouring modalities and the first alone, in unequal numbers.

    Where that teaches nothing there are samples with all modalities, too.
    """
    written = "".join(Path(path).read_text() for path in recipes.configs(name))
    for weights in map(Path, re.findall(r"weights: (\S+\.safetensors)", written)):
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file({"stand-in": torch.tensor([len(weights.name)])}, weights)

    cli = build(
        [
            *recipes.options(name),
            *recipes.small(name),
            "--trainer.accelerator=cpu",
            "--trainer.precision=32-true",
        ]
    )
    modalities = cli.model.modalities
    names = list(modalities)
    kinds = [*pairwise(names), (names[0],)]
    if not any(map(cli.model.method.trains_on, kinds)):
        kinds.append(tuple(names))
    generator = torch.Generator().manual_seed(0)

    for split, manifest in cli.datamodule.manifests.items():
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text("{}\n")  # training reads latents alone
        store = cli.datamodule.folder(split)
        # Of the recipe that this one builds on.
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir(parents=True)

        for number, kind in enumerate(kinds):
            rows = SAMPLES - 3 * number
            latents = {
                one: recipes.random_latents(modalities[one].codec, rows, generator)
                for one in kind
            }
            write_shard(
                store / f"{number}.safetensors",
                latents | {LINE: torch.arange(rows)},
                {},
            )
        strata = [
            (list(kind), [f"{number}.safetensors"]) for number, kind in enumerate(kinds)
        ]
        prints = {
            one: modality.codec.fingerprint() for one, modality in modalities.items()
        }
        finish_store(store, strata, prints, str(manifest), digest(manifest))


class Witness(Callback):
    """Sees that no step and no validation draws from a generator of the process; and copies what a kill would leave.

    Args:
        killed: folder that receives a copy of the run folder in the midst of step `KILLED`; none if None.
    """

    def __init__(self, killed: str | None = None) -> None:
        self.killed = killed

    def on_train_start(self, trainer, module) -> None:
        self.before = generators()

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        if self.killed and trainer.global_step == KILLED:
            shutil.copytree(trainer.default_root_dir, self.killed)

    def on_train_batch_end(self, trainer, module, *_: object) -> None:
        self._look(f"step {trainer.global_step}")

    def on_validation_end(self, trainer, module) -> None:
        self._look(f"the validation after step {trainer.global_step}")

    def _look(self, moment: str) -> None:
        after = generators()
        drawn = [name for name, state in self.before.items() if state != after[name]]
        assert not drawn, f"{moment} drew from the generators of {', '.join(drawn)}"


def generators() -> dict[str, bytes]:
    """The state of every generator that a process has."""
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state(legacy=False)).encode(),  # noqa: NPY002
        "random": repr(random.getstate()).encode(),
    }
