"""Training the small codec of images."""

import torch.nn.functional as F
from torch import Tensor

from flowbind.global_batch import spread
from flowbind.train.codec import CodecTraining
from flowbind_image.colour import opponent

SCALES = 3  # full, half and quarter size


class ImageCodecTraining(CodecTraining):
    """Trains a codec of pictures to keep colours, in the large and in the small, and edges.

    The loss is the mean squared error of opponent colours plus the mean absolute error of their
    horizontal and vertical differences, each averaged over three scales.
    """

    def reconstruction(
        self,
        latents: Tensor,
        pictures: Tensor,
        streams: Tensor,
    ) -> Tensor:
        error = self.net.decode(latents) - opponent(pictures)
        total = error.new_zeros(len(error))
        for _ in range(SCALES):
            edges = sum(error.diff(dim=dim).abs().flatten(1).mean(1) for dim in (2, 3))
            total = total + (error.square().flatten(1).mean(1) + edges) / SCALES
            error = F.avg_pool2d(error, 2)

        return total


class GridCodecTraining(ImageCodecTraining):
    """The same for latents that are grids: noise is a share of each channel's spread.

    So it is as strong in a corner, where little varies, as in the middle.
    """

    def spread(self, latents: Tensor) -> Tensor:
        return spread(latents, positions=(2, 3))
