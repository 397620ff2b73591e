"""The modality of texts: a raw sample is a string of one line, not empty, its words separated by
single spaces.
"""

import codecs
import os
import re
from pathlib import Path
from typing import Any
from unicodedata import category

from flowbind.arrays import describe
from flowbind.files import read_regular, replacing
from flowbind.modality import Modality
from flowbind_text.small import SmallText

LONGEST = 2**20  # bytes of a caption's file
INVISIBLE = ("Cc", "Cf")  # Unicode's categories of characters that control others
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # zeros, and halves of characters, which JSON can hold


class Text(Modality):
    """Captions: short texts, of any alphabet."""

    suffixes = (".txt",)
    default_codec = SmallText
    literal = True

    def read(self, source: str | Path) -> str:
        """Reads one caption: the whole of a UTF-8 file, or a string itself. All white space becomes
        single spaces.

        A string that ends in `.txt` is a file's path if it is one word or that file is there.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is not text in UTF-8, longer than a mebibyte, or has no words.
        """
        if isinstance(source, Path) or (
            source.lower().endswith(self.suffixes) and _names_file(source)
        ):
            return _caption(_decode(source), f"{source}: ")
        return _caption(source, "")

    def accept(self, raw: Any) -> str:
        """One caption of a string, numpy's strings among them, as `read` makes it of a file's
        content.

        Raises:
            ValueError: it is something else, such as bytes or a missing value, or has no words; one
                line.
        """
        if not isinstance(raw, str):
            raise ValueError(
                f"{describe(raw)} is no caption; allowed: a string of at least one word, or a file's path"
            )
        return _caption(str(raw), "")

    def write(self, raw: str, path: Path) -> None:
        """Writes one caption as a line of UTF-8."""
        with replacing(path) as partial:
            partial.write_text(raw + "\n", encoding="utf-8", newline="\n")

    def preview(self, raw: str) -> str:
        """The caption itself."""
        return raw


def _names_file(source: str) -> bool:
    return len(source.split()) == 1 or os.path.isfile(source)


def _decode(path: str | Path) -> str:
    content = read_regular(path, LONGEST)
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as Windows may save it
            return content.decode("utf-16")
        return content.decode("utf-8-sig")  # a byte-order mark is no part of the caption
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None


def _caption(content: str, where: str) -> str:
    if found := NO_TEXT.search(content):
        raise ValueError(
            f"{where}not text, it has the character U+{ord(found[0]):04X}; a caption is plain text"
        )
    words = content.split()
    if all(category(character) in INVISIBLE for word in words for character in word):
        raise ValueError(f"{where}an empty caption; it needs at least one word")
    return " ".join(words)
