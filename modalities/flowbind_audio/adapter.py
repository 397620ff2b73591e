"""The adapter between CLAP's embeddings, of 512 numbers, and latents of 768.

So wide are the other modalities' latents.
"""

from torch import Tensor, nn

from flowbind_audio.clap import WIDTH

LATENT = 768


class ClapAdapter(nn.Module):
    """An autoencoder of two layers each way.

    Sizes and names of weights are those of FlowBind's authors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(WIDTH, LATENT),
            nn.ReLU(),
            nn.Linear(LATENT, LATENT),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, LATENT),
            nn.ReLU(),
            nn.Linear(LATENT, WIDTH),
        )

    def encode(self, embeddings: Tensor) -> Tensor:
        """Latents, with shape (B, 768), of embeddings, with shape (B, 512)."""
        return self.encoder(embeddings).to(embeddings.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Embeddings, with shape (B, 512), of latents, with shape (B, 768)."""
        return self.decoder(latents).to(latents.dtype)
