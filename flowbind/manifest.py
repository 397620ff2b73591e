"""Manifests: raw samples on disk, one JSON object a line.

`{"id": "17", "text": "a dog barks", "audio": "wav/17.wav", "labels": {"animal": "dog"}}`: a key per modality that the
sample has (a literal, or a file path relative to the manifest), an optional id (default: the line number), and, for
measuring, optional labels and `references`: per modality further values that a generation is compared with.
"""

import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowbind.arrays import describe
from flowbind.atomic import replacing
from flowbind.modality import Modality
from flowbind.registry import nearest
from flowbind.regular import check_regular

LONGEST = 2**20  # characters of a line
RESERVED = ("id", "labels", "references")


@dataclass(frozen=True)
class Sample:
    """One line of a manifest: per modality a literal or a path relative to the manifest, and the value of each label.

    `references` has, for some of its modalities, all values that a generation may be compared with, the sample's own first.
    """

    id: str
    values: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)
    references: dict[str, list[str]] = field(default_factory=dict)

    def all_references(self, name: str) -> list[str]:
        """The values of a modality that a generation may be compared with; the sample's own alone if no others are given."""
        return self.references.get(name) or [self.values[name]]


@dataclass(frozen=True)
class Manifest:
    """The samples of one manifest file, in its order."""

    path: Path
    samples: list[Sample]

    @classmethod
    def read(cls, path: str | Path, known: Collection[str]) -> "Manifest":
        """Reads and checks a whole manifest.

        Args:
            path: the JSON Lines file.
            known: names of the modalities that a line may have.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: no sample, or a line that cannot be used; one line with its number.
        """
        path = Path(path)
        try:
            check_regular(path, sys.maxsize)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such manifest; make one with `flowbind prepare`") from None
        samples = []
        try:
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(iter(lambda: file.readline(LONGEST), ""), start=1):
                    if len(line) == LONGEST:
                        raise ValueError(
                            f"{path}, line {number}: longer than {LONGEST} characters; a sample takes a few hundred"
                        )
                    if line.strip():
                        samples.append(_parse(line, f"{path}, line {number}", str(number), known))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not a UTF-8 text file ({error.reason}); a manifest is JSON Lines") from None
        if not samples:
            raise ValueError(f"{path}: an empty manifest; it needs at least one sample")
        return cls(path, samples)

    def source(self, sample: Sample, name: str, modality: Modality) -> str | Path:
        """What `modality.read` takes for a sample: the literal itself, or the file's path.

        A value of a literal modality is a file where it ends in one of the modality's suffixes and that file is there.
        """
        return self.locate(sample.values[name], modality)

    def locate(self, value: str, modality: Modality) -> str | Path:
        """What `modality.read` takes for a value, as `source` has it for a sample's own."""
        path = self.path.parent / value
        if modality.literal and not (value.lower().endswith(modality.suffixes) and os.path.isfile(path)):
            return value
        return path

    def read_raw(self, sample: Sample, name: str, modality: Modality) -> Any:
        """Reads one raw sample; a file only where its suffix is one of the modality's, whoever wrote the manifest.

        Raises:
            ValueError: the file is missing, damaged or named as no file of this kind is; one line that names sample and file.
        """
        return self._read(sample, sample.values[name], name, modality)

    def read_references(self, sample: Sample, name: str, modality: Modality) -> list[Any]:
        """Reads all real samples that a generation may be compared with, as `read_raw` reads one."""
        return [self._read(sample, value, name, modality) for value in sample.all_references(name)]

    def _read(self, sample: Sample, value: str, name: str, modality: Modality) -> Any:
        source, what = self.locate(value, modality), f"sample '{sample.id}' of {self.path}"
        if isinstance(source, Path) and not source.name.lower().endswith(modality.suffixes):
            raise ValueError(
                f"{source}: not named like a file of '{name}'; allowed: {', '.join(modality.suffixes)} ({what})"
            )
        return read_raw(modality, source, what)


def read_raw(modality: Modality, source: str | Path, what: str) -> Any:
    """Reads one raw sample, with one-line errors that name it.

    Raises:
        ValueError: the file is missing, unreadable or damaged.
    """
    try:
        if isinstance(source, Path):
            check_regular(source, sys.maxsize)  # whatever the plugin does: a pipe would keep it waiting
        return _accepted(modality, modality.read(source), f"{source}: ")
    except FileNotFoundError:
        why = f"{source}: no such file"
    except OSError as error:
        why = f"{source}: cannot be read: {error.strerror or error}"
    except ValueError as error:
        why = str(error)
    raise ValueError(" ".join(f"{why} ({what})".split()))  # names may have line ends


def take_raw(modality: Modality, sample: Any, what: str) -> Any:
    """One raw sample of what a caller in Python gives: a path or a literal is read, anything else is taken for the sample.

    Raises:
        ValueError: it cannot be read, or is no sample of this kind; one line that names it.
    """
    if isinstance(sample, str):
        return read_raw(modality, str(sample), what)  # it may be numpy's
    if isinstance(sample, os.PathLike):
        return read_raw(modality, Path(sample), what)
    return _accepted(modality, sample, f"{what}: ")


def _accepted(modality: Modality, raw: Any, where: str) -> Any:
    """What the modality makes of a raw sample; whatever a plugin raises is one line."""
    try:
        return modality.accept(raw)
    except ValueError as error:
        message = str(error)
    except Exception as error:  # of a plugin that did not expect such a thing
        message = f"{describe(raw)} cannot be taken ({type(error).__name__}: {error})"
    raise ValueError(" ".join(f"{where}{message}".split()))


def write_manifest(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """Writes samples, each a JSON object, as a manifest: beside, then renamed."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)


def _parse(line: str, where: str, number: str, known: Collection[str]) -> Sample:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}); a manifest has one JSON object a line") from None
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: a JSON object is needed, not {type(entry).__name__}")
    values = {key: value for key, value in entry.items() if key not in RESERVED}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{where}: no modality '{key}'; {nearest(key, known)}")
        if not isinstance(value, str) or not value.strip():
            hint = f'; further ones to compare with go into "references": {{"{key}": [...]}}' * isinstance(value, list)
            raise ValueError(
                f"{where}: '{key}' must be a string, a literal or a file's path, not {json.dumps(value)[:60]}{hint}"
            )
    if not values:
        raise ValueError(f"{where}: no usable modality; it needs at least one of {', '.join(sorted(known))}")
    labels = entry.get("labels") or {}
    if not isinstance(labels, dict):
        raise ValueError(f"{where}: 'labels' must be an object, not {type(labels).__name__}")
    references = _parse_references(entry.get("references") or {}, where, values)
    return Sample(str(entry.get("id", number)), values, {str(k): str(v) for k, v in labels.items()}, references)


def _parse_references(entry: Any, where: str, values: Mapping[str, str]) -> dict[str, list[str]]:
    """All values to compare with per modality, the sample's own first, which may stand among them or not."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: 'references' must be an object, not {type(entry).__name__}")
    references = {}
    for key, others in entry.items():
        if key not in values:
            raise ValueError(
                f"{where}: 'references' of '{key}', which the sample does not have; {nearest(key, values)}"
            )
        if not isinstance(others, list) or not all(isinstance(other, str) and other.strip() for other in others):
            raise ValueError(
                f"{where}: 'references' of '{key}' must be a list of strings, not {json.dumps(others)[:60]}"
            )
        others = list(others)
        if values[key] in others:
            others.remove(values[key])
        references[key] = [values[key], *others]
    return references
