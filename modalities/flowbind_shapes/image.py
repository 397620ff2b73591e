"""Pictures: the solid on a studio floor, sphere traced, with a soft shadow.

One lamp and the sky give the light. Private to a picture: the view, the place in the frame, the
lamp, the exposure, the background.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from flowbind_shapes.palette import tint
from flowbind_shapes.scene import Scenes
from flowbind_shapes.solids import Solid
from flowbind_shapes.view import (
    CENTRE,
    PIXELS,
    View,
    dot,
    draw_view,
    floor_lengths,
    trace,
    unit,
)

# Rays per pixel, (x, y) in pixels from its centre: on a turned grid no two share a row or a column,
# so that edges near the horizontal and the vertical are smooth with four.
TURNED = np.array([[-1, -3], [3, -1], [1, 3], [-3, 1]], np.float32) / 8
GAMMA = 2.2
TETRAHEDRON = np.array(
    [
        [1, -1, -1],
        [-1, -1, 1],
        [-1, 1, -1],
        [1, 1, 1],
    ],
    np.float32,
)
# On the way from the floor to the lamp.
HEIGHTS = np.array([0.1, 0.25, 0.45, 0.7, 1.0, 1.4], np.float32)


def render(
    solid: Solid,
    scenes: Scenes,
    generator: np.random.Generator,
) -> np.ndarray:
    """Pictures of n scenes of one solid: uint8 RGB of shape (n, 64, 64, 3)."""
    n = len(scenes)
    view = draw_view(scenes, generator)
    albedo = tint(scenes.colour, generator) ** GAMMA
    albedo = albedo.astype(np.float32)

    picture = _floor(generator, n)
    shadow = _shadow(solid, view)
    picture *= shadow[..., None]

    rays = view.rays(TURNED)
    owner, ray, position = trace(solid, view.eye, rays)
    colour = _lit(
        solid,
        position,
        albedo=albedo[owner],
        lamp=view.lamp[owner],
        power=view.power[owner],
        sky=view.sky[owner],
        towards_eye=-rays[owner, ray],
    )
    pixel = owner * PIXELS**2 + ray % PIXELS**2
    picture = _over(colour, pixel, picture)

    picture = np.clip(picture, 0, 1) ** (1 / GAMMA)
    return np.round(255 * picture).astype(np.uint8)


def write(picture: np.ndarray, path: Path) -> None:
    """Writes one picture, uint8 RGB of shape (64, 64, 3), as PNG."""
    Image.fromarray(picture).save(path, format="PNG")


def _lit(
    solid: Solid,
    position: np.ndarray,
    albedo: np.ndarray,
    lamp: np.ndarray,
    power: np.ndarray,
    sky: np.ndarray,
    towards_eye: np.ndarray,
) -> np.ndarray:
    """Linear RGB (h, 3): Lambert's lamp, a sky brighter above, Blinn and Phong's highlight.

    Args:
        solid: Solid that is seen.
        position: Positions (h, 3) on its surface.
        albedo: Linear RGB (h, 3) of the surface.
        lamp: Unit directions (h, 3) to the lamp.
        power: Brightness (h,) of the lamp.
        sky: Brightness (h,) of the sky.
        towards_eye: Unit directions (h, 3) to the eye.
    """
    # The gradient of the distance, from its values at four corners close by.
    normal = np.zeros_like(position)
    for corner in TETRAHEDRON:
        distance = _distance(solid, position + 0.01 * corner)
        normal += corner * distance[:, None]
    normal = unit(normal)

    # Less of the sky is seen where the surface bends inwards.
    distance = _distance(solid, position + 0.2 * normal)
    openness = np.clip(distance / 0.2, 0, 1)
    height = 0.65 + 0.35 * normal[:, 2]
    ambient = sky * height * (0.5 + 0.5 * openness)

    facing = np.maximum(dot(normal, lamp), 0)
    diffuse = power * facing
    halfway = unit(lamp + towards_eye)
    shine = np.maximum(dot(normal, halfway), 0)
    highlight = 0.25 * power * shine**40
    light = diffuse + ambient
    return albedo * light[:, None] + highlight[:, None]


def _distance(solid: Solid, position: np.ndarray) -> np.ndarray:
    """The distance (h,) of positions (h, 3) to a solid; its arithmetic runs along whole axes."""
    x, y, z = position.T.copy()
    return solid.distance(x, y, z)


def _over(
    colour: np.ndarray,
    pixel: np.ndarray,
    picture: np.ndarray,
) -> np.ndarray:
    """The picture (n, 64, 64, 3) with hits over it.

    Args:
        colour: Linear RGB (h, 3) of the hits.
        pixel: Number (h,) of each hit's pixel among all pixels of the picture.
        picture: Linear RGB of what is behind them.
    """
    shape = picture.shape[:3]
    count = picture[..., 0].size

    def gather(weights: np.ndarray | None = None) -> np.ndarray:
        total = np.bincount(pixel, weights, minlength=count)
        share = total / len(TURNED)
        return share.reshape(shape)

    channels = []
    for channel in colour.T:
        shown = np.minimum(channel, 1)
        channels.append(gather(shown))
    solid = np.stack(channels, axis=-1)

    free = 1 - gather()
    return picture * free[..., None] + solid


def _floor(generator: np.random.Generator, n: int) -> np.ndarray:
    """Linear RGB (n, 64, 64, 3) of the empty studio: a tinted grey, brighter on one side."""
    brightness = generator.uniform(0.45, 0.92, size=(n, 1))
    tinted = generator.uniform(-0.025, 0.025, size=(n, 3))
    grey = brightness + tinted
    slope = generator.uniform(-0.10, 0.10, size=(n, 2))

    grid = np.linspace(-1, 1, PIXELS)
    across = slope[:, :1, None] * grid
    along = slope[:, 1:, None] * grid[:, None]
    light = 1 + across + along

    floor = grey[:, None, None] * light[..., None]
    floor = np.clip(floor, 0, 1)
    linear = floor**GAMMA
    return linear.astype(np.float32)


def _shadow(solid: Solid, view: View) -> np.ndarray:
    """The floor's brightness (n, 64, 64) in (0, 1].

    Dark where the solid stands close or hides the lamp.
    """
    rays = view.rays(CENTRE)
    length = floor_lengths(solid, view.eye, rays)
    floor = view.eye[:, None] + length[..., None] * rays
    x = floor[..., 0]
    y = floor[..., 1]
    z = floor[..., 2]
    distance = solid.distance(x, y, z)
    near = np.clip(distance / 0.5, 0, 1)

    # A place is as bright as the narrowest gap on its way to the lamp.
    clear = np.ones_like(near)
    for height in HEIGHTS:
        distance = solid.distance(
            x + height * view.lamp[:, None, 0],
            y + height * view.lamp[:, None, 1],
            z + height * view.lamp[:, None, 2],
        )
        gap = 3 * distance / (0.3 + height)
        light = np.clip(0.5 + gap, 0, 1)
        clear = np.minimum(clear, light)

    contact = 0.6 + 0.4 * near
    cast = 0.55 + 0.45 * clear
    shade = contact * cast
    return shade.reshape(-1, PIXELS, PIXELS)
