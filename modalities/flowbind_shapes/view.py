"""Where a scene is seen from: the camera, and where its rays meet the solid and the floor.

Lengths are in units of the solid's radius, z is up, the origin is in the solid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flowbind_shapes.scene import Scenes
from flowbind_shapes.solids import RADIUS, Solid

PIXELS = 64
CENTRE = np.array([[0, 0]], np.float32)  # the ray through a pixel's centre alone
CAMERA = 5.0  # distance to the solid in metres; a large one fills 0.85 of the frame
FRAME = 0.24  # half the frame at distance 1
BOUND = 1.05  # no solid of unit size reaches beyond this
STEPS = 30  # of sphere tracing
TOUCH = 4e-3  # a ray this near has met the solid


@dataclass(frozen=True)
class View:
    """How n scenes are seen and lit.

    Args:
        camera: Axes (n, 3, 3) of the cameras: to the right, up, and from the solid to the eye.
        radius: Radii (n,) of the solids in metres.
        eye: Places (n, 3) of the eyes.
        shift: Places in the frame (n, 2), in half frames.
        lamp: Unit directions (n, 3) to the lamps.
        power: Brightness (n,) of the lamps.
        sky: Brightness (n,) of the skies.
    """

    camera: np.ndarray
    radius: np.ndarray
    eye: np.ndarray
    shift: np.ndarray
    lamp: np.ndarray
    power: np.ndarray
    sky: np.ndarray

    def rays(self, offsets: np.ndarray) -> np.ndarray:
        """Unit directions of rays (n, k * 64 * 64, 3).

        For each of k offsets a picture, row by row from the top left.

        Args:
            offsets: Offsets (k, 2) from a pixel's centre, in pixels.
        """
        centre = np.arange(PIXELS, dtype=np.float32) + 0.5
        columns = centre + offsets[:, :1]
        rows = centre + offsets[:, 1:]
        columns = 2 / PIXELS * columns - 1
        rows = 2 / PIXELS * rows - 1

        x, y = np.broadcast_arrays(columns[:, None], -rows[..., None])
        x = x.reshape(1, -1) + self.shift[:, :1]
        y = y.reshape(1, -1) + self.shift[:, 1:]
        axes = [
            FRAME * x,
            FRAME * y,
            np.full_like(x, -1),
        ]
        rays = np.stack(axes, axis=-1)
        return unit(rays) @ self.camera


def draw_view(scenes: Scenes, generator: np.random.Generator) -> View:
    """Draws the view of each of n scenes: whatever shows them begins with this draw."""
    n = len(scenes)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        numbers = generator.uniform(low, high, size=(n, *shape))
        return numbers.astype(np.float32)

    azimuth = uniform(0, 2 * np.pi)
    elevation = np.radians(uniform(25, 55))
    camera = camera_axes(azimuth, elevation)
    back = camera[:, 2]

    # The lamp stands up to 110 degrees left or right of the camera: never quite behind the solid.
    lamp_azimuth = azimuth + np.radians(uniform(-110, 110))
    lamp_elevation = np.radians(uniform(35, 70))
    lamp = camera_axes(lamp_azimuth, lamp_elevation)[:, 2]
    power = uniform(0.75, 1.05)
    sky = uniform(0.30, 0.45)

    shift = uniform(-0.06, 0.06, 2)
    radius = RADIUS[scenes.size].astype(np.float32)
    distance = CAMERA / radius
    return View(
        camera=camera,
        radius=radius,
        eye=back * distance[:, None],
        shift=shift,
        lamp=lamp,
        power=power,
        sky=sky,
    )


def camera_axes(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
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


def trace(
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


def floor_lengths(solid: Solid, eye: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Lengths (n, r) of rays (n, r, 3) from eyes (n, 3) to the plane that the solid stands on."""
    height = solid.bottom - eye[:, 2:]
    return height / rays[..., 2]


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products along the last axis."""
    return np.einsum("...c,...c->...", a, b)


def unit(vector: np.ndarray) -> np.ndarray:
    """Vectors of length 1 along the last axis."""
    length = np.sqrt(dot(vector, vector))
    return vector / length[..., None]
