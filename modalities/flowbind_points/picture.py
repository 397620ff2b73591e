"""A picture of a point cloud: every point a small disc of the surface around it, lit from the upper left.

World axes are those of the files: z up. The camera looks down at an angle and sees parallel lines as parallel.

Shapes: n points, k pixels that a disc may cover.
"""

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from flowbind_points.unit_sphere import thin

SIZE = 128  # pixels of a side
DRAWN = 4096  # points of a larger cloud
FINER = 3  # drawn this much larger, then reduced: smooth edges
AZIMUTH, ELEVATION = np.radians(30), np.radians(28)  # of the camera: a three-quarter view
LIGHT = np.array([-0.42, 0.55, 0.72])  # towards the light: right, up, towards the camera
AMBIENT = 0.3  # share of its colour that a surface has where it turns its back to the light
NEIGHBOURS = 12  # that decide the surface at a point
ROWS = 1024  # points whose distances from all are in memory at a time
BACKGROUND = 255


def draw(cloud: np.ndarray, extent: float) -> PIL.Image.Image:
    """Draws points, with shape (n, 6), in colour on white.

    Args:
        cloud: x, y, z in world units, then red, green, blue in [0, 1].
        extent: half the width of the picture, in world units; its middle is the origin.
    """
    width = SIZE * FINER
    pixel = 2 * extent / width
    cloud = cloud[thin(torch.arange(len(cloud)), min(len(cloud), DRAWN)).numpy()]
    place = cloud[:, :3] @ _camera().T / pixel  # in pixels from now on: right, up, towards the camera
    normal, radius = _surface(place)
    radius = float(np.clip(radius, 1.5, width / 16))

    near = (np.abs(place[:, :2]) < width / 2 + radius + 1).all(axis=1)  # others cover no pixel
    cloud, place, normal = cloud[near], place[near], normal[near]
    right, up = np.mgrid[-int(radius) : int(radius) + 1, -int(radius) : int(radius) + 1].reshape(2, 1, -1)
    steep = np.maximum(normal[:, 2:], 0.2)  # no disc is seen quite from its edge
    towards = -(normal[:, :1] * right + normal[:, 1:2] * up) / steep
    column = np.rint(width / 2 + place[:, :1]).astype(int) + right
    row = np.rint(width / 2 - place[:, 1:2]).astype(int) - up
    seen = (np.minimum(column, row) >= 0) & (np.maximum(column, row) < width)
    covered = seen & (right**2 + up**2 + towards**2 <= radius**2)

    light = (1 + normal @ (LIGHT / np.linalg.norm(LIGHT))) / 2
    paint = np.clip(cloud[:, 3:], 0, 1) * (AMBIENT + (1 - AMBIENT) * light)[:, None]
    paint = np.rint(255 * paint).astype(np.uint8)

    point = np.nonzero(covered)[0]
    order = np.argsort((place[:, 2:] + towards)[covered])  # far to near: where a pixel repeats, the last one stays
    canvas = np.full((width, width, 3), BACKGROUND, np.uint8)
    canvas[row[covered][order], column[covered][order]] = paint[point[order]]
    return PIL.Image.fromarray(canvas).resize((SIZE, SIZE), PIL.Image.Resampling.BOX)


def _camera() -> np.ndarray:
    """Rows: the world's directions of right, up and towards the camera."""
    (ca, sa), (ce, se) = ((np.cos(angle), np.sin(angle)) for angle in (AZIMUTH, ELEVATION))
    return np.array([[ca, sa, 0], [-sa * se, ca * se, ce], [sa * ce, -ca * ce, se]])


def _surface(place: np.ndarray) -> tuple[np.ndarray, float]:
    """Unit normals (n, 3) of the planes through neighbours, facing the camera, and a radius that closes gaps."""
    count = min(NEIGHBOURS, len(place))
    distance, index = _nearest(torch.from_numpy(place), count)
    around = place[index] - place[index].mean(1, keepdims=True)
    normal = np.linalg.eigh(np.swapaxes(around, 1, 2) @ around)[1][:, :, 0]
    return np.where(normal[:, 2:] < 0, -normal, normal), float(np.median(distance[:, count // 2]))


def _nearest(place: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and numbers, both with shape (n, count), of the points nearest to each, nearest first: itself."""
    parts = []
    for some in place.split(ROWS):
        distance = torch.cdist(some, place, compute_mode="donot_use_mm_for_euclid_dist")  # exact where they are close
        parts.append(distance.topk(count, largest=False))
    return torch.cat([part.values for part in parts]).numpy(), torch.cat([part.indices for part in parts]).numpy()
