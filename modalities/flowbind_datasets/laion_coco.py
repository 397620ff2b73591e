"""LAION-COCO: images of the web with captions written by a model."""

from collections.abc import Iterator
from pathlib import Path

from flowbind.errors import first_line
from flowbind.files import read_regular
from flowbind.libraries import Extra, importing
from flowbind.progress import say, track
from flowbind_datasets.files import IMAGES, File, Files
from flowbind_datasets.splits import Splits, shuffled

CAPTIONS = ("top_caption", "caption")  # the first that a table has
LAYOUT = (
    "what img2dataset writes with output_format=files: folders 00000, 00001, ... "
    "of 000000000.jpg and 000000000.txt, with 00000.parquet beside them; "
    "or one folder of images and tables with the columns key and top_caption or caption"
)
UNPACKING = 'for f in *.tar; do mkdir "${f%.tar}" && tar -xf "$f" -C "${f%.tar}"; done'
LONGEST = 2**20  # bytes of a caption's file
ROWS = 65_536  # of a table, read at a time


def prepare(
    out: Path,
    source: Path,
    limit: int | None = None,
    seed: int = 0,
) -> None:
    """LAION-COCO: text and image, from what img2dataset downloaded; all of it is training data.

    600 million images of the web with captions by BLIP (https://laion.ai/blog/laion-coco); LAION
    publishes addresses and captions, in parquet files with the columns URL and top_caption.
    img2dataset downloads the images and numbers them. Captions come from the tables it writes,
    top_caption before caption, or from the .txt files if there is no table.

    Args:
        source: Folder of images, at any depth, with .parquet or .txt files.
        limit: Samples at most, drawn at random among those whose image is there; all if it is not
            given. FlowBind was trained on 241,873.
        seed: Seed of that draw.

    Raises:
        ValueError: no captions, a table without the columns that are needed, or no image.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}, allowed is 1 or more")
    files = Files(
        [source],
        image=IMAGES,
        text=(".txt",),
        table=(".parquet",),
        tar=(".tar",),
    )
    image_count = len(files.each("image"))
    if not image_count and files.each("tar"):
        raise ValueError(
            f"{source}: holds .tar files; unpack each to a folder: {UNPACKING}"
        )

    splits = Splits(out)
    pairs = _pairs(source, files, splits)
    aside = image_count - len(pairs)
    if aside > 0:
        say(f"{source}: images without a caption, left aside: {aside}")

    usable = [key for key, (caption, _) in pairs.items() if caption.strip()]
    left = set()
    if limit is not None:
        left = set(shuffled(usable, seed)[limit:])
    if left:
        count = len(usable)
        say(f"{source}: {limit} of {count} samples were drawn with the seed {seed}")

    for key, (caption, image) in pairs.items():
        if key not in left:
            splits.add("train", key, {"text": caption, "image": image})

    splits.write(source, LAYOUT)


def _pairs(
    source: Path,
    files: Files,
    splits: Splits,
) -> dict[str, tuple[str, File]]:
    """The caption and the image of each key; images that are not there are counted as missing.

    Raises:
        ValueError: tables, which may overlap, differ in a caption.
    """
    pairs: dict[str, tuple[str, File]] = {}
    for key, caption in _captions(files):
        image = files.find("image", key)
        if not image.path:
            splits.miss("train", image.name)
        elif pairs.setdefault(key, (caption, image))[0] != caption:
            raise ValueError(
                f"{source}: two captions for the key {key}; "
                "keep tables of one download alone in the folder"
            )
    return pairs


def _captions(files: Files) -> Iterator[tuple[str, str]]:
    """Keys and captions, from tables if there are any, or else from text files."""
    tables = files.each("table")
    if tables:
        for table in track(tables, "reading tables"):
            yield from _rows(table)
    else:
        for path in track(files.each("text"), "reading captions"):
            content = read_regular(path, LONGEST)
            yield path.stem, content.decode("utf-8", errors="replace")


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """Keys and captions of a table.

    Raises:
        ValueError: pyarrow is not installed, the file is damaged, or a column is missing.
    """
    with importing("pyarrow", needing=f"{path}: reading it", install=Extra("datasets")):
        import pyarrow
        from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            columns = [name for name in CAPTIONS if name in names]
            if not columns or "key" not in names:
                needed = " or ".join(CAPTIONS)
                raise ValueError(
                    f"{path}: needs the columns key and {needed}; "
                    f"found {', '.join(names)}; download the images with img2dataset, "
                    "which adds the keys, and keep its input out of this folder"
                )

            column = columns[0]
            for batch in table.iter_batches(ROWS, columns=["key", column]):
                for row in batch.to_pylist():
                    caption = row[column] or ""
                    yield str(row["key"]), str(caption)

    except (pyarrow.ArrowException, OSError) as error:
        reason = first_line(error)
        raise ValueError(f"{path}: not a whole parquet file ({reason})") from None
