"""Labels of people's own files, from a table."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

from flowbind.data.scan import root_of
from flowbind.data.tables import read_table
from flowbind.progress import say

IDS = (
    "id",
    "stem",
    "file",
    "filename",
    "file_name",
    "file name",
    "path",
    "filepath",
    "file_path",
)
SHOWN = 3  # ids that a message gives


class Labels(NamedTuple):
    """The labels of a table.

    Attributes:
        path: Path of the table.
        labels: Labels of each id.
        lines: Line of each id.
    """

    path: Path
    labels: dict[str, dict[str, str]]
    lines: dict[str, int]


def read_labels(path: Path) -> Labels:
    """Labels by id. Cells that are empty are no labels.

    Raises:
        ValueError: no such file, no table, no column of ids or no other, or an id with two sets of
            labels.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file of labels")

    labels: dict[str, dict[str, str]] = {}
    lines: dict[str, int] = {}
    table = read_table(path, [IDS])
    for line, cells in table.rows:
        id = _plain(cells.pop(IDS[0]))
        if not id:
            raise ValueError(
                f"{path}, line {line}: no id; it is the stem or the path of a file"
            )

        values = {name: value for name, value in cells.items() if value}
        if labels.setdefault(id, values) != values:
            raise ValueError(
                f"{path}, line {line}: '{id}' has other labels than in line {lines[id]}; keep one "
                "of them"
            )
        lines.setdefault(id, line)

    if not any(labels.values()):
        names = ", ".join(filter(None, table.columns))
        raise ValueError(
            f"{path}: no label in it, only {names}; every column but the ids is one"
        )

    return Labels(path, labels, lines)


def add_labels(
    table: Labels,
    entries: Mapping[str, list[dict[str, Any]]],
    samples: Mapping[str, Mapping[str, Mapping[str, str]]],
    source: Path,
    suffixes: Collection[str],
) -> None:
    """Gives each entry of a manifest its labels.

    Lines say which samples have none, and which ids are those of no sample.

    Args:
        table: Labels by id.
        entries: Entries of the manifests, by split.
        samples: Path of each modality's file, by split and stem.
        source: Folder that the files are in.
        suffixes: Suffixes of files, which an id may have that the sample's own files do not.

    Raises:
        ValueError: none of the ids is that of a sample.
    """
    by_root = _ids_by_root(table, suffixes)
    top = root_of(source)
    used: set[str | None] = set()
    unlabelled = []

    for split, entries_of_split in entries.items():
        for entry in entries_of_split:
            stem = entry["id"]
            files = samples[split][stem].values()
            names = _names(split, stem, files, top)
            id = _id_of(names, table, by_root)
            labels = {} if id is None else table.labels[id]
            entry["labels"] = labels
            used.add(id)
            if not labels:
                unlabelled.append(stem)

    unused = [id for id in table.labels if id not in used]
    count = len(unused)
    if count == len(table.labels):
        stems = []
        for entries_of_split in entries.values():
            stems += [entry["id"] for entry in entries_of_split]
        raise ValueError(
            f"{table.path}: none of its {count} ids is a sample's: they are {_some(unused)}, "
            f"the samples {_some(stems)}; an id is a file's path below {source}, with its suffix "
            "or without"
        )

    if unused:
        say(
            f"{table.path}: {count} of {len(table.labels)} ids are those of no sample, such "
            f"as {_some(unused)}"
        )
    if unlabelled:
        say(
            f"{table.path}: {len(unlabelled)} samples have no label there, such as "
            f"{_some(unlabelled)}"
        )


def _ids_by_root(table: Labels, suffixes: Collection[str]) -> dict[str, str]:
    """The ids of a table by what they are without a suffix, where that is unique."""
    ids: dict[str, list[str]] = {}
    for id in table.labels:
        root = _root(id, suffixes)
        ids.setdefault(root, []).append(id)

    unique = {}
    for root, same in ids.items():
        if len(same) == 1:
            unique[root] = same[0]
    return unique


def _id_of(
    names: Sequence[str],
    table: Labels,
    by_root: Mapping[str, str],
) -> str | None:
    """The id that is one of some names, the first that is; else the one that is so by its root."""
    for name in names:
        if name in table.labels:
            return name
    for name in names:
        if name in by_root:
            return by_root[name]
    return None


def _names(
    split: str,
    stem: str,
    paths: Iterable[str],
    top: str,
) -> list[str]:
    """What a table may call a sample.

    Its stem, also below its split, and its files by their path, also within the split.
    """
    _, _, own_name = stem.rpartition("/")
    below = []
    with_suffix = []
    for path in paths:
        relative = _plain(path.removeprefix(top).strip(os.sep))
        _, _, name = relative.rpartition("/")
        suffix = name.removeprefix(own_name)
        below.append(relative)
        with_suffix.append(f"{stem}{suffix}")
    return [f"{split}/{stem}", *below, stem, *with_suffix]


def _root(id: str, suffixes: Collection[str]) -> str:
    root, suffix = os.path.splitext(id)
    if suffix.lower() in suffixes:
        return root
    return id


def _plain(id: str) -> str:
    """An id without what tells no two files apart.

    That is the form of its characters, the slashes of Windows, a leading `./`.
    """
    path = id.strip().replace("\\", "/")
    return normalize("NFC", path).removeprefix("./")


def _some(names: list[str]) -> str:
    quoted = [f"'{name}'" for name in names[:SHOWN]]
    examples = ", ".join(quoted)
    if len(names) > SHOWN:
        examples += ", ..."
    return examples
