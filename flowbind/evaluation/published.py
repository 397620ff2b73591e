"""Published values beside one's own: tables from a JSON file, with a row for this run.

A file is a list of tables. Each has a `title`, `columns`, `rows` (a `name`, and a value for each
column) and a `note` on where they come from. A column has a `direction`, the `measure` as
published, in `ours` how the name of one's own measure begins, and in `scale` what that is to be
multiplied with.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbind.files import read_json
from flowbind.shipped import locate

COLUMN = {"direction", "measure", "ours", "scale"}
ROW = {"name", "values"}


def read_published(path: Path) -> list[dict[str, Any]]:
    """Reads published tables; `recipes/published.json` comes with flowbind.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file.
    """
    try:
        tables = read_json(locate(path))
        for table in tables:
            if not _is_complete(table["columns"], table["rows"]):
                raise ValueError(
                    f"'{table['title']}': every row needs a value for every column"
                )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a file of published figures ({error})") from None
    return tables


def _is_complete(columns: list[Any], rows: list[Any]) -> bool:
    """Whether columns and rows have all their keys, and every row a value for every column."""
    if any(set(column) != COLUMN for column in columns):
        return False
    return all(set(row) == ROW and len(row["values"]) == len(columns) for row in rows)


def beside(
    table: Mapping[str, Any],
    directions: Mapping[str, Mapping[str, Any]],
) -> list[list[Any]]:
    """Rows of a published table, and last this run's.

    Args:
        table: Published table.
        directions: Per direction of this run, its measures by full name.

    Returns:
        A name, then a value for each column, in each row; None where there is no value.
    """
    rows = [[row["name"], *row["values"]] for row in table["rows"]]

    this_run: list[Any] = ["this run"]
    for column in table["columns"]:
        measures = directions.get(column["direction"], {})
        this_run.append(_scaled(measures, column["ours"], column["scale"]))
    return [*rows, this_run]


def _scaled(
    measures: Mapping[str, Any],
    start: str,
    scale: float,
) -> float | None:
    """The first measure whose name begins so, times a scale; None if there is none."""
    for name, value in measures.items():
        if name.startswith(start):
            return value * scale
    return None
