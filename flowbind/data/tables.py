"""Tables as spreadsheets, databases and scripts write them, with a header.

Cells stand between commas, semicolons, tabs or bars. The separator is what makes most columns of
the header, nothing is guessed from the rows. Text is UTF-8, with a byte-order mark or without, or
UTF-16 with one.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flowbind.files import encoding_of

SEPARATORS = (",", ";", "\t", "|")
MOST = 3  # names of one column that a message gives
# What may stand on a line of its own before the header, for spreadsheets.
MARK = "sep="


class Row(NamedTuple):
    """The number of a line, and its cells by column, without the space around them."""

    line: int
    cells: dict[str, str]


class Table(NamedTuple):
    """The names of a table's columns, in its order, and its rows, to be gone through once."""

    columns: list[str]
    rows: Iterator[Row]


def read_table(
    path: Path,
    needed: Sequence[str | tuple[str, ...]] = (),
    header: Sequence[str] | None = None,
    separator: str | None = None,
    ragged: bool = False,
) -> Table:
    """Reads a table.

    Names of columns are compared without regard to case and to the space around them. Cells may
    stand in double quotes, except between bars. Empty lines count for nothing, and so do columns
    without a name.

    Args:
        path: Path of the file.
        needed: Columns that must be there, each one name or several of which the first that is
            there is meant; rows have them under the first.
        header: Names of the columns where the file has no line that gives them.
        separator: Character between cells; if None, the one that the header shows. Where there is
            no header line, nothing stands in quotes but between commas.
        ragged: Whether a row may end early; its other cells are empty then.

    Raises:
        OSError: it is not there, or cannot be opened.
        ValueError: not a table in UTF-8, a column is missing or there twice, or, later, a row has
            another number of cells; one line that names it.
    """
    required = []
    for column in needed:
        required.append((column,) if isinstance(column, str) else column)
    lines = _lines(path)

    if header is None:
        first = next((line for _, line in lines if line.strip()), "")
        stripped = first.strip()
        is_short = len(stripped) <= len(MARK) + 1
        if is_short and first.lower().startswith(MARK):
            separator = stripped[len(MARK) :] or separator
            _, first = next(lines, (0, ""))
        separator = separator or _separator(first, required)
        columns = _cells(first, separator)
    else:
        separator = separator or ","
        columns = list(header)

    names = _named(columns, required, path)
    quoted = separator != "|" and (header is None or separator == ",")
    rows = _rows(path, lines, names, separator, quoted, ragged)
    return Table(columns, rows)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, ends included: cells may hold some."""
    try:
        with path.open(newline="", encoding=encoding_of(path)) as file:
            yield from enumerate(file, start=1)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 ({error.reason}); save it as UTF-8"
        ) from None


def _separator(first: str, required: Sequence[tuple[str, ...]]) -> str:
    """What makes the header that has most of the columns that are needed.

    Among equals most columns, then the order above.
    """

    def fitness(separator: str) -> tuple[int, int]:
        columns = {_plain(column) for column in _cells(first, separator)}
        matches = 0
        for names in required:
            matches += not columns.isdisjoint(map(_plain, names))
        return matches, len(columns)

    return max(SEPARATORS, key=fitness)


def _cells(line: str, separator: str) -> list[str]:
    try:
        rows = csv.reader([line], delimiter=separator)
        return [cell.strip() for cell in next(rows, [])]
    except csv.Error:
        return []


def _any_of(names: Sequence[str]) -> str:
    examples = " or ".join(names[:MOST])
    if len(names) > MOST:
        return f"{examples} or the like"
    return examples


def _plain(column: str) -> str:
    return column.strip().casefold()


def _named(
    columns: Sequence[str],
    required: Sequence[tuple[str, ...]],
    path: Path,
) -> list[str]:
    """The names under which rows have the columns.

    Those that are needed are as they were asked for, the others as they are.
    """
    named = list(columns)
    places: dict[str, list[int]] = {}
    for place, column in enumerate(columns):
        if column:
            key = _plain(column)
            places.setdefault(key, []).append(place)

    for names in required:
        name = next((name for name in names if _plain(name) in places), None)
        if name is None:
            needed = ", ".join(map(_any_of, required))
            present = ", ".join(filter(None, columns)) or "none"
            missing = _any_of(names)
            raise ValueError(
                f"{path}: needs the columns {needed}; found {present}, not {missing}"
            )
        place, *_ = places[_plain(name)]
        named[place] = names[0]

    for column, same in places.items():
        if len(same) > 1:
            raise ValueError(
                f"{path}: {len(same)} columns are called '{column}'; rename or remove all but one"
            )
    return named


def _rows(
    path: Path,
    lines: Iterator[tuple[int, str]],
    names: Sequence[str],
    separator: str,
    quoted: bool,
    ragged: bool,
) -> Iterator[Row]:
    """The rows of a table, without those that are empty.

    Raises:
        ValueError: a row has more or fewer cells than there are columns, or is no row; its line is
            named.
    """
    number = 0
    of_row: list[str] = []  # its lines

    def content() -> Iterator[str]:
        nonlocal number
        for number, line in lines:  # noqa: B007 - the number of the line that was read last
            of_row.append(line)
            yield line

    reader = csv.reader(
        content(),
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            quotes = sum(line.count('"') for line in of_row)
            if quoted and len(of_row) > 1 and quotes % 2:
                begin = number - len(of_row) + 1
                raise ValueError(
                    f"{path}, line {begin}: a quote that is not closed, so that the row reaches to "
                    f"line {number}; close it, or double it inside a cell"
                )

            of_row.clear()
            if not any(cells):
                continue

            while (
                len(cells) > len(names) and not cells[-1]
            ):  # separators at the line's end
                cells.pop()
            is_short = len(cells) < len(names)
            if len(cells) > len(names) or (is_short and not ragged):
                raise ValueError(
                    f"{path}, line {number}: {len(cells)} cells where there are {len(names)} "
                    f"columns, {', '.join(names)}"
                )

            filled = dict.fromkeys(names, "")
            filled |= dict(zip(names, cells, strict=False))
            filled.pop("", None)
            yield Row(number, filled)
    except csv.Error as error:
        raise ValueError(f"{path}, line {number}: not a table ({error})") from None
