"""What reading files needs of a machine, looked at before long work begins rather than file by file."""

import os
from collections.abc import Iterable
from pathlib import Path

from flowbind.modality import Modality
from flowbind.progress import say


def check_readers(
    name: str,
    modality: Modality,
    sources: Iterable[str | Path],
    what: str,
    most: int = 0,
    option: str = "",
) -> None:
    """Checks, by their suffixes, that files can be read here.

    Args:
        name: of the modality.
        modality: that reads them.
        sources: files, among literals where the modality has them.
        what: names them, to call in a line.
        most: how many may be left out, which a line then tells.
        option: of the command line, which says how many; none if empty.

    Raises:
        ValueError: more of them cannot be read; one line that says what is missing, and what to do.
    """
    of_suffix: dict[str, list[str | Path]] = {}
    for source in sources:
        of_suffix.setdefault(os.path.splitext(source)[1].lower(), []).append(source)

    lines, count = [], 0
    for suffix in sorted(of_suffix.keys() & set(modality.suffixes)):
        if missing := modality.missing(suffix):
            files = of_suffix[suffix]
            count += len(files)
            lines.append(
                f"{what}: {len(files)} of '{name}' with '{suffix}', such as {files[0]}: {missing}"
            )
    if count > most:
        hint = f"; {option} N leaves out at most N such samples" if option else ""
        raise ValueError(f"{lines[0]}{hint}")
    for line in lines:
        say(line)
