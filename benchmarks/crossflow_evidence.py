"""CrossFlow's evidence on the embedded world: beside flow matching, without its parts, and with other settings.

Every run is `flowbind fit` and `flowbind test` of a recipe with a few options, in a folder of its own below OUT. One whose
`metrics.json` is there is not run again, one that was interrupted resumes; so the same command goes on where it ended.
Printed are tables of what there is: joint accuracy by the picture's judge and Frechet distance, mean and each seed. OUT
receives `evidence.png`, both over parameters. Each run's own folder has its gallery.

    flowbind prepare shapes --out data/scenes --modalities text+image+depth
    flowbind encode --config recipes/crossflow/text_to_image.yaml
    python benchmarks/crossflow_evidence.py [--steps 2400] [--seeds 0 1] [--only sizes ablation kl path guidance]
        [--accelerator cpu] [--jobs 1] [--out runs/evidence] [--evaluation.limit=300 ...]

`--jobs` runs go at once; 0 prints what there is. Other options are those of `flowbind fit`, for every run; what is done
already does not have them, so give them an OUT of their own.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch

from flowbind.cli.recipe import build
from flowbind.evaluation.report import suffix
from flowbind.evaluation.verdicts import frechet_of, joint_accuracy
from flowbind.files import replacing
from flowbind.method import Networks

CROSSFLOW = "recipes/crossflow/text_to_image.yaml"
FLOW_MATCHING = "recipes/crossflow/baseline_text_to_image.yaml"
DIRECTION, TARGET = "text->image", "image"
APART = 0.04  # of the parameters of two models of one size, at most
SCALE = 2.0  # of guidance, where there is an unconditional field
DPI = 150

NET = "model.init_args.net"
ENCODER = "model.init_args.encoder"
OBJECTIVE = "model.init_args.objective"
GUIDANCE = "evaluation.sampling.guidance"


@dataclass(frozen=True)
class Run:
    """One model, whatever its seed.

    Args:
        name: Name of its folder.
        recipe: Path of the recipe.
        settings: Settings other than the recipe's, by their names.
        looks: Settings of a further test of the same model; none for its own.
    """

    name: str
    recipe: str = CROSSFLOW
    settings: tuple[tuple[str, Any], ...] = ()
    looks: tuple[tuple[str, Any], ...] = ()

    def folder(self, out: Path, steps: int, seed: int) -> Path:
        """Folder of the run of one seed."""
        return out / f"steps={steps}" / self.name / f"seed={seed}"

    def metrics(self, out: Path, steps: int, seed: int) -> Path:
        """File of its results."""
        return self.folder(out, steps, seed) / f"metrics{suffix(dict(self.looks))}.json"

    @property
    def options(self) -> list[str]:
        """The options that make the recipe this run's, and its test this one."""
        chosen = {GUIDANCE: SCALE} | dict(self.settings) | dict(self.looks)
        return ["--config", self.recipe, *(f"--{k}={v}" for k, v in chosen.items())]


def crossflow(name: str, **settings: Any) -> Run:
    """CrossFlow with other settings, `objective__path` for `model.init_args.objective.path`."""
    named = []
    for key, value in settings.items():
        part, _, setting = key.partition("__")
        prefix = {"encoder": ENCODER, "objective": OBJECTIVE}[part]
        named.append((f"{prefix}.{setting}", value))
    if settings.get("objective__unconditional") == 0:
        named.append((GUIDANCE, 1.0))
    return Run(name, settings=tuple(named))


def size(recipe: str, width: int, depth: int, heads: int, encoder: int = 0) -> Run:
    """A model of a size; its encoder's width, where it has one, comes with blocks as it is wide."""
    name = "crossflow" if encoder else "flow-matching"
    net = {"width": width, "depth": depth, "heads": heads}
    settings = [(f"{NET}.{key}", value) for key, value in net.items()]
    if encoder:
        blocks = {
            "width": encoder,
            "depth": min(encoder // 64, 2),
            "hidden": 2 * encoder,
        }
        settings += [(f"{ENCODER}.{key}", value) for key, value in blocks.items()]
    return Run(f"{name}-{width}", recipe, tuple(settings))


BASE = Run("crossflow")  # the recipe as it is
# Of about as many parameters each: a block with cross-attention has 22 width^2, one without 18, and
# an encoder beside it.
SIZES = {
    "0.9 M": (size(CROSSFLOW, 96, 4, 2, 80), size(FLOW_MATCHING, 96, 4, 2)),
    "1.6 M": (size(CROSSFLOW, 128, 4, 2, 112), size(FLOW_MATCHING, 128, 4, 2)),
    "2.5 M": (BASE, Run("flow-matching", FLOW_MATCHING)),
    "16.3 M": (size(CROSSFLOW, 320, 8, 5, 192), size(FLOW_MATCHING, 320, 7, 5)),
}

# As the paper goes on, each from the row before: all but the last without an unconditional field.
ALONE = {"objective__unconditional": 0.0}
PLAIN = {"encoder__kind": "plain", "objective__encoder_loss": "reconstruction"} | ALONE
ABLATION = {  # and the paper's FID
    "encoder": (crossflow("encoder", **PLAIN), 66.65),
    "+ noise": (crossflow("encoder-noise", encoder__noise=1.0, **PLAIN), 59.91),
    "variational encoder, text-text reconstruction": (
        crossflow("reconstruction", objective__encoder_loss="reconstruction", **ALONE),
        40.78,
    ),
    "text-text contrast": (
        crossflow(
            "contrast-source", objective__encoder_loss="contrastive-source", **ALONE
        ),
        34.67,
    ),
    "image-text contrast, no guidance": (crossflow("contrast", **ALONE), 33.41),
    "indicator, guidance 2": (BASE, 24.33),
}
KL = {
    "1e-4": crossflow("kl-1e-4", objective__kl_weight=1e-4),
    "1e-3": BASE,
    "1e-2": crossflow("kl-1e-2", objective__kl_weight=1e-2),
    "1e-1": crossflow("kl-1e-1", objective__kl_weight=1e-1),
}
PATH = {
    "straight": BASE,
    "sine-cosine": crossflow("sine-cosine", objective__path="sine-cosine"),
}
GUIDED = {}
for label, recipe in (("CrossFlow", CROSSFLOW), ("flow matching", FLOW_MATCHING)):
    for scale in (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 7.0):
        name = label.lower().replace(" ", "-")
        looks = ((GUIDANCE, scale),) if scale != SCALE else ()
        GUIDED[f"{label}, {scale:g}"] = Run(name, recipe, looks=looks)
GROUPS = ("sizes", "ablation", "kl", "path", "guidance")


@cache
def parameters(run: Run) -> int:
    """Number of those that generate, so without the witness of a loss."""
    cli = build([*run.options, "--trainer.accelerator=cpu"])
    with torch.device("meta"):
        nets = Networks(cli.model.method).nets
    total = 0
    for name, parameter in nets.named_parameters():
        if not name.startswith("witness."):
            total += parameter.numel()
    return total


class Figures(NamedTuple):
    """Of one seed: joint accuracy by the judge, and Frechet distance in latents."""

    accuracy: float
    frechet: float


class Bench:
    """Runs, and what came out of them.

    Args:
        given: What the command line says.
        more: Options of `flowbind fit` for every run.
    """

    def __init__(self, given: argparse.Namespace, more: list[str]) -> None:
        self.out = given.out
        self.steps = given.steps
        self.seeds = given.seeds
        self.jobs = given.jobs
        self.more = [f"--trainer.accelerator={given.accelerator}", *more]

    def figures(self, run: Run) -> dict[int, Figures]:
        """Of the seeds that are done."""
        by_seed = {}
        for seed in self.seeds:
            path = run.metrics(self.out, self.steps, seed)
            if path.is_file():
                measures = json.loads(path.read_text())["directions"][DIRECTION]
                accuracy = joint_accuracy(measures, "judge")
                by_seed[seed] = Figures(accuracy, frechet_of(measures))
        return by_seed

    def run_all(self, runs: Sequence[Run]) -> list[str]:
        """Fits and tests what is not done, and says what failed; further tests come last."""
        failed: list[str] = []
        for stage in (False, True):
            missing = {}
            for run in runs:
                for seed in self.seeds:
                    path = run.metrics(self.out, self.steps, seed)
                    if bool(run.looks) is stage and not path.is_file():
                        missing[path] = (run, seed)

            with ThreadPoolExecutor(self.jobs) as pool:
                for path, code in pool.map(self._run, missing.items()):
                    print(f"{path}: {'done' if code == 0 else 'failed'}", flush=True)
                    failed += [str(path)] if code else []
        return failed

    def _run(self, each: tuple[Path, tuple[Run, int]]) -> tuple[Path, int]:
        path, (run, seed) = each
        folder = run.folder(self.out, self.steps, seed)
        options = [
            *run.options,
            *self.more,
            f"--seed_everything={seed}",
            f"--training.seed={seed}",
            f"--data.init_args.seed={seed}",
            f"--trainer.default_root_dir={folder}",
            f"--trainer.max_steps={self.steps}",
            f"--trainer.val_check_interval={self.steps}",
        ]
        verbs = ("test",) if run.looks else ("fit", "test")

        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("a") as log:
            for verb in verbs:
                line = [sys.executable, "-m", "flowbind", verb, *options]
                done = subprocess.run(line, stdout=log, stderr=log, check=False)
                if done.returncode:
                    return path, done.returncode
        return path, 0

    def cells(self, run: Run) -> str:
        """Accuracy and Frechet distance, the mean and in brackets each seed, as cells of a table."""
        by_seed = self.figures(run)
        if not by_seed:
            return " | "
        cells = []
        for numbers, digits in zip(
            zip(*by_seed.values(), strict=True), (3, 2), strict=True
        ):
            each = ", ".join(f"{number:.{digits}f}" for number in numbers)
            cells.append(f"{mean(numbers):.{digits}f} ({each})")
        return " | ".join(cells)


def print_real(bench: Bench, runs: Sequence[Run]) -> None:
    """What real samples reach, by the first run that is done."""
    for run in runs:
        for seed in bench.seeds:
            path = run.metrics(bench.out, bench.steps, seed)
            if path.is_file():
                results = json.loads(path.read_text())
                codec = joint_accuracy(results["codecs"][TARGET], "judge")
                floor = frechet_of(results["floors"][TARGET])
                print(
                    f"\nReal samples, encoded and decoded: joint accuracy {codec:.3f}. Real training "
                    f"samples in the place of generations: Frechet distance {floor:.2f}."
                )
                return


def print_table(bench: Bench, title: str, runs: dict[str, Run]) -> None:
    """One row a run."""
    print(f"\n| {title} | joint accuracy | Frechet distance |\n|---|---|---|")
    for label, run in runs.items():
        print(f"| {label} | {bench.cells(run)} |")


def print_sizes(bench: Bench) -> None:
    """CrossFlow and flow matching beside one another."""
    print("\n| model | parameters | joint accuracy | Frechet distance |")
    print("|---|---|---|---|")
    for pair in SIZES.values():
        for label, run in zip(("CrossFlow", "flow matching"), pair, strict=True):
            print(f"| {label} | {parameters(run):,} | {bench.cells(run)} |")


def print_ablation(bench: Bench) -> None:
    """The paper's ablation, with its figures."""
    print(
        "\n| | joint accuracy | Frechet distance | the paper's FID |\n|---|---|---|---|"
    )
    for label, (run, fid) in ABLATION.items():
        print(f"| {label} | {bench.cells(run)} | {fid} |")


def draw(bench: Bench, path: Path) -> None:
    """Accuracy and Frechet distance over parameters: a line of means, a mark for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for number, label in enumerate(("CrossFlow", "flow matching")):
        runs = [pair[number] for pair in SIZES.values()]
        done = [(parameters(run), bench.figures(run)) for run in runs]
        done = [(count, by_seed) for count, by_seed in done if by_seed]
        colour = f"C{number}"
        for panel, name in zip(panels, Figures._fields, strict=True):
            means = []
            for count, by_seed in done:
                values = [getattr(each, name) for each in by_seed.values()]
                means.append(mean(values))
                panel.scatter(
                    [count] * len(values),
                    values,
                    facecolors="none",
                    edgecolors=colour,
                )
            counts = [count for count, _ in done]
            panel.plot(counts, means, color=colour, marker="o", label=label)

    for panel, title in zip(
        panels,
        ("samples with every factor right", "Frechet distance"),
        strict=True,
    ):
        panel.set_xscale("log")
        panel.set_xlabel("parameters")
        panel.set_ylabel(title)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, fontsize="small"
    )
    with replacing(path) as file:
        figure.savefig(file, dpi=DPI, format="png")


def check_sizes() -> None:
    """Refuses pairs of models that are not of one size."""
    for label, pair in SIZES.items():
        one, other = map(parameters, pair)
        if abs(one - other) > APART * one:
            raise SystemExit(f"{label}: {one:,} and {other:,} parameters are not equal")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=2400, help="of every training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; 0: none")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    given, more = parser.parse_known_args()

    bench = Bench(given, more)
    ablation = {label: run for label, (run, _) in ABLATION.items()}
    pairs = [run for pair in SIZES.values() for run in pair]
    runs = {
        "sizes": pairs,
        "ablation": ablation.values(),
        "kl": KL.values(),
        "path": PATH.values(),
        "guidance": GUIDED.values(),
    }
    print_of = {
        "sizes": partial(print_sizes, bench),
        "ablation": partial(print_ablation, bench),
        "kl": partial(print_table, bench, "`kl_weight`", KL),
        "path": partial(print_table, bench, "path", PATH),
        "guidance": partial(print_table, bench, "guidance", GUIDED),
    }

    if "sizes" in given.only:
        check_sizes()
    chosen = [run for group in given.only for run in runs[group]]
    failed = bench.run_all(chosen) if given.jobs else []
    for group in given.only:
        print_of[group]()
    print_real(bench, chosen)
    if "sizes" in given.only and any(bench.figures(run) for run in pairs):
        draw(bench, given.out / "evidence.png")
    if failed:
        raise SystemExit(f"failed, see log.txt beside: {', '.join(failed)}")


if __name__ == "__main__":
    main()
