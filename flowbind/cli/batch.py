"""A batch that a file lists: `--from @samples.jsonl` or `--from @samples.csv`, whatever modalities it has.

Its results are named after its samples and have a manifest of their own, and beside it what they
were made with. What is there already, of the same sources and settings, is not made again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbind.cli.names import named_after
from flowbind.cli.sources import MANIFESTS, TABLES, located
from flowbind.data.manifest import Manifest, Sample, write_manifest
from flowbind.data.remote import address_of
from flowbind.data.tables import read_table
from flowbind.files import read_json, write_json
from flowbind.progress import say

if TYPE_CHECKING:
    from flowbind.generation import Model

RESULTS = "manifest.jsonl"  # of what was generated
SETTINGS = "generation.json"  # by which it was
ID = "id"


@dataclass(frozen=True)
class Listed:
    """The samples of a file.

    Attributes:
        sources: Per modality, the literal or file of each sample.
        stems: What the names of each sample's files begin with.
        samples: The samples themselves.
    """

    sources: Mapping[str, Sequence[str | Path]]
    stems: list[str]
    samples: list[Sample]


def read_batch(path: Path, model: "Model", targets: Sequence[str]) -> Listed:
    """The samples of a manifest or a table, with all modalities that the model has, targets apart.

    Raises:
        OSError: it is not there.
        ValueError: it is neither, has no samples or none of the modalities, or some samples lack
            what others have.
    """
    from flowbind.registry import installed

    suffix = path.suffix.lower()
    if suffix in MANIFESTS:
        known = {*model.modalities, *installed("modalities")}
        manifest = Manifest.read(path, known)
    elif suffix in TABLES:
        manifest = _read_table(path, model)
    else:
        raise ValueError(
            f"--from @{path}: neither a manifest ({', '.join(MANIFESTS)}) nor a table "
            f"({', '.join(TABLES)}); of other lists say the modality, --from NAME=@{path}"
        )

    if not manifest.samples:
        raise ValueError(f"{path}: has no samples")

    present = set().union(*(sample.values for sample in manifest.samples))
    names = [name for name in model.modalities if name in present]
    sources = [name for name in names if name not in targets]
    if not sources:
        raise ValueError(
            f"{path}: has no source; allowed are {', '.join(model.modalities)}, targets apart"
        )
    lists = {n: located(manifest, model.modality(n), n) for n in sources}
    apart = [name for name in names if name in targets]
    count = len(manifest.samples)
    say(
        f"{path}: {count} {'sample' if count == 1 else 'samples'}, from {' and '.join(sources)}"
        + (" together" if len(sources) > 1 else "")
        + (f"; not used, being targets: {', '.join(apart)}" if apart else "")
    )
    stems = named_after([sample.id for sample in manifest.samples])
    return Listed(lists, stems, manifest.samples)


def _read_table(path: Path, model: "Model") -> Manifest:
    """A table as a manifest: columns named after modalities, and `id`; a line names the others."""
    table = read_table(path)
    by_name = {column.casefold(): column for column in table.columns if column}
    names = [name for name in model.modalities if name.casefold() in by_name]
    others = [
        column
        for key, column in by_name.items()
        if key != ID and key not in {name.casefold() for name in names}
    ]
    if others:
        say(f"{path}: columns that are no modality of the model: {', '.join(others)}")

    needed = [*names, *([ID] if ID in by_name else [])]
    samples = []
    for line, cells in read_table(path, needed=needed).rows:
        values = {name: cells[name] for name in names if cells[name]}
        samples.append(Sample(cells.get(ID) or f"line-{line}", values))
    return Manifest(path, samples, address_of(path))


class Results:
    """The results of a batch in their folder: which are there, and what they were made with.

    Args:
        folder: Folder of the results.
        lines: Line of each sample in the results' manifest.
        settings: All else that decides them.
        files: Files of each sample.
    """

    def __init__(
        self,
        folder: Path,
        lines: Sequence[dict[str, Any]],
        settings: Mapping[str, Any],
        files: Sequence[Sequence[Path]],
    ) -> None:
        self.folder = folder
        self.lines = lines
        self.settings = settings
        self.files = files
        self.is_done = [False] * len(lines)

        recorded = self._recorded()
        for number, line in enumerate(lines):
            are_there = all(file.is_file() for file in files[number])
            self.is_done[number] = are_there and recorded.get(line[ID]) == line

    def _recorded(self) -> dict[str, dict[str, Any]]:
        """Lines of an earlier manifest, by the sample's id, where it was made with these settings."""
        try:
            if read_json(self.folder / SETTINGS) != self.settings:
                return {}
            content = (self.folder / RESULTS).read_text(encoding="utf-8")
            lines = [json.loads(line) for line in content.splitlines()]
            return {line[ID]: line for line in lines}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def left(self, parts: Sequence[slice]) -> list[slice]:
        """Those parts of the work in which some sample is not there yet."""
        return [rows for rows in parts if not all(self.is_done[rows])]

    def unexpected(self, parts: Sequence[slice]) -> list[Path]:
        """Files in the place of results that are none of them."""
        files: list[Path] = []
        for rows in parts:
            for number in range(rows.start, rows.stop):
                if not self.is_done[number]:
                    files += self.files[number]
        return files

    def record(self, rows: slice) -> None:
        """Notes that a part is there: the manifest has its lines from now on."""
        self.is_done[rows] = [True] * len(self.is_done[rows])
        write_json(self.folder / SETTINGS, self.settings)
        lines = [
            line for line, done in zip(self.lines, self.is_done, strict=True) if done
        ]
        write_manifest(self.folder / RESULTS, lines)


def lines_of(
    listed: Listed,
    targets: Mapping[str, str],
    out: Path,
) -> list[dict[str, Any]]:
    """The lines of the results' manifest: the sources, the targets' files, and the labels.

    Args:
        listed: Samples of the batch.
        targets: Suffix of each target's files.
        out: Folder of the results, from which paths go.
    """
    lines = []
    for number, (stem, sample) in enumerate(
        zip(listed.stems, listed.samples, strict=True)
    ):
        line: dict[str, Any] = {ID: sample.id}
        for name, sources in listed.sources.items():
            source = sources[number]
            is_file = isinstance(source, Path)
            line[name] = relpath(source, out) if is_file else source
        for name, suffix in targets.items():
            line[name] = f"{stem}.{name}{suffix}"
        if sample.labels:
            line["labels"] = dict(sample.labels)
        lines.append(line)
    return lines


def settings_of(
    model: "Model",
    folder: str,
    seed: int,
    sampling: Any,
    others: Mapping[str, Any],
) -> dict[str, Any]:
    """What decides the results besides the sources, as JSON."""
    from importlib.metadata import version

    from flowbind.release import description_of

    description = description_of(folder)
    return {
        "model": {"folder": str(folder), **description.get("weights", {})},
        "seed": seed,
        "sampling": asdict(sampling),
        **others,
        "versions": {name: version(name) for name in ("flowbind", "torch")},
    }
