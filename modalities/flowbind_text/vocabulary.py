"""How a caption is cut into pieces: a frequent word is one, any other is spelled in bytes of UTF-8.

So a small table is enough to write anything. Ids: 0 ends a caption, 1 to 255 are single bytes,
those from 256 on are words, each with the space before it. The table, a uint8 tensor with zeros
after each piece, is made from captions and travels with the weights of the network that writes
them; its shape is always (PIECES, LONGEST).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

END = 0
BYTES = 256
PIECES = 1024
LONGEST = 16  # bytes in a piece
WORD = re.compile(r" ?\w+| ?[^\w ]+")


def learn(captions: Iterable[str]) -> Tensor:
    """The table with the most frequent words of some captions.

    uint8, with shape (PIECES, LONGEST).
    """
    counts: Counter[bytes] = Counter()
    for caption in captions:
        counts.update(_words(caption))

    single_bytes = [bytes([value]) for value in range(1, BYTES)]
    words = [word for word in counts if 1 < len(word) <= LONGEST]
    words.sort(key=lambda word: (-counts[word], word))
    pieces = [b"", *single_bytes, *words]

    table = bytearray(PIECES * LONGEST)
    for id, piece in enumerate(pieces[:PIECES]):
        begin = id * LONGEST
        end = begin + len(piece)
        table[begin:end] = piece

    ids_by_bytes = torch.frombuffer(table, dtype=torch.uint8)
    return ids_by_bytes.view(PIECES, LONGEST)


class Cutter:
    """Cuts captions into the pieces of a table."""

    def __init__(self, table: Tensor) -> None:
        rows = table[BYTES:].to("cpu", torch.uint8).numpy()
        self.words: dict[bytes, list[int]] = {}
        for id, row in enumerate(rows, start=BYTES):
            word = bytes(row).rstrip(b"\0")
            self.words[word] = [id]

    def __call__(self, captions: Sequence[str], longest: int) -> Tensor:
        """The ids of B captions, with shape (B, T), at most `longest` of each.

        Ends fill up the shorter ones.
        """
        rows = []
        for caption in captions:
            ids = self._ids(caption)[:longest]
            rows.append(torch.tensor(ids))
        return pad_sequence(rows, batch_first=True, padding_value=END)

    def unknown(self, caption: str) -> list[str]:
        """The words of a caption that the table lacks, so that they are spelled in bytes."""
        words = []
        for word in _words(caption):
            if len(word) > 1 and word not in self.words:
                words.append(word.decode().strip())
        return words

    def count(self, caption: str) -> int:
        """How many pieces a caption has."""
        return len(self._ids(caption))

    def _ids(self, caption: str) -> list[int]:
        ids: list[int] = []
        for word in _words(caption):
            ids.extend(self.words.get(word, word))  # bytes are their own ids

        return ids


def spell(ids: Tensor, table: Tensor) -> Tensor:
    """The bytes of captions, with zeros in between: uint8 with shape (B, T * LONGEST).

    Args:
        ids: Ids of pieces, with shape (B, T).
        table: Bytes of each piece, uint8 with shape (PIECES, LONGEST).
    """
    pieces = table[ids].flatten(1)
    return pieces.to(torch.uint8)


def words_of(caption: str) -> list[str]:
    """The words of a caption, each with the space before it; together they are " " + caption."""
    return WORD.findall(" " + caption)


def _words(caption: str) -> Iterator[bytes]:
    return (word.encode() for word in words_of(caption))
