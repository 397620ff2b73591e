"""Names of what is generated: readable, short enough for every file system, and no two alike."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

PART = 60  # bytes of one source's words
WHOLE = 150  # bytes of all words; a file's name has at most 255

# Unicode categories that words are made of: letters, their marks, numbers.
LETTERS = ("L", "M", "N")


def stems(
    sources: Mapping[str, Sequence[str | Path]],
    terms: Mapping[str, Sequence[tuple[str, Sequence[str | Path]]]] = {},
) -> list[str]:
    """A stem for each of B samples: the words of its literals or files, after its number.

    A single sample has no number.

    Args:
        sources: Per modality, B literals or files.
        terms: What is added to them and taken away, by the word for that: modalities, each with one
            literal or file for all samples, or B.
    """
    columns = list(sources.values())
    count = len(columns[0])
    for side, pairs in terms.items():
        for _, samples in pairs:
            words = [f"{side} {_words_of(sample)}" for sample in samples]
            columns.append(words * (count // len(words)))
    rows = list(zip(*columns, strict=True))
    if len(rows) == 1:
        return [_words(rows[0])]
    names = []
    for number, row in zip(_numbers(len(rows)), rows, strict=True):
        names.append(f"{number}-{_words(row)}")
    return names


def named_after(ids: Sequence[str]) -> list[str]:
    """A stem for each of several samples: its id in letters that every file system takes.

    Where two would be alike, all have their numbers in front.
    """
    names = [shortened(_plain(name), name, WHOLE) for name in ids]
    if len({name.casefold() for name in names}) == len(names):
        return names
    numbers = _numbers(len(names))
    return [f"{number}-{name}" for number, name in zip(numbers, names, strict=True)]


def numbered(word: str, count: int) -> list[str]:
    """A stem for each of samples that were made of nothing; a single sample has no number."""
    if count == 1:
        return [word]
    return [f"{number}-{word}" for number in _numbers(count)]


def along(sources: Mapping[str, Sequence[str | Path]]) -> str:
    """The words of what lies between samples: those of all of them.

    Args:
        sources: Per modality, literals or files of each sample.
    """
    rows = zip(*sources.values(), strict=True)
    return _words(list(dict.fromkeys(chain(*rows))))


def _numbers(count: int) -> list[str]:
    """Numbers from 0 on, all equally wide."""
    digits = len(str(count - 1))
    return [f"{number:0{digits}d}" for number in range(count)]


def _words(row: Sequence[str | Path]) -> str:
    """The words of one sample's literals or files, as part of a name."""
    sources = []
    parts = []
    for source in row:
        words = _words_of(source)
        sources.append(words)
        parts.append(shortened(_plain(words), words, PART))

    joined = "+".join(sources)
    return shortened("+".join(parts), joined, WHOLE)


def _words_of(source: str | Path) -> str:
    """A literal, or the name of a file without its ending."""
    return source.stem if isinstance(source, Path) else source


def _plain(words: str) -> str:
    """The words joined by hyphens, in one of the ways in which Unicode spells them."""
    letters = ""
    for letter in unicodedata.normalize("NFC", words):
        kind = unicodedata.category(letter)
        letters += letter if kind[0] in LETTERS else " "
    return "-".join(letters.split())


def shortened(plain: str, source: str, longest: int) -> str:
    """A name of limited length, with a hash where something is cut, or nothing is left.

    Args:
        plain: Name in letters that every file system takes.
        source: Literal or file that it is made from, of which the hash is taken.
        longest: Bytes of the name in UTF-8, at most.
    """
    if plain and len(plain.encode()) <= longest:
        return plain

    content = source.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(content).hexdigest()
    digest = digest[:8]
    cut = plain.encode()[: longest - 9]
    words = cut.decode("utf-8", "ignore").strip("-+")
    return f"{words}-{digest}" if words else digest


def refuse_existing(paths: Sequence[Path]) -> None:
    """Refuses to write where something is.

    Raises:
        ValueError: one of the files is there.
    """
    existing = [path for path in paths if path.exists() or path.is_symlink()]
    if not existing:
        return

    others = ""
    if len(existing) > 1:
        others = f", and {len(existing) - 1} more,"
    raise ValueError(
        f"{existing[0]}{others} is there already; --overwrite replaces it, "
        "or give another --out"
    )
