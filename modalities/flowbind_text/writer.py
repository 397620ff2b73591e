"""Networks that write captions: a recurrent net that sees the latent at every step.

Shapes: B captions, T pieces (`flowbind_text.vocabulary`) of V in the table, E features of an
    embedding, D of a latent, H of the recurrent state.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from flowbind_text.vocabulary import END, LONGEST, PIECES, spell

PIECE = 128  # features of a piece
HIDDEN = 320  # features of the recurrent state
LENGTH = 64  # most pieces in a caption


class Writer(nn.Module):
    """Latents to captions, piece after piece, by a gated recurrent net.

    The features of the pieces serve twice: they are what it reads, and what its output is compared
    with.

    Args:
        features: Features of a latent, D.
        hidden: Features of the recurrent state.
    """

    table: Tensor

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.pieces = nn.Embedding(PIECES, PIECE)
        self.start = nn.Linear(features, hidden)
        self.writer = nn.GRU(PIECE + features, hidden, batch_first=True)
        self.out = nn.Linear(hidden, PIECE)
        self.bias = nn.Parameter(torch.zeros(PIECES))

        table = torch.zeros(PIECES, LONGEST, dtype=torch.uint8)
        self.register_buffer("table", table)
        nn.init.normal_(self.pieces.weight, std=PIECE**-0.5)

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
        """The state before the first piece, with shape (1, B, H)."""
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
            state: State before them, with shape (1, B, H).
        """
        length = ids.shape[1]
        at_every_step = latents[:, None].expand(-1, length, -1)
        inputs = torch.cat([self.pieces(ids), at_every_step], dim=2)
        hidden, state = self.writer(inputs, state)

        logits = F.linear(self.out(hidden), self.pieces.weight, self.bias)
        return logits, state

    def surprise(self, latents: Tensor, ids: Tensor) -> Tensor:
        """Minus the log-likelihood of every piece, in nats, given the latent and those before it.

        Args:
            latents: Latents, with shape (B, D).
            ids: Ids of the pieces of captions, with shape (B, T); `END` fills up the shorter ones.

        Returns:
            Errors of all pieces and of each caption's end, one after the other, with shape (n,).
        """
        ids = F.pad(ids, (1, 1), value=END)  # a caption begins as it ends
        before = ids[:, :-1]
        target = ids[:, 1:]

        logits, _ = self.step(latents, before, self.first(latents))
        # Everything up to the first end.
        counts = F.pad(target[:, :-1] != END, (1, 0), value=True)
        return F.cross_entropy(logits[counts], target[counts], reduction="none")


class CaptionNet(Writer):
    """Sentence embeddings of norm 1 to latents, and those to captions.

    Args:
        embedding: Features of an embedding, E.
        features: Features of a latent, D.
    """

    def __init__(self, embedding: int, features: int) -> None:
        super().__init__(features, HIDDEN)
        self.project = nn.Sequential(
            nn.Linear(embedding, 192),
            nn.GELU(),
            nn.Linear(192, features),
        )
        # So that every feature carries variance.
        self.standard = nn.BatchNorm1d(features, affine=False)

    def encode(self, embeddings: Tensor) -> Tensor:
        """Latents, with shape (B, D), of embeddings, with shape (B, E)."""
        # From norm 1 to mean square 1.
        width = embeddings.shape[1]
        scaled = embeddings * math.sqrt(width)
        return self.standard(self.project(scaled))


def spelled(captions: Sequence[str]) -> Tensor:
    """The bytes of B captions in UTF-8, of each what can be written: uint8, zeros after each."""
    rows = []
    for caption in captions:
        content = caption.encode()[: LENGTH * LONGEST]
        rows.append(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return pad_sequence(rows, batch_first=True)


def texts_of(rows: Tensor) -> list[str]:
    """The captions whose bytes `spelled` gives; a letter that was cut is left out."""
    texts = []
    for row in rows.cpu().numpy():
        content = row.tobytes().rstrip(b"\0")
        texts.append(content.decode("utf-8", "ignore"))
    return texts


def captions_of(rows: Tensor) -> list[str]:
    """The captions of a line that a network wrote, as bytes with zeros in between.

    One without a word, which no caption is, becomes a question mark.
    """
    captions = []
    for row in rows.cpu().numpy():
        text = row.tobytes().replace(b"\0", b"").decode("utf-8", "replace")
        captions.append(" ".join(text.split()) or "?")
    return captions
