"""NYU Depth V2: rooms, as a Kinect saw them."""

import os
import re
from pathlib import Path

from flowbind_datasets.files import IMAGES, File, below
from flowbind_datasets.splits import Splits, check_share, shuffled

LAYOUT = (
    "sync/basement_0001a/rgb_00000.jpg, sync/basement_0001a/sync_depth_00000.png, and the same "
    "below official_splits/test/, as BTS lays it out"
)
DEPTH = re.compile(
    r"/(?P<split>sync|train|test)/(?P<scene>[^/]+)/sync_depth_(?P<frame>\d+)\.png$"
)


def prepare(
    out: Path,
    source: Path,
    val: float = 0.05,
    seed: int = 0,
) -> None:
    """NYU Depth V2: image and depth, in the layout in which depth estimators share it.

    https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html (Silberman et al., ECCV 2012): 464
    scenes; some 24,000 to 50,000 synchronised frames of 249 of them are trained on, and 654 frames
    of the others tested. Depth maps are PNG in 16 bits, 1,000 a metre (the depth modality's
    default). Training is what lies below a folder `sync` (or `train`), testing what lies below
    `test`. For validation rooms are held out: no room is in two splits, also where its name has
    several letters behind its number.

    Args:
        source: Folder with sync/ and official_splits/test/, anywhere below it.
        val: Share of the training rooms drawn for validation.
        seed: Seed of the draw.

    Raises:
        ValueError: no such folder, a share that is none, or no depth map with its picture.
    """
    check_share("val", val, "rooms")
    depths, pictures = _frames(source)
    published = {match["split"] for match in depths.values()}
    # The labelled frames of `train` are among those of `sync`, where both are there.
    training = "sync" if "sync" in published else "train"

    rooms = set()
    for match in depths.values():
        if match["split"] == training:
            rooms.add(_room(match["scene"]))
    order = shuffled(sorted(rooms), seed)
    validated = set(order[: round(val * len(order))])

    splits = Splits(out)
    for path, match in depths.items():
        if match["split"] == "test":
            split = "test"
        elif match["split"] != training:
            continue
        elif _room(match["scene"]) in validated:
            split = "val"
        else:
            split = "train"

        picture = Path(path).with_name(f"rgb_{match['frame']}")
        values = {
            "image": File(
                f"{match['scene']}/{picture.name}.jpg", pictures.get(str(picture))
            ),
            "depth": File(path, Path(path)),
        }
        splits.add(split, f"{match['scene']}/{match['frame']}", values)

    splits.write(source, LAYOUT)


def _frames(source: Path) -> tuple[dict[str, re.Match], dict[str, Path]]:
    """What the path of each depth map says, in order, and pictures by path without suffix."""
    depths = {}
    pictures = {}
    for path in sorted(below([source], IMAGES)):
        match = DEPTH.search(path.replace(os.sep, "/"))
        if match:
            depths[path] = match
        else:
            pictures[os.path.splitext(path)[0]] = Path(path)
    return depths, pictures


def _room(scene: str) -> str:
    """A scene's room: `basement_0001` of `basement_0001a`."""
    return re.sub(r"(?<=\d)[a-z]$", "", scene)
