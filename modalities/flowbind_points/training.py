"""Training the small codec of point clouds."""

import torch
from torch import Tensor

from flowbind.draws import fork, normal, uniform
from flowbind.train.codec import CodecTraining
from flowbind_points.chamfer import nearest, take
from flowbind_points.some import some

# Points of a cloud that are encoded, so that a latent does not depend on which ones they are.
SEEN = 512
MADE, TRUE, LOST = 1, 2, 3  # purposes of draws
CHOICE, NOISE, SUBSET = 1, 2, 3  # purposes within the last


class PointsCodecTraining(CodecTraining):
    """Trains a codec of point clouds by the Chamfer distance and the colours of nearest neighbours.

    Args:
        compared: Points drawn from each cloud at every step, to be compared; fewer are faster.
        colour: Weight of the colours' mean absolute difference against the Chamfer distance.
        cycle: Weight of the mean squared error of latents that were disturbed, decoded and encoded
            again. A flow's latents are a little off; without it their clouds blur into something
            else, such as a cube into a ball.
        astray: Size of that disturbance, as a share of each feature's spread.
    """

    def __init__(
        self,
        *args,
        compared: int = 256,
        colour: float = 1.0,
        cycle: float = 0.1,
        astray: float = 0.4,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.compared = compared
        self.colour = colour
        self.cycle = cycle
        self.astray = astray

    def encode(self, clouds: Tensor, streams: Tensor) -> Tensor:
        return self.net.encode(some(clouds, SEEN, streams) if self.training else clouds)

    def reconstruction(
        self, latents: Tensor, clouds: Tensor, streams: Tensor
    ) -> Tensor:
        decoded = some(self.net.decode(latents), self.compared, fork(streams, MADE))
        true = some(clouds, self.compared, fork(streams, TRUE))
        to_true, to_decoded = nearest(decoded[..., :3], true[..., :3])
        ways = decoded - take(true, to_true), true - take(decoded, to_decoded)

        place = (
            sum(torch.linalg.vector_norm(way[..., :3], dim=2).mean(1) for way in ways)
            / 2
        )
        colour = sum(way[..., 3:].abs().mean((1, 2)) for way in ways) / 2
        lost = self._lost(latents.detach(), fork(streams, LOST))
        return place + self.colour * colour + self.cycle * lost

    def _lost(self, latents: Tensor, streams: Tensor) -> Tensor:
        """Squared error of latents that go astray, are decoded and encoded again.

        It is the mean over features, in their spreads. Half of them, drawn at random, tell enough:
        they count twice, and the others not at all. With shape (B,).
        """
        chosen = uniform(fork(streams, CHOICE), 1)[:, 0] < 0.5
        streams, true = streams[chosen], latents[chosen]
        noise = normal(fork(streams, NOISE), *true.shape[1:]).to(true.dtype)

        training = self.net.training
        self.net.eval()  # normalised as real clouds are
        decoded = self.net.decode(true + self.astray * noise)
        again = self.net.encode(some(decoded, SEEN, fork(streams, SUBSET)))
        self.net.train(training)

        errors = latents.new_zeros(len(latents))
        errors[chosen] = 2 * (again - true).square().mean(1).to(errors.dtype)
        return errors
