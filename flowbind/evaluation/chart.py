"""The picture of an evaluation: meaning against likeness, a mark for each direction."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flowbind.evaluation.report import NEVER, TITLES, kind
from flowbind.evaluation.verdicts import (
    frechet_of,
    joint_accuracy,
    private_variance_of,
)
from flowbind.files import replacing

MARKERS = {
    "paired": "o",
    "never_paired": "D",
    "itself": "s",
    "from_noise": "*",
    "two_sources": "^",
}
DPI = 150
LEGEND = 10  # targets that the legend has room for


def draw(results: Mapping[str, Any], path: Path) -> bool:
    """Draws every direction with labels by its accuracy and its Frechet distance over the floor.

    Colours are targets, markers kinds of directions; what was never seen together is hollow.
    Samples like the data lie at the left, where the line is, and at the top.

    Args:
        results: What `metrics.json` holds.
        path: PNG that receives the picture.

    Returns:
        Whether there was something to draw: labels, and floors.
    """
    marks = []
    for name, measures in results["directions"].items():
        mark = _mark(measures, results.get("floors", {}))
        if mark is not None:
            marks.append((name, measures, *mark))
    if not marks:
        return False

    # Without a display, whatever the environment says.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    targets = list(dict.fromkeys(measures["target"] for _, measures, *_ in marks))
    for _, measures, accuracy, ratio, private in marks:
        colour = f"C{targets.index(measures['target'])}"
        style = {
            "marker": MARKERS[kind(measures)],
            "facecolors": colour if measures["paired"] else "none",
            "edgecolors": colour,
        }
        left.scatter(ratio, accuracy, **style)
        if private is not None:
            right.scatter(private, accuracy, **style)

    left.axvline(1, color="0.7", linewidth=1, zorder=0)
    right.axvline(1, color="0.7", linewidth=1, zorder=0)
    left.set_xlabel("Frechet distance, of the floor by real samples")
    right.set_xlabel("private variance, of real samples'")
    left.set_ylabel("samples with every factor right")
    _add_legend(figure, marks, targets)

    with replacing(path) as file:
        figure.savefig(file, dpi=DPI, format="png")
    return True


def _mark(
    measures: Mapping[str, Any],
    floors: Mapping[str, Mapping[str, Any]],
) -> tuple[float, float, float | None] | None:
    """Accuracy, Frechet distance over its floor, and private variance, where there are all."""
    accuracy = joint_accuracy(measures, "judge")
    if accuracy is None:
        accuracy = joint_accuracy(measures, "probe")

    distance = frechet_of(measures)
    of_target = floors.get(measures["target"], {})
    floor = frechet_of(of_target)
    if accuracy is None or distance is None:
        return None
    if not floor or floor <= 0:
        return None

    private = private_variance_of(measures)
    return accuracy, distance / floor, private


def _add_legend(figure: Any, marks: list, targets: list[str]) -> None:
    """Which colour is which target, and which marker which kind of direction."""
    from matplotlib.lines import Line2D

    point = partial(
        Line2D,
        [],
        [],
        marker="o",
        linestyle="",
        color="0.4",
    )
    handles = []
    for number, target in enumerate(targets[:LEGEND]):
        handles.append(point(color=f"C{number}", label=f"to {target}"))

    kinds = dict.fromkeys(kind(measures) for _, measures, *_ in marks)
    for name in kinds:
        handles.append(point(marker=MARKERS[name], label=TITLES[name]))

    never = NEVER.strip(" ()")
    handles.append(point(fillstyle="none", label=never))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4,
        fontsize="small",
    )
