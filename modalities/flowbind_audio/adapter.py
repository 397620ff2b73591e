"""The adapter between CLAP's embeddings, of 512 numbers, and latents of 768, as wide as the other modalities' are."""

from torch import Tensor, nn

from flowbind_audio.clap import WIDTH

LATENT = 768


class ClapAdapter(nn.Module):
    """An autoencoder of two layers each way, with the sizes and the names of weights of FlowBind's authors.

    Encoder (B, 512) -> (B, 768), decoder (B, 768) -> (B, 512).
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(WIDTH, LATENT), nn.ReLU(), nn.Linear(LATENT, LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, LATENT), nn.ReLU(), nn.Linear(LATENT, WIDTH))

    def encode(self, embeddings: Tensor) -> Tensor:
        return self.encoder(embeddings).to(embeddings.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents).to(latents.dtype)
