"""Pix3D: photographs of furniture with the shape of what they show."""

from pathlib import Path
from typing import Any

from flowbind.data.scan import root_of
from flowbind_datasets.annotations import read_json, records
from flowbind_datasets.files import File, below, checked
from flowbind_datasets.splits import Splits, shuffled

LAYOUT = (
    "pix3d.json, img/bed/0001.png and model/bed/IKEA_MALM_2/malm_bed_2_obj0_object.obj, "
    "as pix3d.zip unpacks"
)


def prepare(
    out: Path,
    source: Path,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
) -> None:
    """Pix3D: image and points, from pix3d.json and the images and meshes that it names.

    http://pix3d.csail.mit.edu: 10,069 images of 395 models in 9 categories, 3.6 GB, CC BY 4.0. The
    points are drawn from the mesh when they are read, in the model's own pose and scale; images are
    whole, not cut to the object. pix3d.json has no splits, so models are drawn into them: no model
    is in two of them. The category becomes the label `category`.

    Args:
        source: Folder in which pix3d.json lies.
        val: Share of the models drawn for validation.
        test: Share of the models drawn for testing.
        seed: Seed of the draw.

    Raises:
        ValueError: no such file, one in another layout, or no image or mesh.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise ValueError(
            "val and test are shares of the models and leave some for training, "
            f"not {val} and {test}"
        )

    path = source / "pix3d.json"
    keys = {"img": str, "model": str, "category": str}
    entries = records(read_json(path), keys, str(path))
    models = {entry["model"] for entry in entries}
    split_of = _draw(sorted(models), val, test, seed)
    existing = _existing(source, entries)
    root = Path(root_of(source))

    def find(name: str) -> File:
        place = root / checked(name, path)
        if str(place) in existing:
            return File(name, place)
        return File(name, None)

    splits = Splits(out)
    for entry in entries:
        image = entry["img"]
        model = entry["model"]
        path_without_suffix = Path(image).with_suffix("")
        id = path_without_suffix.as_posix().removeprefix("img/")
        values = {"image": find(image), "points": find(model)}
        labels = {"category": entry["category"]}
        splits.add(split_of[model], id, values, labels=labels)

    splits.write(source, LAYOUT)


def _draw(
    models: list[str],
    val: float,
    test: float,
    seed: int,
) -> dict[str, str]:
    """The split of each model."""
    order = shuffled(models, seed)
    first = round(test * len(order))
    second = round((test + val) * len(order))

    split_of = dict.fromkeys(order, "train")
    split_of |= dict.fromkeys(order[:first], "test")
    split_of |= dict.fromkeys(order[first:second], "val")
    return split_of


def _existing(source: Path, entries: list[dict[str, Any]]) -> set[str]:
    """Paths of the files below the folder that have a suffix of those that entries name."""
    suffixes: set[str] = set()
    for entry in entries:
        for key in ("img", "model"):
            suffix = Path(entry[key]).suffix
            suffixes.add(suffix.lower())

    return set(below([source], suffixes))
