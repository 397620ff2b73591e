"""Training the codec of point clouds at full size."""

from torch import Tensor

from flowbind.train.codec import CodecTraining
from flowbind_points.chamfer import nearest, take
from flowbind_points.some import some

COLOUR = 0.1  # weight of squared differences of colours, which are far larger than those of places


class PointAutoencoderTraining(CodecTraining):
    """Trains a `PointAutoencoder` by the squared Chamfer distance, as Achlioptas et al. (2018) do.

    The loss is the mean squared distance from a cloud's points to the nearest of the other, both
    ways summed, in the unit sphere; with colours, a tenth of the nearest points' squared difference
    of colours is added. A random half of a cloud's points is encoded, so that a latent does not
    depend on which ones were drawn.
    """

    def encode(self, clouds: Tensor, streams: Tensor) -> Tensor:
        half = -(-clouds.shape[1] // 2)
        return self.net.encode(some(clouds, half, streams) if self.training else clouds)

    def reconstruction(
        self,
        latents: Tensor,
        clouds: Tensor,
        streams: Tensor,
    ) -> Tensor:
        decoded = self.net.decode(latents)
        to_true, to_decoded = nearest(decoded[..., :3], clouds[..., :3])
        there = decoded - take(clouds, to_true)
        back = clouds - take(decoded, to_decoded)

        place = _squared(there[..., :3]) + _squared(back[..., :3])
        # 0 where points have none.
        colour = _squared(there[..., 3:]) + _squared(back[..., 3:])
        return place + COLOUR * colour


def _squared(differences: Tensor) -> Tensor:
    """The mean squared length of n differences a sample, with shape (B,) of (B, n, axes)."""
    return differences.square().sum(2).mean(1)
