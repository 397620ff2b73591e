"""The network of the small codec of texts.

A projection of sentence embeddings, and a recurrent net that writes.

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
    """Sentence embeddings of norm 1 to latents, and those to captions.

    The writer is a gated recurrent net that sees the latent at every step. The features of the
    pieces serve twice: they are what it reads, and what its output is compared with.

    Args:
        embedding: Features of an embedding, E.
        features: Features of a latent, D.
    """

    def __init__(self, embedding: int, features: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(embedding, 192),
            nn.GELU(),
            nn.Linear(192, features),
        )
        # So that every feature carries variance.
        self.standard = nn.BatchNorm1d(features, affine=False)

        self.pieces = nn.Embedding(PIECES, PIECE)
        self.start = nn.Linear(features, HIDDEN)
        self.writer = nn.GRU(PIECE + features, HIDDEN, batch_first=True)
        self.out = nn.Linear(HIDDEN, PIECE)
        self.bias = nn.Parameter(torch.zeros(PIECES))

        table = torch.zeros(PIECES, LONGEST, dtype=torch.uint8)
        self.register_buffer("table", table)
        nn.init.normal_(self.pieces.weight, std=PIECE**-0.5)

    def encode(self, embeddings: Tensor) -> Tensor:
        """Latents, with shape (B, D), of embeddings, with shape (B, E)."""
        # From norm 1 to mean square 1.
        width = embeddings.shape[1]
        scaled = embeddings * math.sqrt(width)
        return self.standard(self.project(scaled))

    def decode(self, latents: Tensor) -> Tensor:
        """Writes the likeliest piece at each step.

        Returns the captions' bytes, uint8 with shape (B, LENGTH * LONGEST) and zeros in between,
        however short they are: captions of several blocks lie together.
        """
        state = self.first(latents)
        piece = torch.full((len(latents),), END, device=latents.device)
        ended = torch.zeros_like(piece, dtype=torch.bool)
        pieces = []
        for _ in range(LENGTH):
            logits, state = self.step(latents, piece[:, None], state)
            piece = logits[:, 0].argmax(1)
            piece = piece.masked_fill(ended, END)
            pieces.append(piece)

            ended = ended | (piece == END)
            if ended.all():
                break

        ids = torch.stack(pieces, dim=1)
        ids = F.pad(ids, (0, LENGTH - len(pieces)), value=END)
        return spell(ids, self.table)

    def first(self, latents: Tensor) -> Tensor:
        """The state before the first piece, with shape (1, B, HIDDEN)."""
        state = self.start(latents).tanh()
        return state[None]

    def step(
        self,
        latents: Tensor,
        ids: Tensor,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What follows each piece: logits, with shape (B, T, V), and the state at the end.

        Args:
            latents: Latents, with shape (B, D).
            ids: Ids of the pieces so far, with shape (B, T).
            state: State before them, with shape (1, B, HIDDEN).
        """
        length = ids.shape[1]
        at_every_step = latents[:, None].expand(-1, length, -1)
        inputs = torch.cat([self.pieces(ids), at_every_step], dim=2)
        hidden, state = self.writer(inputs, state)

        logits = F.linear(self.out(hidden), self.pieces.weight, self.bias)
        return logits, state
