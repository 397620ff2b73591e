"""A picture of a point cloud: every point a small disc of the surface around it.

Light comes from the upper left. World axes are those of the files: z up. The camera looks down at
an angle and sees parallel lines as parallel.

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
# Of the camera: a three-quarter view.
AZIMUTH = np.radians(30)
ELEVATION = np.radians(28)
# Towards the light: right, up, towards the camera.
LIGHT = np.array([-0.42, 0.55, 0.72])
# Share of its colour that a surface has where it turns its back to the light.
AMBIENT = 0.3
NEIGHBOURS = 12  # that decide the surface at a point
ROWS = 1024  # points whose distances from all are in memory at a time
BACKGROUND = 255


def draw(cloud: np.ndarray, extent: float) -> PIL.Image.Image:
    """Draws points, with shape (n, 6), in colour on white.

    Args:
        cloud: Points, x, y, z in world units, then red, green, blue in [0, 1].
        extent: Half the width of the picture, in world units; its middle is the origin.
    """
    width = SIZE * FINER
    pixel = 2 * extent / width
    count = min(len(cloud), DRAWN)
    numbers = torch.arange(len(cloud))
    drawn = thin(numbers, count)
    cloud = cloud[drawn.numpy()]

    # In pixels from here on: right, up, towards the camera.
    camera = _camera()
    place = cloud[:, :3] @ camera.T
    place = place / pixel
    normal, radius = _surface(place)
    radius = float(np.clip(radius, 1.5, width / 16))

    # Others cover no pixel.
    edge = width / 2 + radius + 1
    distance = np.abs(place[:, :2])
    is_near = (distance < edge).all(axis=1)
    cloud = cloud[is_near]
    place = place[is_near]
    normal = normal[is_near]

    # Each point's disc: the pixels around it, and how much nearer than it the disc is there.
    right, up = _around(int(radius))
    towards = _towards(normal, right, up)
    middle_column = np.rint(width / 2 + place[:, :1])
    middle_row = np.rint(width / 2 - place[:, 1:2])
    column = middle_column.astype(int) + right
    row = middle_row.astype(int) - up

    square = right**2 + up**2 + towards**2
    is_covered = square <= radius**2
    is_covered &= np.minimum(column, row) >= 0
    is_covered &= np.maximum(column, row) < width

    # Far to near: where a pixel repeats, the last one stays.
    point, _ = np.nonzero(is_covered)
    depth = place[:, 2:] + towards
    order = np.argsort(depth[is_covered])
    row = row[is_covered][order]
    column = column[is_covered][order]

    canvas = np.full((width, width, 3), BACKGROUND, np.uint8)
    paint = _shaded(cloud[:, 3:], normal)
    canvas[row, column] = paint[point[order]]

    drawing = PIL.Image.fromarray(canvas)
    size = (SIZE, SIZE)
    return drawing.resize(size, PIL.Image.Resampling.BOX)


def lit(cloud: np.ndarray) -> np.ndarray:
    """Points, with shape (n, 6), whose colours are as a lamp shows them that turns with the cloud.

    Their outsides are taken to face away from the middle. Of a larger cloud `DRAWN` points stay.
    """
    numbers = thin(torch.arange(len(cloud)), min(len(cloud), DRAWN))
    cloud = cloud[numbers.numpy()]
    place = cloud[:, :3] @ _camera().T
    normal, _ = _surface(place)

    outwards = place - place.mean(0)
    is_inside = (normal * outwards).sum(1, keepdims=True) < 0
    paint = _shaded(cloud[:, 3:], np.where(is_inside, -normal, normal))
    return np.concatenate([cloud[:, :3], paint / np.float32(255)], axis=1)


def _around(reach: int) -> np.ndarray:
    """How far right and up the pixels around one are, with shape (2, 1, k)."""
    around = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return around.reshape(2, 1, -1)


def _towards(
    normal: np.ndarray,
    right: np.ndarray,
    up: np.ndarray,
) -> np.ndarray:
    """How much nearer than its middle a disc is at each pixel, with shape (n, k)."""
    steep = np.maximum(normal[:, 2:], 0.2)  # no disc is seen quite from its edge
    to_the_right = normal[:, :1] * right
    upwards = normal[:, 1:2] * up
    across = to_the_right + upwards
    return -across / steep


def _shaded(colour: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Colours in [0, 1], with shape (n, 3), in the lamp's light, as uint8."""
    lamp = LIGHT / np.linalg.norm(LIGHT)
    light = (1 + normal @ lamp) / 2
    shade = AMBIENT + (1 - AMBIENT) * light
    paint = np.clip(colour, 0, 1) * shade[:, None]
    return np.rint(255 * paint).astype(np.uint8)


def _camera() -> np.ndarray:
    """Rows: the world's directions of right, up and towards the camera."""
    ca = np.cos(AZIMUTH)
    sa = np.sin(AZIMUTH)
    ce = np.cos(ELEVATION)
    se = np.sin(ELEVATION)

    right = [ca, sa, 0]
    up = [-sa * se, ca * se, ce]
    towards = [sa * ce, -ca * ce, se]
    return np.array([right, up, towards])


def _surface(place: np.ndarray) -> tuple[np.ndarray, float]:
    """Unit normals (n, 3) of the planes through neighbours, and a radius that closes gaps.

    The normals face the camera.
    """
    count = min(NEIGHBOURS, len(place))
    distance, index = _nearest(torch.from_numpy(place), count)

    # The direction in which neighbours vary least.
    around = place[index]
    around = around - around.mean(1, keepdims=True)
    spread = np.swapaxes(around, 1, 2) @ around
    _, directions = np.linalg.eigh(spread)
    normal = directions[:, :, 0]
    is_behind = normal[:, 2:] < 0
    normal = np.where(is_behind, -normal, normal)

    radius = np.median(distance[:, count // 2])
    return normal, float(radius)


def _nearest(place: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and numbers, both with shape (n, count), of the points nearest to each.

    Nearest first: itself.
    """
    distances = []
    indices = []
    for rows in place.split(ROWS):
        # Exact where they are close.
        distance = torch.cdist(rows, place, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distance.topk(count, largest=False)
        distances.append(nearest.values)
        indices.append(nearest.indices)

    return torch.cat(distances).numpy(), torch.cat(indices).numpy()
