"""Annotation files, CSV and JSON, with one-line errors that say what they hold and what is needed."""

import csv
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from flowbind import regular


def read_rows(
    path: Path,
    needed: Collection[str],
    header: Sequence[str] | None = None,
    delimiter: str = ",",
    quoting: int = csv.QUOTE_MINIMAL,
) -> Iterator[dict[str, str]]:
    """Rows of a table in UTF-8, cells by column, without the space around them; a row that ends early has empty cells.

    Args:
        path: of the file.
        needed: columns that must be there.
        header: names of the columns where the file has no line that tells them; every row then has them all.
        delimiter: between cells.
        quoting: of csv's constants, whether a cell may stand in quotes.

    Raises:
        ValueError: no such file, not a table in UTF-8, a column is missing, or a row has too many cells.
    """
    with _opened(path) as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting)
        try:
            names = [name.strip() for name in (header or next(reader, []))]
            if missing := [name for name in needed if name not in names]:
                found = ", ".join(names) or "none"
                raise ValueError(f"{path}: needs the columns {', '.join(needed)}; found {found}, not {missing[0]}")
            for cells in reader:
                if len(cells) > len(names) or (header and 0 < len(cells) < len(names)):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {len(cells)} cells where there are {len(names)} columns, {', '.join(names)}"
                    )
                if cells:
                    yield dict.fromkeys(names, "") | dict(zip(names, map(str.strip, cells), strict=False))
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: not a table ({error})") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: no such file, or not JSON.
    """
    with _opened(path):
        return regular.read_json(path)


def first_line(path: Path) -> str:
    """The line that names a table's columns.

    Raises:
        ValueError: no such file, or not UTF-8.
    """
    with _opened(path) as file:
        try:
            return file.readline()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None


def records(found: Any, needed: Mapping[str, type], what: str) -> list[dict[str, Any]]:
    """A list of JSON objects, all of which have the keys that are needed, with values of these types.

    Raises:
        ValueError: it is anything else; `what` says what it should be.
    """
    wanted = f"{what} must be a list of objects with the keys {', '.join(needed)}"
    if not isinstance(found, list):
        raise ValueError(f"{wanted}, not {type(found).__name__}")
    for number, entry in enumerate(found):
        if not isinstance(entry, dict) or not needed.keys() <= entry.keys():
            keys = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
            raise ValueError(f"{wanted}; number {number} has {keys or 'none'}")
        for key, kind in needed.items():
            if not isinstance(entry[key], kind):
                raise ValueError(f"{wanted}; '{key}' of number {number} is {json.dumps(entry[key])[:60]}")
    return found


def _opened(path: Path) -> TextIO:
    if not path.is_file():
        raise ValueError(f"{path}: no such file of annotations")
    return path.open(newline="", encoding="utf-8-sig")
