"""AudioCaps: sounds of AudioSet with captions written by people."""

from pathlib import Path

from flowbind.progress import say
from flowbind_datasets import youtube
from flowbind_datasets.annotations import read_rows
from flowbind_datasets.files import IMAGES, SOUNDS, Files
from flowbind_datasets.splits import SPLITS, Splits, captions_kept

COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
LAYOUT = (
    "train.csv, val.csv, test.csv, and anywhere below the folder a sound for each clip, named "
    "YOUTUBEID_START, YOUTUBEID_START_END, YYOUTUBEID, YOUTUBEID or AUDIOCAPID, .wav, .flac or .ogg"
)


def prepare(
    out: Path,
    source: Path,
    annotations: Path | None = None,
    captions: str = "first",
    images: Path | None = None,
) -> None:
    """AudioCaps: text and audio, from its CSV files and a folder of sounds, with its published splits.

    The CSV files are those of https://github.com/cdjkim/audiocaps, `dataset` (49,838 training captions) or `dataset2.0`
    (91,256); 495 clips for validation and 975 for testing have five captions each. "Free to use for academic purposes
    only", as its README says. The sounds, ten seconds each, are YouTube's and not distributed with it. A sound is found by
    its stem, in any sub-folder: YOUTUBEID_START, YOUTUBEID_START_END (in seconds or milliseconds), YOUTUBEID, YYOUTUBEID or
    AUDIOCAPID.

    Args:
        source: Folder of the sounds, and of train.csv, val.csv and test.csv if `annotations` does not say otherwise.
        annotations: Folder of the three CSV files.
        captions: Of validation and test clips: `first`, one sample a clip, or `all`, a sample for each caption, which
            share the sound. Training always takes the first. Either way, captions that are generated are compared with
            all of the clip's.
        images: Folder of pictures of the clips, named as the sounds are; they make triplets.

    Raises:
        ValueError: no CSV file, one with other columns, or no sound.
    """
    kept = captions_kept(captions)
    tables = {split: (annotations or source) / f"{split}.csv" for split in SPLITS}
    there = {split: path for split, path in tables.items() if path.is_file()}
    if not there:
        raise ValueError(
            f"{annotations or source}: no train.csv, val.csv or test.csv; the layout is: {LAYOUT}"
        )
    clips = {split: _clips(path) for split, path in there.items()}
    for split in (split for split in SPLITS if split not in there):
        say(f"{tables[split]}: no such file, so there will be no {split}.jsonl")
    sounds = Files([source], audio=SOUNDS)
    pictures = Files([images], image=IMAGES) if images else None
    splits = Splits(out)
    for split, found in clips.items():
        for (clip, start), rows in found.items():
            stems = *youtube.stems(clip, start), *(row["audiocap_id"] for row in rows)
            files = {"audio": sounds.find("audio", *stems)}
            if pictures:
                picture = pictures.find("image", *stems)
                files |= {"image": picture} if picture.path else {}
                if not picture.path:
                    splits.miss(split, picture.name)
            taken = rows[:1] if split == "train" else rows[kept]
            splits.leave(split, len(rows) - len(taken))
            captions = [row["caption"] for row in rows]
            for row in taken:
                splits.add(
                    split, row["audiocap_id"], captions=captions, text=row["caption"], **files
                )
    splits.write(source, LAYOUT)


def _clips(path: Path) -> dict[tuple[str, int], list[dict[str, str]]]:
    """Rows of each clip, in the file's order."""
    clips: dict[tuple[str, int], list[dict[str, str]]] = {}
    for row in read_rows(path, COLUMNS):
        clip = row["youtube_id"]
        clips.setdefault((clip, youtube.start_of(clip, row["start_time"], path)), []).append(row)
    return clips
