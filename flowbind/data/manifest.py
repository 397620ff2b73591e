"""Manifests: raw samples on disk, one JSON object a line.

`{"id": "17", "text": "a dog barks", "audio": "wav/17.wav", "labels": {"animal": "dog"}}`: a key per
modality that the sample has (a literal, or a file path relative to the manifest), an optional id
(default: the line number), and, for measuring, optional labels and `references`: per modality
further values that a generation is compared with.

What a sample does not have may be left out, or be `null` or `NaN`, as tables write it: that is the
same.
"""

import json
import math
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flowbind.arrays import describe
from flowbind.data.remote import address_of, beside, bring_present, brought
from flowbind.files import check_regular, encoding_of, replacing
from flowbind.modality import Modality
from flowbind.progress import is_first_process, say
from flowbind.registry import did_you_mean, installed
from flowbind.turns import one_sample

LONGEST = 2**20  # characters of a line
LONGEST_MESSAGE = 300  # characters of what a plugin's fault says
RESERVED = ("id", "labels", "references")
_SURROGATES = re.compile("[\ud800-\udfff]")
# Environment variable: print where in a plugin each sample failed.
TRACEBACK = "FLOWBIND_TRACEBACK"


@dataclass(frozen=True)
class Sample:
    """One line of a manifest.

    Values are, per modality, a literal or a path relative to the manifest. `references` has, for
    some of its modalities, all values that a generation may be compared with, the sample's own
    first.

    Attributes:
        id: Id, unique in its manifest.
        values: Value of each modality.
        labels: Value of each label.
        references: Values to compare a generation with, by modality.
    """

    id: str
    values: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)
    references: dict[str, list[str]] = field(default_factory=dict)

    def all_references(self, name: str) -> list[str]:
        """The values of a modality that a generation may be compared with.

        The sample's own alone if no others are given.
        """
        references = self.references.get(name)
        return references or [self.values[name]]


@dataclass(frozen=True)
class Manifest:
    """The samples of one manifest file, in its order.

    Attributes:
        path: Path of the file; of one in object storage, of its copy.
        samples: Its samples.
        origin: Address of one in object storage; empty for a file of this machine.
    """

    path: Path
    samples: list[Sample]
    origin: str = ""

    @property
    def name(self) -> str:
        """What the manifest is called: its address, or its path."""
        return self.origin or str(self.path)

    @classmethod
    def read(cls, path: str | Path, known: Collection[str]) -> "Manifest":
        """Reads and checks a whole manifest.

        A sample without an id gets the number of its line.

        Args:
            path: Path of the JSON Lines file, in UTF-8, or in UTF-16 where a byte-order mark says
                so; or its address in object storage.
            known: Names of the modalities that a line may have.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: no sample, a line that cannot be used, or one with the id of another; one
                line with its number.
        """
        origin = address_of(path)
        try:
            path = brought(path)
            check_regular(path, sys.maxsize)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{origin or path}: no such manifest; make one with `flowbind prepare`"
            ) from None

        samples = {}
        for number, line in _lines(path):
            where = f"{path}, line {number}"
            samples[number] = _parse(line, where, known)
        if not samples:
            raise ValueError(f"{path}: an empty manifest; it needs at least one sample")
        if not any(sample.values for sample in samples.values()):
            names = ", ".join(sorted(known))
            raise ValueError(
                f"{path}: no sample has any of {names}; there is nothing in it"
            )

        return cls(path, _with_ids(samples, path), origin)

    @classmethod
    def read_for(
        cls,
        path: str | Path,
        modalities: Mapping[str, Modality],
    ) -> "Manifest":
        """Reads a manifest for these modalities, some of which may read another's key.

        What it has besides is left aside. Raises as `read` does.
        """
        keys = {}
        borrowed = {}
        for name, modality in modalities.items():
            keys[name] = modality.reads or name
            if keys[name] != name:
                borrowed[name] = keys[name]

        known = {*modalities, *keys.values(), *installed("modalities")}
        manifest = cls.read(path, known)
        if not borrowed:
            return manifest

        samples = [_with_borrowed(sample, borrowed) for sample in manifest.samples]
        return replace(manifest, samples=samples)

    def bring(
        self,
        modalities: Mapping[str, Modality],
        samples: Iterable[Sample] | None = None,
    ) -> None:
        """Copies the files of samples to this machine, where they lie in object storage.

        Files that are not there are left to whoever reads them. What lies beside a sample's file,
        such as the materials of a mesh, is not brought.

        Args:
            modalities: Modalities whose files are needed, by name.
            samples: Samples whose files are needed; all of them if None.

        Raises:
            OSError, ValueError: the storage does not give them, or a path leads out of the bucket;
                one line.
        """
        if not self.origin:
            return

        addresses = []
        for sample in self.samples if samples is None else samples:
            for name, modality in modalities.items():
                value = sample.values.get(name)
                if value is not None and isinstance(self.locate(value, modality), Path):
                    addresses.append(beside(self.origin, value))
        bring_present(addresses, "copying")

    def source(
        self,
        sample: Sample,
        name: str,
        modality: Modality,
    ) -> str | Path:
        """What `modality.read` takes for a sample: the literal itself, or the file's path.

        A value of a literal modality is a file where it ends in one of the modality's suffixes and
        that file is there.
        """
        return self.locate(sample.values[name], modality)

    def locate(
        self,
        value: str,
        modality: Modality | type[Modality],
    ) -> str | Path:
        """What `modality.read` takes for a value, as `source` has it for a sample's own."""
        path = self.path.parent / value
        if not modality.literal:
            return path

        has_suffix = value.lower().endswith(modality.suffixes)
        if has_suffix and _names_file(value, path):
            return path
        return value

    def read_raw(
        self,
        sample: Sample,
        name: str,
        modality: Modality,
    ) -> Any:
        """Reads one raw sample.

        A file is read only where its suffix is one of the modality's, whoever wrote the manifest.

        Raises:
            ValueError: it cannot be read, whatever the reason; one line that names sample and file.
            MemoryError: there is not enough memory for it; names it too.
        """
        value = sample.values[name]
        return self._read(sample, value, name, modality)

    def read_references(
        self,
        sample: Sample,
        name: str,
        modality: Modality,
    ) -> list[Any]:
        """Reads all samples that a generation may be compared with, as `read_raw` reads one."""
        values = sample.all_references(name)
        return [self._read(sample, value, name, modality) for value in values]

    def _read(
        self,
        sample: Sample,
        value: str,
        name: str,
        modality: Modality,
    ) -> Any:
        source = self.locate(value, modality)
        what = f"sample '{sample.id}' of {self.name}"
        if not isinstance(source, Path):
            return read_raw(modality, source, what)

        if self.origin and not os.path.isfile(source):
            try:
                bring_present([beside(self.origin, value)], "copying")
            except (OSError, ValueError) as error:
                raise _unreadable(str(error), what) from None

        fault = mistake_in(value)
        if fault and not os.path.isfile(source):
            raise _unreadable(f"{value!r}: {fault}", what)
        if not source.name.lower().endswith(modality.suffixes):
            allowed = ", ".join(modality.suffixes)
            reason = f"{source}: not named like a file of '{name}'; allowed: {allowed}"
            raise _unreadable(reason, what)

        return read_raw(modality, source, what)


def _with_borrowed(sample: Sample, borrowed: Mapping[str, str]) -> Sample:
    """A sample whose values, and references, under some names are those of other keys."""
    values = dict(sample.values)
    references = dict(sample.references)
    for name, key in borrowed.items():
        if key in sample.values:
            values[name] = sample.values[key]
        if key in sample.references:
            references[name] = sample.references[key]
    return replace(sample, values=values, references=references)


def read_raw(modality: Modality, source: str | Path, what: str) -> Any:
    """Reads one raw sample, with one-line errors that name it, whatever a plugin raises.

    A reader's own verdict, ValueError or OSError, is passed on. Any other exception is a fault of
    the plugin or of a library below it, and is given with its kind and place.

    Args:
        modality: Modality that reads it.
        source: Path of a file, or a literal.
        what: Name of the sample in messages.

    Raises:
        ValueError: the file is missing, unreadable or damaged, or its reader failed.
        MemoryError: there is not enough memory to read it. That says more of the machine than of
            the sample.
    """
    try:
        if isinstance(source, Path):
            # Whatever the plugin does: a pipe would keep it waiting.
            check_regular(source, sys.maxsize)
        with one_sample():
            raw = modality.read(source)
            return _accepted(modality, raw, f"{source}: ")
    except MemoryError:
        raise MemoryError(
            f"{_short(source)}: not enough memory to read it ({what})"
        ) from None
    except Exception as error:
        raise _unreadable(_verdict(error, source), what) from error


def _verdict(error: Exception, source: str | Path) -> str:
    """Why a sample cannot be read, with its name."""
    is_file = isinstance(source, Path)
    if isinstance(error, FileNotFoundError) and is_file and not os.path.lexists(source):
        return f"{source}: no such file"

    if isinstance(error, OSError):
        problem = error.strerror or error
        other = ""
        if error.filename and str(error.filename) != str(source):
            other = f": {error.filename}"
        return f"{_short(source)}: cannot be read: {problem}{other}"

    if isinstance(error, ValueError) and str(error):
        if not isinstance(source, Path) or source.name in str(error):
            return str(error)
        return f"{source}: {error}"

    fault = describe_fault(error)
    return f"{_short(source)}: its reader failed with {fault}"


def describe_fault(error: Exception) -> str:
    """A plugin's exception in a line.

    It is what a ValueError says, and of any other, which no plugin should raise, kind and place.
    With the environment variable FLOWBIND_TRACEBACK its traceback is printed, too.
    """
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)

    message = " ".join(str(error).split())[:LONGEST_MESSAGE]
    if isinstance(error, ValueError) and message:
        return message

    # The innermost frame is the place.
    place = traceback.extract_tb(error.__traceback__)[-1]
    path = Path(place.filename)
    file = "/".join(path.parts[-3:])
    kind = type(error).__name__
    if message:
        kind = f"{kind}: {message}"
    return f"{kind}, at line {place.lineno} of {file}"


def _short(source: str | Path) -> str:
    if isinstance(source, Path):
        return str(source)
    return repr(source[:60])


def _unreadable(reason: str, what: str) -> ValueError:
    # Names may have line ends.
    line = f"{reason} ({what})"
    return ValueError(" ".join(line.split()))


def _names_file(value: str, path: Path) -> bool:
    """Whether a value that ends like a file is one: it is one word, or such a file is there."""
    is_one_word = len(value.split()) == 1
    return is_one_word or os.path.isfile(path)


def mistake_in(value: str) -> str:
    """What is wrong with a value in the place of a path, if it is one of the usual things."""
    if not value.strip():
        return "an empty path; leave the key out, or give null, where a sample lacks it"

    scheme, colon, _ = value.partition("://")
    if colon and scheme.isalnum():
        hint = " without file://" if scheme == "file" else ""
        return f"an address; give the path of a file on this machine{hint}"

    if value.startswith("~"):
        return "~ stands for no folder in a manifest; write it out"
    if "\\" in value:
        return "no such file; backslashes separate no folders, write / instead"

    return ""


def take_raw(modality: Modality, sample: Any, what: str) -> Any:
    """One raw sample of what a caller in Python gives.

    A path or a literal is read, anything else is taken for the sample.

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
    except MemoryError:
        raise
    except ValueError as error:
        message = str(error)
    except Exception as error:  # of a plugin that did not expect such a thing
        fault = describe_fault(error)
        message = f"{describe(raw)} cannot be taken ({fault})"

    line = f"{where}{message}"
    raise ValueError(" ".join(line.split()))


def refuse_bad(bad: Sequence[str], most: int, option: str) -> None:
    """Refuses more bad samples than may be left out.

    Args:
        bad: What is wrong with each of them.
        most: Number of samples, at most, that may be left out.
        option: Option of the command line that gives this number.

    Raises:
        ValueError: there are more; one line about the last of them, and what to do.
    """
    if len(bad) > most:
        clause = f"; {option} N leaves out at most N such samples"
        if most:
            clause = f" (more than the {most} that {option} allows)"
        raise ValueError(f"{bad[-1]}{clause}")


def leave_out(
    place: Path,
    bad: Sequence[str],
    most: int,
    option: str,
) -> None:
    """Lists the bad samples that are left out, in one order; raises as `refuse_bad` does."""
    refuse_bad(bad, most, option)
    if bad and is_first_process():
        say(f"{place}: {len(bad)} samples could not be read and are left out:")
        for line in sorted(bad):
            say(f"  {line}")


def write_manifest(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """Writes samples, each a JSON object, as a manifest: beside, then renamed."""
    with (
        replacing(path) as partial,
        partial.open("w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(_json(sample) + "\n" for sample in samples)


def _json(sample: Mapping[str, Any]) -> str:
    line = json.dumps(sample, ensure_ascii=False)
    if line.isascii() or not _SURROGATES.search(line):
        return line
    # A folder's name may be no UTF-8: JSON's escapes keep its bytes.
    return json.dumps(sample)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and content of each line that is not empty.

    Raises:
        ValueError: the file is no text, or something else than JSON Lines; says what to do.
    """
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"\x1f\x8b":
        raise ValueError(f"{path}: compressed; unpack it with gunzip")

    try:
        with path.open(encoding=encoding_of(path)) as file:
            lines = iter(lambda: file.readline(LONGEST), "")
            for number, line in enumerate(lines, start=1):
                if len(line) == LONGEST:
                    raise ValueError(
                        f"{path}, line {number}: longer than {LONGEST} characters; a sample takes "
                        "a few hundred"
                    )
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not a text file in UTF-8 ({error.reason}); a manifest is JSON Lines"
        ) from None


def _with_ids(samples: Mapping[int, Sample], path: Path) -> list[Sample]:
    """Samples by the number of their lines, each with an id of its own.

    Those that have none get the number.
    """
    line_of: dict[str, int] = {}
    for number, sample in samples.items():
        other = number
        if sample.id:
            other = line_of.setdefault(sample.id, number)
        if other != number:
            raise ValueError(
                f"{path}, line {number}: the id '{sample.id}' is that of line {other}; each sample "
                "needs its own, or none"
            )

    numbered = []
    for number, sample in samples.items():
        if not sample.id:
            id = str(number)
            if id in line_of:
                id = f"line {number}"
            sample = replace(sample, id=id)
        numbered.append(sample)
    return numbered


def _parse(line: str, where: str, known: Collection[str]) -> Sample:
    """The sample of one line; its id is empty if it has none."""
    entry = _load(line, where, known)
    for key in entry:
        if key not in known and key not in RESERVED:
            raise ValueError(
                f"{where}: no modality '{key}'; {did_you_mean(key, known)}"
            )

    values = {}
    for key, value in entry.items():
        if key in RESERVED or _absent(value):
            continue
        if not isinstance(value, str):
            hint = ""
            if isinstance(value, list):
                hint = f'; further ones to compare with go into "references": {{"{key}": [...]}}'
            content = json.dumps(value)[:60]
            raise ValueError(
                f"{where}: '{key}' must be a string, a literal or a file's path, not "
                f"{content}{hint}"
            )
        values[key] = value

    labels = {}
    for key, value in _object(entry, "labels", where).items():
        label = _plain(value, f"{where}: the label '{key}'")
        label = label.strip()
        if label:
            labels[key] = label

    others = _object(entry, "references", where)
    references = _parse_references(others, where, values)
    id = _plain(entry.get("id"), f"{where}: 'id'")
    return Sample(id, values, labels, references)


def _load(line: str, where: str, known: Collection[str]) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        ValueError: it is something else; says what it looks like, and what to do.
    """
    content = line.strip()
    try:
        entry = _DECODER.decode(content)
    except (ValueError, RecursionError) as error:
        reason = _guess(content, known) or error
        raise ValueError(
            f"{where}: not JSON ({reason}); a manifest has one JSON object a line"
        ) from None

    if isinstance(entry, list):
        raise ValueError(
            f"{where}: a JSON list; a manifest has one JSON object a line, without brackets and "
            "commas around"
        )
    if not isinstance(entry, dict):
        raise ValueError(
            f"{where}: a JSON object is needed, not {type(entry).__name__}"
        )

    return entry


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, each key of which stands there once: which of two is meant, nobody knows."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"the key '{key}' stands there twice")
    return entry


def _constant(name: str) -> float:
    if name != "NaN":  # pandas writes it for what is missing
        raise ValueError(f"{name} is no value")
    return math.nan


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_constant)


def _guess(content: str, known: Collection[str]) -> str:
    """What a line is that is no JSON, where it can be told."""
    if content.startswith("[") or content == "{":
        return "a list, or an object that is spread over lines"
    if content.endswith(("},", "} ,")):
        return "a comma after the object"

    cells = set()
    for separator in ",;\t":
        for cell in content.split(separator):
            name = cell.strip(' "')
            cells.add(name.casefold())
    if not content.startswith("{") and not cells.isdisjoint({*known, "id"}):
        return (
            "the header of a table, by its look; write each row as an object, such as by pandas' "
            "to_json(orient='records', lines=True)"
        )

    return ""


def _absent(value: Any) -> bool:
    """Whether a value stands for none: null, or a number that is none."""
    is_number = isinstance(value, float)
    return value is None or (is_number and math.isnan(value))


def _object(
    entry: Mapping[str, Any],
    key: str,
    where: str,
) -> dict[str, Any]:
    """An object in a line; an empty one where it is absent."""
    value = entry.get(key)
    if _absent(value):
        return {}

    if not isinstance(value, dict):
        kind = type(value).__name__
        raise ValueError(f"{where}: '{key}' must be an object, not {kind}")

    return value


def _plain(value: Any, what: str) -> str:
    """An id or a label as a string: whole numbers without a point, whatever wrote them.

    None where it is absent or blank.
    """
    if _absent(value):
        return ""
    if isinstance(value, dict | list):
        content = json.dumps(value)[:60]
        raise ValueError(f"{what} must be a string or a number, not {content}")

    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = str(value)
    return word if word.strip() else ""


def _parse_references(
    entry: Mapping[str, Any],
    where: str,
    values: Mapping[str, str],
) -> dict[str, list[str]]:
    """All values to compare with per modality, the sample's own first.

    It may stand among the others or not.
    """
    references = {}
    for key, others in entry.items():
        if _absent(others):
            continue

        if key not in values:
            raise ValueError(
                f"{where}: 'references' of '{key}', which the sample does not have; "
                f"{did_you_mean(key, values)}"
            )
        if not _is_list_of_strings(others):
            content = json.dumps(others)[:60]
            raise ValueError(
                f"{where}: 'references' of '{key}' must be a list of strings, not "
                f"{content}"
            )

        own = values[key]
        others = list(others)
        if own in others:
            others.remove(own)
        references[key] = [own, *others]
    return references


def _is_list_of_strings(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return all(isinstance(item, str) and item.strip() for item in value)
