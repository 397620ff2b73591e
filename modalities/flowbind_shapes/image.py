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
from flowbind_shapes.solids import RADIUS, Solid

PIXELS = 64
# Rays per pixel, (x, y) in pixels from its centre: on a turned grid no two share a row or a column,
# so that edges near the horizontal and the vertical are smooth with four.
CENTRE = np.float32([[0, 0]])
TURNED = np.float32([[-1, -3], [3, -1], [1, 3], [-3, 1]]) / 8
CAMERA = 5.0  # distance to the solid; a large one fills 0.85 of the frame
FRAME = 0.24  # half the frame at distance 1
BOUND = 1.05  # no solid of unit size reaches beyond this
STEPS = 30  # of sphere tracing
TOUCH = 4e-3  # a ray this near has met the solid
GAMMA = 2.2
TETRAHEDRON = np.float32(
    [
        [1, -1, -1],
        [-1, -1, 1],
        [-1, 1, -1],
        [1, 1, 1],
    ]
)
# On the way from the floor to the lamp.
HEIGHTS = np.float32([0.1, 0.25, 0.45, 0.7, 1.0, 1.4])


def render(
    solid: Solid,
    scenes: Scenes,
    generator: np.random.Generator,
) -> np.ndarray:
    """Pictures of n scenes of one solid: uint8 RGB of shape (n, 64, 64, 3)."""
    n = len(scenes)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        numbers = generator.uniform(low, high, size=(n, *shape))
        return numbers.astype(np.float32)

    azimuth = uniform(0, 2 * np.pi)
    elevation = np.radians(uniform(25, 55))
    camera = _camera(azimuth, elevation)
    back = camera[:, 2]

    # The lamp stands up to 110 degrees left or right of the camera: never quite behind the solid.
    lamp_azimuth = azimuth + np.radians(uniform(-110, 110))
    lamp_elevation = np.radians(uniform(35, 70))
    lamp = _camera(lamp_azimuth, lamp_elevation)[:, 2]
    power = uniform(0.75, 1.05)
    sky = uniform(0.30, 0.45)

    shift = uniform(-0.06, 0.06, 2)
    albedo = tint(scenes.colour, generator) ** GAMMA
    albedo = albedo.astype(np.float32)
    radius = RADIUS[scenes.size].astype(np.float32)

    picture = _floor(generator, n)
    distance = CAMERA / radius  # in units of the solid's radius
    eye = back * distance[:, None]
    through_centres = _rays(camera, shift, CENTRE)
    shadow = _shadow(solid, eye, through_centres, lamp)
    picture *= shadow[..., None]

    rays = _rays(camera, shift, TURNED)
    owner, ray, position = _trace(solid, eye, rays)
    colour = _lit(
        solid,
        position,
        albedo=albedo[owner],
        lamp=lamp[owner],
        power=power[owner],
        sky=sky[owner],
        towards_eye=-rays[owner, ray],
    )
    pixel = owner * PIXELS**2 + ray % PIXELS**2
    picture = _over(colour, pixel, picture)

    picture = np.clip(picture, 0, 1) ** (1 / GAMMA)
    return np.round(255 * picture).astype(np.uint8)


def write(picture: np.ndarray, path: Path) -> None:
    """Writes one picture, uint8 RGB of shape (64, 64, 3), as PNG."""
    Image.fromarray(picture).save(path, format="PNG")


def _camera(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """Cameras' axes (n, 3, 3): to the right, up, and from the solid to the eye."""
    cos_a = np.cos(azimuth)
    sin_a = np.sin(azimuth)
    cos_e = np.cos(elevation)
    sin_e = np.sin(elevation)

    level = np.zeros_like(cos_a)
    right = [-sin_a, cos_a, level]
    up = [-sin_e * cos_a, -sin_e * sin_a, cos_e]
    back = [cos_e * cos_a, cos_e * sin_a, sin_e]
    axes = [np.stack(axis, axis=-1) for axis in (right, up, back)]
    return np.stack(axes, axis=1)


def _rays(
    camera: np.ndarray,
    shift: np.ndarray,
    offsets: np.ndarray,
) -> np.ndarray:
    """Unit directions of rays (n, k * 64 * 64, 3).

    For each of k offsets a picture, row by row from the top left.

    Args:
        camera: Axes (n, 3, 3), as `_camera` gives them.
        shift: Place in the frame (n, 2), in half frames.
        offsets: Offsets (k, 2) from a pixel's centre, in pixels.
    """
    centre = np.arange(PIXELS, dtype=np.float32) + 0.5
    columns = centre + offsets[:, :1]
    rows = centre + offsets[:, 1:]
    columns = 2 / PIXELS * columns - 1
    rows = 2 / PIXELS * rows - 1

    x, y = np.broadcast_arrays(columns[:, None], -rows[..., None])
    x = x.reshape(1, -1) + shift[:, :1]
    y = y.reshape(1, -1) + shift[:, 1:]
    axes = [
        FRAME * x,
        FRAME * y,
        np.full_like(x, -1),
    ]
    rays = np.stack(axes, axis=-1)
    return _unit(rays) @ camera


def _trace(
    solid: Solid,
    eye: np.ndarray,
    rays: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where rays (n, r, 3) from eyes (n, 3) meet the solid.

    Returns scene (h,), ray (h,) and position (h, 3) of each hit.
    """
    # Rays that pass through the ball around the solid: where they enter it, and how far it reaches.
    # `closest` is a ray's length where it passes nearest to the origin.
    closest = -np.einsum("nc,nrc->nr", eye, rays)
    distance = np.einsum("nc,nc->n", eye, eye)
    within = BOUND**2 - distance[:, None] + closest**2
    owner, ray = np.nonzero(within > 0)
    half = np.sqrt(within[owner, ray])
    step = rays[owner, ray]
    enters = closest[owner, ray] - half
    position = eye[owner] + enters[:, None] * step

    # Each ray goes forward by the distance to the solid, until it touches it or leaves the ball.
    axes = list(position.T.copy())
    steps = list(step.T.copy())
    left = 2 * half
    alive = np.arange(len(owner))
    hits = []
    places = []
    for _ in range(STEPS):
        distance = solid.distance(*axes)
        touches = distance < TOUCH
        hits.append(alive[touches])
        touched = [axis[touches] for axis in axes]
        places.append(np.stack(touched, axis=-1))

        left -= distance
        continues = ~touches & (left > 0)
        alive = alive[continues]
        left = left[continues]
        distance = distance[continues]
        for number, (axis, step) in enumerate(zip(axes, steps, strict=True)):
            steps[number] = step[continues]
            axes[number] = axis[continues] + distance * steps[number]

    hit = np.concatenate(hits)
    return owner[hit], ray[hit], np.concatenate(places)


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
    normal = _unit(normal)

    # Less of the sky is seen where the surface bends inwards.
    distance = _distance(solid, position + 0.2 * normal)
    openness = np.clip(distance / 0.2, 0, 1)
    height = 0.65 + 0.35 * normal[:, 2]
    ambient = sky * height * (0.5 + 0.5 * openness)

    facing = np.maximum(_dot(normal, lamp), 0)
    diffuse = power * facing
    halfway = _unit(lamp + towards_eye)
    shine = np.maximum(_dot(normal, halfway), 0)
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


def _shadow(
    solid: Solid,
    eye: np.ndarray,
    rays: np.ndarray,
    lamp: np.ndarray,
) -> np.ndarray:
    """The floor's brightness (n, 64, 64) in (0, 1].

    Dark where the solid stands close or hides the lamp. `rays` (n, 64 * 64, 3) are those through
    the pixels' centres.
    """
    height = solid.bottom - eye[:, 2:]
    length = height / rays[..., 2]
    floor = eye[:, None] + length[..., None] * rays
    x = floor[..., 0]
    y = floor[..., 1]
    z = floor[..., 2]
    distance = solid.distance(x, y, z)
    near = np.clip(distance / 0.5, 0, 1)

    # A place is as bright as the narrowest gap on its way to the lamp.
    clear = np.ones_like(near)
    for height in HEIGHTS:
        distance = solid.distance(
            x + height * lamp[:, None, 0],
            y + height * lamp[:, None, 1],
            z + height * lamp[:, None, 2],
        )
        gap = 3 * distance / (0.3 + height)
        light = np.clip(0.5 + gap, 0, 1)
        clear = np.minimum(clear, light)

    contact = 0.6 + 0.4 * near
    cast = 0.55 + 0.45 * clear
    shade = contact * cast
    return shade.reshape(len(eye), PIXELS, PIXELS)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...c,...c->...", a, b)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.sqrt(_dot(vector, vector))
    return vector / length[..., None]
