"""Colours in linear light, as renderers add and multiply them, and as screens have them.

Screens and pictures have sRGB, IEC 61966-2-1. Both are in [0, 1], of any shape.
"""

import numpy as np


def from_screen(colour: np.ndarray) -> np.ndarray:
    """The light of a screen's colours."""
    linear = colour / 12.92
    curved = ((colour + 0.055) / 1.055) ** 2.4
    return np.where(colour <= 0.04045, linear, curved)


def to_screen(light: np.ndarray) -> np.ndarray:
    """A screen's colours of light; what lies beyond [0, 1] is cut."""
    light = np.clip(light, 0, 1)
    linear = 12.92 * light
    curved = 1.055 * light ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, linear, curved)
