"""The network of the small codec of texts: a projection of sentence embeddings, and a recurrent net
that writes.

Shapes: B captions, T pieces (`flowbind_text.vocabulary`) of V in the table, E features of an
    embedding, D of a latent.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind_text.vocabulary import END, LONGEST, PIECES, spell

PIECE = 128  # features of a piece
HIDDEN = 320  # features of the recurrent state
LENGTH = 64  # most pieces in a caption


class CaptionNet(nn.Module):
    """Sentence embeddings of norm 1, with shape (B, E), to latents, with shape (B, D), and those to
    captions.

    The writer is a gated recurrent net that sees the latent at every step. The features of the
    pieces serve twice: they are what it reads, and what its output is compared with.

    Args:
        embedding: E.
        features: D.
    """

    def __init__(self, embedding: int, features: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(embedding, 192), nn.GELU(), nn.Linear(192, features))
        self.standard = nn.BatchNorm1d(
            features, affine=False
        )  # so that every feature carries variance
        self.pieces = nn.Embedding(PIECES, PIECE)
        self.start = nn.Linear(features, HIDDEN)
        self.writer = nn.GRU(PIECE + features, HIDDEN, batch_first=True)
        self.out = nn.Linear(HIDDEN, PIECE)
        self.bias = nn.Parameter(torch.zeros(PIECES))
        self.register_buffer("table", torch.zeros(PIECES, LONGEST, dtype=torch.uint8))
        nn.init.normal_(self.pieces.weight, std=PIECE**-0.5)

    def encode(self, embeddings: Tensor) -> Tensor:
        return self.standard(
            self.project(embeddings * math.sqrt(embeddings.shape[1]))
        )  # from norm 1 to mean square 1

    def decode(self, latents: Tensor) -> Tensor:
        """Writes the likeliest piece at each step: bytes, uint8 with shape (B, T * LONGEST) and
        zeros in between.
        """
        state = self.first(latents)
        piece = torch.full((len(latents),), END, device=latents.device)
        written = []
        ended = torch.zeros_like(piece, dtype=torch.bool)
        for _ in range(LENGTH):
            logits, state = self.step(latents, piece[:, None], state)
            piece = logits[:, 0].argmax(1).masked_fill(ended, END)
            written.append(piece)
            ended = ended | (piece == END)
            if ended.all():
                break
        return spell(torch.stack(written, dim=1), self.table)

    def first(self, latents: Tensor) -> Tensor:
        """The state before the first piece, with shape (1, B, HIDDEN)."""
        return self.start(latents).tanh()[None]

    def step(self, latents: Tensor, ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """What follows each piece, ids with shape (B, T): logits, with shape (B, T, V), and the
        state at the end.
        """
        seen = torch.cat([self.pieces(ids), latents[:, None].expand(-1, ids.shape[1], -1)], dim=2)
        hidden, state = self.writer(seen, state)
        return F.linear(self.out(hidden), self.pieces.weight, self.bias), state
