"""What the scripts of evidence share: runs of a recipe with other settings, and tables of what they reached.

Every run is `flowbind fit` and `flowbind test` of a recipe with a few options, in a folder of its own below OUT, which has
its gallery, too. One whose `metrics.json` is there is not run again, one that was interrupted resumes; so the same command
goes on where it ended. Printed are tables of what there is: means, and in brackets each seed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from flowbind.evaluation.report import suffix


@dataclass(frozen=True)
class Run:
    """One model, whatever its seed.

    Args:
        name: Name of its folder.
        recipe: Path of the recipe.
        settings: Settings other than the recipe's, by their names.
        looks: Settings of a further test of the same model, in the order of the recipe's, by which
            its files are named; none for its own.
    """

    name: str
    recipe: str
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
        chosen = dict(self.settings) | dict(self.looks)
        return ["--config", self.recipe, *(f"--{k}={v}" for k, v in chosen.items())]


class Figure(NamedTuple):
    """A column of the tables.

    Attributes:
        title: Its head.
        of: What it takes of a run's results, `metrics.json`; None where they have none.
        digits: Digits behind the point.
    """

    title: str
    of: Callable[[Mapping[str, Any]], float | None]
    digits: int = 3


class Bench:
    """Runs, and what came out of them.

    Args:
        figures: Columns of the tables.
        given: What the command line says.
        more: Options of `flowbind fit` for every run.
    """

    def __init__(
        self,
        figures: Sequence[Figure],
        given: argparse.Namespace,
        more: list[str],
    ) -> None:
        self.figures = figures
        self.out = given.out
        self.steps = given.steps
        self.seeds = given.seeds
        self.jobs = given.jobs
        self.more = [f"--trainer.accelerator={given.accelerator}", *more]

    def results(self, run: Run) -> list[Mapping[str, Any]]:
        """Of the seeds that are done."""
        results = []
        for seed in self.seeds:
            path = run.metrics(self.out, self.steps, seed)
            if path.is_file():
                results.append(json.loads(path.read_text()))
        return results

    def values(self, run: Run) -> list[list[float]]:
        """Each figure, of the seeds that are done."""
        results = self.results(run)
        by_figure = []
        for figure in self.figures:
            values = [figure.of(each) for each in results]
            by_figure.append([value for value in values if value is not None])
        return by_figure

    def run_all(self, runs: Sequence[Run]) -> list[str]:
        """Fits and tests what is not done, if there are jobs; further tests come last.

        Returns:
            What failed.
        """
        failed: list[str] = []
        if not self.jobs:
            return failed
        for is_look in (False, True):
            missing = {}
            for run in runs:
                for seed in self.seeds:
                    path = run.metrics(self.out, self.steps, seed)
                    if bool(run.looks) is is_look and not path.is_file():
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

    def row(self, run: Run) -> str:
        """Cells of a table, one of each figure."""
        cells = []
        for figure, values in zip(self.figures, self.values(run), strict=True):
            each = ", ".join(f"{value:.{figure.digits}f}" for value in values)
            cells.append(f"{mean(values):.{figure.digits}f} ({each})" if each else "")
        return " | ".join(cells)

    def print_table(
        self,
        head: Sequence[str],
        rows: Iterable[tuple[Sequence[str], Run]],
    ) -> None:
        """Prints a table: of each run cells that say what it is, and its figures."""
        heads = [*head, *(figure.title for figure in self.figures)]
        print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        for cells, run in rows:
            print(f"| {' | '.join([*cells, self.row(run)])} |")


def exit_with(failed: Sequence[str]) -> None:
    """Ends the script with a line where runs failed."""
    if failed:
        raise SystemExit(f"failed, see log.txt beside: {', '.join(failed)}")


def read_command_line(
    description: str,
    groups: Sequence[str],
    steps: int,
) -> tuple[argparse.Namespace, list[str]]:
    """What a script's command line says, and the options of `flowbind fit` on it.

    Args:
        description: The script's documentation.
        groups: Names of its groups of runs.
        steps: Steps of every training, where none are chosen.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=steps, help="of every training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=groups, default=list(groups))
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; 0: none")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    return parser.parse_known_args()
