"""Training the small codec of sounds."""

import torch.nn.functional as F
from torch import Tensor

from flowbind.train.codec import CodecTraining


class AudioCodecTraining(CodecTraining):
    """Reconstruction is judged by the mean squared difference of log-mel levels, 1 for an error of 35 dB everywhere."""

    def reconstruction(self, latents: Tensor, spectrograms: Tensor) -> Tensor:
        return F.mse_loss(self.net.decode(latents), spectrograms)
