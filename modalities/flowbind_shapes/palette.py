"""The eight colours: as distinct in hue as eight can be.

So neither light nor shade turns one into another.
"""

from __future__ import annotations

import numpy as np

# sRGB in [0, 1], in the order of scene.COLOURS
PALETTE = np.array(
    [
        [0.86, 0.08, 0.10],
        [1.00, 0.48, 0.02],
        [0.98, 0.86, 0.06],
        [0.12, 0.62, 0.14],
        [0.05, 0.82, 0.84],
        [0.10, 0.24, 0.90],
        [0.46, 0.12, 0.72],
        [1.00, 0.42, 0.72],
    ]
)


def tint(colour: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """sRGB of shape (n, 3) for the colours' indices (n,), each a little off its palette entry."""
    deviation = generator.normal(scale=0.02, size=(len(colour), 3))
    tinted = PALETTE[colour] + deviation
    return np.clip(tinted, 0, 1)
