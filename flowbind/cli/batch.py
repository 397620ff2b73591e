"""A batch that a file lists: `--from @samples.jsonl` or `--from @samples.csv`, whatever modalities it has.

Its results are named after its samples and have a manifest of their own, and beside it what they
were made with. What is there already, of the same sources and settings, is not made again.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbind.cli.names import named_after
from flowbind.cli.sources import MANIFESTS, TABLES, located
from flowbind.data.manifest import Manifest, Sample, write_manifest
from flowbind.data.remote import address_of
from flowbind.data.tables import read_table
from flowbind.files import digest_json, read_json, write_json
from flowbind.progress import say

if TYPE_CHECKING:
    from flowbind.generation import Model

RESULTS = "manifest.jsonl"  # of what was generated
SETTINGS = "generation.json"  # by which it was
WHOLE = "batch_sha256"  # key of the settings: the digest of all lines of the manifest
ID = "id"
SHARE = 0.1  # of the time, at most, in which the manifest is written


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
        self.settings = dict(settings)
        self.whole = digest_json(lines)  # of all samples of this very batch
        self.files = files
        self.is_done = [False] * len(lines)
        self.is_begun = False
        self.is_recorded = True
        self.seconds = 0.0  # that writing the manifest takes
        self.last = -math.inf  # when it was written

        told = self._settings_there()
        of_batch = told.pop(WHOLE, None)
        self.are_of_settings = told == self.settings
        self.goes_on = self.are_of_settings and of_batch == self.whole
        recorded = self._lines_there() if self.are_of_settings else {}
        for number, line in enumerate(lines):
            are_there = all(file.is_file() for file in files[number])
            self.is_done[number] = are_there and recorded.get(line[ID]) == line

    def _settings_there(self) -> dict[str, Any]:
        """What earlier results in the folder were made with; empty where there are none."""
        try:
            return dict(read_json(self.folder / SETTINGS))
        except (OSError, ValueError, TypeError):
            return {}

    def _lines_there(self) -> dict[str, dict[str, Any]]:
        """Lines of an earlier manifest, by the sample's id."""
        try:
            content = (self.folder / RESULTS).read_text(encoding="utf-8")
            lines = [json.loads(line) for line in content.splitlines()]
            return {line[ID]: line for line in lines}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def left(self, parts: Sequence[slice]) -> list[slice]:
        """Those parts of the work in which some sample is not there yet."""
        return [rows for rows in parts if not all(self.is_done[rows])]

    def unexpected(self, parts: Sequence[slice]) -> list[Path]:
        """Files in the place of results that are none of them.

        Those of a part that was being written when this very batch was killed are.
        """
        files: list[Path] = []
        if self.goes_on:
            return files
        for rows in parts:
            for number in range(rows.start, rows.stop):
                if not self.is_done[number]:
                    files += self.files[number]
        return files

    def begin(self) -> None:
        """Says in the folder what is made there from now on, before the first file is."""
        if self.is_begun:
            return
        self.is_begun = True

        # What an earlier manifest lists was made otherwise.
        if not self.are_of_settings:
            (self.folder / RESULTS).unlink(missing_ok=True)
        write_json(self.folder / SETTINGS, self.settings | {WHOLE: self.whole})

    def record(self, rows: slice) -> None:
        """Notes that a part is there, soon in the manifest, too.

        It is written as a whole, so in a large batch not after each part: that takes a tenth of the
        time at most.
        """
        self.is_done[rows] = [True] * len(self.is_done[rows])
        self.is_recorded = False
        if time.monotonic() - self.last > self.seconds / SHARE:
            self.close()

    def close(self) -> None:
        """Brings the manifest up to date."""
        if self.is_recorded:
            return
        begin = time.monotonic()
        done = compress(self.lines, self.is_done)
        write_manifest(self.folder / RESULTS, list(done))
        self.is_recorded = True
        self.last = time.monotonic()
        self.seconds = self.last - begin


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
