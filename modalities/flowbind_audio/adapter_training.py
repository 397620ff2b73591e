"""Training the adapter between CLAP's embeddings and latents."""

import torch.nn.functional as F
from torch import Tensor

from flowbind.train.codec import CodecTraining


class AudioAdapterTraining(CodecTraining):
    """Trains the adapter of `ClapAudioLDM` on the embeddings of sounds.

    The loss is one minus the cosine of an embedding and what comes back of it: lengths mean nothing
    to CLAP.
    """

    promised_on = 0  # decoding is a diffusion's long work

    def prepare_data(self) -> None:
        # Sounds are embedded where the adapter is trained.
        self.codec.to(self.trainer.strategy.root_device)

    def reconstruction(
        self,
        latents: Tensor,
        embeddings: Tensor,
        streams: Tensor,
    ) -> Tensor:
        return 1 - F.cosine_similarity(self.net.decode(latents), embeddings)
