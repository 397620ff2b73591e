"""What NAME=VALUE of `--from`, `--plus` and `--minus` stands for: a literal, a file, a folder, a pattern, or a list of these.

A list is read as what it is: a manifest gives the values of one modality, a table one of its
columns, and of any other file every line is a sample. Nothing is guessed: what could be two things,
or lacks a sample, is an error.
"""

import glob
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from flowbind.data.manifest import Manifest, Sample
from flowbind.data.remote import address_of, brought, is_address
from flowbind.data.tables import read_table
from flowbind.files import encoding_of, read_regular
from flowbind.modality import Modality
from flowbind.progress import say

MANIFESTS = (".jsonl", ".ndjson", ".json")
TABLES = (".csv", ".tsv")


def expand(
    value: str,
    modality: Modality,
    name: str,
    known: Collection[str],
    flag: str = "--from",
) -> Sequence[str | Path]:
    """The samples that one option stands for.

    Args:
        value: Part of the option after `NAME=`.
        modality: Modality that reads the samples.
        name: Name of the modality.
        known: Names of modalities that a manifest may have.
        flag: Name of the option, for messages.

    Raises:
        OSError: a list that is not there.
        ValueError: it stands for nothing, or for what cannot be told.
    """
    if value.startswith("@"):
        return read_list(brought(value[1:]), modality, name, known, flag)

    # Unlike pathlib, os.path bears words that no file can be named after.
    option = f"{flag} {name}={value}"
    path = Path(value)
    if is_address(value) and value.lower().endswith(modality.suffixes):
        files = [brought(value)]
    elif os.path.isdir(value):
        files = _files_in(path, modality)
        if modality.literal:
            say(f"{option}: taken for the folder of that name, not for words")
    elif os.path.isfile(value):
        files = [path]
        if modality.literal:
            say(f"{option}: taken for the file of that name, not for words")
    elif modality.literal and not value.lower().endswith(modality.suffixes):
        return [value]
    else:
        files = sorted(map(Path, glob.glob(value, recursive=True)))

    if not files:
        suffixes = ", ".join(modality.suffixes)
        raise ValueError(
            f"{option}: no such file; give a file, a folder or a pattern with {suffixes}"
        )
    return files


def _files_in(folder: Path, modality: Modality) -> list[Path]:
    """The files of a folder that a modality reads, without hidden ones, as in file managers."""
    files = []
    for path in folder.iterdir():
        is_read = path.suffix.lower() in modality.suffixes
        is_hidden = path.name.startswith(".")
        if is_read and not is_hidden and not path.is_dir():
            files.append(path)
    return sorted(files)


def read_list(
    path: Path,
    modality: Modality,
    name: str,
    known: Collection[str],
    flag: str = "--from",
) -> Sequence[str | Path]:
    """The samples of a list: a manifest's, a table's, or one a line.

    Args:
        path: File of the list.
        modality: Modality that reads the samples.
        name: Name of the modality.
        known: Names of modalities that a manifest may have.
        flag: Name of the option that names the list, for messages.

    Raises:
        OSError: it is not there.
        ValueError: it has no sample of this modality, or some of its samples lack it.
    """
    lines = [line for line in _content(path).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path}: no sample in it")

    if path.suffix.lower() in MANIFESTS or _is_object(lines[0]):
        return located(Manifest.read(path, known), modality, name)
    if path.suffix.lower() in TABLES:
        return located(read_column(path, name), modality, name)

    values = [line.strip() for line in lines]
    for value in values:
        if value.startswith("@"):
            raise ValueError(
                f"{path}: a list that names another, '{value}'; give both with {flag}"
            )
    samples: list[str | Path] = []
    for value in values:
        samples += expand(value, modality, name, known, flag)
    return samples


def read_column(path: Path, name: str) -> Manifest:
    """A table's column as a manifest: the one named after the modality, or the only one there is.

    Raises:
        OSError: it is not there.
        ValueError: no such table, or several columns and none of that name.
    """
    table = read_table(path)
    columns = [column for column in table.columns if column]
    is_only = len(columns) == 1 and columns[0].casefold() != name.casefold()
    if is_only:
        say(f"{path}: its only column, headed '{columns[0]}', is taken for '{name}'")
    column = columns[0] if is_only else name

    samples: list[Sample] = []
    for line, cells in read_table(path, needed=[column]).rows:
        values = {name: cells[column]} if cells[column] else {}
        samples.append(Sample(str(line), values))
    return Manifest(path, samples, address_of(path))


def located(
    manifest: Manifest,
    modality: Modality,
    name: str,
) -> Sequence[str | Path]:
    """The literals and files of a manifest, paths from its own folder on.

    Raises:
        OSError: a file in object storage that cannot be had.
        ValueError: no sample, one without the modality, or a file that the modality does not read.
    """
    if not manifest.samples:
        raise ValueError(f"{manifest.path}: no sample in it")

    lacking = [sample.id for sample in manifest.samples if name not in sample.values]
    if lacking:
        raise ValueError(
            f"{manifest.path}: {len(lacking)} of {len(manifest.samples)} samples have no '{name}', "
            f"the first of them '{lacking[0]}'; give a list with one in each"
        )

    manifest.bring({name: modality})
    sources = []
    for sample in manifest.samples:
        sources.append(manifest.source(sample, name, modality))
    for source in sources:
        if isinstance(source, Path) and not source.name.lower().endswith(
            modality.suffixes
        ):
            suffixes = ", ".join(modality.suffixes)
            raise ValueError(
                f"{manifest.path}: names {source} as '{name}'; allowed are files with {suffixes}"
            )
    return sources


def _content(path: Path) -> str:
    try:
        return read_regular(path).decode(encoding_of(path))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such list; @ stands before a file with one sample a line, a table, "
            "or a manifest"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 ({error.reason}); save it as UTF-8"
        ) from None


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
