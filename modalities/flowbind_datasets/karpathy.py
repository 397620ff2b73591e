"""Karpathy's files of captions and splits, of Flickr30k and of COCO: dataset_flickr30k.json, dataset_coco.json."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from flowbind_datasets.annotations import read_json, records
from flowbind_datasets.splits import SPLITS


class Photograph(NamedTuple):
    """An image's file name, its captions, and its split where annotations tell it."""

    name: str
    captions: list[str]
    split: str | None = None


def karpathy(path: Path) -> Iterator[Photograph]:
    """Every photograph of such a file, in its order.

    Raises:
        ValueError: it is in another layout.
    """
    content = read_json(path)
    images = content
    if isinstance(content, dict):
        images = content.get("images")
    needed = {"filename": str, "split": str, "sentences": list}
    for image in records(images, needed, f"{path}: images"):
        name = image["filename"]
        sentences = image["sentences"]
        sentences = records(sentences, {"raw": str}, f"{path}: sentences of {name}")
        captions = [sentence["raw"] for sentence in sentences]
        yield Photograph(name, captions, image["split"])


def check_split(path: Path, name: str, split: str | None) -> str:
    """The split that an image is in.

    Raises:
        ValueError: there is none of that name; one line says which there are.
    """
    if split not in SPLITS:
        names = ", ".join(SPLITS)
        raise ValueError(
            f"{path}: image '{name}' is in the split '{split}'; allowed: {names}"
        )

    return split
