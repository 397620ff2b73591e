r"""The flow's loss, the encoder's, and the divergence of its distribution from a normal one,

$$
\mathcal L = \frac1D \lVert v(z_t, t, c) - \dot z_t \rVert^2 + w\, \mathcal L_{\text{enc}}
+ \lambda \operatorname{KL}\bigl(\mathcal N(\mu, \sigma^2)\,\Vert\,\mathcal N(0, I)\bigr),
\qquad z_0 = \mu(y) + \sigma(y)\, \varepsilon ,
$$

a mean over the samples. A sample has the source $y$ and the target $x$; $z_t$ is a path from $z_0$
to $z_1$, and $D$ the numbers of a latent. With probability 0.9 $z_1 = x$ and $c = 1$, else $z_1$ is
the target of another sample of the global batch and $c = 0$: so the net learns both fields that
guidance needs. KL is in nats, a sum over the latent.

The encoder's loss keeps $z_0$ telling. `contrastive` and `contrastive-source` compare it with
$p(x)$ or $p(y)$, a projection of the target or of the source: with $s_{ij}$ the cosine of $z_0^i$
and $p^j$ over a learnt temperature,

$$
\mathcal L_{\text{enc}}^i = -\tfrac12 \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
- \tfrac12 \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}} ,
$$

where $j$ goes over the samples of the global batch, on whichever rank they are. `reconstruction`
is the mean squared error of the source that a decoder makes of $z_0$.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind import draws as random
from flowbind.batch import Batch
from flowbind.distributed import ranks, rows_of_all
from flowbind.flow.objective import FlowConfig

# Purposes of draws, each with streams of its own.
TIMES, NOISE = 1, 2

EncoderLoss = Literal["contrastive", "contrastive-source", "reconstruction", "none"]
ENCODER_LOSSES = ("contrastive", "contrastive-source", "reconstruction", "none")

# Shapes: n rows of this rank, N of the global batch, * the axes of the target's latent.


@dataclass(frozen=True)
class ObjectiveConfig(FlowConfig):
    """Settings of the objective. The defaults are those of text to image in the paper, or its code.

    Args:
        encoder_loss: What keeps the start telling: `contrastive` (with the target; the paper),
            `contrastive-source`, `reconstruction` (of the source), or `none`.
        encoder_weight: Weight w of that loss.
        kl_weight: Weight lambda of the divergence, which is a sum over the latent's numbers, in
            nats; 1e-4 in the paper, for 4,096 numbers. What matters is its product with their
            number: small ones leave the start nearly without noise, large ones without meaning. It
            is of variational encoders alone.
        path: Path from start to target: `straight`, or `sine-cosine`.
        times: Law of the times: `logit-normal`, or `uniform`.
        time_mean: Mean of a time's logit; below 0 gives earlier times.
        time_std: Standard deviation of a time's logit.
        unconditional: Share of rows that train the unconditional field, whose target is that of
            another sample; without any there is no guidance.

    Raises:
        ValueError: a value that is not allowed.
    """

    encoder_loss: EncoderLoss = "contrastive"
    encoder_weight: float = 1.0
    kl_weight: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("encoder_loss", ENCODER_LOSSES)
        self.check_weight("encoder_weight")
        self.check_weight("kl_weight")


class Draws(NamedTuple):
    """Everything random in one step, of each row of the target.

    Attributes:
        t: Times in [0, 1), with shape (n,).
        noise: Standard normal draws epsilon, with shape (n, *).
        condition: Whether it trains the conditional field, bool with shape (n,).
        other: Number, in the global batch, of the row whose target the unconditional field has,
            with shape (n,). It is another one, where there is one.
    """

    t: Tensor
    noise: Tensor
    condition: Tensor
    other: Tensor

    @classmethod
    def sample(
        cls,
        batch: Batch,
        target: str,
        config: ObjectiveConfig,
        key: int,
    ) -> "Draws":
        """The draws of a batch's rows of the target, on its device.

        Each depends on the key and on the row's place in the global batch.
        """
        x = batch.latents[target]
        streams = batch.streams(key)[target]
        place = Place.of(batch, target)
        choice, shift = random.uniform(streams, 2).unbind(1)

        # As many rows on as is drawn, 1 to N - 1, and from the last one on to the first.
        others = max(place.rows - 1, 0)
        shift = 1 + (shift * others).long()
        other = (place.numbers + shift) % max(place.rows, 1)

        noise = random.normal(random.fork(streams, NOISE), *x.shape[1:])
        return cls(
            t=config.draw_times(random.fork(streams, TIMES)).to(x.dtype),
            noise=noise.to(x.dtype),
            condition=choice >= config.unconditional,
            other=other,
        )


class Place(NamedTuple):
    """Where the rows of one modality are among those of the global batch.

    Attributes:
        numbers: Number of each of this rank's rows, from 0 on, with shape (n,).
        rows: Number N of rows of the global batch.
    """

    numbers: Tensor
    rows: int

    @classmethod
    def of(cls, batch: Batch, name: str) -> "Place":
        """The place of a batch's rows of a modality. Nothing waits for the device."""
        world = ranks() if batch.place else 1
        counts = {n: round(rows * world) for n, rows in batch.mean_rows.items()}
        names = list(batch.latents)
        position = names.index(name)

        # Rows of all modalities are numbered one after the other.
        first = sum(counts[before] for before in names[:position])
        numbers = batch.row_numbers.split(batch.rows)[position] - first
        return cls(numbers, counts[name])

    def gather(self, x: Tensor) -> Tensor:
        """The rows of all ranks, (n, *) -> (N, *), in the order of the global batch."""
        return rows_of_all(x, self.numbers, self.rows)


def flow_errors(
    field: Callable[[Tensor, Tensor, Tensor], Tensor],
    z: Tensor,
    x: Tensor,
    draws: Draws,
    place: Place,
    config: ObjectiveConfig,
) -> Tensor:
    """The error of each row's velocity, a mean over the latent, with shape (n,).

    Args:
        field: Velocity v(z_t, t, c), with shapes (n, *), (n,), (n,) -> (n, *).
        z: Starts, with shape (n, *).
        x: Targets, with shape (n, *).
        draws: Draws of the step.
        place: Place of the rows in the global batch.
        config: Settings of the objective.
    """
    if config.unconditional:
        others = place.gather(x).index_select(0, draws.other)
        condition = draws.condition.reshape(-1, *[1] * (x.ndim - 1))
        x = torch.where(condition, x, others)

    return config.errors(field, z, x, draws.t, draws.condition)


def contrast(
    z: Tensor,
    projection: Tensor,
    scale: Tensor,
    place: Place,
) -> Tensor:
    """Symmetric InfoNCE of each row among those of the global batch, with shape (n,).

    Args:
        z: Starts, with shape (n, *).
        projection: What each is compared with, with shape (n, *).
        scale: What cosines are multiplied by, 1 over the temperature, a scalar.
        place: Place of the rows in the global batch.
    """
    own = F.normalize(z.flatten(1), dim=1)
    other = F.normalize(projection.flatten(1), dim=1)
    # Bfloat16 has two digits of a cosine, which are too few for sharp logits.
    with torch.autocast(z.device.type, enabled=False):
        logits = scale * own @ place.gather(other).T
        logits_back = scale * other @ place.gather(own).T

    forth = F.cross_entropy(logits, place.numbers, reduction="none")
    back = F.cross_entropy(logits_back, place.numbers, reduction="none")
    return (forth + back) / 2


def reconstruction(source: Tensor, again: Tensor, masked: bool) -> Tensor:
    """The mean squared error of each source made again, with shape (n,).

    Args:
        source: Sources, with shape (n, *).
        again: What a decoder gives for them, with shape (n, *).
        masked: Whether sources are sequences whose last feature says which positions are there;
            these alone count, and the last feature does not.
    """
    squares = (again - source).square()
    if not masked:
        return squares.flatten(1).mean(1)

    is_there = (source[..., -1:] > 0.5).to(squares.dtype)
    squares = squares[..., :-1] * is_there
    count = is_there.sum((1, 2)).clamp(min=1) * squares.shape[-1]
    return squares.sum((1, 2)) / count
