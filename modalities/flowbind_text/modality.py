"""The modality of texts.

A raw sample is a string of one line, not empty, its words separated by single spaces.
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
from flowbind_text.judge import TextJudge
from flowbind_text.small import SmallText

LONGEST = 2**20  # bytes of a caption's file
INVISIBLE = ("Cc", "Cf")  # Unicode's categories of characters that control others
# Zeros, and halves of characters, which JSON can hold.
NO_TEXT = re.compile("[\0\ud800-\udfff]")


class Text(Modality):
    """Captions: short texts, of any alphabet."""

    suffixes = (".txt",)
    default_codec = SmallText
    default_judge = TextJudge
    literal = True

    def read(self, source: str | Path) -> str:
        """Reads one caption: a UTF-8 file, or a string itself; white space becomes single spaces.

        A string that ends in `.txt` is a file's path if it is one word or that file is there.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is not text in UTF-8, longer than a mebibyte, or has no words.
        """
        if isinstance(source, Path) or self._names_file(source):
            return _caption(_decode(source), f"{source}: ")

        return _caption(source, "")

    def figures(self, source: str | Path) -> dict[str, float]:
        """Its number of words."""
        return {"words": len(self.read(source).split())}

    def accept(self, raw: Any) -> str:
        """One caption, as `read` makes it of a file's content.

        Args:
            raw: A string, numpy's among them.

        Raises:
            ValueError: it is something else, such as bytes or a missing value, or has no words; one
                line.
        """
        if not isinstance(raw, str):
            raise ValueError(
                f"{describe(raw)} is no caption; "
                "allowed: a string of at least one word, or a file's path"
            )

        return _caption(str(raw), "")

    def write(self, raw: str, path: Path) -> None:
        """Writes one caption as a line of UTF-8."""
        with replacing(path) as partial:
            partial.write_text(raw + "\n", encoding="utf-8", newline="\n")

    def preview(self, raw: str) -> str:
        """The caption itself."""
        return raw

    def _names_file(self, source: str) -> bool:
        if not source.lower().endswith(self.suffixes):
            return False

        return len(source.split()) == 1 or os.path.isfile(source)


def _decode(path: str | Path) -> str:
    """The text of a file, in UTF-8 or, as Windows may save it, in UTF-16."""
    content = read_regular(path, LONGEST)
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        # A byte-order mark is no part of the caption.
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None


def _caption(content: str, where: str) -> str:
    """A text as one line.

    Raises:
        ValueError: it is no plain text, or has nothing that is seen; begins with `where`.
    """
    match = NO_TEXT.search(content)
    if match:
        code = ord(match[0])
        raise ValueError(
            f"{where}not text, it has the character U+{code:04X}; a caption is plain text"
        )

    words = content.split()
    if all(category(character) in INVISIBLE for character in "".join(words)):
        raise ValueError(f"{where}an empty caption; it needs at least one word")

    return " ".join(words)
