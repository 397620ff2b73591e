"""Captions as ids of words, and back word for word: what flows over tokens write and read.

A latent has L ids. Those of a caption's words are in its order, and ends fill up the rest: 0 ends a
caption and is padding at once, 1 stands for a word that the list lacks, the words follow from 2 on.
A caption of L words or more has no end. What stands behind the first end is not read.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from flowbind.codec import Codec, check_ids
from flowbind.files import digest
from flowbind_text.vocabulary import END, words_of
from flowbind_text.words import read_words

UNKNOWN = 1
FIRST = 2  # id of the first word
MARK = " <unknown>"  # in the place of a word that the list lacks


class WordTokens(Codec):
    """Ids of words, of shape (L,): lossless both ways for captions of known words.

    A word that the list lacks comes back as `<unknown>`, and a caption of more than L words is cut;
    the caveat says either.

    Args:
        words: JSON file of words, as `python -m flowbind_text.words` learns them from a manifest;
            those of the embedded world, which ship with the plugin, if None.
        length: Ids of a latent, L: most words of a caption that are kept, signs such as `,` among
            them. The embedded world's captions have 13 at most.
    """

    dtype = torch.int64
    embedded_world = Path(__file__).parent / "weights" / "words.json"

    def __init__(self, words: str | None = None, length: int = 16) -> None:
        if length < 1:
            raise ValueError(f"length is {length}; a caption has at least one word")
        self.words = words
        self.length = length
        self.shape = (length,)

    @property
    def file(self) -> Path:
        """The file of the words."""
        return self.embedded_world if self.words is None else Path(self.words)

    def files(self) -> dict[str, Path]:
        return {"words": self.file}

    @cached_property
    def pieces(self) -> list[str]:
        """What each id is written as: nothing for the end, the mark, then the words.

        Raises:
            OSError: the file of the words is not there.
            ValueError: it is no list of words.
        """
        return ["", MARK, *read_words(self.file)]

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each word."""
        words = self.pieces[FIRST:]
        return {word: id for id, word in enumerate(words, start=FIRST)}

    @property
    def vocabulary(self) -> int:  # type: ignore[override]  # read with the words
        """Number of ids: of the words, and two more."""
        return len(self.pieces)

    def encode(self, raws: Sequence[str]) -> Tensor:
        latents = torch.full((len(raws), self.length), END)
        for row, raw in zip(latents, raws, strict=True):
            ids = [self.ids.get(word, UNKNOWN) for word in self._kept(raw)]
            row[: len(ids)] = torch.tensor(ids)
        return latents.to(self.device)

    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[str]:
        """The captions of ids, with shape (B, L). One without a word becomes a question mark.

        Raises:
            ValueError: an id that the vocabulary does not have.
        """
        check_ids(latents, self.vocabulary, f"the vocabulary of {self.file}")

        captions = []
        for ids in latents.tolist():
            words = []
            for id in ids:
                if id == END:
                    break
                words.append(self.pieces[id])
            captions.append("".join(words).strip() or "?")
        return captions

    def caveat(self, raw: str) -> str:
        """Says what of a caption is lost: words that the list lacks, or its end."""
        caveats = []
        count = len(words_of(raw))
        if count > self.length:
            caveats.append(
                f"is cut: {count} words, of which the codec reads {self.length}"
            )

        unknown = [word for word in self._kept(raw) if word not in self.ids]
        if unknown:
            word = unknown[0].strip()
            caveats.append(
                f"has a word that the codec's list lacks, '{word:.30}', "
                f"and is marked {MARK.strip()} there"
            )
        return ", and ".join(caveats)

    def fingerprint(self) -> dict[str, str | int]:
        return super().fingerprint() | {"words": digest(self.file)}

    def _kept(self, raw: str) -> list[str]:
        """The words of a caption that a latent has room for."""
        return words_of(raw)[: self.length]
