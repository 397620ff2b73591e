"""The curves of a run: what was logged, by step, as CSV in its folder and as a picture."""

import csv
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment

from flowbind.evaluation.report import CURVES
from flowbind.files import naming, replacing
from flowbind.train.pace import RATE

FILE = "metrics.csv"  # of each start of a run, in a folder `version_N`
TRAINING, VALIDATION, SIGNS = "train/", "val/", "signs/"
TOTAL = "loss"  # what is minimised, beside its parts
PARTS = 12  # curves of a panel that have a line in its legend
DPI = 120
MARGIN = 0.1  # above the highest sign, of the panel's height
DECADE = 10  # signs further apart than by this factor are drawn logarithmically

Curve = Sequence[tuple[int, float]]  # steps that were made, and values, by step


class Curves(CSVLogger):
    """Lightning's CSVLogger, which makes no folder before it is begun: no step, no trace."""

    begun = False

    def begin(self, number: int | str) -> None:
        """Begins to write, into `version_NUMBER`."""
        self._version = number
        self.begun = True

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """What writes; None before it is begun."""
        return super().experiment if self.begun else None

    def log_hyperparams(self, params: object = None) -> None:
        """Nothing: the run's config.yaml has them."""

    def save(self) -> None:
        if self.begun:
            with naming(Path(self.root_dir)):
                super().save()

    def finalize(self, status: str) -> None:
        # After a failure its own line is the one to show, and not that the same disk is still full.
        failed = status == "failed"
        with suppress(OSError) if failed else naming(Path(self.root_dir)):
            super().finalize(status)


class Picture(Callback):
    """Draws a run's curves anew after every validation, and at the end.

    Args:
        curves: What writes them.
        folder: The run folder, which receives the picture.
    """

    def __init__(self, curves: Curves, folder: Path) -> None:
        self.curves = curves
        self.path = folder / CURVES
        self.drawn: dict[str, Curve] = {}

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or not self.curves.begun:
            return
        self.curves.save()
        curves = read(Path(self.curves.root_dir))

        # Where a run ends with a validation, nothing was logged since.
        if curves != self.drawn:
            draw(curves, self.path)
            self.drawn = curves


def read(folder: Path) -> dict[str, Curve]:
    """The curves of a run, from the files of all its starts.

    A start that resumed at a step before the last of the one before it holds from there on.

    Args:
        folder: Folder with a `version_N` for each start.
    """
    paths = sorted(folder.glob(f"version_*/{FILE}"), key=_number)
    curves: dict[str, dict[int, float]] = {}
    for path in paths:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))

        first = min((int(row["step"]) for row in rows), default=0)
        for curve in curves.values():
            for step in [step for step in curve if step > first]:
                del curve[step]
        for row in rows:
            made = int(row.pop("step")) + 1  # Lightning counts from 0
            for name, value in row.items():
                if name != "epoch" and value:
                    curves.setdefault(name, {})[made] = float(value)
    return {name: sorted(curve.items()) for name, curve in curves.items() if curve}


def _number(path: Path) -> int:
    """The number of a start."""
    _, _, number = path.parent.name.partition("_")
    return int(number) if number.isdigit() else -1


def draw(curves: Mapping[str, Curve], path: Path) -> bool:
    """Draws losses, learning rate and signs of failure, whichever there are, one above the other.

    A loss of training is a line, the same one of validation has marks.

    Args:
        curves: Curves by name.
        path: PNG that receives the picture, written beside and then renamed.

    Returns:
        Whether there was something to draw.
    """
    losses = _below(curves, TRAINING) | _below(curves, VALIDATION)
    panels = []
    if losses:
        panels.append((3.0, partial(_draw_losses, curves=curves)))
    for kind, signs in _by_kind(_below(curves, SIGNS)).items():
        panels.append((1.0, partial(_draw_signs, kind=kind, signs=signs)))
    if RATE in curves:
        panels.append((1.0, partial(_draw_rate, rate=curves[RATE])))
    if not panels:
        return False

    # Without a display, whatever the environment says.
    from matplotlib.figure import Figure

    heights = [height for height, _ in panels]
    figure = Figure(figsize=(9, 1.7 * sum(heights) / 1.5), layout="constrained")
    rows = figure.subplots(
        len(panels),
        sharex=True,
        squeeze=False,
        height_ratios=heights,
    )
    for axes, (_, draw_panel) in zip(rows[:, 0], panels, strict=True):
        draw_panel(axes)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    rows[-1, 0].set_xlabel("steps")

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        figure.savefig(file, dpi=DPI, format="png")
    return True


def _below(curves: Mapping[str, Curve], prefix: str) -> dict[str, Curve]:
    """The curves whose names begin with a prefix, by the rest of their names."""
    below = {}
    for name, curve in curves.items():
        if name.startswith(prefix):
            below[name.removeprefix(prefix)] = curve
    return below


def _draw_losses(axes: Any, curves: Mapping[str, Curve]) -> None:
    training = _below(curves, TRAINING)
    validation = _below(curves, VALIDATION)
    names = sorted({*training, *validation} - {TOTAL})
    if {TOTAL} & {*training, *validation}:
        names.append(TOTAL)

    for number, name in enumerate(names):
        style = {"color": "0.15" if name == TOTAL else f"C{number % 10}"}
        label = name if number < PARTS or name == TOTAL else None
        if name in training:
            axes.plot(*_xy(training[name]), linewidth=1, label=label, **style)
            label = None
        if name in validation:
            marks = {"marker": "o", "markersize": 4, "linewidth": 0.6}
            axes.plot(
                *_xy(validation[name]), linestyle=":", label=label, **marks, **style
            )

    if validation:
        axes.plot([], [], "o:", color="0.5", markersize=4, label="validation")
    values = [value for name in names for _, value in training.get(name, ())]
    if values and min(values) > 0:
        _set_log_scale(axes.yaxis)
    axes.set_ylabel("loss")
    _add_legend(axes)


def _set_log_scale(axis: Any) -> None:
    """A logarithmic scale with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axis.axes.set_yscale("log")
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    for set_formatter in (axis.set_major_formatter, axis.set_minor_formatter):
        set_formatter(StrMethodFormatter("{x:g}"))


def _by_kind(signs: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Signs of failure by the first part of their names, and there by the rest of them."""
    kinds: dict[str, dict[str, Curve]] = {}
    for name, curve in signs.items():
        kind, _, rest = name.partition("/")
        kinds.setdefault(kind, {})[rest] = curve
    return kinds


def _draw_signs(axes: Any, kind: str, signs: Mapping[str, Curve]) -> None:
    for number, (name, curve) in enumerate(signs.items()):
        label = name if name and number < PARTS else None
        axes.plot(*_xy(curve), marker="o", markersize=3, linewidth=1, label=label)

    values = [value for curve in signs.values() for _, value in curve]
    values = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(values), max(values)
    if low > 0 and high > DECADE * low:
        axes.set_yscale("log")
    else:
        low = min(low, 0.0)
        axes.set_ylim(low, low + (1 + MARGIN) * (high - low) or 1.0)
    title = "sign of failure: " + kind.replace("_", " ")
    axes.set_title(title, loc="left", fontsize="small")
    _add_legend(axes)


def _draw_rate(axes: Any, rate: Curve) -> None:
    axes.plot(*_xy(rate), color="0.4", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("learning rate")


def _xy(curve: Curve) -> tuple[list[int], list[float]]:
    """Steps and values of a curve."""
    steps = [step for step, _ in curve]
    return steps, [value for _, value in curve]


def _add_legend(axes: Any) -> None:
    """The names of the curves, if they have any, beside the panel, so that they cover none."""
    _, labels = axes.get_legend_handles_labels()
    if labels:
        place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.02)}
        axes.legend(**place, fontsize="small", frameon=False)
