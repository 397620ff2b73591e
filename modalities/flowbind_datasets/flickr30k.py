"""Flickr30k: photographs with five captions each."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from flowbind.progress import say
from flowbind_datasets.annotations import columns_of, read_rows
from flowbind_datasets.files import IMAGES, File, Files, checked
from flowbind_datasets.karpathy import Photograph, check_split, karpathy
from flowbind_datasets.splits import Splits, captions_kept, shuffled

VAL = 1014  # images, as many as in Karpathy's splits
TEST = 1000
NAMES = (
    "dataset_flickr30k.json",
    "flickr_annotations_30k.csv",
    "results_20130124.token",
    "results.csv",
    "captions.txt",
)
LAYOUT = f"one of {', '.join(NAMES)}, and anywhere below the folder the images, such as 1000092795.jpg"


def prepare(
    out: Path,
    source: Path,
    annotations: Path | None = None,
    captions: str = "first",
    val_samples: int | None = None,
    test_samples: int | None = None,
    seed: int = 0,
) -> None:
    """Flickr30k: text and image, from its captions and a folder of images.

    31,783 photographs of Flickr with five captions each (Young et al., 2014), on request from
    https://shannon.cs.illinois.edu/DenotationGraph, for research and education that are not
    commercial. Karpathy's splits (29,000 training images, 1,014 for validation, 1,000 for testing)
    are in dataset_flickr30k.json and in flickr_annotations_30k.csv. The other files have no splits:
    results_20130124.token, and tables with the columns image and caption, or image_name and
    comment, between commas or bars. Then as many images are drawn at random.

    Args:
        source: Folder of the images, at any depth, and of the captions if `annotations` does not
            say otherwise.
        annotations: File of the captions.
        captions: `first`, one sample an image, or `all`, a sample for each caption. In validation
            and testing, captions that are generated are compared with all of the image's either
            way.
        val_samples: Images drawn for validation where the captions come without splits; 1,014 if it
            is not given.
        test_samples: Images drawn for testing, likewise; 1,000 if it is not given.
        seed: Seed of that draw.

    Raises:
        ValueError: no file of captions, one in another layout, or no image.
    """
    chosen = captions_kept(captions)
    path = annotations or _captions_in(source)
    photographs = _in_splits(path, val_samples, test_samples, seed)
    files = Files([source], image=IMAGES)
    splits = Splits(out)
    for name, texts, annotated in photographs:
        split = check_split(path, name, annotated)
        stem = PurePosixPath(checked(name, path)).stem
        image = files.find("image", stem)

        samples = texts[chosen]
        splits.leave(split, len(texts) - len(samples))
        for number, text in enumerate(samples):
            id = f"{stem}#{number}"
            values: dict[str, str | File] = {"text": text, "image": image}
            splits.add(split, id, values, captions=texts)

    splits.write(source, LAYOUT)


def _in_splits(
    path: Path,
    val: int | None,
    test: int | None,
    seed: int,
) -> list[Photograph]:
    """The photographs in the splits of their annotations or, where these have none, in drawn ones."""
    photographs = list(_read(path))
    if any(photograph.split for photograph in photographs):
        _refuse_drawing(path, val, test)
        return photographs

    drawn = _draw(photographs, val, test, seed)
    say(f"{path}: has no splits, so images were drawn into them with the seed {seed}")
    return drawn


def _refuse_drawing(path: Path, val: int | None, test: int | None) -> None:
    if (val, test) != (None, None):
        raise ValueError(
            f"{path}: has the published splits, so nothing is drawn; "
            "leave out val_samples and test_samples"
        )


def _captions_in(folder: Path) -> Path:
    """The file of captions in a folder.

    Raises:
        ValueError: there is none.
    """
    for name in NAMES:
        path = folder / name
        if path.is_file():
            return path

    raise ValueError(f"{folder}: no captions; the layout is: {LAYOUT}")


def _read(path: Path) -> Iterator[Photograph]:
    """Every photograph once, by the layout that the file's suffix and columns tell."""
    if path.suffix == ".json":
        yield from karpathy(path)
    elif path.suffix == ".token":
        rows = read_rows(path, (), ("image#number", "caption"), "\t")
        pairs = ((_name(row["image#number"]), row["caption"]) for row in rows)
        yield from _grouped(pairs)
    elif {"filename", "raw"} <= set(columns_of(path)):
        yield from _published_table(path)
    else:
        rows = read_rows(path, (("image", "image_name"), ("caption", "comment")))
        pairs = ((row["image"], row["caption"]) for row in rows)
        yield from _grouped(pairs)


def _published_table(path: Path) -> Iterator[Photograph]:
    """Photographs of flickr_annotations_30k.csv, whose cells hold lists of captions in JSON."""
    for row in read_rows(path, ("filename", "split", "raw")):
        name = row["filename"]
        captions = _strings(row["raw"], f"{path}: 'raw' of {name}")
        yield Photograph(name, captions, row["split"])


def _name(numbered: str) -> str:
    """The image of a caption's address, NAME#NUMBER."""
    return numbered.rpartition("#")[0]


def _grouped(pairs: Iterator[tuple[str, str]]) -> Iterator[Photograph]:
    """Captions by image, in the file's order."""
    images: dict[str, list[str]] = {}
    for name, caption in pairs:
        images.setdefault(name, []).append(caption)

    return (Photograph(name, captions) for name, captions in images.items())


def _strings(text: str, what: str) -> list[str]:
    """A list of strings in JSON.

    Raises:
        ValueError: it is anything else; `what` says what it should be.
    """
    refusal = f"{what} must be a list of captions in JSON, not {text[:60]}"
    try:
        captions = json.loads(text)
    except ValueError:
        raise ValueError(refusal) from None

    if not isinstance(captions, list):
        raise ValueError(refusal)
    if not all(isinstance(entry, str) for entry in captions):
        raise ValueError(refusal)

    return captions


def _draw(
    photographs: list[Photograph],
    val: int | None,
    test: int | None,
    seed: int,
) -> list[Photograph]:
    """Images drawn into splits, all captions of one together; as many as published by default."""
    val = VAL if val is None else val
    test = TEST if test is None else test
    names = [photograph.name for photograph in photographs]
    if val < 0 or test < 0 or val + test >= len(names):
        raise ValueError(
            f"val_samples {val} and test_samples {test} of {len(names)} images "
            "leave none for training; give smaller ones"
        )

    order = shuffled(names, seed)
    split_of = dict.fromkeys(names, "train")
    split_of |= dict.fromkeys(order[:test], "test")
    split_of |= dict.fromkeys(order[test : test + val], "val")
    drawn = []
    for photograph in photographs:
        split = split_of[photograph.name]
        drawn.append(photograph._replace(split=split))
    return drawn
