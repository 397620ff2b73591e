"""Annotation files, CSV and JSON.

One-line errors say what they hold and what is needed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowbind import files
from flowbind.data.tables import read_table


def read_rows(
    path: Path,
    needed: Sequence[str | tuple[str, ...]],
    header: Sequence[str] | None = None,
    separator: str | None = None,
) -> Iterator[dict[str, str]]:
    """Rows of a table, cells by column.

    A row under a header may end early, its other cells are empty. Arguments as of `read_table`.

    Raises:
        ValueError: no such file, not a table in UTF-8, a column is missing, or a row has too many
            cells.
    """
    _check_there(path)

    is_ragged = header is None
    table = read_table(path, needed, header, separator, ragged=is_ragged)
    return (row.cells for row in table.rows)


def columns_of(path: Path) -> list[str]:
    """The columns that a table's header names, in lower case; raises as `read_rows` does."""
    _check_there(path)
    columns = read_table(path).columns
    return [column.lower() for column in columns]


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: no such file, or not JSON.
    """
    _check_there(path)
    return files.read_json(path)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        ValueError: no such file, no line, or not in UTF-8.
    """
    _check_there(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is no text in UTF-8") from None
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path}: has no line")
    return lines


def records(
    content: Any,
    needed: Mapping[str, type],
    what: str,
) -> list[dict[str, Any]]:
    """A list of JSON objects that have the keys that are needed, with values of the given types.

    Args:
        content: Value that was read from a JSON file.
        needed: Type of the value of each key that every object must have.
        what: Name of the list, for messages.

    Raises:
        ValueError: it is anything else; `what` says what it should be.
    """
    names = ", ".join(needed)
    requirement = f"{what} must be a list of objects with the keys {names}"
    if not isinstance(content, list):
        name = type(content).__name__
        raise ValueError(f"{requirement}, not {name}")

    for number, entry in enumerate(content):
        if not isinstance(entry, dict) or not needed.keys() <= entry.keys():
            if isinstance(entry, dict):
                keys = ", ".join(entry) or "none"
            else:
                keys = type(entry).__name__
            raise ValueError(f"{requirement}; number {number} has {keys}")

        for key, kind in needed.items():
            if not isinstance(entry[key], kind):
                value = json.dumps(entry[key])[:60]
                raise ValueError(
                    f"{requirement}; '{key}' of number {number} is {value}"
                )

    return content


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file of annotations")
