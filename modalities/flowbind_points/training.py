"""Training the small codec of point clouds.

Which learned cloud shows a sample best is not known beforehand. It is drawn from its posterior, in
which the decoder's choice is the prior and the Chamfer distance d of each of them from the sample
the energy,

    p(m | sample) = c_m exp(-d_m / T) / sum_k c_k exp(-d_k / T)        T = `TEMPERATURE`,

and then trained alone, while the choice learns to tell the posterior: expectation-maximisation of
a mixture (Dempster, Laird and Rubin, 1977), with draws in place of expectations.
"""

import torch
from torch import Tensor

from flowbind.data.raw import RawBatch
from flowbind.distributed import total
from flowbind.draws import fork, normal, uniform
from flowbind.train.codec import CodecTraining
from flowbind_points.chamfer import nearest, take
from flowbind_points.small import POINTS, Reading
from flowbind_points.some import some

# Points of a cloud that are encoded, so that a latent does not depend on which ones they are.
SEEN = 512
GLANCED = 64  # points of each cloud by which the learned clouds are compared
TEMPERATURE = 0.004  # of the posterior, in the codec's units of length
MADE, TRUE, LOST, CHOICE, DRAW, NOISE, SUBSET = range(1, 8)  # purposes of draws
CHUNK = 2  # samples whose distances from all learned clouds are held at once


class PointsCodecTraining(CodecTraining):
    """Trains a codec of point clouds by the Chamfer distance and the colours of nearest neighbours.

    The learned clouds begin as those of the first batch.

    Args:
        compared: Points drawn from each cloud at every step, to be compared; fewer are faster.
        place: Weight of the Chamfer distance.
        colour: Weight of the colours' mean absolute difference.
        choice: Weight of the cross-entropy of the choice among the learned clouds.
        still: Share of the steps in which the learned clouds stay what they were, so that the
            network learns to turn sharp ones before they can blur.
        cycle: Weight of the mean squared error of latents that were disturbed, decoded and encoded
            again. A flow's latents are a little off, and should come out as what they mean.
        astray: Size of that disturbance, as a share of each feature's spread.
    """

    def __init__(
        self,
        *args,
        compared: int = 256,
        place: float = 3.0,
        colour: float = 1.0,
        choice: float = 0.02,
        still: float = 0.6,
        cycle: float = 0.1,
        astray: float = 0.4,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.compared = compared
        self.place = place
        self.colour = colour
        self.choice = choice
        self.still = still
        self.cycle = cycle
        self.astray = astray

    def on_train_batch_start(self, batch: RawBatch, index: int) -> None:
        if self.trainer.global_step == 0:
            self.net.begin(_of_all_ranks(batch))
        super().on_train_batch_start(batch, index)

    def on_after_backward(self) -> None:
        if self.trainer.global_step < self.still * self.trainer.max_steps:
            self.net.learned.grad = None  # which AdamW passes over

    def encode(self, clouds: Tensor, streams: Tensor) -> Tensor:
        if self.training:
            clouds = some(clouds, SEEN, streams)
        return self.net.encode(clouds)

    def reconstruction(
        self,
        latents: Tensor,
        clouds: Tensor,
        streams: Tensor,
    ) -> Tensor:
        reading = self.net.read(latents)
        chosen = reading.choice.argmax(1)
        unsure = latents.new_zeros(len(latents))
        if self.training:
            posterior = self._posterior(reading, clouds, fork(streams, CHOICE))
            unsure = -(posterior * reading.choice.log_softmax(1)).sum(1)
            chosen = _draw(posterior, fork(streams, DRAW))

        shown = self.net.show(reading, chosen)
        decoded = some(shown, self.compared, fork(streams, MADE))
        true = some(clouds, self.compared, fork(streams, TRUE))
        to_true, to_decoded = nearest(decoded[..., :3], true[..., :3])
        ways = [
            decoded - take(true, to_true),
            true - take(decoded, to_decoded),
        ]

        places = [torch.linalg.vector_norm(way[..., :3], dim=2) for way in ways]
        place = sum(distances.mean(1) for distances in places) / 2
        colours = [way[..., 3:].abs() for way in ways]
        colour = sum(differences.mean((1, 2)) for differences in colours) / 2
        errors = self.place * place + self.colour * colour + self.choice * unsure
        if self.cycle:
            errors = errors + self.cycle * self._lost(latents.detach(), streams)
        return errors

    @torch.no_grad()
    def _posterior(
        self,
        reading: Reading,
        clouds: Tensor,
        streams: Tensor,
    ) -> Tensor:
        """How likely each learned cloud is the one to show a sample, with shape (B, M)."""
        places = some(clouds, GLANCED, streams)[..., :3]
        # The same stretches of all learned clouds, from a first point that every sample draws.
        step = POINTS // GLANCED
        first = (uniform(fork(streams, SUBSET), 1) * step).long()
        index = first + step * torch.arange(GLANCED, device=first.device)

        distances = []
        for start in range(0, len(clouds), CHUNK):
            rows = slice(start, start + CHUNK)
            learned = self.net.learned[:, index[rows], :3].transpose(0, 1)
            shown = learned @ reading.frame[rows] + reading.middle[rows, None]
            distances.append(_distances(shown, places[rows]))

        energy = torch.cat(distances) / TEMPERATURE
        return (reading.choice.log_softmax(1) - energy).softmax(1)

    def _lost(self, latents: Tensor, streams: Tensor) -> Tensor:
        """Squared error of latents that go astray, are decoded and encoded again.

        It is the mean over features, in their spreads. A quarter of them, drawn at random, tell
        enough: they count four times, and the others not at all. With shape (B,).
        """
        streams = fork(streams, LOST)
        is_taken = uniform(fork(streams, CHOICE), 1)[:, 0] < 0.25
        streams = streams[is_taken]
        true = latents[is_taken]
        noise = normal(fork(streams, NOISE), *true.shape[1:]).to(true.dtype)

        training = self.net.training
        self.net.eval()  # normalised as real clouds are
        decoded = self.net.decode(true + self.astray * noise)
        again = self.net.encode(some(decoded, SEEN, fork(streams, SUBSET)))
        self.net.train(training)

        errors = latents.new_zeros(len(latents))
        lost = (again - true).square().mean(1)
        errors[is_taken] = 4 * lost.to(errors.dtype)
        return errors


def _of_all_ranks(batch: RawBatch) -> Tensor:
    """The clouds of a global batch, of which this rank has some."""
    (clouds,) = batch.inputs
    count = int(total(torch.tensor(len(clouds), device=clouds.device)))
    all_clouds = clouds.new_zeros(count, *clouds.shape[1:])
    all_clouds[batch.rows] = clouds
    return total(all_clouds)


def _distances(shown: Tensor, true: Tensor) -> Tensor:
    """Chamfer distances, (B, M), of clouds (B, M, k, 3) from one of each sample, (B, k, 3)."""
    a = shown.flatten(1, 2)
    products = torch.baddbmm(true.square().sum(2)[:, None], a, true.mT, alpha=-2)
    squares = products + a.square().sum(2, keepdim=True)
    squares = squares.unflatten(1, shown.shape[1:3]).clamp_(min=0)
    there = squares.amin(3).sqrt().mean(2)
    back = squares.amin(2).sqrt().mean(2)
    return (there + back) / 2


def _draw(probabilities: Tensor, streams: Tensor) -> Tensor:
    """One number for each row of probabilities, (B, M), drawn by them: with shape (B,)."""
    reached = probabilities.cumsum(1) < uniform(streams, 1)
    return reached.sum(1).clamp(max=probabilities.shape[1] - 1)
