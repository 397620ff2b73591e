"""AudioCaps: sounds of AudioSet with captions written by people."""

from pathlib import Path

from flowbind.progress import say
from flowbind_datasets import youtube
from flowbind_datasets.annotations import read_rows
from flowbind_datasets.files import IMAGES, SOUNDS, File, Files
from flowbind_datasets.splits import SPLITS, Splits, captions_kept

COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
LAYOUT = (
    "train.csv, val.csv, test.csv, and anywhere below the folder a sound for each clip, named "
    "YOUTUBEID_START, YOUTUBEID_START_END, YYOUTUBEID, YOUTUBEID or AUDIOCAPID, .wav, .flac or .ogg"
)

Clip = tuple[str, int]  # its name at YouTube, and where it begins, in s


def prepare(
    out: Path,
    source: Path,
    annotations: Path | None = None,
    captions: str = "first",
    images: Path | None = None,
) -> None:
    """AudioCaps: text and audio, from its CSV files and a folder of sounds, in published splits.

    The CSV files are those of https://github.com/cdjkim/audiocaps, `dataset` (49,838 training
    captions) or `dataset2.0` (91,256); 495 clips for validation and 975 for testing have five
    captions each. "Free to use for academic purposes only", as its README says. The sounds, ten
    seconds each, are YouTube's and not distributed with it. A sound is found by its stem, in any
    sub-folder: YOUTUBEID_START, YOUTUBEID_START_END (in seconds or milliseconds), YOUTUBEID,
    YYOUTUBEID or AUDIOCAPID.

    Args:
        source: Folder of the sounds, and of train.csv, val.csv and test.csv if `annotations` does
            not say otherwise.
        annotations: Folder of the three CSV files.
        captions: Choice among those of a validation or test clip: `first`, one sample a clip, or
            `all`, a sample for each caption, which share the sound. Training always takes the
            first. Either way, captions that are generated are compared with all of the clip's.
        images: Folder of pictures of the clips, named as the sounds are; they make triplets.

    Raises:
        ValueError: no CSV file, one with other columns, or no sound.
    """
    chosen = captions_kept(captions)
    clips = _read(annotations or source)
    sounds = Files([source], audio=SOUNDS)
    pictures = None
    if images:
        pictures = Files([images], image=IMAGES)

    splits = Splits(out)
    for split, rows_of_clip in clips.items():
        for (clip, start), rows in rows_of_clip.items():
            names = [row["audiocap_id"] for row in rows]
            stems = [*youtube.stems(clip, start), *names]
            files = {"audio": sounds.find("audio", *stems)}
            if pictures:
                picture = pictures.find("image", *stems)
                files |= _with_picture(picture, splits, split)

            samples = rows[:1] if split == "train" else rows[chosen]
            splits.leave(split, len(rows) - len(samples))
            texts = [row["caption"] for row in rows]
            for row in samples:
                values: dict[str, str | File] = {"text": row["caption"], **files}
                splits.add(split, row["audiocap_id"], values, captions=texts)

    splits.write(source, LAYOUT)


def _with_picture(
    picture: File,
    splits: Splits,
    split: str,
) -> dict[str, File]:
    """A picture that is there; a clip without its picture is still a pair."""
    if picture.path:
        return {"image": picture}

    splits.miss(split, picture.name)
    return {}


def _read(folder: Path) -> dict[str, dict[Clip, list[dict[str, str]]]]:
    """By split, the rows of each clip, of the splits whose table is there.

    Raises:
        ValueError: no table is there, or one has other columns.
    """
    clips = {}
    missing = []
    for split in SPLITS:
        path = folder / f"{split}.csv"
        if path.is_file():
            clips[split] = _clips(path)
        else:
            missing.append(f"{path}: no such file, so there will be no {split}.jsonl")
    if not clips:
        raise ValueError(
            f"{folder}: no train.csv, val.csv or test.csv; the layout is: {LAYOUT}"
        )

    for line in missing:
        say(line)
    return clips


def _clips(path: Path) -> dict[Clip, list[dict[str, str]]]:
    """Rows of each clip, in the file's order."""
    clips: dict[Clip, list[dict[str, str]]] = {}
    for row in read_rows(path, COLUMNS):
        name = row["youtube_id"]
        start = youtube.start_of(name, row["start_time"], path)
        clips.setdefault((name, start), []).append(row)

    return clips
