"""Six normal distributions on a circle in the plane, and the labels of a grid's cells.

The experiment on mode collapse of cross-modal flows (a withdrawn ICLR 2026 submission): a point is
drawn from one of six normal distributions on a circle, of variance 0.5, and its label is i + j of
the cell (i, j) in which it lies. Some labels lie between and beyond the distributions, and are rare.
The paper says neither the radius nor the cells; these are ours.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

COMPONENTS = 6
RADIUS = 3.0  # of the circle
STD = math.sqrt(0.5)  # of a component, along each axis
CELL = 1.5  # side of a cell
CELLS = 6  # along each axis, with (0, 0) in the middle of the grid
LABELS = 2 * CELLS - 1
RARE = 0.5 / LABELS  # a label that is less likely is rare: half of an even share

# Shapes: n points, with shape (n, 2): x and y.


def centres() -> np.ndarray:
    """The middle of each component, with shape (6, 2)."""
    angles = 2 * math.pi * np.arange(COMPONENTS) / COMPONENTS
    return RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def draw(count: int, generator: np.random.Generator) -> np.ndarray:
    """Points, float64 with shape (n, 2)."""
    component = generator.integers(COMPONENTS, size=count)
    noise = generator.standard_normal((count, 2))
    return centres()[component] + STD * noise


def labels_of(points: np.ndarray) -> np.ndarray:
    """The label of each point, in [0, 10], with shape (n,); beyond the grid the nearest cell's."""
    cells = np.floor(points / CELL + CELLS / 2)
    return cells.clip(0, CELLS - 1).sum(axis=1).astype(np.int64)


def probabilities() -> np.ndarray:
    """How likely each label is, with shape (11,), in closed form."""
    edges = CELL * (np.arange(CELLS + 1) - CELLS / 2)
    edges[[0, -1]] = -math.inf, math.inf
    scaled = (edges[:, None, None] - centres()) / (STD * math.sqrt(2))
    cumulated = np.vectorize(math.erf)(scaled) / 2
    share = np.diff(cumulated, axis=0)  # of each cell along each axis, by component

    of_cells = np.einsum("ic,jc->ij", share[..., 0], share[..., 1]) / COMPONENTS
    total = np.zeros(LABELS)
    for i in range(CELLS):
        total[i : i + CELLS] += of_cells[i]
    return total


def rare_labels() -> np.ndarray:
    """The labels that are under-represented, in order."""
    return np.flatnonzero(probabilities() < RARE)


def prepare(
    out: Path,
    samples: int = 20000,
    test_samples: int = 2000,
    seed: int = 0,
) -> None:
    """Writes points of six normal distributions on a circle, and the label i + j of their cell.

    Each sample has a `point` and a `label`. The same seed gives the same bytes.

    Args:
        out: The existing, empty folder to write to.
        samples: Number of training samples, at least 1.
        test_samples: Number of test samples, and of validation samples, at least 1.
        seed: Seed of everything that is random, at least 0.

    Raises:
        ValueError: A number is below what is allowed.
    """
    for name, value in (("samples", samples), ("test_samples", test_samples)):
        if value < 1:
            raise ValueError(
                f"{name} is {value}, allowed is 1 or more: give a larger one"
            )

    sizes = {"train": samples, "val": test_samples, "test": test_samples}
    for stream, (split, count) in enumerate(sizes.items()):
        points = draw(count, np.random.default_rng([seed, stream]))
        lines = []
        for k, (point, label) in enumerate(zip(points, labels_of(points), strict=True)):
            line = {
                "id": f"{split}-{k:06d}",
                "point": " ".join(f"{number:.6f}" for number in point),
                "label": str(label),
                "labels": {"label": str(label)},
            }
            lines.append(json.dumps(line) + "\n")
        path = out / f"{split}.jsonl"
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
