"""A variational network of captions: a small transformer reads them, a recurrent net writes them.

Learnt queries stand before the words of a caption, look at these and at each other, and become the
positions of the latent: of each feature a mean and the logarithm of a variance (Kingma and Welling,
arXiv 1312.6114). Means are normalised over the training captions, so every feature carries variance
and none can collapse.

Shapes: B captions, T pieces (`flowbind_text.vocabulary`), L positions of D features in a latent,
    W features of a piece.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.nets.transformer import attend
from flowbind_text.vocabulary import END
from flowbind_text.writer import PIECE, Writer

HIDDEN = 256  # features of the writer's recurrent state
READ = 32  # most pieces of a caption that are read
BLOCKS = 2
HEADS = 4
RATIO = 2  # of a block's inner features to its own


class VariationalCaptionNet(Writer):
    """Pieces of captions to latents, and those to captions.

    Args:
        positions: Positions of a latent, L.
        features: Features of a position, D.
    """

    def __init__(self, positions: int, features: int) -> None:
        super().__init__(positions * features, HIDDEN)
        self.shape = (positions, features)
        self.queries = nn.Parameter(torch.empty(positions, PIECE))
        self.places = nn.Parameter(torch.empty(READ, PIECE))
        self.blocks = nn.ModuleList(_Block(PIECE) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(PIECE)
        self.posterior_of = nn.Linear(PIECE, 2 * features)
        self.standard = nn.BatchNorm1d(positions * features, affine=False)

        nn.init.normal_(self.queries)
        nn.init.normal_(self.places)

    def posterior(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of variances, with shape (B, L, D) each.

        Args:
            ids: Ids of pieces, with shape (B, T), at most READ; `END` fills up the shorter captions.
        """
        words = self.pieces(ids) * PIECE**0.5 + self.places[: ids.shape[1]]
        queries = self.queries.expand(len(ids), -1, -1)
        x = torch.cat([queries, words], dim=1)

        positions, _ = self.shape
        is_there = F.pad(ids != END, (positions, 0), value=True)
        for block in self.blocks:
            x = block(x, is_there)

        out = self.posterior_of(self.norm(x[:, :positions]))
        means, log_variances = out.chunk(2, dim=2)
        means = self.standard(means.flatten(1)).unflatten(1, self.shape)
        return means, log_variances

    def encode(self, ids: Tensor) -> Tensor:
        """The means alone, with shape (B, L, D), of pieces, with shape (B, T)."""
        means, _ = self.posterior(ids)
        return means

    def decode(self, latents: Tensor) -> Tensor:
        """As `Writer` does, from latents with shape (B, L, D)."""
        return super().decode(latents.flatten(1))


class _Block(nn.Module):
    """What attention and then two layers add to each position, with shape (B, T, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attended = nn.Linear(width, 3 * width)
        self.gathered = nn.Linear(width, width)
        self.change = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, RATIO * width),
            nn.GELU(),
            nn.Linear(RATIO * width, width),
        )

    def forward(self, x: Tensor, is_there: Tensor) -> Tensor:
        attended = self.attended(self.before_attention(x))
        heads = attended.unflatten(2, (3, HEADS, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)

        mask = is_there[:, None, None]
        gathered = attend(query, key, value, mask)
        gathered = gathered.transpose(1, 2).flatten(2)
        x = x + self.gathered(gathered)
        return x + self.change(x)
