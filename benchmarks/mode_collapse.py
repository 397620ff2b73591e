"""The paper's experiment on mode collapse: rare labels under guidance, cross-guidance, and both, over several seeds.

Each model is `flowbind fit` of recipes/crossmodal/mode_collapse.yaml with a seed and a law of times, in a folder of its
own below OUT. One that is there is not trained again, one that was interrupted resumes. Points are made from labels as
often as the truth has them, and judged by what is known of it:

- accuracy: share of points that lie in a cell of the given label;
- agreement: share that lie in a cell of the label as it is in the end, which under cross-guidance may be another one;
- recovered: the same of under-represented labels alone (less likely than half of an even share);
- rare share: points in cells of such labels, over the share that the truth has; 1 is no collapse;
- distance: exact Wasserstein distance of order 2 to as many points of the truth, in units of the plane. Two sets of the
  truth have one, too, the floor.

OUT receives `figures.json` and `mode_collapse.png`, the points of the first seed; tables are printed, mean and standard
deviation over the seeds.

    flowbind prepare plane --out data/plane
    flowbind encode --config recipes/crossmodal/mode_collapse.yaml
    python benchmarks/mode_collapse.py [--seeds 0 1 2 3 4] [--times apart shared] [--steps 6000] [--points 2000]
        [--accelerator cpu] [--out runs/mode_collapse] [--model.init_args.objective.clean_ids=0.2 ...]

Other options are those of `flowbind fit`, for every model; give them an OUT of their own.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from flowbind_plane import world
from flowbind_plane.judging import rare_share
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import flowbind
from flowbind.files import replacing

RECIPE = "recipes/crossmodal/mode_collapse.yaml"
SETTINGS: dict[str, dict[str, Any]] = {
    "no guidance": {},
    "guidance 1.5": {"guidance": 1.5},
    "guidance 3": {"guidance": 3.0},
    "cross-guidance": {"evolve": True},
    "both, 1.5": {"evolve": True, "guidance": 1.5},
}
FIGURES = ("accuracy", "agreement", "recovered", "rare share", "distance")
DPI = 150
TRUTH = 12345  # seed of the truth, which no recipe's data have


def folder_of(out: Path, times: str, seed: int) -> Path:
    """The run of one model."""
    return out / f"times={times}" / f"seed={seed}"


def fit(given: argparse.Namespace, more: Sequence[str], times: str, seed: int) -> None:
    """Trains one model, where it is not there."""
    folder = folder_of(given.out, times, seed)
    if (folder / "model").is_dir():
        return

    folder.mkdir(parents=True, exist_ok=True)
    line = [
        *(sys.executable, "-m", "flowbind", "fit", "--config", RECIPE),
        f"--model.init_args.objective.times={times}",
        f"--trainer.accelerator={given.accelerator}",
        *more,
        f"--seed_everything={seed}",
        f"--training.seed={seed}",
        f"--data.init_args.seed={seed}",
        f"--trainer.default_root_dir={folder}",
        f"--trainer.max_steps={given.steps}",
        f"--trainer.val_check_interval={given.steps}",
    ]
    with (folder / "log.txt").open("a") as log:
        done = subprocess.run(line, stdout=log, stderr=log, check=False)
    if done.returncode:
        raise SystemExit(f"failed, see {folder / 'log.txt'}")


def generate(
    model: flowbind.Model,
    labels: np.ndarray,
    seed: int,
    choices: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """A point of each label, with shape (n, 2), and the labels in the end, with shape (n,)."""
    ids = torch.from_numpy(labels)[:, None]
    to = ["point", "label"]
    latents = model.translate({"label": ids}, to, seed=seed, **choices)
    points = latents["point"].double().cpu().numpy()
    return points, latents["label"][:, 0].cpu().numpy()


def judge(
    points: np.ndarray,
    labels: np.ndarray,
    ends: np.ndarray,
    truth: np.ndarray,
) -> dict[str, float]:
    """The figures of points that were made from labels, beside as many of the truth."""
    of_cells = world.labels_of(points)
    is_right = of_cells == labels
    is_rare = np.isin(labels, world.rare_labels())
    expected = world.probabilities()[world.rare_labels()].sum()
    return {
        "accuracy": float(is_right.mean()),
        "agreement": float((of_cells == ends).mean()),
        "recovered": float(is_right[is_rare].mean()),
        "rare share": rare_share(points) / float(expected),
        "distance": wasserstein(points, truth),
    }


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """The Wasserstein distance of order 2 of two sets of as many points."""
    squares = cdist(x, y, "sqeuclidean")
    return float(np.sqrt(squares[linear_sum_assignment(squares)].mean()))


def truth_of(count: int, stream: int) -> np.ndarray:
    """Points of the truth, other ones for each stream."""
    return world.draw(count, np.random.default_rng([TRUTH, stream]))


def measure(
    given: argparse.Namespace,
) -> tuple[dict[str, dict[str, list[dict[str, float]]]], dict[str, np.ndarray]]:
    """The figures of every seed, by law of times and setting, and the first seed's points."""
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    points_of: dict[str, np.ndarray] = {}
    truth = truth_of(given.points, 0)
    for times in given.times:
        figures[times] = {name: [] for name in SETTINGS}
        for seed in given.seeds:
            model = flowbind.load(folder_of(given.out, times, seed) / "model")
            labels = world.labels_of(truth_of(given.points, 1 + seed))
            for name, choices in SETTINGS.items():
                points, ends = generate(model, labels, seed, choices)
                figures[times][name].append(judge(points, labels, ends, truth))
                if seed == given.seeds[0]:
                    points_of[f"{times}, {name}"] = np.column_stack([points, labels])

    floor = truth_of(given.points, 1)
    labels = world.labels_of(floor)
    of_truth = judge(floor, labels, labels, truth)
    figures["truth"] = {"two sets of it": [of_truth]}
    points_of["truth"] = np.column_stack([floor, labels])
    return figures, points_of


def print_tables(figures: Mapping[str, Mapping[str, list[dict[str, float]]]]) -> None:
    """A table for each law of times: mean and standard deviation over the seeds."""
    for times, rows in figures.items():
        print(f"\n| {times} | {' | '.join(FIGURES)} |")
        print("|---" * (1 + len(FIGURES)) + "|")
        for name, seeds in rows.items():
            cells = []
            for figure in FIGURES:
                values = [each[figure] for each in seeds]
                cell = f"{mean(values):.3f}"
                if len(values) > 1:
                    cell += f" ± {stdev(values):.3f}"
                cells.append(cell)
            print(f"| {name} | {' | '.join(cells)} |")


def draw(points_of: Mapping[str, np.ndarray], times: Sequence[str], path: Path) -> None:
    """The points, in colours of the labels that they were made from; rare labels on top."""
    from matplotlib.figure import Figure

    columns = 1 + len(SETTINGS)
    figure = Figure(figsize=(2.4 * columns, 2.6 * len(times)), layout="constrained")
    panels = figure.subplots(
        len(times), columns, squeeze=False, sharex=True, sharey=True
    )
    edge = world.CELL * world.CELLS / 2
    lines = np.linspace(-edge, edge, world.CELLS + 1)
    for row, law in zip(panels, times, strict=True):
        titles = ["truth", *(f"{law}, {name}" for name in SETTINGS)]
        for panel, title in zip(row, titles, strict=True):
            x, y, label = points_of[title].T
            is_rare = np.isin(label, world.rare_labels())
            for chosen, size in ((~is_rare, 1), (is_rare, 6)):
                panel.scatter(
                    x[chosen],
                    y[chosen],
                    s=size,
                    c=label[chosen],
                    cmap="turbo",
                    vmin=0,
                    vmax=world.LABELS - 1,
                )
            for line in lines:
                panel.axhline(line, color="0.85", linewidth=0.5, zorder=0)
                panel.axvline(line, color="0.85", linewidth=0.5, zorder=0)
            panel.set(title=title, xlim=(-6, 6), ylim=(-6, 6), aspect="equal")
            panel.title.set_fontsize("small")
    with replacing(path) as file:
        figure.savefig(file, dpi=DPI, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--times", nargs="+", choices=["apart", "shared"], default=["apart", "shared"]
    )
    parser.add_argument("--steps", type=int, default=6000, help="of every training")
    parser.add_argument("--points", type=int, default=2000, help="of every setting")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/mode_collapse"))
    given, more = parser.parse_known_args()

    for seed in given.seeds:
        for times in given.times:
            fit(given, more, times, seed)
    figures, points_of = measure(given)
    print_tables(figures)
    draw(points_of, given.times, given.out / "mode_collapse.png")
    with replacing(given.out / "figures.json") as file:
        file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
