"""Training the small codec of sounds."""

from torch import Tensor

from flowbind.train.codec import CodecTraining


class AudioCodecTraining(CodecTraining):
    """Trains `SmallAudio` to keep the levels of log-mel spectrograms.

    The loss is their mean squared difference, 1 for an error of 35 dB everywhere.
    """

    def reconstruction(
        self,
        latents: Tensor,
        spectrograms: Tensor,
        streams: Tensor,
    ) -> Tensor:
        return (self.net.decode(latents) - spectrograms).square().flatten(1).mean(1)
