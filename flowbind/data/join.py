"""Several prepared datasets as one: their manifests, split by split."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flowbind.data.folder import SPLITS
from flowbind.data.manifest import Manifest, mistake_in, write_manifest
from flowbind.modality import Modality
from flowbind.progress import say
from flowbind.registry import installed, load


def prepare(
    out: Path,
    sources: str,
    splits: str = ",".join(SPLITS),
) -> None:
    """Joins the manifests of prepared datasets into one for each split; files stay where they are.

    A sample's id gets its dataset's folder in front: `audiocaps/103549`.

    Args:
        sources: Folders that `flowbind prepare` wrote, separated by commas.
        splits: Splits to join, separated by commas.

    Raises:
        ValueError: a folder has no manifest of any of these splits, or two folders have one name.
    """
    folders = [Path(source) for source in sources.split(",")]

    names = {folder.name for folder in folders}
    if len(names) < len(folders):
        raise ValueError(f"the folders must have different names, not {sources}")

    for folder in folders:
        paths = [folder / f"{split}.jsonl" for split in splits.split(",")]
        if not any(path.is_file() for path in paths):
            raise ValueError(
                f"{folder}: no manifest of {splits}; `flowbind prepare` writes them"
            )

    for split in splits.split(","):
        name = f"{split}.jsonl"
        parts = [folder for folder in folders if (folder / name).is_file()]
        if parts:
            samples = _samples(parts, name, out)
            write_manifest(out / name, samples)
            joined = ", ".join(folder.name for folder in parts)
            say(f"{split}: {joined}")


def _samples(
    folders: Iterable[Path],
    name: str,
    out: Path,
) -> Iterator[dict[str, Any]]:
    """The samples of the manifests with one name in several folders, as they stand in `out`."""
    modalities = {name: load("modalities", name) for name in installed("modalities")}
    # A path that goes up does so from where the folder really is.
    base = os.path.realpath(out)
    for folder in folders:
        manifest = Manifest.read(folder / name, modalities)
        for sample in manifest.samples:
            entry: dict[str, Any] = {"id": f"{folder.name}/{sample.id}"}
            for key, value in sample.values.items():
                entry[key] = _moved(manifest, value, modalities[key], base)

            if sample.labels:
                entry["labels"] = sample.labels
            references: dict[str, list[str]] = {}
            for key, values in sample.references.items():
                references[key] = []
                for value in values:
                    moved = _moved(manifest, value, modalities[key], base)
                    references[key].append(moved)
            if references:
                entry["references"] = references

            yield entry


def _moved(
    manifest: Manifest,
    value: str,
    modality: type[Modality],
    base: str,
) -> str:
    """A manifest's value as it stands in one in another folder."""
    source = manifest.locate(value, modality)
    if mistake_in(value) and not os.path.isfile(source):
        return value  # reading it says what is wrong with it
    if not isinstance(source, Path):
        return source
    return os.path.relpath(source, base)
