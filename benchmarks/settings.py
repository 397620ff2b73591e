"""The method's settings at equal compute, on the embedded world's latents: joint accuracy in every direction.

    flowbind prepare shapes --out data/shapes
    flowbind encode --config recipes/shapes.yaml
    python benchmarks/settings.py [--steps 375] [--seed 0]

Every run is recipes/shapes.yaml with alpha 0.3 and what its name says; two drift calls a row (`both`) get half the
steps. Judged are generated latents as they come out of the flow, before any codec, by probes fitted on real ones.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from lightning.pytorch import Trainer, seed_everything

from flowbind.cli.recipe import build
from flowbind.data.manifest import Manifest
from flowbind.data.store import LatentStore
from flowbind.evaluation.labels import classes_of, draw_rows, label_values
from flowbind.method import Direction
from flowbind.metrics.probe import accuracy, fit_probe
from flowbind.nets.standardizer import Standardizer
from flowbind.progress import track

AUTHORS = {
    "times": "both",
    "normalize": False,
    "noise_variance": 10.0,
    "leave_own_out": 0.0,
}
BASE = {"alpha": 0.3}  # flowbind's default; the recipe has 0.5
SETTINGS = {
    "alpha 0.3": {},
    "both": {"times": "both"},
    "alpha 0.5": {"alpha": 0.5},
    "endpoint 0": {"endpoint": 0.0},
    "noise_variance 0": {"noise_variance": 0.0},
    "noise_variance 0.1": {"noise_variance": 0.1},
    "noise_variance 1": {"noise_variance": 1.0},
    "head_dropout 0": {"head_dropout": 0.0},
    "leave_own_out 0": {"leave_own_out": 0.0},
    "leave_own_out 0.5": {"leave_own_out": 0.5},
    "authors'": AUTHORS,
    "authors', leave_own_out 0.5": AUTHORS | {"leave_own_out": 0.5},
}


class Judge:
    """Probes on real training latents, and the test samples they are asked about."""

    def __init__(self, data: Path, names: list[str]) -> None:
        train, test = (
            LatentStore(data / "latents" / split) for split in ("train", "test")
        )
        trained, tested = (
            Manifest.read(data / f"{split}.jsonl", names) for split in ("train", "test")
        )
        values = label_values(trained, names)
        labels = classes_of(trained, values)
        self.standard = {
            name: Standardizer(*train.fields[name].shape) for name in names
        }
        for name, standard in self.standard.items():
            standard.set(
                torch.tensor(train.fields[name].mean),
                torch.tensor(train.fields[name].std),
            )
        sizes = [len(value) for value in values.values()]
        self.probes = {
            name: fit_probe(
                self.standard[name](train.all(name)),
                labels[train.lines(name)],
                sizes,
                seed=0,
            )
            for name in track(names, "probes")
        }
        self.real, lines = draw_rows(
            test, names, torch.ones(len(tested.samples), dtype=torch.bool), None, seed=0
        )
        self.labels = classes_of(tested, values)[lines]

    def __call__(self, model) -> dict[Direction, float]:
        """Joint accuracy of each direction from one source to another modality."""
        found = {}
        for direction in model.method.directions():
            (target,) = direction.targets
            if len(direction.sources) == 1 and target not in direction.sources:
                sources = {name: self.real[name] for name in direction.sources}
                made = model.translate(sources, [target])[target]
                read = self.probes[target](self.standard[target](made.cpu()))
                found[direction] = accuracy(read, self.labels).joint
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="recipes/shapes.yaml")
    parser.add_argument("--data", type=Path, default=Path("data/shapes"))
    parser.add_argument(
        "--steps",
        type=int,
        default=375,
        help="of one drift call a row; the recipe has 750",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SETTINGS,
        default=list(SETTINGS),
        metavar="NAME",
        help="settings to run",
    )
    options = parser.parse_args()
    judge = None
    for name in options.only:
        cli = build(
            [
                "--config",
                options.config,
                f"--training.seed={options.seed}",
                f"--data.seed={options.seed}",
            ]
        )
        module, precision = cli.model, cli.trainer.precision
        module.method.objective = replace(
            module.method.objective, **BASE | SETTINGS[name]
        )
        judge = judge or Judge(options.data, list(module.modalities))
        seed_everything(options.seed, verbose=False)
        steps = options.steps // (2 if module.method.objective.times == "both" else 1)
        quietly = dict.fromkeys(
            (
                "logger",
                "enable_checkpointing",
                "enable_progress_bar",
                "enable_model_summary",
            ),
            False,
        )
        fixed = {
            "precision": precision,
            "gradient_clip_val": 1.0,
            "limit_val_batches": 0,
            "devices": 1,
        }
        with (
            tempfile.TemporaryDirectory() as folder
        ):  # receives a released model, which nobody wants
            trainer = Trainer(
                max_steps=steps, default_root_dir=folder, **fixed, **quietly
            )
            began = time.process_time()
            trainer.fit(module, datamodule=cli.datamodule)
            seconds = time.process_time() - began
        found = judge(module.model)
        if name == options.only[0]:
            print(f"| setting | {' | '.join(map(str, found))} | lowest | mean | s |")
            print(f"|---|{'---|' * (len(found) + 3)}", flush=True)
        figures = " | ".join(f"{figure:.3f}" for figure in found.values())
        print(
            f"| {name} | {figures} | {min(found.values()):.3f} | {mean(found.values()):.3f} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
