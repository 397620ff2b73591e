"""Manifests: raw samples on disk, one JSON object a line.

`{"id": "17", "text": "a dog barks", "audio": "wav/17.wav", "labels": {"animal": "dog"}}`: a key per modality that the
sample has (a literal, or a file path relative to the manifest), an optional id (default: the line number), and optional
labels for measuring.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowbind.atomic import replacing
from flowbind.modality import Modality
from flowbind.registry import nearest

RESERVED = ("id", "labels")


@dataclass(frozen=True)
class Sample:
    """One line of a manifest: per modality a literal or a path relative to the manifest, and the value of each label."""

    id: str
    values: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)


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
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such manifest; make one with `flowbind prepare`")
        samples = []
        try:
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
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
        value = sample.values[name]
        path = self.path.parent / value if len(value) < 4096 and "\0" not in value else None
        if modality.literal and not (path and value.lower().endswith(modality.suffixes) and path.is_file()):
            return value
        return path if path is not None else value

    def read_raw(self, sample: Sample, name: str, modality: Modality) -> Any:
        """Reads one raw sample.

        Raises:
            ValueError: the file is missing or damaged; one line that names sample and file.
        """
        return read_raw(modality, self.source(sample, name, modality), f"sample '{sample.id}' of {self.path}")


def read_raw(modality: Modality, source: str | Path, what: str) -> Any:
    """Reads one raw sample, with one-line errors that name it.

    Raises:
        ValueError: the file is missing, unreadable or damaged.
    """
    try:
        return modality.read(source)
    except FileNotFoundError:
        raise ValueError(f"{source}: no such file ({what})") from None
    except OSError as error:
        raise ValueError(f"{source}: cannot be read: {error.strerror or error} ({what})") from None
    except ValueError as error:
        raise ValueError(f"{error} ({what})") from None


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
            raise ValueError(
                f"{where}: '{key}' must be a string, a literal or a file's path, not {json.dumps(value)[:60]}"
            )
    if not values:
        raise ValueError(f"{where}: no usable modality; it needs at least one of {', '.join(sorted(known))}")
    labels = entry.get("labels") or {}
    if not isinstance(labels, dict):
        raise ValueError(f"{where}: 'labels' must be an object, not {type(labels).__name__}")
    return Sample(str(entry.get("id", number)), values, {str(k): str(v) for k, v in labels.items()})
