"""What reading files needs of a machine, checked before long work begins, not file by file."""

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
        name: Name of the modality.
        modality: Modality that reads them.
        sources: Files, among literals where the modality has them.
        what: Name for them in a line.
        most: Number of them that may be left out, which a line then says.
        option: Option of the command line that sets this number; none if empty.

    Raises:
        ValueError: more of them cannot be read; one line that says what is missing, and what to do.
    """
    files_by_suffix: dict[str, list[str | Path]] = {}
    for source in sources:
        _, suffix = os.path.splitext(source)
        files = files_by_suffix.setdefault(suffix.lower(), [])
        files.append(source)

    lines = []
    count = 0
    for suffix in sorted(files_by_suffix.keys() & set(modality.suffixes)):
        missing = modality.missing(suffix)
        if missing:
            files = files_by_suffix[suffix]
            count += len(files)
            lines.append(
                f"{what}: {len(files)} of '{name}' with '{suffix}', such as {files[0]}: {missing}"
            )

    if count > most:
        hint = f"; {option} N leaves out at most N such samples" if option else ""
        raise ValueError(f"{lines[0]}{hint}")
    for line in lines:
        say(line)
