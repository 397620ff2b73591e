"""Small data sets in the layouts in which standard ones are distributed."""

import csv
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

AUDIOCAPS = ("audiocap_id", "youtube_id", "start_time", "caption")
SPLITS = ["train"] * 10 + ["val"] * 2 + ["test"] * 12

# Files


def picture(path, hue=180):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (4, 3), f"hsl({hue % 360}, 80%, 50%)").save(path)


def sound(path, pitch=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, 0.5 * np.sin(2 * np.pi * pitch * np.arange(800) / 16000), 16000
    )


def mesh(path, height=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 {height}\nf 1 2 3\nf 1 2 4\n")


def depth_map(path, metres=2.0, scale=1000):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((3, 4), metres * scale, np.uint16)
    values[0, 0] = 0  # nothing was measured
    PIL.Image.fromarray(values).save(path)


def table(path, *rows, **style):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **style).writerows(rows)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def parquet(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)


# Annotations


def karpathy(source, images, dataset="flickr30k"):
    """A data set's captions and splits as Karpathy's file has them.

    Args:
        source: the data set's folder.
        images: by stem, the split and the captions of each.
        dataset: its name.
    """
    entries = [
        {
            "sentids": list(range(len(texts))),
            "imgid": k,
            "sentences": [
                {"tokens": [], "raw": text, "imgid": k, "sentid": n}
                for n, text in enumerate(texts)
            ],
            "split": split,
            "filename": f"{name}.jpg",
        }
        for k, (name, (split, texts)) in enumerate(images.items())
    ]
    write_json(
        source / f"dataset_{dataset}.json", {"images": entries, "dataset": dataset}
    )


def coco_part(source, part, images, captions=5, there=True):
    """The annotations of these images of COCO, and their pictures if they are to be there."""
    names = {k: coco_picture(part, k) for k in images}
    annotations = [
        {"image_id": k, "id": 100 * k + n, "caption": f"{part} {k} {n} \n"}
        for n in range(captions)
        for k in images
    ]
    content = {
        "info": {},
        "images": [{"id": k, "file_name": name} for k, name in names.items()],
        "annotations": annotations,
    }
    write_json(source / "annotations" / f"captions_{part}.json", content)
    for k, name in names.items() if there else ():
        picture(source / part / name, hue=17 * k)


def coco_picture(part, number):
    """Name of a picture."""
    prefix = f"COCO_{part}_" if part.endswith("2014") else ""
    return f"{prefix}{number:012d}.jpg"


def kitti_picture(drive, frame):
    """Path of a picture of the raw data."""
    day = "2011_09_26"
    return f"{day}/{day}_drive_{drive}_sync/image_02/data/{frame:010d}.png"


def kitti_depth(part, drive, frame):
    """Path of an annotated depth map."""
    folder = f"{part}/2011_09_26_drive_{drive}_sync/proj_depth/groundtruth/image_02"
    return f"{folder}/{frame:010d}.png"


def kitti(source, drives):
    """Drives of four frames, of which the two in the middle have a depth map, by part."""
    for part, names in drives.items():
        for name in names:
            for frame in range(4, 8):
                picture(source / kitti_picture(name, frame), hue=50 * frame)
            for frame in (5, 6):
                depth_map(source / kitti_depth(part, name, frame), scale=256)


def nyuv2(source, scenes):
    """Scenes of two frames each, by folder."""
    for folder, names in scenes.items():
        for scene in names:
            for frame in range(2):
                picture(source / folder / scene / f"rgb_{frame:05d}.jpg")
                depth_map(source / folder / scene / f"sync_depth_{frame:05d}.png")


# Whole data sets


def write_audiocaps(folder: Path) -> None:
    clips = list(enumerate(SPLITS, 1))
    for split in dict.fromkeys(SPLITS):
        rows = [
            (n, f"clip{n:07d}", 30, f"a tone of {100 * n} hertz sounds")
            for n, of in clips
            if of == split
        ]
        table(folder / f"{split}.csv", AUDIOCAPS, *rows)
    for n, _ in clips:
        sound(folder / f"wav/clip{n:07d}_30.wav", pitch=100 * n)


def write_flickr30k(folder: Path) -> None:
    images = {
        f"{1000 + n}": (split, [f"dog {n} runs", f"a dog, {n}"])
        for n, split in enumerate(SPLITS)
    }
    karpathy(folder, images)
    for n, name in enumerate(images):
        picture(folder / f"flickr30k-images/{name}.jpg", hue=15 * n)


def write_coco(folder: Path) -> None:
    """Of the training pictures, of which many are held out, few are there; these are in Karpathy's splits."""
    coco_part(folder, "val2014", range(4))
    coco_part(folder, "train2014", range(1200), captions=2, there=False)
    images = {}
    for k in range(0, 1200, 25):
        name = coco_picture("train2014", k)
        picture(folder / "train2014" / name, hue=17 * k)
        split = ("train", "restval", "val", "test")[k % 4]
        texts = [f"a dog {k} runs {n} miles" for n in range(5)]
        images[name.removesuffix(".jpg")] = (split, texts)
    karpathy(folder, images, dataset="coco")
    coco_part(folder, "val2017", range(4))
    coco_part(folder, "train2017", range(1200), captions=2, there=False)
    for k in range(0, 1200, 25):
        picture(folder / "train2017" / coco_picture("train2017", k), hue=17 * k)


def write_vggsound(folder: Path) -> None:
    """Most of its clips are gone, as years later they are; what remains lies as frames and sounds."""
    clips = [(f"train{n:06d}", n, "train") for n in range(2000)] + [
        (f"test{n:07d}", n, "test") for n in range(12)
    ]
    labels = ("playing tennis", "people marching")
    table(
        folder / "vggsound.csv",
        *[(name, start, labels[start % 2], split) for name, start, split in clips],
    )
    for n, (name, start, _) in enumerate(clips[:24] + clips[-12:]):
        picture(folder / f"frames/{name}_{start:06d}.jpg", hue=10 * n)
        sound(folder / f"audio/{name}_{start:06d}.wav", pitch=90 * n)


def write_laion_coco(folder: Path) -> None:
    """What img2dataset leaves."""
    keys = [f"{n:09d}" for n in range(10)]
    captions = [f"a red square on {key}" for key in keys]
    parquet(
        folder / "00000.parquet",
        key=keys,
        caption=["alt"] * 10,
        top_caption=captions,
        status=["success"] * 10,
    )
    for n, key in enumerate(keys):
        picture(folder / f"00000/{key}.jpg", hue=30 * n)


def write_pix3d(folder: Path) -> None:
    entries = []
    for n in range(40):
        model = f"model/chair/IKEA_{n % 20}"
        entries.append(
            {
                "img": f"img/chair/{n:04d}.png",
                "category": "chair",
                "model": f"{model}/chair_obj.obj",
            }
        )
        entries[-1] |= {
            "mask": f"mask/chair/{n:04d}.png",
            "3d_keypoints": f"{model}/3d_keypoints.txt",
        }
        picture(folder / entries[-1]["img"], hue=9 * n)
        picture(folder / entries[-1]["mask"])
        mesh(folder / entries[-1]["model"], height=1 + n % 20)
        (folder / entries[-1]["3d_keypoints"]).write_text("0.1 0.2 0.3\n")
    write_json(folder / "pix3d.json", entries)


def write_kitti(folder: Path) -> None:
    """With a list of Eigen's: path of a picture, of a depth map, and a focal length."""
    kitti(folder, {"train": [f"{n:04d}" for n in range(14)], "val": ("0020", "0021")})
    tested = [kitti_picture(drive, 5) for drive in ("0002", "0003", "0020", "0021")]
    lines = "".join(f"{path} None 721.5377\n" for path in tested)
    (folder / "eigen_test_files.txt").write_text(lines)


def write_nyuv2(folder: Path) -> None:
    rooms = [f"room_{n:04d}" for n in range(14)]
    nyuv2(folder, {"sync": rooms, "official_splits/test": ("bath", "office")})


def write_imagenet(folder: Path) -> None:
    """Two classes of training; the 50,000 for validation lie flat, as they come."""
    for n in range(24):
        synset = ("n01440764", "n01443537")[n % 2]
        picture(folder / f"train/{synset}/{synset}_{n}.JPEG", hue=15 * n)
    for n in range(12):
        picture(folder / f"val/ILSVRC2012_val_{n:08d}.JPEG", hue=29 * n)


WRITERS = {
    "AUDIOCAPS": write_audiocaps,
    "FLICKR30K": write_flickr30k,
    "COCO": write_coco,
    "VGGSOUND": write_vggsound,
    "LAION": write_laion_coco,
    "PIX3D": write_pix3d,
    "KITTI": write_kitti,
    "NYUV2": write_nyuv2,
    "IMAGENET": write_imagenet,
}
