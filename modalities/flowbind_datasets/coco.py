"""COCO captions: photographs with five captions or more each."""

from collections import Counter
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flowbind.progress import say
from flowbind_datasets.annotations import read_json, records
from flowbind_datasets.files import IMAGES, File, Files, checked
from flowbind_datasets.karpathy import check_split
from flowbind_datasets.karpathy import karpathy as read_karpathy
from flowbind_datasets.splits import Splits, captions_kept, held_out, shuffled

YEARS = (2014, 2017)
VAL = 1_000  # images of training that are held out
RESTVAL = "restval"  # Karpathy's: of val2014, what is neither validated nor tested on
LAYOUT = (
    "annotations/captions_val2014.json, val2014/COCO_val2014_000000000042.jpg, "
    "and the same for train; or 2017"
)


class Caption(NamedTuple):
    """A caption, its number, and the file name of its image."""

    image: str
    id: int
    text: str


class Part(NamedTuple):
    """One half of the dataset: its captions, in the file's order, and its images."""

    captions: list[Caption]
    files: Files


def prepare(
    out: Path,
    source: Path,
    year: int = 2014,
    captions: str = "first",
    test_samples: int = 30_000,
    val_samples: int | None = None,
    seed: int = 0,
    karpathy: Path | None = None,
) -> None:
    """COCO captions: text and image, from its annotations and folders of images.

    https://cocodataset.org: 82,783 training and 40,504 validation images of 2014, or 118,287 and
    5,000 of 2017, five captions or more each. Annotations are CC BY 4.0, the images are Flickr's.
    Testing is on the published validation set, by captions drawn at random, 30,000 of them as
    papers do it with 2014 (2017 has 25,014): no image has a second one before every image has one.
    For validation, images are held out of training. An image folder that is not there is left
    out: val2014 alone makes the test split.

    Captioning is measured in Karpathy's splits of 2014: 113,287 training images (his `train` and
    `restval`), 5,000 for validation and 5,000 for testing, from both folders.

    Args:
        source: Folder with annotations/, train2014/ and val2014/ (or images/train2014/), or the
            same of 2017.
        year: 2014 or 2017.
        captions: Choice among those of a training or validation image: `first`, one sample an
            image, or `all`, a sample for each caption. In validation and testing, captions that are
            generated are compared with all of the image's either way.
        test_samples: Captions of the published validation set that are drawn for testing.
        val_samples: Images of training that are held out for validation; 1,000 if it is not given.
        seed: Seed of both draws.
        karpathy: Karpathy's dataset_coco.json, whose captions and splits are taken instead of the
            published ones.

    Raises:
        ValueError: no annotations, other ones than captions, or no image; or a year or a number
            of images to hold out beside Karpathy's splits.
    """
    chosen = captions_kept(captions)
    _check(year, test_samples)
    if karpathy:
        if (year, val_samples) != (2014, None):
            raise ValueError(
                f"{karpathy}: has splits of 2014, so nothing is held out; leave out year and "
                "val_samples"
            )
        splits = Splits(out)
        _add_karpathy(splits, karpathy, source, chosen, test_samples, seed)
        splits.write(source, LAYOUT)
        return

    val_samples = VAL if val_samples is None else val_samples
    splits = Splits(out)
    training = _part(source, f"train{year}")
    if training:
        images = _by_image(training.captions)
        validation = held_out(list(images), val_samples, seed, 0)
        for image, all_captions in images.items():
            split = "val" if image in validation else "train"
            samples = all_captions[chosen]
            splits.leave(split, len(all_captions) - len(samples))
            _add(splits, split, samples, images, training.files)

    testing = _part(source, f"val{year}")
    if testing:
        count = len(testing.captions)
        if count < test_samples:
            say(
                f"val{year} has {count} captions, so all of them are taken for testing, "
                f"not {test_samples}"
            )
        samples = _spread(testing.captions, test_samples, seed)
        images = _by_image(testing.captions)
        _add(splits, "test", samples, images, testing.files)

    splits.write(source, LAYOUT)


def _add_karpathy(
    splits: Splits,
    path: Path,
    source: Path,
    chosen: slice,
    test_samples: int,
    seed: int,
) -> None:
    """Adds the samples of Karpathy's splits."""
    by_split: dict[str, list[Caption]] = {}
    for name, texts, split in read_karpathy(path):
        split = "train" if split == RESTVAL else split
        split = check_split(path, name, split)
        for number, text in enumerate(texts):
            caption = Caption(checked(name, path), number, text)
            by_split.setdefault(split, []).append(caption)

    files = Files([source], image=IMAGES)
    for split, captions in by_split.items():
        images = _by_image(captions)
        if split == "test":
            samples = _spread(captions, test_samples, seed)
            _add(splits, split, samples, images, files)
            continue
        for all_captions in images.values():
            samples = all_captions[chosen]
            splits.leave(split, len(all_captions) - len(samples))
            _add(splits, split, samples, images, files)


def _check(year: int, test_samples: int) -> None:
    if year not in YEARS:
        years = " and ".join(map(str, YEARS))
        raise ValueError(f"year is {year}, allowed are {years}")
    if test_samples < 0:
        raise ValueError(f"test_samples is {test_samples}, allowed is 0 or more")


def _part(source: Path, part: str) -> Part | None:
    """The captions and images of one half of the dataset, or None if its images are not there."""
    folders = [source / part, source / "images" / part]
    existing = [folder for folder in folders if folder.is_dir()]
    if not existing:
        say(f"{folders[0]}: no such folder, so it is left out")
        return None

    path = source / "annotations" / f"captions_{part}.json"
    captions = _read(path)
    files = Files(existing[:1], image=IMAGES)
    return Part(captions, files)


def _read(path: Path) -> list[Caption]:
    """The captions of an annotation file, in its order.

    Raises:
        ValueError: no such file, one of other annotations, or a caption of an unknown image.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        content = {}

    images = content.get("images")
    needed = {"id": int, "file_name": str}
    images = records(images, needed, f"{path}: images")

    annotations = content.get("annotations")
    needed = {"id": int, "image_id": int, "caption": str}
    annotations = records(annotations, needed, f"{path}: annotations")

    names = {image["id"]: checked(image["file_name"], path) for image in images}
    captions = []
    for annotation in annotations:
        id = annotation["id"]
        image = annotation["image_id"]
        if image not in names:
            raise ValueError(
                f"{path}: the image of caption {id} is not among its images"
            )
        captions.append(Caption(names[image], id, annotation["caption"]))

    return captions


def _by_image(captions: list[Caption]) -> dict[str, list[Caption]]:
    """The captions of each image, in the file's order."""
    images: dict[str, list[Caption]] = {}
    for caption in captions:
        images.setdefault(caption.image, []).append(caption)
    return images


def _spread(
    captions: list[Caption],
    count: int,
    seed: int,
) -> list[Caption]:
    """Draws captions so that no image has one more than another that still has some."""
    # The n-th caption of each image has its turn when all have had their n-1st.
    turns: Counter[str] = Counter()
    drawn = []
    for caption in shuffled(captions, seed, 1):
        turn = turns[caption.image]
        turns[caption.image] += 1
        drawn.append((turn, caption))

    drawn.sort(key=itemgetter(0))  # stable: within a turn the order stays random
    return [caption for _, caption in drawn[:count]]


def _add(
    splits: Splits,
    split: str,
    captions: list[Caption],
    images: dict[str, list[Caption]],
    files: Files,
) -> None:
    """Adds a sample for each of these captions; `images` has all captions, by image."""
    for caption in captions:
        stem = PurePosixPath(caption.image).stem
        image = files.find("image", stem)
        texts = [other.text for other in images[caption.image]]
        id = f"{stem}#{caption.id}"
        values: dict[str, str | File] = {"text": caption.text, "image": image}
        splits.add(split, id, values, captions=texts)
