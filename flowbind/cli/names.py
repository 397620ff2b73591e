"""Names of what is generated: readable, short enough for every file system, and no two alike."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

PART, WHOLE = (
    60,
    150,
)  # bytes of one source's words, and of all of them; a file's name has at most 255
LETTERS = (
    "L",
    "M",
    "N",
)  # Unicode categories that words are made of: letters, their marks, numbers


def stems(sources: Mapping[str, Sequence[str | Path]]) -> list[str]:
    """A stem for each of B samples: its number where there are several, and the words of its literals or files.

    Args:
        sources: per modality, B literals or files.
    """
    rows = list(zip(*sources.values(), strict=True))
    if len(rows) == 1:
        return [_words(rows[0])]
    digits = len(str(len(rows) - 1))
    return [f"{number:0{digits}d}-{_words(row)}" for number, row in enumerate(rows)]


def _words(row: Sequence[str | Path]) -> str:
    given = [source.stem if isinstance(source, Path) else source for source in row]
    return shortened(
        "+".join(shortened(_plain(words), words, PART) for words in given), "+".join(given), WHOLE
    )


def _plain(words: str) -> str:
    """The words joined by hyphens, in one of the ways in which Unicode spells them."""
    kept = (
        c if unicodedata.category(c)[0] in LETTERS else " "
        for c in unicodedata.normalize("NFC", words)
    )
    return "-".join("".join(kept).split())


def shortened(plain: str, given: str, longest: int) -> str:
    """At most `longest` bytes of a name in UTF-8; where something is cut, or nothing is left, a hash of what was given ends it."""
    if plain and len(plain.encode()) <= longest:
        return plain
    digest = hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    cut = plain.encode()[: longest - 9].decode("utf-8", "ignore").strip("-+")
    return f"{cut}-{digest}" if cut else digest


def refuse_existing(paths: Sequence[Path]) -> None:
    """Refuses to write where something is.

    Raises:
        ValueError: one of the files is there.
    """
    there = [path for path in paths if path.exists() or path.is_symlink()]
    if there:
        others = f", and {len(there) - 1} more," if len(there) > 1 else ""
        raise ValueError(
            f"{there[0]}{others} is there already; --overwrite replaces it, or give another --out"
        )
