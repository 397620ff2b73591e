"""The judge of texts: a small network on how often each character n-gram occurs."""

from collections.abc import Sequence
from zlib import crc32

import torch
from torch import Tensor, nn

from flowbind.judge import NeuralJudge

LONGEST = 5  # characters of an n-gram
BUCKETS = 4096  # among which n-grams are shared out by a hash
MOST = 255  # times that an n-gram counts


class TextJudge(NeuralJudge):
    """Reads labelled factors of texts in any alphabet; words are those of the training texts.

    Args:
        weights: Safetensors file; none ships, for the embedded world has a grammar of its own.
    """

    judges = "text"

    def build(self) -> nn.Module:
        return nn.Sequential(_Seen(), nn.Linear(BUCKETS, self.width), nn.ReLU())

    def prepare(self, raws: Sequence[str]) -> Tensor:
        """Counts of B texts' n-grams, uint8 with shape (B, 4096)."""
        counts = torch.zeros(len(raws), BUCKETS, dtype=torch.int16)
        for row, raw in zip(counts, raws, strict=True):
            places = torch.tensor([_bucket(gram) for gram in _grams(raw)])
            row += torch.bincount(places, minlength=BUCKETS).clamp(max=MOST)
        return counts.to(torch.uint8)


class _Seen(nn.Module):
    """Counts, on a scale on which twice as often is little more than once."""

    def forward(self, counts: Tensor) -> Tensor:
        return counts.clamp(min=0).log1p()


def _grams(text: str) -> list[str]:
    """All n-grams of a text, whose ends count as spaces."""
    text = f" {text.casefold()} "
    grams = []
    for length in range(1, LONGEST + 1):
        for start in range(len(text) - length + 1):
            grams.append(text[start : start + length])
    return grams


def _bucket(gram: str) -> int:
    return crc32(gram.encode()) % BUCKETS
