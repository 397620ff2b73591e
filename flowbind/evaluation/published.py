"""Published figures beside one's own: tables from a JSON file, with a row for this run.

A file is a list of tables; each has a `title`, `columns` (a `direction`, the `measure` as published, in `ours` how the name
of one's own figure begins, and in `scale` what that is to be multiplied with), `rows` (a `name` and a value for each column) and a `note` on where they come from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbind.files import read_json
from flowbind.shipped import locate

COLUMN, ROW = {"direction", "measure", "ours", "scale"}, {"name", "values"}


def read_published(path: Path) -> list[dict[str, Any]]:
    """Reads published tables; `recipes/published.json` comes with flowbind.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file.
    """
    try:
        tables = read_json(locate(path))
        for table in tables:
            columns, rows = table["columns"], table["rows"]
            whole = all(set(column) == COLUMN for column in columns) and all(
                set(row) == ROW for row in rows
            )
            if not whole or any(len(row["values"]) != len(columns) for row in rows):
                raise ValueError(f"'{table['title']}': every row needs a value for every column")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a file of published figures ({error})") from None
    return tables


def beside(
    table: Mapping[str, Any], directions: Mapping[str, Mapping[str, Any]]
) -> list[list[Any]]:
    """Rows of a published table, and last this run's: a name, then a value for each column, None where there is none."""
    own = [
        next(
            (
                v * c["scale"]
                for key, v in directions.get(c["direction"], {}).items()
                if key.startswith(c["ours"])
            ),
            None,
        )
        for c in table["columns"]
    ]
    return [[row["name"], *row["values"]] for row in table["rows"]] + [["this run", *own]]
