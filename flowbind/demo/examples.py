"""Samples to begin with: the first of a manifest that have each modality."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from flowbind.data.manifest import Manifest
from flowbind.exhibit import to_html
from flowbind.modality import Modality
from flowbind.progress import say
from flowbind.registry import installed

EACH = 5  # examples of a modality
SPLIT = "test"


class Example(NamedTuple):
    """What stands for a sample on the page, and the sample: words, or a file in the page's own folder."""

    thumbnail: str
    source: str | Path


def beside(model: Path) -> Path | None:
    """The test split of the recipe in whose run folder a model lies; None where there is none here."""
    config = model.resolve().parent / "config.yaml"
    try:
        recipe = yaml.safe_load(config.read_text(encoding="utf-8"))
        manifest = Path(recipe["data"]["init_args"]["manifests"][SPLIT])
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return None
    return manifest if manifest.is_file() else None


def collect(
    path: Path,
    modalities: Mapping[str, Modality],
    folder: Path,
) -> dict[str, list[Example]]:
    """Examples of each modality, their files copied into a folder.

    Raises:
        OSError: the manifest is not there.
        ValueError: it is none.
    """
    manifest = Manifest.read(path, {*modalities, *installed("modalities")})
    examples: dict[str, list[Example]] = {name: [] for name in modalities}
    for sample in manifest.samples:
        for name in modalities.keys() & sample.values.keys():
            if len(examples[name]) < EACH:
                examples[name] += _example(manifest, sample, name, modalities, folder)
        if all(len(each) >= EACH for each in examples.values()):
            break
    return examples


def _example(manifest, sample, name, modalities, folder) -> list[Example]:
    """An example; none where the sample cannot be read, which a line says."""
    modality = modalities[name]
    source = manifest.source(sample, name, modality)
    try:
        raw = modality.read(source)
    except (OSError, ValueError) as error:
        say(f"{manifest.path}: no example of '{name}': {error}")
        return []

    if isinstance(source, Path):
        copy = folder / name / source.name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, copy)
        source = copy
    elif modality.literal:
        source = str(source)
    return [Example(to_html(modality.preview(raw)), source)]
