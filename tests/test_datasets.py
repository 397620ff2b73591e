"""Standard datasets: small ones in the layouts in which they are distributed become the manifests that they should."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile
from flowbind_audio import Audio
from flowbind_datasets import ffmpeg
from flowbind_image import Image
from flowbind_points import Points
from flowbind_text import Text

from flowbind.cli.prepare import options_of, run
from flowbind.data.manifest import Manifest
from flowbind.registry import load
from tests.layouts import (
    AUDIOCAPS,
    coco_part,
    coco_picture,
    depth_map,
    karpathy,
    kitti,
    kitti_depth,
    kitti_picture,
    mesh,
    nyuv2,
    parquet,
    picture,
    sound,
    table,
    write_json,
)

MODALITIES = {"text": Text, "image": Image, "audio": Audio, "points": Points}
NAMING = (
    "audiocaps",
    "flickr30k",
    "coco",
    "vggsound",
    "pix3d",
)  # files, in annotations
DATASETS = (*NAMING, "laion-coco", "kitti", "nyuv2")


@pytest.fixture
def prepare(tmp_path):
    """Runs `flowbind prepare NAME` into a folder of its own and gives the manifests' lines by split."""

    def prepared(name, out="out", **options):
        arguments = {"out": tmp_path / out, "source": tmp_path / "source"} | options
        run(
            "prepare",
            [
                name,
                *(
                    f"--{key.replace('_', '-')}={value}"
                    for key, value in arguments.items()
                ),
            ],
        )
        return {
            path.stem: [
                json.loads(line)
                for line in path.read_text(encoding="utf-8").splitlines()
            ]
            for path in (tmp_path / out).glob("*.jsonl")
        }

    return prepared


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def missing(tmp_path, out="out"):
    path = tmp_path / out / "missing.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def readable(tmp_path, out="out"):
    """Every sample of every manifest, read through the modalities."""
    for path in (tmp_path / out).glob("*.jsonl"):
        manifest = Manifest.read(path, MODALITIES)
        for sample in manifest.samples:
            for name in sample.values:
                manifest.read_raw(sample, name, MODALITIES[name]())
    return True


# AudioCaps


@pytest.fixture
def audiocaps_source(source):
    table(
        source / "train.csv",
        AUDIOCAPS,
        (91139, "r1nicOVtvkQ", 130, "A woman talks nearby as water pours"),
        (58146, "-jj2tyuf6-A", 80, "multiple clanging, and “clanking” sounds"),
        (17542, "ZBtgrP4vU_w", 22, "the wind is blowing"),
        (17543, "ZBtgrP4vU_w", 22, "a further caption of the same clip"),
        (5, "aaaaaaaaaaa", 0, "gone"),
    )
    table(
        source / "val.csv",
        AUDIOCAPS,
        *[(n, "vfYTJq7nU", 130, f"rustling {n}") for n in range(100, 105)],
    )
    # Captions of one clip are not next to each other in the published file.
    clips = [
        "7fmOlUlwoNg",
        "6BJ455B1aAs",
    ]
    table(
        source / "test.csv",
        AUDIOCAPS,
        *[
            (10 * n + k, clip, 20, f"{clip} {n}")
            for n in range(1, 6)
            for k, clip in enumerate(clips)
        ],
    )
    for name in (
        "wav/train/r1nicOVtvkQ_130",
        "wav/-jj2tyuf6-A_80_90",
        "a/YZBtgrP4vU_w",
        "val/100",
        "7fmOlUlwoNg_20000_30000",
    ):
        sound(source / f"{name}.wav")
    return source


def test_audiocaps(prepare, audiocaps_source, tmp_path, capsys):
    made = prepare("audiocaps")
    assert made["train"] == [
        {
            "id": "91139",
            "text": "A woman talks nearby as water pours",
            "audio": "../source/wav/train/r1nicOVtvkQ_130.wav",
        },
        {
            "id": "58146",
            "text": "multiple clanging, and “clanking” sounds",
            "audio": "../source/wav/-jj2tyuf6-A_80_90.wav",
        },
        {
            "id": "17542",
            "text": "the wind is blowing",
            "audio": "../source/a/YZBtgrP4vU_w.wav",
        },
    ]
    five = {"text": [f"rustling {n}" for n in range(100, 105)]}
    assert made["val"] == [
        {
            "id": "100",
            "text": "rustling 100",
            "audio": "../source/val/100.wav",
            "references": five,
        }
    ]
    (test,) = made["test"]
    assert test.pop("references") == {"text": [f"7fmOlUlwoNg {n}" for n in range(1, 6)]}
    assert test == {
        "id": "10",
        "text": "7fmOlUlwoNg 1",
        "audio": "../source/7fmOlUlwoNg_20000_30000.wav",
    }
    assert missing(tmp_path) == ["train\taaaaaaaaaaa_0.wav", "test\t6BJ455B1aAs_20.wav"]
    said = capsys.readouterr().err
    assert "train: 3 samples, 1 missing, 1 further captions left aside" in said
    assert (
        "test: 1 samples, 1 missing, 1 of them with up to 5 captions to compare with"
        in said
    )
    assert "missing.txt" in said
    assert readable(tmp_path)


def test_audiocaps_all_captions(prepare, audiocaps_source, tmp_path):
    made = prepare("audiocaps", captions="all")
    assert [line["id"] for line in made["train"]] == ["91139", "58146", "17542"]
    assert [line["text"] for line in made["test"]] == [
        f"7fmOlUlwoNg {n}" for n in range(1, 6)
    ]
    assert len({line["audio"] for line in made["test"]}) == 1
    assert len({line["id"] for line in made["test"]}) == 5
    assert all(len(line["references"]["text"]) == 5 for line in made["test"])
    assert len(missing(tmp_path)) == 2  # a file that five captions share is missed once


def test_audiocaps_triplets_and_annotations_elsewhere(
    prepare, audiocaps_source, tmp_path, capsys
):
    elsewhere = tmp_path / "dataset2.0"
    elsewhere.mkdir()
    for split in ("train", "test"):
        shutil.move(audiocaps_source / f"{split}.csv", elsewhere)
    picture(tmp_path / "pictures" / "7fmOlUlwoNg.png")
    made = prepare("audiocaps", annotations=elsewhere, images=tmp_path / "pictures")
    assert made.keys() == {"train", "test"}
    assert made["test"][0]["image"] == "../pictures/7fmOlUlwoNg.png"
    assert all("image" not in line for line in made["train"])
    assert "train\tr1nicOVtvkQ_130.jpg" in missing(tmp_path)
    assert "val.csv: no such file" in capsys.readouterr().err


def test_the_folder_may_be_reached_by_links(prepare, audiocaps_source, tmp_path):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "data").symlink_to(tmp_path / "disk" / "deep")
    shutil.move(audiocaps_source / "wav", tmp_path / "disk" / "wav")
    (audiocaps_source / "wav").symlink_to(tmp_path / "disk" / "wav")
    (audiocaps_source / "wav" / "circle").symlink_to(audiocaps_source)
    (tmp_path / "link").symlink_to(audiocaps_source)
    made = prepare("audiocaps", out="data/out", source=tmp_path / "link")
    assert len(made["train"]) == 3
    assert readable(tmp_path, "data/out")


# Flickr30k

FLICKR = {"1000092795": 2, "10002456": 5, "1000268201": 5, "1000344755": 5}


@pytest.fixture
def flickr_source(source):
    for name in ("1000092795", "10002456", "1000268201"):
        picture(source / "flickr30k-images" / f"{name}.jpg")
    return source


def annotate_flickr(source, splits=("train", "val", "test", "train")):
    named = {
        name: [f"{name} no. {n}" for n in range(count)]
        for name, count in FLICKR.items()
    }
    karpathy(
        source,
        {
            name: (split, texts)
            for (name, texts), split in zip(named.items(), splits, strict=True)
        },
    )


def test_flickr30k_by_karpathy(prepare, flickr_source, tmp_path, capsys):
    annotate_flickr(flickr_source)
    made = prepare("flickr30k")
    image = "../source/flickr30k-images/{}.jpg"
    for split, name in (("val", "10002456"), ("test", "1000268201")):
        assert made[split][0].pop("references") == {
            "text": [f"{name} no. {n}" for n in range(5)]
        }
    assert made == {
        "train": [
            {
                "id": "1000092795#0",
                "text": "1000092795 no. 0",
                "image": image.format("1000092795"),
            }
        ],
        "val": [
            {
                "id": "10002456#0",
                "text": "10002456 no. 0",
                "image": image.format("10002456"),
            }
        ],
        "test": [
            {
                "id": "1000268201#0",
                "text": "1000268201 no. 0",
                "image": image.format("1000268201"),
            }
        ],
    }
    assert missing(tmp_path) == ["train\t1000344755.jpg"]
    assert "train: 1 samples, 1 missing, 5 further captions" in capsys.readouterr().err
    assert [
        len(prepare("flickr30k", "all", captions="all")[split])
        for split in ("train", "val", "test")
    ] == [2, 5, 5]
    assert readable(tmp_path, "all")


def test_flickr30k_as_the_hub_has_it(prepare, flickr_source):
    rows = [
        (
            json.dumps([f"a “{name}”, and {n}" for n in range(count)]),
            "[]",
            split,
            f"{name}.jpg",
            0,
        )
        for (name, count), split in zip(
            FLICKR.items(), ("train", "val", "test", "train"), strict=True
        )
    ]
    table(
        flickr_source / "flickr_annotations_30k.csv",
        ("raw", "sentids", "split", "filename", "img_id"),
        *rows,
    )
    made = prepare("flickr30k")
    assert [made[split][0]["id"] for split in ("train", "val", "test")] == [
        "1000092795#0",
        "10002456#0",
        "1000268201#0",
    ]
    assert made["test"][0]["text"] == "a “1000268201”, and 0"


LAYOUTS = [  # name of the file, its first line, and a line of it
    ("results_20130124.token", "", '{name}.jpg#{n}\t"So-called" dogs , {n}'),
    (
        "results.csv",
        "image_name| comment_number| comment\n",
        '{name}.jpg | {n} | "So-called" dogs , {n}',
    ),
    (
        "captions.txt",
        "image_name|comment_number|comment\n",
        '{name}.jpg|{n}|"So-called" dogs , {n}',
    ),
    ("captions.txt", "image,caption\n", '{name}.jpg,"""So-called"" dogs , {n}"'),
]


@pytest.mark.parametrize(("name", "header", "line"), LAYOUTS)
def test_flickr30k_without_splits(prepare, flickr_source, name, header, line, capsys):
    lines = [
        line.format(name=image, n=n)
        for image, count in FLICKR.items()
        for n in range(count)
    ]
    (flickr_source / name).write_text(header + "\n".join(lines) + "\n")
    made = prepare("flickr30k", captions="all", val_samples=1, test_samples=1, seed=2)
    texts = {line["id"]: line["text"] for lines in made.values() for line in lines}
    there = list(FLICKR)[:3]
    assert texts == {
        f"{image}#{n}": f'"So-called" dogs , {n}'
        for image in there
        for n in range(FLICKR[image])
    }
    assert "drawn into them with the seed 2" in capsys.readouterr().err
    split_of = {
        line["id"].split("#")[0]: split
        for split, lines in made.items()
        for line in lines
    }
    for split, lines in made.items():
        assert {split_of[line["id"].split("#")[0]] for line in lines} == {split}


def test_flickr30k_s_draw_depends_on_the_seed_alone(prepare, flickr_source):
    (flickr_source / "captions.txt").write_text(
        "image,caption\n" + "".join(f"{image}.jpg,x\n" for image in FLICKR)
    )
    picture(flickr_source / "1000344755.jpg")
    drawn = [
        prepare("flickr30k", f"{k}", val_samples=1, test_samples=1, seed=k // 2)
        for k in range(10)
    ]
    assert drawn[::2] == drawn[1::2]
    for split in ("val", "test"):
        assert all(len(made[split]) == 1 for made in drawn)
        assert len({made[split][0]["id"] for made in drawn}) > 1


def test_a_caption_that_is_not_there_is_missed(prepare, flickr_source, tmp_path):
    """The published results.csv has such a line: a bar is missing in it."""
    lines = [
        "1000092795.jpg| 0| A dog",
        "1000092795.jpg| 1   A dog runs",
        "10002456.jpg| 0| B",
        "1000268201.jpg| 0| C",
    ]
    (flickr_source / "results.csv").write_text(
        "\n".join(["image_name| comment_number| comment", *lines])
    )
    made = prepare("flickr30k", captions="all", val_samples=1, test_samples=1)
    assert sum(map(len, made.values())) == 3
    assert [line.split("\t")[1] for line in missing(tmp_path)] == [
        "text of 1000092795#1"
    ]


def test_flickr30k_refuses_to_draw_where_splits_are_published(prepare, flickr_source):
    annotate_flickr(flickr_source)
    with pytest.raises(ValueError, match=r"published splits.*leave out"):
        prepare("flickr30k", val_samples=1)
    annotate_flickr(flickr_source, ("train", "val", "test", "restval"))
    with pytest.raises(
        ValueError, match=r"1000344755.jpg.*'restval'; allowed: train, val, test"
    ):
        prepare("flickr30k")


# COCO


def test_coco(prepare, source, tmp_path):
    coco_part(source, "train2014", range(8))
    coco_part(source, "val2014", range(10, 16))
    (source / "train2014" / "COCO_train2014_000000000003.jpg").unlink()
    made = prepare("coco", test_samples=6, val_samples=2)
    lines = {line["id"]: line for split in ("train", "val") for line in made[split]}
    assert lines.keys() == {
        f"COCO_train2014_{k:012d}#{100 * k}" for k in range(8) if k != 3
    }
    assert lines["COCO_train2014_000000000001#100"] == {
        "id": "COCO_train2014_000000000001#100",
        "text": "train2014 1 0",
        "image": "../source/train2014/COCO_train2014_000000000001.jpg",
    }
    assert (
        len(made["val"]) + sum(line.startswith("val") for line in missing(tmp_path))
        == 2
    )
    assert [line.split("\t")[1] for line in missing(tmp_path)] == [
        "COCO_train2014_000000000003.jpg"
    ]
    assert len({line["image"] for line in made["test"]}) == 6  # one of each image
    # Not always the first.
    assert len({line["text"].split()[2] for line in made["test"]}) > 1
    assert readable(tmp_path)
    for split, part in (("val", "train2014"), ("test", "val2014")):
        for line in made[split]:
            number = line["text"].split()[1]
            assert line["references"] == {
                "text": [f"{part} {number} {n}" for n in range(5)]
            }
    assert prepare("coco", "again", test_samples=6, val_samples=2) == made
    other = prepare("coco", "other", test_samples=6, val_samples=2, seed=1)
    assert {line["id"] for line in other["test"]} != {
        line["id"] for line in made["test"]
    }
    assert (
        len(
            prepare("coco", "all", captions="all", val_samples=0, test_samples=6)[
                "train"
            ]
        )
        == 35
    )


def test_coco_test_captions_are_spread_over_images(prepare, source, capsys):
    coco_part(source, "val2014", range(6))
    made = prepare("coco", test_samples=15)
    assert made.keys() == {"test"}
    counts = {
        image: sum(line["image"] == image for line in made["test"])
        for image in {line["image"] for line in made["test"]}
    }
    assert sorted(counts.values()) == [2, 2, 2, 3, 3, 3]
    assert len({line["id"] for line in made["test"]}) == 15
    assert "train2014: no such folder, so it is left out" in capsys.readouterr().err
    fewer = prepare("coco", "fewer", test_samples=4)
    assert {line["id"] for line in fewer["test"]} < {
        line["id"] for line in made["test"]
    }
    assert len(prepare("coco", "more", test_samples=31)["test"]) == 30
    assert "has 30 captions, so all of them are taken" in capsys.readouterr().err


def test_coco_in_karpathy_s_splits(prepare, source):
    """Captions and splits are his; what is of val2014 and in neither of his others is trained on."""
    coco_part(source, "train2014", range(4))
    coco_part(source, "val2014", range(4, 10))
    names = ("train", "train", "train", "val", "restval", "restval", "val", "test")
    images = {}
    for k, split in enumerate(names):
        stem = coco_picture("train2014" if k < 4 else "val2014", k).removesuffix(".jpg")
        images[stem] = (split, [f"his {k} {n}" for n in range(5)])
    karpathy(source, images, dataset="coco")
    file = source / "dataset_coco.json"

    made = prepare("coco", karpathy=file, captions="all", test_samples=1)
    assert {split: len(lines) for split, lines in made.items()} == {
        "train": 25,
        "val": 10,
        "test": 1,
    }
    trained = {line["text"].split()[1] for line in made["train"]}
    assert trained == {"0", "1", "2", "4", "5"}
    (line,) = made["test"]
    assert line["image"] == f"../source/val2014/{coco_picture('val2014', 7)}"
    assert line["references"] == {"text": [f"his 7 {n}" for n in range(5)]}
    first = prepare("coco", "one", karpathy=file)
    assert {split: len(lines) for split, lines in first.items()} == {
        "train": 5,
        "val": 2,
        "test": 5,
    }

    for more in ({"year": 2017}, {"val_samples": 1}):
        with pytest.raises(ValueError, match=r"has splits of 2014.*leave out year"):
            prepare("coco", "more", karpathy=file, **more)
    karpathy(source, {"a": ("rest", ["x"])}, dataset="coco")
    with pytest.raises(ValueError, match="'rest'; allowed: train, val, test"):
        prepare("coco", "wrong", karpathy=file)


def test_coco_of_2017_in_a_folder_of_images(prepare, source):
    coco_part(source, "train2017", range(4))
    (source / "images").mkdir()
    shutil.move(source / "train2017", source / "images")
    made = prepare("coco", year=2017, val_samples=1)
    assert [len(made[split]) for split in ("train", "val")] == [3, 1]
    with pytest.raises(ValueError, match="year is 2015, allowed are 2014 and 2017"):
        prepare("coco", year=2015)


# VGGSound

CLIPS = [
    ("---g-f_I2yQ", 1, "people marching", "test"),
    ("--0PQM4-hqg", 30, "female speech, woman speaking", "train"),
    ("--56QUhyDQM", 185, "playing tennis", "train"),
    ("-0jeONf82dE", 27, "waterfall burbling", "train"),
]


@pytest.fixture
def vggsound_source(source):
    spaced = [
        (clip, start, f" {label}", f" {split} ") for clip, start, label, split in CLIPS
    ]
    table(source / "vggsound.csv", *spaced)
    return source


def test_vggsound_extracted(prepare, vggsound_source, tmp_path):
    for name in ("---g-f_I2yQ_000001", "--0PQM4-hqg_000030", "-0jeONf82dE_27000_37000"):
        picture(vggsound_source / "frames" / f"{name}.jpg")
        sound(vggsound_source / "audio" / f"{name}.wav")
    picture(vggsound_source / "frames" / "--56QUhyDQM_000185.jpg")
    made = prepare("vggsound", val_samples=0)
    assert made["test"] == [
        {
            "id": "---g-f_I2yQ_000001",
            "image": "../source/frames/---g-f_I2yQ_000001.jpg",
            "audio": "../source/audio/---g-f_I2yQ_000001.wav",
            "labels": {"class": "people marching"},
        }
    ]
    assert [line["labels"]["class"] for line in made["train"]] == [
        "female speech, woman speaking",
        "waterfall burbling",
    ]
    assert missing(tmp_path) == ["train\t--56QUhyDQM_185.wav"]
    assert readable(tmp_path)
    held = prepare("vggsound", "held", val_samples=1)
    assert len(held.get("val", [])) + len(held["train"]) == 2
    assert prepare("vggsound", "again", val_samples=1) == held


def test_vggsound_without_ffmpeg(prepare, vggsound_source, monkeypatch):
    (vggsound_source / "---g-f_I2yQ_000001.mp4").write_bytes(b"x")
    monkeypatch.setattr(ffmpeg.shutil, "which", lambda program: None)
    with pytest.raises(
        ValueError,
        match=r"I2yQ_000001.mp4 and others need ffmpeg.*install.*extract a picture and a sound",
    ):
        prepare("vggsound", val_samples=0)


def test_vggsound_takes_from_videos_what_is_not_there(
    prepare, vggsound_source, tmp_path, monkeypatch
):
    """ffmpeg's two jobs stubbed: what is asked of it, once, and what becomes of a video that it cannot read."""
    asked = []

    def taking(write):
        def take(video, target):
            asked.append((video.name, target.name))
            if video.name.startswith("--56"):
                raise ValueError("moov atom not found")
            write(target)

        return take

    monkeypatch.setattr(ffmpeg, "installed", lambda: True)
    monkeypatch.setattr(ffmpeg, "take_frame", taking(picture))
    monkeypatch.setattr(ffmpeg, "take_sound", taking(sound))
    for clip, start, *_ in CLIPS[:3]:
        (vggsound_source / f"{clip}_{start:06d}.mp4").write_bytes(b"x")
    picture(vggsound_source / "---g-f_I2yQ_000001.png")
    made = prepare("vggsound", val_samples=0)
    assert sorted(asked) == [
        ("---g-f_I2yQ_000001.mp4", "---g-f_I2yQ_000001.wav"),
        ("--0PQM4-hqg_000030.mp4", "--0PQM4-hqg_000030.jpg"),
        ("--0PQM4-hqg_000030.mp4", "--0PQM4-hqg_000030.wav"),
        ("--56QUhyDQM_000185.mp4", "--56QUhyDQM_000185.jpg"),
        ("--56QUhyDQM_000185.mp4", "--56QUhyDQM_000185.wav"),
    ]
    assert made["test"][0]["image"] == "../source/---g-f_I2yQ_000001.png"
    assert made["test"][0]["audio"] == "../source/extracted/---g-f_I2yQ_000001.wav"
    assert made["train"][0]["image"] == "../source/extracted/--0PQM4-hqg_000030.jpg"
    assert sum("moov atom not found" in line for line in missing(tmp_path)) == 2
    asked.clear()
    assert prepare("vggsound", "again", val_samples=0) == made
    # The rest is kept.
    assert {video for video, _ in asked} == {"--56QUhyDQM_000185.mp4"}
    elsewhere = prepare(
        "vggsound", "other", val_samples=0, extracted=vggsound_source / "extracted"
    )
    assert elsewhere == made


@pytest.mark.skipif(
    not ffmpeg.installed(), reason="needs ffmpeg (Debian: apt-get install ffmpeg)"
)
def test_vggsound_from_videos(prepare, vggsound_source, tmp_path):
    """A video that is red for its first half and blue for the rest, with a tone; one without sound; one that is damaged."""
    videos = vggsound_source / "video"
    videos.mkdir()
    colours = [
        "-f",
        "lavfi",
        "-i",
        "color=red:s=64x48:r=10:d=0.8",
        "-f",
        "lavfi",
        "-i",
        "color=blue:s=64x48:r=10:d=1.2",
    ]
    tone = ["-f", "lavfi", "-i", "sine=frequency=1000:sample_rate=44100:duration=2"]
    joined = ["-filter_complex", "[0:v][1:v]concat=n=2:v=1[v]", "-map", "[v]"]

    def make(*command):
        subprocess.run(["ffmpeg", "-v", "error", "-y", *command], check=True)

    make(
        *colours,
        *tone,
        *joined,
        "-map",
        "2:a",
        "-ac",
        "2",
        f"file:{videos / '---g-f_I2yQ_000001.mp4'}",
    )
    make(*colours, *joined, f"file:{videos / '--0PQM4-hqg_000030.mp4'}")
    (videos / "--56QUhyDQM_000185.mp4").write_bytes(b"\0" * 999)
    made = prepare("vggsound", val_samples=0)
    assert made.keys() == {"test"}
    assert readable(tmp_path)
    frame = np.asarray(
        PIL.Image.open(vggsound_source / "extracted" / "---g-f_I2yQ_000001.jpg")
    ).mean((0, 1))
    assert frame[2] > 200
    assert frame[0] < 50
    wave, rate = soundfile.read(
        vggsound_source / "extracted" / "---g-f_I2yQ_000001.wav"
    )
    assert rate == 16000
    assert wave.ndim == 1
    assert len(wave) == pytest.approx(32000, rel=0.05)
    assert np.abs(np.fft.rfft(wave[:16000])).argmax() == 1000
    lines = missing(tmp_path)
    assert sum("--0PQM4-hqg_000030.wav" in line for line in lines) == 1
    assert sum("--56QUhyDQM_000185.mp4" in line for line in lines) == 2
    assert {path.name for path in (vggsound_source / "extracted").iterdir()} == {
        "---g-f_I2yQ_000001.jpg",
        "---g-f_I2yQ_000001.wav",
        "--0PQM4-hqg_000030.jpg",
    }


@pytest.mark.skipif(
    not ffmpeg.installed(), reason="needs ffmpeg (Debian: apt-get install ffmpeg)"
)
@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {other}\n",
    ],
)
def test_a_playlist_by_the_name_of_a_video_opens_no_other_file(tmp_path, text):
    other, video = tmp_path / "other.mp4", tmp_path / "video.mp4"
    tone = ("-f", "lavfi", "-i", "sine=duration=1")
    subprocess.run(["ffmpeg", "-v", "error", *tone, f"file:{other}"], check=True)
    ffmpeg.take_sound(other, tmp_path / "other.wav")
    video.write_text(text.format(other=other.name))
    for take in (ffmpeg.take_sound, ffmpeg.take_frame):
        with pytest.raises(ValueError, match="Invalid"):
            take(video, tmp_path / "taken")
    assert {path.name for path in tmp_path.iterdir()} == {
        "other.mp4",
        "other.wav",
        "video.mp4",
    }


def test_a_full_disk_is_no_damaged_video(monkeypatch, tmp_path):
    said = "av_interleaved_write_frame(): No space left on device\nConversion failed!"
    monkeypatch.setattr(
        ffmpeg.subprocess,
        "run",
        lambda *_, **__: subprocess.CompletedProcess((), 1, "", said),
    )
    with pytest.raises(OSError, match="No space left") as caught:
        ffmpeg.take_sound(tmp_path / "a.mp4", tmp_path / "a.wav")
    assert "a.wav" in caught.value.filename
    assert not list(tmp_path.iterdir())


# LAION-COCO


@pytest.fixture
def downloaded(source):
    """What img2dataset leaves: two shards of five, two images of which could not be downloaded."""
    for shard in range(2):
        keys = [f"{shard:05d}{k:04d}" for k in range(5)]
        there = [k != 1 for k in range(5)]
        parquet(
            source / f"{shard:05d}.parquet",
            url=[f"http://x/{key}.jpg" for key in keys],
            key=keys,
            caption=[f"alt {key}" for key in keys],
            top_caption=[f"a picture of {key}" for key in keys],
            status=["success" if ok else "failed_to_download" for ok in there],
        )
        write_json(source / f"{shard:05d}_stats.json", {"count": 5})
        for key, ok in zip(keys, there, strict=True):
            if ok:
                picture(source / f"{shard:05d}" / f"{key}.jpg")
                (source / f"{shard:05d}" / f"{key}.txt").write_text(f"alt {key}\n")
                write_json(
                    source / f"{shard:05d}" / f"{key}.json",
                    {"key": key, "caption": f"alt {key}"},
                )
    return source


def test_laion_coco(prepare, downloaded, tmp_path, capsys):
    made = prepare("laion-coco")
    keys = [f"{shard:05d}{k:04d}" for shard in range(2) for k in (0, 2, 3, 4)]
    assert made == {
        "train": [
            {
                "id": key,
                "text": f"a picture of {key}",
                "image": f"../source/{key[:5]}/{key}.jpg",
            }
            for key in keys
        ]
    }
    assert missing(tmp_path) == ["train\t000000001.jpg", "train\t000010001.jpg"]
    assert readable(tmp_path)
    few = prepare("laion-coco", "few", limit=3)
    assert len(few["train"]) == 3
    assert [line["id"] for line in few["train"]] == sorted(
        line["id"] for line in few["train"]
    )
    assert prepare("laion-coco", "again", limit=3) == few
    assert any(
        prepare("laion-coco", f"{seed}", limit=3, seed=seed) != few
        for seed in range(1, 4)
    )
    assert "3 of 8 samples were drawn" in capsys.readouterr().err


def test_laion_coco_from_text_files(prepare, downloaded, tmp_path, capsys):
    for path in downloaded.glob("*.parquet"):
        path.unlink()
    (downloaded / "00000" / "000000003.txt").unlink()
    (downloaded / "00001" / "000010004.txt").write_text("  \n")
    made = prepare("laion-coco")["train"]
    assert [line["text"] for line in made] == [
        f"alt {key}"
        for key in (
            "000000000",
            "000000002",
            "000000004",
            "000010000",
            "000010002",
            "000010003",
        )
    ]
    assert missing(tmp_path) == ["train\ttext of 000010004"]
    assert "images without a caption, left aside: 1" in capsys.readouterr().err


def test_laion_coco_draws_among_what_can_be_used(prepare, source, tmp_path):
    """Tables of one name in two folders are both read; a caption without words is missed, and never drawn."""
    parquet(source / "a" / "part.parquet", key=["0", "1"], caption=["one", " "])
    parquet(source / "b" / "part.parquet", key=["2"], caption=["two"])
    for key in range(3):
        picture(source / f"{key}.jpg")
    for seed in range(3):
        assert {
            line["text"]
            for line in prepare("laion-coco", f"{seed}", limit=2, seed=seed)["train"]
        } == {
            "one",
            "two",
        }
    assert missing(tmp_path, "0") == ["train\ttext of 1"]


def test_laion_coco_in_one_folder_of_images(prepare, source):
    parquet(
        source / "meta" / "part.parquet", key=[7, 8], caption=["sept \n huit", None]
    )
    for key in (7, 8):
        picture(source / "images" / f"{key}.webp")
    assert prepare("laion-coco")["train"] == [
        {"id": "7", "text": "sept huit", "image": "../source/images/7.webp"}
    ]


def test_laion_coco_mistakes(prepare, source, monkeypatch):
    picture(source / "0.jpg")
    parquet(source / "laion.parquet", URL=["http://x"], TEXT=["x"], top_caption=["y"])
    with pytest.raises(
        ValueError,
        match=r"needs the columns key and .*found URL, TEXT, top_caption; .*img2dataset",
    ):
        prepare("laion-coco")
    (source / "laion.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        ValueError, match=r"laion.parquet: not a whole parquet file"
    ) as caught:
        prepare("laion-coco")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="limit is 0"):
        prepare("laion-coco", limit=0)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ValueError, match="needs pyarrow; install it with `pip install "
    ):
        prepare("laion-coco")
    for path in source.iterdir():
        path.unlink()
    (source / "00000.tar").write_bytes(b"x")
    with pytest.raises(ValueError, match="unpack"):
        prepare("laion-coco")


def test_laion_coco_of_two_downloads_in_one_folder(prepare, source):
    picture(source / "0.jpg")
    parquet(source / "a.parquet", key=["0"], caption=["one"])
    parquet(source / "b.parquet", key=["0"], caption=["another"])
    with pytest.raises(ValueError, match="two captions for the key 0"):
        prepare("laion-coco")


# Pix3D


@pytest.fixture
def pix3d_source(source):
    entries = []
    for k in range(20):
        model = f"model/bed/IKEA_{k % 10}/malm_obj.obj"
        entries.append(
            {
                "img": f"img/bed/{k:04d}.png",
                "category": "bed",
                "model": model,
                "mask": f"mask/bed/{k:04d}.png",
                "bbox": [0, 0, 1, 1],
            }
        )
        picture(source / entries[-1]["img"])
        picture(source / entries[-1]["mask"])
        mesh(source / model)
    write_json(source / "pix3d.json", entries)
    return source


def test_pix3d(prepare, pix3d_source, tmp_path):
    (pix3d_source / "img/bed/0004.png").unlink()
    made = prepare("pix3d", val=0.2)
    lines = {line["id"]: line for lines in made.values() for line in lines}
    assert len(lines) == 19
    assert lines["bed/0013"] == {
        "id": "bed/0013",
        "image": "../source/img/bed/0013.png",
        "points": "../source/model/bed/IKEA_3/malm_obj.obj",
        "labels": {"category": "bed"},
    }
    models = {
        split: {line["points"] for line in lines} for split, lines in made.items()
    }
    assert {split: len(found) for split, found in models.items()} == {
        "train": 7,
        "val": 2,
        "test": 1,
    }
    assert len(set.union(*models.values())) == 10
    assert [line.split("\t")[1] for line in missing(tmp_path)] == ["img/bed/0004.png"]
    assert readable(tmp_path)
    assert prepare("pix3d", "again", val=0.2) == made
    assert any(
        prepare("pix3d", f"{seed}", val=0.2, seed=seed) != made for seed in range(1, 4)
    )
    with pytest.raises(ValueError, match="shares of the models"):
        prepare("pix3d", val=0.5, test=0.5)


def test_pix3d_may_name_a_picture_twice(prepare, pix3d_source):
    """Ids are unique all the same, as a manifest's must be."""
    entries = json.loads((pix3d_source / "pix3d.json").read_text())
    write_json(pix3d_source / "pix3d.json", [*entries, entries[0]])
    made = prepare("pix3d", val=0, test=0)["train"]
    assert [line["id"] for line in made if "0000" in line["id"]] == [
        "bed/0000",
        "bed/0000#2",
    ]


# KITTI


@pytest.fixture
def kitti_source(source):
    kitti(source, {"train": ("0001", "0002", "0003", "0004"), "val": ("0005",)})
    return source


def drives(lines):
    return {line["id"].split("/")[0][17:21] for line in lines}


def test_kitti(prepare, kitti_source, tmp_path):
    (kitti_source / kitti_picture("0005", 6)).unlink()
    made = prepare("kitti", val=0.25)
    assert {split: len(lines) for split, lines in made.items()} == {
        "train": 6,
        "val": 2,
        "test": 1,
    }
    (line,) = made["test"]
    assert line == {
        "id": "2011_09_26_drive_0005_sync/image_02/0000000005",
        "image": f"../source/{kitti_picture('0005', 5)}",
        "depth": f"../source/{kitti_depth('val', '0005', 5)}",
    }
    assert missing(tmp_path) == [
        "test\timage of 2011_09_26_drive_0005_sync/image_02/0000000006"
    ]
    assert drives(made["train"]).isdisjoint(drives(made["val"]))
    assert prepare("kitti", "again", val=0.25) == made


def test_kitti_by_a_list_trains_on_no_drive_that_it_names(
    prepare, kitti_source, tmp_path, capsys
):
    names = tmp_path / "eigen.txt"
    names.write_text(
        f"{kitti_picture('0002', 6)} None 721.5377\n"
        f"{kitti_picture('0005', 9)} {kitti_depth('val', '0005', 9)} 721.5377\n"
    )
    made = prepare("kitti", test_list=names, val=0.0)
    assert [line["id"][17:] for line in made["test"]] == [
        "0002_sync/image_02/0000000006"
    ]
    assert drives(made["train"]) == {"0001", "0003", "0004"}
    assert "left aside 3 depth maps of drives" in capsys.readouterr().err
    assert len(missing(tmp_path)) == 2  # picture and depth map of the second

    names.write_text("2011_09_26/image.png\n")
    with pytest.raises(ValueError, match=r"eigen.txt:1: '2011_09_26/image.png' is no"):
        prepare("kitti", "wrong", test_list=names)
    names.write_text("\n")
    with pytest.raises(ValueError, match=r"eigen.txt: has no line"):
        prepare("kitti", "empty", test_list=names)
    with pytest.raises(ValueError, match="val is a share of the training drives"):
        prepare("kitti", "all", val=1.0)


# NYU Depth V2


def test_nyuv2(prepare, source, tmp_path):
    scenes = {
        "sync": ("study_0001a", "study_0001b", "bath_0002", "bath_0003"),
        "official_splits/train": ("study_0001a",),  # among those of sync
        "official_splits/test": ("office",),
    }
    nyuv2(source, scenes)
    (source / "sync/bath_0002/rgb_00001.jpg").unlink()
    made = prepare("nyuv2", val=0.34)
    assert [line["id"] for line in made["test"]] == ["office/00000", "office/00001"]
    assert made["test"][0] == {
        "id": "office/00000",
        "image": "../source/official_splits/test/office/rgb_00000.jpg",
        "depth": "../source/official_splits/test/office/sync_depth_00000.png",
    }
    rooms = {}
    for split in ("train", "val"):
        rooms[split] = {line["id"].split("/")[0].rstrip("ab") for line in made[split]}
    assert rooms["train"] | rooms["val"] == {"study_0001", "bath_0002", "bath_0003"}
    assert rooms["train"].isdisjoint(rooms["val"])
    assert len(made["train"]) + len(made["val"]) == 7
    assert [line.split("\t")[1] for line in missing(tmp_path)] == [
        "bath_0002/rgb_00001.jpg"
    ]
    shutil.rmtree(source / "sync")
    alone = prepare("nyuv2", "labelled", val=0.0)
    assert [line["id"] for line in alone["train"]] == [
        "study_0001a/00000",
        "study_0001a/00001",
    ]
    with pytest.raises(ValueError, match="val is a share of the training rooms"):
        prepare("nyuv2", val=1.0)


# All of them


def everything(source):
    """Every dataset's annotations in one folder, without any file that they name."""
    table(source / "test.csv", AUDIOCAPS, (1, "abc", 0, "x"))
    annotate_flickr(source)
    coco_part(source, "val2014", [1], there=False)
    (source / "val2014").mkdir()
    table(source / "vggsound.csv", *CLIPS)
    parquet(source / "a.parquet", key=["0"], caption=["one"])
    write_json(
        source / "pix3d.json",
        [{"img": "img/a.png", "model": "model/a.obj", "category": "bed"}],
    )
    depth_map(source / kitti_depth("train", "0001", 5), scale=256)
    depth_map(source / "sync/study_0001a/sync_depth_00000.png")


@pytest.mark.parametrize("name", DATASETS)
def test_no_sample_is_a_mistake_that_tells_the_layout(prepare, source, tmp_path, name):
    everything(source)
    options = {"val_samples": 0} if name == "vggsound" else {}
    with pytest.raises(
        ValueError,
        match=r"no sample found, \d+ files are missing, such as .*; the layout is: ",
    ) as caught:
        prepare(name, **options)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_folder_is_a_mistake(prepare, source, name):
    with pytest.raises(ValueError, match=str(source)) as caught:
        prepare(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", DATASETS)
def test_every_option_has_help(name):
    for option, (kind, _, help) in options_of(load("datasets", name)).items():
        assert help, option
        assert kind in (Path, str, int, float)


def escape(source, name):
    if name == "audiocaps":
        table(source / "test.csv", AUDIOCAPS, (1, "../secret", 0, "x"))
    elif name == "flickr30k":
        annotate_flickr(source)
        text = (source / "dataset_flickr30k.json").read_text()
        (source / "dataset_flickr30k.json").write_text(
            text.replace("10002456.jpg", "../secret.jpg")
        )
    elif name == "coco":
        coco_part(source, "val2014", [1])
        text = (source / "annotations/captions_val2014.json").read_text()
        (source / "annotations/captions_val2014.json").write_text(
            text.replace("COCO_val", "/etc/COCO_val")
        )
    elif name == "vggsound":
        table(source / "vggsound.csv", ("..\\\\secret", 1, "x", "test"))
    else:
        write_json(
            source / "pix3d.json",
            [{"img": "img/../../secret.png", "model": "m.obj", "category": "bed"}],
        )


@pytest.mark.parametrize("name", NAMING)
def test_names_that_lead_out_of_the_folder_are_refused(prepare, source, tmp_path, name):
    picture(tmp_path / "secret.png")
    escape(source, name)
    with pytest.raises(ValueError, match="leads out of the dataset's folder"):
        prepare(name)


def test_laion_coco_looks_keys_up_in_its_folder_alone(prepare, source, tmp_path):
    picture(tmp_path / "secret.jpg")
    picture(source / "0.jpg")
    parquet(source / "a.parquet", key=["0", "../secret"], caption=["one", "two"])
    assert [line["id"] for line in prepare("laion-coco")["train"]] == ["0"]
    assert missing(tmp_path) == ["train\t../secret.jpg"]


WRONG = {
    "other columns": (
        "audiocaps",
        "test.csv",
        "id,caption\n1,x\n",
        "needs the columns audiocap_id, youtube_id, start_time, caption; found id, caption",
    ),
    "an empty table": ("audiocaps", "test.csv", "", "found none"),
    "no number": (
        "audiocaps",
        "test.csv",
        "audiocap_id,youtube_id,start_time,caption\n1,abc,soon,x\n",
        "clip 'abc' starts at 'soon'",
    ),
    "too many cells": (
        "audiocaps",
        "test.csv",
        "audiocap_id,youtube_id,start_time,caption\n1,abc,0,x, y\n",
        "line 2: 5 cells where there are 4",
    ),
    "no table": (
        "vggsound",
        "vggsound.csv",
        "abc,1,label\n",
        "line 1: 3 cells where there are 4 columns",
    ),
    "another split": (
        "vggsound",
        "vggsound.csv",
        "abc,1,label,eval\n",
        "split 'eval'; allowed: train, test",
    ),
    "one clip in two splits": (
        "vggsound",
        "vggsound.csv",
        "abc,1,x,test\nabc,1,x,train\n",
        "'abc_000001' is there twice",
    ),
    "captions elsewhere": (
        "flickr30k",
        "captions.txt",
        "picture,words\n1.jpg,x\n",
        "needs the columns image or image_name, caption or comment; found picture, words",
    ),
    "captions not in JSON": (
        "flickr30k",
        "flickr_annotations_30k.csv",
        "raw,split,filename\nx,test,1.jpg\n",
        "'raw' of 1.jpg must be a list",
    ),
    "another JSON": (
        "flickr30k",
        "dataset_flickr30k.json",
        '{"images": [{"file_name": "x"}]}',
        "with the keys filename, split, sentences; number 0 has file_name",
    ),
    "no JSON": ("pix3d", "pix3d.json", "{", "pix3d.json: not JSON"),
    "no list": (
        "pix3d",
        "pix3d.json",
        "{}",
        "must be a list of objects with the keys img, model, category, not dict",
    ),
    "another type": (
        "pix3d",
        "pix3d.json",
        '[{"img": 1, "model": "m", "category": "c"}]',
        "'img' of number 0 is 1",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_other_layouts_are_one_line_that_tells_what_was_found(prepare, source, mistake):
    name, file, content, said = WRONG[mistake]
    (source / file).write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        prepare(name, **({"val_samples": 0} if name == "vggsound" else {}))
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_coco_annotations_of_another_kind(prepare, source):
    coco_part(source, "val2014", [1])
    path = source / "annotations/captions_val2014.json"
    content = json.loads(path.read_text())
    write_json(path, content | {"annotations": [{"id": 1, "image_id": 1, "bbox": []}]})
    with pytest.raises(
        ValueError,
        match="with the keys id, image_id, caption; number 0 has id, image_id, bbox",
    ):
        prepare("coco")
    write_json(path, content | {"images": []})
    with pytest.raises(
        ValueError, match="the image of caption 100 is not among its images"
    ):
        prepare("coco")


def test_text_that_is_not_utf8_is_named(prepare, source):
    (source / "test.csv").write_bytes(
        ",".join(AUDIOCAPS).encode() + b"\n1,abc,0,caf\xe9\n"
    )
    with pytest.raises(ValueError, match=r"test.csv: not UTF-8"):
        prepare("audiocaps")


def test_two_files_of_one_name_are_refused_when_they_are_meant(
    prepare, audiocaps_source
):
    sound(audiocaps_source / "other" / "unnamed.wav")
    sound(audiocaps_source / "wav" / "unnamed.wav")
    prepare("audiocaps")  # nobody asked for them
    sound(audiocaps_source / "other" / "r1nicOVtvkQ_130.flac")
    with pytest.raises(
        ValueError, match=r"two files for 'r1nicOVtvkQ_130', .*keep one"
    ):
        prepare("audiocaps", "other")


def test_names_are_compared_as_characters_not_as_bytes(prepare, source):
    """A name in decomposed Unicode, as macOS keeps it, is the composed one of the annotations."""
    (source / "captions.txt").write_text(
        "image,caption\ncafé.jpg,x\nb.jpg,y\n", encoding="utf-8-sig"
    )
    picture(source / "cafe\u0301.jpg")
    assert (
        prepare("flickr30k", val_samples=0, test_samples=0)["train"][0]["id"]
        == "café#0"
    )


@pytest.mark.parametrize("name", ["audiocaps", "flickr30k", "coco"])
def test_captions_are_first_or_all(prepare, source, name):
    everything(source)
    with pytest.raises(
        ValueError, match=r"captions is 'one', allowed are first .* and all"
    ):
        prepare(name, captions="one")


def test_a_held_out_split_leaves_something_to_train_on(prepare, source):
    coco_part(source, "train2014", range(3))
    with pytest.raises(ValueError, match="val_samples is 3; of 3 for training 0 to 2"):
        prepare("coco", val_samples=3)
    (source / "captions.txt").write_text("image,caption\na.jpg,x\nb.jpg,y\n")
    with pytest.raises(
        ValueError, match="val_samples 1014 and test_samples 1000 of 2 images"
    ):
        prepare("flickr30k")
