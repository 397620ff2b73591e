"""What manifests hold: kinds of samples, labels, sizes, what is missing, and what is there twice.

Duplicates are found by content: files of equal size are compared by their SHA-256, so that most
are never read.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flowbind.data.manifest import Manifest, Sample
from flowbind.files import digest_now
from flowbind.modality import Modality

Shown = Callable[[Sequence, str], Iterable]


class Place(NamedTuple):
    """Where a value stands: the number of its manifest, and the sample's id."""

    manifest: int
    sample: str


@dataclass
class Holding:
    """What manifests hold of one modality.

    Attributes:
        samples: Number of samples that have it.
        sizes: Size in bytes of each of its files that is there.
        figures: Figures of its samples by name, such as seconds, as `Modality.figures` gives them.
        missing: Values whose files are not there.
        unreadable: Files whose figures cannot be read, with the reason.
        duplicates: Places of each content that several samples have.
    """

    samples: int = 0
    sizes: list[int] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    duplicates: list[list[Place]] = field(default_factory=list)


@dataclass
class Inventory:
    """What manifests hold together.

    Attributes:
        kinds: Number of samples by the modalities that they have, such as `image+text`.
        labels: Number of samples by each label's values.
        holdings: What there is of each modality.
    """

    kinds: Counter[str]
    labels: dict[str, Counter[str]]
    holdings: dict[str, Holding]


def take_inventory(
    manifests: Sequence[Manifest],
    modalities: Mapping[str, Modality],
    shown: Shown = lambda items, about: items,
) -> Inventory:
    """Counts what manifests hold, and reads as little of the files as that takes.

    Args:
        manifests: Manifests, such as those of the splits of one dataset.
        modalities: Modalities by name, which tell figures of their samples.
        shown: Function that wraps items to show progress over them.
    """
    samples = [
        (number, sample)
        for number, manifest in enumerate(manifests)
        for sample in manifest.samples
    ]
    kinds: Counter[str] = Counter()
    labels: dict[str, Counter[str]] = {}
    for _, sample in samples:
        kinds["+".join(sorted(sample.values)) or "nothing"] += 1
        for name, value in sample.labels.items():
            labels.setdefault(name, Counter())[value] += 1

    holdings = {}
    for name, modality in modalities.items():
        having = [pair for pair in samples if name in pair[1].values]
        if having:
            holdings[name] = _take(name, modality, manifests, having, shown)
    return Inventory(kinds, labels, holdings)


def _take(
    name: str,
    modality: Modality,
    manifests: Sequence[Manifest],
    samples: Sequence[tuple[int, Sample]],
    shown: Shown,
) -> Holding:
    """What there is of one modality in the samples that have it."""
    holding = Holding(samples=len(samples))
    places: dict[tuple[object, ...], list[Place]] = defaultdict(list)
    of_size: dict[int, dict[Path, list[Place]]] = defaultdict(lambda: defaultdict(list))

    for number, sample in shown(samples, f"looking at {name}"):
        place = Place(number, sample.id)
        source = manifests[number].source(sample, name, modality)
        if isinstance(source, Path):
            try:
                size = os.stat(source).st_size
            except (OSError, ValueError):
                holding.missing.append(sample.values[name])
                continue
            holding.sizes.append(size)
            of_size[size][source].append(place)
        else:
            places[source,].append(place)

        try:
            figures = modality.figures(source)
        except (ValueError, OSError) as error:
            holding.unreadable.append(str(error))
            continue
        for figure, value in figures.items():
            holding.figures.setdefault(figure, []).append(value)

    # A size that one file alone has is no other's content.
    doubtful = [files for files in of_size.values() if len(files) > 1]
    for files in of_size.values():
        if len(files) == 1:
            (path,) = files
            places[path,] += files[path]
    for files in shown(doubtful, f"comparing {name}") if doubtful else ():
        for path, owners in files.items():
            places[digest_now(path),] += owners

    holding.duplicates = [owners for owners in places.values() if len(owners) > 1]
    return holding
