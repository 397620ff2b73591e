"""VGGSound: clips of YouTube in which one sees what one hears."""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from flowbind.files import check_regular
from flowbind.progress import say, track
from flowbind_datasets import ffmpeg, youtube
from flowbind_datasets.annotations import read_rows
from flowbind_datasets.files import IMAGES, SOUNDS, File, Files
from flowbind_datasets.splits import Splits, held_out

COLUMNS = ("youtube id", "start", "label", "split")
VIDEOS = (".mp4", ".mkv", ".webm")
LAYOUT = (
    "vggsound.csv, and anywhere below the folder a video for each clip, or a picture and a sound, "
    "named YOUTUBEID_START, such as ---g-f_I2yQ_000001.mp4, "
    "or ---g-f_I2yQ_000001.jpg and ---g-f_I2yQ_000001.wav"
)


class Clip(NamedTuple):
    """A line of vggsound.csv, and the stems that its files may have."""

    id: str
    stems: Sequence[str]
    label: str
    split: str


def prepare(
    out: Path,
    source: Path,
    annotations: Path | None = None,
    extracted: Path | None = None,
    val_samples: int = 1_000,
    seed: int = 0,
) -> None:
    """VGGSound: image and audio, from vggsound.csv and videos or their frames and sounds.

    Its published split is kept.

    https://www.robots.ox.ac.uk/~vgg/data/vggsound: about 200,000 clips of ten seconds in 309
    classes, CC BY 4.0, while the videos are YouTube's. A file is found by its stem, in any
    sub-folder: YOUTUBEID_START (six digits or not), YOUTUBEID_START_END (in seconds or
    milliseconds), YOUTUBEID or YYOUTUBEID. Where a clip has a video but no picture or no sound,
    ffmpeg takes the frame in the middle and the sound in mono at 16 kHz; what it took is kept, and
    not taken again. The class becomes the label `class`. For validation, clips are held out of
    training.

    Args:
        source: Folder of the files.
        annotations: vggsound.csv, if it is not in `source`.
        extracted: Folder that receives frames and sounds taken from videos; `extracted` in `source`
            if it is not given.
        val_samples: Clips of training that are held out for validation.
        seed: Seed of that draw.

    Raises:
        ValueError: no such table, no clip, or videos alone where ffmpeg is not installed.
    """
    path = annotations or source / "vggsound.csv"
    clips = _read(path)
    training = [clip.id for clip in clips if clip.split == "train"]
    validation = held_out(training, val_samples, seed)

    extracted = extracted or source / "extracted"
    folders = [source]
    if extracted.is_dir():
        folders.append(extracted)
    files = Files(folders, image=IMAGES, audio=SOUNDS, video=VIDEOS)
    pairs = {clip.id: _pair(files, clip) for clip in clips}

    # Videos only of clips that lack a picture or a sound.
    videos = {}
    for clip in clips:
        if not all(file.path for file in pairs[clip.id].values()):
            video = files.find("video", *clip.stems)
            if video.path:
                videos[clip.id] = video.path

    _extract(pairs, videos, extracted)

    splits = Splits(out)
    for clip in clips:
        split = "val" if clip.id in validation else clip.split
        labels = {"class": clip.label}
        splits.add(split, clip.id, pairs[clip.id], labels=labels)

    splits.write(source, LAYOUT)


def _read(path: Path) -> list[Clip]:
    """Every clip once, in the table's order."""
    clips: dict[str, Clip] = {}
    for row in read_rows(path, COLUMNS, COLUMNS):
        name, start, label, split = (row[column] for column in COLUMNS)
        seconds = youtube.start_of(name, start, path)
        if split not in ("train", "test"):
            raise ValueError(
                f"{path}: clip '{name}' is in the split '{split}'; allowed: train, test"
            )

        stems = youtube.stems(name, seconds)
        clip = Clip(f"{name}_{seconds:06d}", stems, label, split)
        other = clips.setdefault(clip.id, clip)
        if other != clip:
            raise ValueError(
                f"{path}: clip '{clip.id}' is there twice, "
                f"as {other.label}, {other.split} and {label}, {split}"
            )

    return list(clips.values())


def _pair(files: Files, clip: Clip) -> dict[str, File]:
    """The picture and the sound of a clip."""
    image = files.find("image", *clip.stems)
    audio = files.find("audio", *clip.stems)
    return {"image": image, "audio": audio}


def _extract(
    pairs: dict[str, dict[str, File]],
    videos: dict[str, Path],
    folder: Path,
) -> None:
    """Takes what `pairs` lacks from videos into a folder, and puts it into `pairs`.

    What cannot be taken is named with the reason.

    Raises:
        ValueError: something is to be taken and ffmpeg is not installed.
    """
    jobs = []
    for id in videos:
        for kind, file in pairs[id].items():
            if not file.path:
                jobs.append((id, kind))

    if not jobs:
        return

    if not ffmpeg.installed():
        id, _ = jobs[0]
        first = videos[id]
        raise ValueError(
            f"{first} and others need ffmpeg, which is not installed; "
            "install it (Debian: apt-get install ffmpeg), "
            "or extract a picture and a sound of each video yourself, "
            "with its name and the suffixes .jpg and .wav"
        )

    def work(job: tuple[str, str]) -> File:
        id, kind = job
        return _take(kind, videos[id], folder / id)

    say(
        f"{folder}: receives frames and sounds; if this is stopped, what is there is kept"
    )
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        taken = pool.map(work, jobs)
        taken = track(taken, "taking frames and sounds from videos", total=len(jobs))
        for (id, kind), file in zip(jobs, taken, strict=True):
            pairs[id][kind] = file
    finally:
        # After an error or Ctrl-C what is not begun is not taken.
        pool.shutdown(cancel_futures=True)


def _take(kind: str, video: Path, place: Path) -> File:
    """Takes a picture or a sound from a video.

    Args:
        kind: `image` or `audio`.
        video: File of the video.
        place: Path of the file to write, without its suffix.
    """
    take: Callable[[Path, Path], None] = ffmpeg.take_frame
    target = place.with_name(f"{place.name}.jpg")
    if kind == "audio":
        take = ffmpeg.take_sound
        target = place.with_name(f"{place.name}.wav")

    try:
        check_regular(video, sys.maxsize)  # ffmpeg would wait for a pipe
        take(video, target)
    except ValueError as error:
        return File(f"{target.name}, from {video}: {error}", None)

    path = os.path.realpath(target)
    return File(target.name, Path(path))
