"""People's own files: samples are files of equal stem."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

from flowbind.data.first_recipe import in_words, write_recipe
from flowbind.data.labels import add_labels, read_labels
from flowbind.data.manifest import write_manifest
from flowbind.data.scan import LeftOut, readable, root_of, scan
from flowbind.modality import Modality
from flowbind.progress import say
from flowbind.registry import installed, load, package

SPLITS = ("train", "val", "test")
# By the names of folders, in lower case, that hold a split.
SPLIT_OF = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
}

Samples = dict[str, dict[str, str]]  # by stem, the path of its file of each modality


class File(NamedTuple):
    """A file of a sample.

    Attributes:
        path: Path of the file.
        modality: Name of the modality that reads it.
        folders: Folders that are part of the stem.
        name: Name of the file without its suffix.
    """

    path: str
    modality: str
    folders: tuple[str, ...]
    name: str

    @property
    def stem(self) -> str:
        """What the files of one sample share.

        Characters are compared, not the bytes that a file system makes of them.
        """
        parts = (*self.folders, self.name)
        return normalize("NFC", "/".join(parts))


def prepare(
    out: Path,
    source: Path,
    labels: Path | None = None,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
) -> None:
    """Pairs the files of a folder by stem.

    `a/17.png` and `a/17.wav` are one sample, and so are `image/17.png` and `audio/17.wav`. A file's
    suffix says its modality; a folder named like a modality, with files of that modality alone, is
    no part of the stem. Files stay where they are. Sub-folders train, val (or valid, validation,
    dev, eval) and test are the splits, where there are at least two of them or nothing else;
    otherwise samples are drawn into splits by their stems, so that those that are added later move
    few others. A recipe for what was found is written beside the manifests.

    Args:
        source: Folder of files.
        labels: Table (CSV, or between semicolons or tabs) with a header; its column `id` (or file,
            filename, path) is the stem or path below `source`, every other column a label for
            measuring.
        val: Share of samples drawn for validation.
        test: Share of samples drawn for testing.
        seed: Seed of the draw.

    Raises:
        ValueError: no file that any installed modality reads, two files for one modality of one
            sample, or labels that are no such table or are those of no sample.
    """
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder")
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise ValueError(
            f"val and test are shares of the samples and leave some for training, not {val} and "
            f"{test}"
        )

    table = read_labels(labels) if labels else None
    modalities = {name: load("modalities", name) for name in installed("modalities")}
    splits = find_splits(source, modalities)
    if splits.keys() == {""}:
        splits = draw_splits(splits[""], val, test, seed)

    entries = {}
    for split, samples in splits.items():
        entries[split] = entries_of(samples, out)
    if table:
        suffixes = suffixes_of(modalities)
        add_labels(table, entries, splits, source, suffixes)

    kinds = {}
    for split, samples in splits.items():
        kinds_of_split = [tuple(sorted(files)) for files in samples.values()]
        kinds[split] = Counter(kinds_of_split)
        write_manifest(out / f"{split}.jsonl", entries[split])
        parts = in_words(kinds[split])
        say(f"{split}: {len(samples)} samples ({parts})")

    write_recipe(out, kinds, modalities)


def entries_of(samples: Samples, out: Path) -> list[dict[str, Any]]:
    """The entries of a manifest in a folder: an id, and the path of each modality's file."""
    # A path that goes up does so from where the folder really is.
    base = os.path.realpath(out)
    entries = []
    for stem, files in samples.items():
        entry: dict[str, Any] = {"id": stem}
        for name, path in files.items():
            entry[name] = os.path.relpath(path, base)
        entries.append(entry)
    return entries


def find_splits(
    source: Path,
    modalities: Mapping[str, type[Modality]],
) -> dict[str, Samples]:
    """The samples of a folder by split, in the order of their stems.

    They are by "" if its sub-folders are no splits. What is left out is said by reason, and so is
    what a sub-folder was taken for where it could be something else.

    Raises:
        ValueError: no usable file, a suffix that several modalities read, or two files of one
            modality for one sample.
    """
    left_out = LeftOut()
    files = find_files(source, modalities, left_out)
    files = without_own_folders(files, left_out)
    parts = part_by_split(files, source, left_out)
    left_out.tell(source)
    if not files:
        suffixes = ", ".join(sorted(suffixes_of(modalities)))
        packages = {package(entry) for entry in installed("modalities").values()}
        names = ", ".join(sorted(packages))
        raise ValueError(
            f"{source}: no file that an installed modality reads ({suffixes}; from {names})"
        )

    samples = {}
    for split, part in parts.items():
        samples[split] = pair(part, source)
    return samples


def suffixes_of(modalities: Mapping[str, type[Modality]]) -> set[str]:
    """The suffixes of the files that some modality reads."""
    suffixes: set[str] = set()
    for modality in modalities.values():
        suffixes.update(modality.suffixes)
    return suffixes


def find_files(
    source: Path,
    modalities: Mapping[str, type[Modality]],
    left_out: LeftOut,
) -> list[File]:
    """All files below a folder that a modality reads, in the order of the scan.

    Raises:
        ValueError: a suffix that several modalities read, in a folder that is named after none of
            these.
    """
    readers: dict[str, list[str]] = {}
    for name, modality in modalities.items():
        for suffix in modality.suffixes:
            readers.setdefault(suffix, []).append(name)

    long = [suffix for suffix in readers if suffix.count(".") > 1]
    long.sort(key=len)  # the longest that fits is the last that does

    files = []
    top = root_of(source)
    for path in scan([source], tuple(readers), left_out, others=True):
        relative = path[len(top) :].strip(os.sep)
        *folders, name = relative.split(os.sep)
        _, suffix = os.path.splitext(name)
        suffix = suffix.lower()
        for longer in long:
            if name.lower().endswith(longer):
                suffix = longer

        names = readers[suffix]
        if len(names) > 1:
            in_folder = [reader for reader in names if reader in folders[:2]]
            anywhere = [reader for reader in names if not modalities[reader].by_folder]
            names = in_folder or anywhere or names
        if len(names) > 1:
            readers_of_file = ", ".join(names)
            raise ValueError(
                f"{path}: read by {readers_of_file}; put it in a folder named after one of them"
            )

        stem = name[: -len(suffix)]
        file = File(
            path=path,
            modality=names[0],
            folders=tuple(folders),
            name=stem,
        )
        files.append(file)
    return files


def without_own_folders(files: Iterable[File], left_out: LeftOut) -> list[File]:
    """Files without their first folder, where that is the one of their modality."""
    files = list(files)
    kinds_in: dict[str, set[str]] = {}
    for file in files:
        first = next(iter(file.folders), "")
        kinds = kinds_in.setdefault(first, set())
        kinds.add(file.modality)

    left = own_folders(kinds_in)

    taken = []
    for file in files:
        first = next(iter(file.folders), "")
        if first not in left:
            taken.append(file)
        elif file.modality == first:
            rest = file.folders[1:]
            taken.append(file._replace(folders=rest))
        else:
            left_out.add("files in a folder named after another modality", file.path)
    return taken


def own_folders(kinds_in: Mapping[str, set[str]]) -> set[str]:
    """Which folders are those of the modality that they are named after.

    What decides are the modalities of their files. One with files of that modality alone is. One
    with others, too, is if a further folder is named after a modality and holds something else: so
    kinds are kept apart, and what lies beside them is in the wrong place. Two with the same mixture
    are two classes that happen to be called so.
    """
    named = [folder for folder, kinds in kinds_in.items() if folder in kinds]

    folders = set()
    for folder in named:
        kinds = kinds_in[folder]
        is_pure = kinds == {folder}
        if is_pure or any(kinds_in[other] != kinds for other in named):
            folders.add(folder)
    return folders


def part_by_split(
    files: list[File],
    source: Path,
    left_out: LeftOut,
) -> dict[str, list[File]]:
    """Files by the split that their first folder is named after.

    They are all by "" where the folders are something else. They are splits where there are at
    least two, or one and nothing else beside it. So a class called `train` among other classes is a
    class.
    """
    top = {next(iter(file.folders), "") for file in files}
    named = {}
    for folder in top:
        if folder.lower() in SPLIT_OF:
            named[folder] = SPLIT_OF[folder.lower()]

    others = top - named.keys()

    is_one_split = len(set(named.values())) == 1
    if not named or (others and is_one_split):
        for folder in sorted(named):
            neighbours = sorted(others - {""})[:3]
            beside = ", ".join(neighbours) or "files"
            say(
                f"{source}: '{readable(folder)}' is taken for a folder like {readable(beside)} "
                "beside it, not for a split"
            )
        return {"": files}

    for folder, split in sorted(named.items()):
        if folder != split:
            say(f"{source}: '{readable(folder)}' is taken for the split {split}")

    parts: dict[str, list[File]] = {}
    for split in SPLITS:
        if split in named.values():
            parts[split] = []
    for file in files:
        first, *rest = file.folders or [""]
        if first in named:
            rest_of_file = file._replace(folders=tuple(rest))
            parts[named[first]].append(rest_of_file)
        else:
            left_out.add("files beside the folders of splits", file.path)
    for split, part in parts.items():
        parts[split] = without_own_folders(part, left_out)
    return parts


def pair(files: Iterable[File], source: Path) -> Samples:
    """Files of equal stem as samples, in the order of their stems.

    Raises:
        ValueError: a sample has two files of one modality.
    """
    samples: Samples = {}
    doubles: list[tuple[File, str]] = []
    for file in files:
        files_of_sample = samples.setdefault(file.stem, {})
        other = files_of_sample.setdefault(file.modality, file.path)
        if other != file.path:
            doubles.append((file, other))

    if doubles:
        file, other = doubles[0]
        more = ""
        if len(doubles) > 1:
            more = f" (and {len(doubles) - 1} more such files)"
        raise ValueError(
            f"{readable(file.path)}: sample '{file.stem}' has another {file.modality} file "
            f"already, {readable(other)}{more}; keep one of them"
        )

    say_of_case(samples, source)
    return dict(sorted(samples.items()))


def say_of_case(samples: Samples, source: Path) -> None:
    """Says which samples would be one if upper and lower case were the same."""
    first: dict[str, str] = {}
    apart = []
    for stem, files in samples.items():
        other = first.setdefault(stem.casefold(), stem)
        if other != stem and files.keys().isdisjoint(samples[other]):
            apart.append(f"'{other}' and '{stem}'")
    if apart:
        say(
            f"{source}: {len(apart)} pairs of samples differ in upper and lower case alone and are "
            f"not paired, such as {apart[0]}"
        )


def draw_splits(
    samples: Samples,
    val: float,
    test: float,
    seed: int,
) -> dict[str, Samples]:
    """Draws samples into train, val and test; shares are rounded to whole samples.

    The order that is cut into three is that of hashes of the stems: samples that are added shift
    the cuts by their share, and all others stay where they were.
    """
    order = sorted(samples, key=hash_with(seed))
    first_val = round(test * len(order))
    first_train = first_val + round(val * len(order))
    split_of = dict.fromkeys(order[:first_val], "test")
    split_of |= dict.fromkeys(order[first_val:first_train], "val")
    split_of |= dict.fromkeys(order[first_train:], "train")

    parts: dict[str, Samples] = {}
    for split in SPLITS:
        parts[split] = {}
    for stem, files in samples.items():
        split = split_of[stem]
        parts[split][stem] = files
    return {split: part for split, part in parts.items() if part}


def hash_with(seed: int) -> Callable[[str], bytes]:
    """A hash of stems that a seed decides."""

    def hashed(stem: str) -> bytes:
        seeded = f"{seed} {stem}"
        return hashlib.sha256(seeded.encode()).digest()

    return hashed
