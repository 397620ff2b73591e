"""How a caption is cut into pieces: a frequent word is one piece, any other is spelled in bytes of
UTF-8.

So a small table is enough to write anything. Ids: 0 ends a caption, 1 to 255 are single bytes,
those from 256 on are words, each with the space before it. The table, a uint8 tensor with zeros
after each piece, is learnt from captions and travels with the weights of the network that writes
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
    """The table with the most frequent words of some captions, uint8 with shape (PIECES, LONGEST)."""
    counts = Counter(word for caption in captions for word in _words(caption))
    frequent = sorted(
        (word for word in counts if 1 < len(word) <= LONGEST),
        key=lambda word: (-counts[word], word),
    )
    pieces = [b"", *(bytes([value]) for value in range(1, BYTES)), *frequent][:PIECES]
    padded = b"".join(piece.ljust(LONGEST, b"\0") for piece in pieces).ljust(
        PIECES * LONGEST, b"\0"
    )
    return torch.frombuffer(bytearray(padded), dtype=torch.uint8).view(PIECES, LONGEST)


class Cutter:
    """Cuts captions into the pieces of a table."""

    def __init__(self, table: Tensor) -> None:
        rows = table[BYTES:].cpu().numpy()
        self.words = {bytes(row).rstrip(b"\0"): [id] for id, row in enumerate(rows, start=BYTES)}

    def __call__(self, captions: Sequence[str], longest: int) -> Tensor:
        """The ids of B captions, with shape (B, T), at most `longest` of each; ends fill up the
        shorter ones.
        """
        cut = (
            [id for word in _words(caption) for id in self.words.get(word, word)]
            for caption in captions
        )
        return pad_sequence(
            [torch.tensor(ids[:longest]) for ids in cut], batch_first=True, padding_value=END
        )


def spell(ids: Tensor, table: Tensor) -> Tensor:
    """The bytes of captions, with shape (B, T * LONGEST) and zeros in between, from ids, with shape
    (B, T).
    """
    return table[ids].flatten(1).to(torch.uint8)


def _words(caption: str) -> Iterator[bytes]:
    return (word.encode() for word in WORD.findall(" " + caption))
