"""Annotation files, CSV and JSON, with one-line errors that say what they hold and what is needed."""

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
    """Rows of a table, cells by column; one under a header may end early, its other cells are empty. Arguments as of `read_table`.

    Raises:
        ValueError: no such file, not a table in UTF-8, a column is missing, or a row has too many cells.
    """
    _check_there(path)
    return (
        row.cells for row in read_table(path, needed, header, separator, ragged=header is None).rows
    )


def columns_of(path: Path) -> list[str]:
    """The columns that a table's header names, in lower case; raises as `read_rows` does."""
    _check_there(path)
    return [column.lower() for column in read_table(path).columns]


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: no such file, or not JSON.
    """
    _check_there(path)
    return files.read_json(path)


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
                raise ValueError(
                    f"{wanted}; '{key}' of number {number} is {json.dumps(entry[key])[:60]}"
                )
    return found


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file of annotations")
