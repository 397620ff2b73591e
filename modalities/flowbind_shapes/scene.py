"""A scene: one solid of one shape, one colour and one size.

These three factors are all that the modalities share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHAPES = ("sphere", "cube", "cylinder", "cone", "torus", "star")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Scenes:
    """n scenes, by their factors.

    Each is an integer array of shape (n,) that indexes SHAPES, COLOURS or SIZES.
    """

    shape: np.ndarray
    colour: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.shape)

    def take(self, rows: np.ndarray) -> Scenes:
        """The scenes in these rows."""
        return Scenes(
            shape=self.shape[rows],
            colour=self.colour[rows],
            size=self.size[rows],
        )

    def labels(self) -> list[dict[str, str]]:
        """The factors by name, one dictionary for each scene, as manifests hold them."""
        labels = []
        for shape, colour, size in zip(self.shape, self.colour, self.size, strict=True):
            factors = {
                "shape": SHAPES[shape],
                "colour": COLOURS[colour],
                "size": SIZES[size],
            }
            labels.append(factors)

        return labels


def draw(count: int, generator: np.random.Generator) -> Scenes:
    """Draws `count` scenes, every factor uniform and independent of the others."""
    shape = generator.integers(len(SHAPES), size=count)
    colour = generator.integers(len(COLOURS), size=count)
    size = generator.integers(len(SIZES), size=count)
    return Scenes(shape=shape, colour=colour, size=size)
