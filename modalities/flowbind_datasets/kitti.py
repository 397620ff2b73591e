"""KITTI depth prediction: pictures of a car's cameras, and what its laser measured."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from flowbind.progress import say
from flowbind_datasets.annotations import read_lines
from flowbind_datasets.files import IMAGES, File, below
from flowbind_datasets.splits import Splits, check_share, shuffled

LAYOUT = (
    "2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005.png of the raw data, and "
    "train/2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000005.png, and the same "
    "below val/, of data_depth_annotated.zip"
)
DRIVE = r"(?P<drive>\d{4}_\d\d_\d\d_drive_\d{4}_sync)"
FRAME = r"(?P<frame>\d{10})"
CAMERA = r"(?P<camera>image_0[0-3])"
PICTURE = re.compile(rf"(?:^|/){DRIVE}/{CAMERA}/data/{FRAME}\.\w+$")
DEPTH = re.compile(
    rf"/(?P<part>train|val)/{DRIVE}/proj_depth/groundtruth/{CAMERA}/{FRAME}\.png$"
)


class Frame(NamedTuple):
    """What one camera saw at one moment of a drive."""

    drive: str
    camera: str
    frame: str

    def __str__(self) -> str:
        return "/".join(self)


def prepare(
    out: Path,
    source: Path,
    test_list: Path | None = None,
    val: float = 0.05,
    seed: int = 0,
) -> None:
    """KITTI depth prediction: image and depth, from the raw data and the annotated depth maps.

    https://www.cvlibs.net/datasets/kitti/eval_depth.php?benchmark=depth_prediction: 85,898 depth
    maps for training and 6,852 for validation, of both colour cameras, CC BY-NC-SA 3.0. They are
    sparse, in 16 bits, 256 a metre (the depth modality's `scale: 256`). Testing is on the published
    validation drives, or on the pictures of a list such as Eigen's; a drive that has one of these
    is not trained on. For validation, drives are held out of training.

    Args:
        source: Folder with the dates of the raw data, train/ and val/, anywhere below it.
        test_list: Text file whose lines begin with the path of a test picture, as Eigen's lists;
            the published validation drives if there is none.
        val: Share of the training drives drawn for validation.
        seed: Seed of the draw.

    Raises:
        ValueError: no such folder or list, a line of it that names no picture of a drive, a share
            that is none, or no depth map with its picture.
    """
    check_share("val", val, "drives")
    pictures, depths, parts = _frames(source)
    if test_list is None:
        tested = {frame: None for frame in depths if parts[frame] == "val"}
    else:
        tested = dict.fromkeys(_listed(test_list))

    tested_drives = {frame.drive for frame in tested}
    drives = {frame.drive for frame in depths} - tested_drives
    order = shuffled(sorted(drives), seed)
    validated = set(order[: round(val * len(order))])

    splits = Splits(out)
    for frame in tested:
        _add(splits, "test", frame, pictures, depths)
    aside = 0
    for frame in depths:
        if frame.drive in drives:
            split = "val" if frame.drive in validated else "train"
            _add(splits, split, frame, pictures, depths)
        elif frame not in tested:
            aside += 1

    splits.write(source, LAYOUT)
    if aside:
        say(f"left aside {aside} depth maps of drives that others are tested of")


def _frames(
    source: Path,
) -> tuple[dict[Frame, str], dict[Frame, str], dict[Frame, str]]:
    """Paths of pictures and of depth maps by frame, and the published part of each depth map."""
    pictures: dict[Frame, str] = {}
    depths: dict[Frame, str] = {}
    parts: dict[Frame, str] = {}
    for path in below([source], IMAGES):
        name = path.replace(os.sep, "/")
        if match := DEPTH.search(name):
            frame = Frame(match["drive"], match["camera"], match["frame"])
            depths[frame] = path
            parts[frame] = match["part"]
        elif match := PICTURE.search(name):
            frame = Frame(match["drive"], match["camera"], match["frame"])
            pictures[frame] = path
    return pictures, dict(sorted(depths.items())), parts


def _listed(path: Path) -> list[Frame]:
    """The frames whose pictures a list names."""
    frames = []
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split()
        if not words:
            continue
        match = PICTURE.search(words[0].replace("\\", "/"))
        if match is None:
            raise ValueError(
                f"{path}:{number}: '{words[0]:.80}' is no picture of a drive; a line begins with "
                "a path such as 2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png"
            )
        frames.append(Frame(match["drive"], match["camera"], match["frame"]))
    return frames


def _add(
    splits: Splits,
    split: str,
    frame: Frame,
    pictures: dict[Frame, str],
    depths: dict[Frame, str],
) -> None:
    """Adds a frame with its picture and its depth map."""
    values = {}
    for kind, paths in (("image", pictures), ("depth", depths)):
        path = paths.get(frame)
        values[kind] = File(f"{kind} of {frame}", Path(path) if path else None)
    splits.add(split, str(frame), values)
