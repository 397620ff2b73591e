"""People's own files: samples are files of equal stem."""

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np

from flowbind.manifest import write_manifest
from flowbind.modality import Modality
from flowbind.progress import say
from flowbind.registry import installed, load, package

SPLITS = ("train", "val", "test")


def prepare(
    out: Path, source: Path, labels: Path | None = None, val: float = 0.1, test: float = 0.1, seed: int = 0
) -> None:
    """Pairs the files of a folder by stem: `a/17.png` and `a/17.wav` are one sample, and so are `image/17.png` and `audio/17.wav`.

    A file's suffix says its modality; a first folder named like a modality says it too, and is no part of the stem. Files
    stay where they are. Where the folder has a sub-folder `train`, its sub-folders train, val and test are the splits;
    otherwise samples are drawn into them at random.

    Args:
        source: Folder of files.
        labels: CSV file with a header; its column `id` is the stem (with folders, without suffix), every other column a
            label for measuring.
        val: Share of samples drawn for validation.
        test: Share of samples drawn for testing.
        seed: Of the draw.

    Raises:
        ValueError: no file that any installed modality reads, two files for one modality of one sample, or labels that
            are not such a CSV file.
    """
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder")
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise ValueError(f"val and test are shares of the samples and leave some for training, not {val} and {test}")
    modalities = {name: load("modalities", name) for name in installed("modalities")}
    known = read_labels(labels) if labels else {}
    if (source / "train").is_dir():
        splits = {split: find_samples(source / split, modalities) for split in SPLITS if (source / split).is_dir()}
    else:
        splits = draw_splits(find_samples(source, modalities), val, test, seed)
    unlabelled = 0
    base = os.path.realpath(out)  # a path that goes up does so from where the folder really is
    for split, samples in splits.items():
        entries = []
        for stem, files in samples.items():
            entry = {"id": stem} | {name: os.path.relpath(path, base) for name, path in files.items()}
            if known:
                unlabelled += stem not in known
                entry["labels"] = known.get(stem, {})
            entries.append(entry)
        write_manifest(out / f"{split}.jsonl", entries)
        kinds = Counter("+".join(sorted(files)) for files in samples.values())
        say(
            f"{split}: {len(samples)} samples ("
            + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            + ")"
        )
    if unlabelled:
        say(f"{labels}: {unlabelled} samples have no line there and stay without labels")


def find_samples(folder: Path, modalities: dict[str, type[Modality]]) -> dict[str, dict[str, Path]]:
    """Files by stem and modality, in the order of their stems.

    Raises:
        ValueError: no usable file, a suffix that several modalities read, or two files of one modality for one sample.
    """
    readers: dict[str, list[str]] = {}
    for name, modality in modalities.items():
        for suffix in modality.suffixes:
            readers.setdefault(suffix, []).append(name)
    samples: dict[str, dict[str, Path]] = {}
    unread: Counter[str] = Counter()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        relative = path.relative_to(folder).with_suffix("")
        said = relative.parts[0] if len(relative.parts) > 1 and relative.parts[0] in modalities else None
        names = [name for name in readers.get(path.suffix.lower(), []) if said in (None, name)]
        if not names:
            unread[path.suffix] += 1
            continue
        if len(names) > 1:
            raise ValueError(f"{path}: read by {', '.join(names)}; put it in a folder named after one of them")
        stem = Path(*relative.parts[1:]).as_posix() if said else relative.as_posix()
        other = samples.setdefault(stem, {}).setdefault(names[0], path)
        if other != path:
            raise ValueError(f"{path}: sample '{stem}' has another {names[0]} file already, {other}")
    for suffix, count in sorted(unread.items()):
        say(f"{folder}: {count} files with the suffix '{suffix}' are read by no installed modality and left aside")
    if not samples:
        suffixes = ", ".join(sorted(readers))
        packages = ", ".join(sorted({package(entry) for entry in installed("modalities").values()}))
        raise ValueError(f"{folder}: no file that an installed modality reads ({suffixes}; from {packages})")
    return dict(sorted(samples.items()))


def draw_splits(
    samples: dict[str, dict[str, Path]], val: float, test: float, seed: int
) -> dict[str, dict[str, dict[str, Path]]]:
    """Draws samples into train, val and test; shares are rounded to whole samples."""
    stems = list(samples)
    order = np.random.default_rng(seed).permutation(len(stems))
    ends = np.cumsum([round(test * len(stems)), round(val * len(stems))])
    parts = dict(zip(("test", "val", "train"), np.split(order, ends), strict=True))
    return {split: {stems[i]: samples[stems[i]] for i in sorted(parts[split])} for split in SPLITS if len(parts[split])}


def read_labels(path: Path) -> dict[str, dict[str, str]]:
    """Labels by stem.

    Raises:
        ValueError: no such file, no column `id`, or a line with another number of columns.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file of labels")
    try:
        return _read_labels(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a table ({error})") from None


def _read_labels(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if "id" not in (reader.fieldnames or []):
            raise ValueError(f"{path}: labels need a column 'id', not only {', '.join(reader.fieldnames or [])}")
        found = {}
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(reader.fieldnames)} columns are needed, as in the header"
                )
            found[row["id"]] = {key: value for key, value in row.items() if value and key != "id"}
    return found
