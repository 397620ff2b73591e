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
                raise ValueError(f"'{table['title']}': every row needs a value for every column")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a file of published figures ({error})") from None
    return tables


def _is_complete(columns: list[Any], rows: list[Any]) -> bool:
    """Whether columns and rows have all their keys, and every row a value for every column."""
    if any(set(column) != COLUMN for column in columns) or any(set(row) != ROW for row in rows):
        return False
    return all(len(row["values"]) == len(columns) for row in rows)


def beside(
    table: Mapping[str, Any], directions: Mapping[str, Mapping[str, Any]]
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
        names = (name for name in measures if name.startswith(column["ours"]))
        name = next(names, None)
        this_run.append(None if name is None else measures[name] * column["scale"])
    return [*rows, this_run]
