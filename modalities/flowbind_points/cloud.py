"""Points as people have them, made a raw sample.

That is float32 with shape (n, 6), x, y, z and then red, green, blue in [0, 1]. The range tells what
a number means. Colours of 8 and 16 bits are shares of their type's largest
number; of other types, what stays within 1 is taken as it is, what reaches 255 or 65,535 is a
share of that.

Shapes: n points.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowbind_points.unit_sphere import thin

GREY = 0.5  # of points without a colour
MOST = 2**17  # points of a raw sample: 3 MB, of which an encoding holds some hundred
FAR = 1e18  # world units; what lies farther out was not measured, and its square overflows float32
ROUNDED = 1e-4  # of a cloud's extent, that float32 may move a point by
# Of the range of colours, that rounding and interpolation may go beyond it.
ALMOST = 0.01
MANY = 12  # numbers of a point; of more than these no fewer points are meant
COLOURS = (
    ("red", "green", "blue"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("r", "g", "b"),
    ("rf", "gf", "bf"),
)
SPLAT = ("f_dc_0", "f_dc_1", "f_dc_2")
# The constant one, 1 / (2 sqrt(pi)) (Kerbl et al., 2023).
HARMONIC = 0.28209479177387814
FAINTEST = -5.5373  # logit of 1/255, below which no renderer draws a splat
# The number that counts as full, and below which number colours are meant so.
RANGES = {1: 2, 255: 256, 65535: 65536}


class Scan(NamedTuple):
    """Points of a file or of a program: places and colours, both with shape (n, 3), of any type."""

    place: np.ndarray
    colour: np.ndarray | None = None


def to_cloud(scan: Scan) -> tuple[Tensor, list[str]]:
    """Makes a raw sample of points.

    Points whose coordinates are not finite, as depth cameras write them, are left out. Of more than
    131,072 points so many are kept, by `thin`. Where float32 would round away the shape, as it does
    where maps are counted in metres, the points are moved to their middle; otherwise they stay
    where they are.

    Returns:
        The cloud, float32 with shape (n, 6), and what there is to be said of it: parts of a line.

    Raises:
        ValueError: no point is left, or the colours are no colours; gives the reason, without a
            file's name.
    """
    scan, remarks = _measured(scan)
    rows: np.ndarray | slice = slice(None)
    if len(scan.place) > MOST:
        numbers = torch.arange(len(scan.place))
        chosen = thin(numbers, MOST)
        rows = chosen.numpy()

    place = scan.place[rows]
    if scan.colour is None:
        shape = (len(place), 3)
        colour = np.full(shape, GREY)
    else:
        colour = to_unit(scan.colour, rows)
        if np.isnan(colour.sum()):
            is_unknown = np.isnan(colour).any(axis=1)
            missing = is_unknown.sum()
            remarks.append(
                f"{missing} points have a colour that is not a number, and are mid-grey"
            )
            colour[is_unknown] = GREY

    middle = _middle(place)
    if middle is not None:
        axes = [f"{x:.6g}" for x in middle]
        where = ", ".join(axes)
        remarks.append(
            f"moved from around ({where}) to the origin, since float32 would round its shape away"
        )
        place = place - middle

    cloud = np.concatenate([place, colour], axis=1)
    cloud = cloud.astype(np.float32)
    return torch.from_numpy(cloud), remarks


def _measured(scan: Scan) -> tuple[Scan, list[str]]:
    """The points that have a place, and a remark on those that have none.

    Raises:
        ValueError: no point is left.
    """
    place, colour = scan
    if not len(place):
        raise ValueError("no points; a cloud needs at least one")
    # Whose largest number is nearer than what is far.
    if place.dtype.itemsize < 4:
        place = place.astype(np.float32)

    with np.errstate(invalid="ignore"):
        is_near = np.abs(place) < FAR  # not so where one is not a number
        if is_near.all():
            return Scan(place, colour), []
        is_measured = is_near.all(axis=1)

    count = len(place)
    if not is_measured.any():
        raise ValueError(
            f"numbers that are not finite: none of its {count} points has a place"
        )

    missing = (~is_measured).sum()
    remark = f"{missing} of {count} points have no finite place, and are left out"
    place = place[is_measured]
    if colour is not None:
        colour = colour[is_measured]
    return Scan(place, colour), [remark]


def to_unit(colour: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Colours in [0, 1], float64 with shape (k, 3).

    Args:
        colour: Colours, with shape (n, 3), whose range decides.
        rows: Numbers of the k colours that are wanted.

    Raises:
        ValueError: they lie in no range of colours.
    """
    full = _full(colour)
    if full is None:
        low, high = _range(colour)
        raise ValueError(
            f"colours from {low:g} to {high:g}; allowed are 0 to 1, 0 to 255 and 0 to 65535"
        )

    part = colour[rows].astype(np.float64)
    return np.clip(part / full, 0, 1)


def _middle(place: np.ndarray) -> np.ndarray | None:
    """The middle of points, with shape (3,), where float32 would round their shape away.

    That is where it would move them by more than a part of their extent.
    """
    if np.can_cast(place.dtype, np.float32):
        return None

    place = place.astype(np.float64)
    rounded = place.astype(np.float32)
    lost = np.abs(place - rounded).max()
    extent = np.ptp(place, axis=0).max()
    if lost <= ROUNDED * extent or extent == 0:
        return None

    return place.mean(axis=0)


def from_columns(table: np.ndarray, firsts: Sequence[int] = (3, 4, 6)) -> Scan:
    """Points of a table of numbers, with shape (n, k): x, y, z in front, then perhaps colours.

    Colours are the first three columns of `firsts` that can be colours, so that an intensity (in
    one column) or a normal (in three, some of them below 0) may stand before them. Columns of zeros
    alone are none, and others are left aside.

    Raises:
        ValueError: fewer than three columns, or three more that are neither colours nor normals.
    """
    is_table = table.ndim == 2
    width = table.shape[1] if is_table else 0
    if width < 3:
        raise ValueError(
            f"an array of shape {table.shape}; "
            "points are rows of x, y, z, then red, green, blue or none"
        )
    if width > MANY and width >= len(table):
        raise ValueError(
            f"an array of shape {table.shape}; points are rows, so turn it: (n, 3) or (n, 6)"
        )

    place = table[:, :3]
    for first in firsts:
        end = first + 3
        colour = table[:, first:end]
        if end <= width and _full(colour) is not None and colour.any():
            return Scan(place, colour)

    beside = table[:, 3:6]
    if width >= 6 and not _normals(beside):
        return Scan(place, beside)  # which is refused by its range

    return Scan(place)


def from_named(columns: Mapping[str, np.ndarray]) -> Scan:
    """Points of columns with names, of any case: x, y, z, and the colours by any of their names.

    Gaussian splats have the constant term of a colour's spherical harmonics, f_dc_0 to 2; those
    that a renderer would not draw are left out.

    Raises:
        ValueError: x, y or z is not there.
    """
    columns = {name.lower(): column for name, column in columns.items()}
    if not columns.keys() >= set("xyz"):
        names = ", ".join(columns)[:60] or "nothing"
        raise ValueError(f"its points have no x, y, z, only {names}")
    place = _stacked(columns, "xyz")

    if columns.keys() >= set(SPLAT):
        constant = _stacked(columns, SPLAT)
        light = 0.5 + HARMONIC * constant
        colour = np.clip(light, 0, 1)
        is_drawn = np.ones(len(place), bool)
        if "opacity" in columns:
            is_drawn = columns["opacity"] > FAINTEST
        if is_drawn.any():
            place = place[is_drawn]
            colour = colour[is_drawn]
        return Scan(place, colour)

    for rgb in COLOURS:
        if columns.keys() >= set(rgb):
            return Scan(place, _stacked(columns, rgb))

    return Scan(place)


def _stacked(columns: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Some columns beside one another, with shape (n, 3)."""
    return np.stack([columns[name] for name in names], axis=1)


def _normals(columns: np.ndarray) -> bool:
    """Whether all rows, with shape (n, 3), have length 1, or 0 where a normal is not known."""
    columns = columns.astype(np.float64)
    length = np.linalg.norm(columns, axis=1)
    is_known = np.isfinite(length) & (length > ALMOST)
    off = np.abs(length[is_known] - 1)
    is_unit = off < ALMOST
    return bool(is_unit.all())


def _full(colour: np.ndarray) -> int | None:
    """The number that is full brightness among colours, with shape (n, 3).

    None where they lie in no range of colours.
    """
    if colour.dtype in (np.uint8, np.uint16):
        number = np.iinfo(colour.dtype)
        return int(number.max)

    low, high = _range(colour)
    for full, end in RANGES.items():
        if high < end:
            least = -ALMOST if full == 1 else -0.5
            return full if low >= least else None

    return None


def _range(numbers: np.ndarray) -> tuple[float, float]:
    """The least and the largest of those that are numbers, or 0 where there is none."""
    with np.errstate(invalid="ignore"):
        if numbers.dtype.kind == "f":
            numbers = numbers[np.isfinite(numbers)]

    low = numbers.min(initial=0)
    high = numbers.max(initial=0)
    return float(low), float(high)
