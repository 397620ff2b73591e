r"""A sample is a latent $x$ and a sequence of ids $c$; its path is the product of both sides' paths,

$$
p(x_t, c_s \mid x_1, c_1) = p_t(x_t \mid x_1)\, p_s(c_s \mid c_1), \qquad
x_t = (1 - t)\, \varepsilon + t\, x_1 ,
$$

with $\varepsilon \sim \mathcal N(0, I)$ and the mixture path of ids (`flowbind.flow.discrete`). One
net learns the velocity of $x$, another the posterior of $c$, each given the state of both,

$$
\mathcal L = \frac1D \lVert v(x_t, t, c_s, s) - (x_1 - \varepsilon) \rVert^2
+ \frac wL\, \ell\bigl(q(\cdot \mid c_s, s, x_t, t),\, c_1\bigr) ,
$$

where $D$ are the numbers of a latent and $L$ the ids of a sequence; $\ell$ is the cross-entropy, or
the generalised divergence times the rate $r_s$, in nats.

- **Times.** `shared` is the paper's, $s = t$, uniform in $[0, 1)$. `apart` draws $s$ for itself: then
  $s$ near 1, where the ids are the data, and $s$ near 0, where they tell nothing, are trained at
  every $t$, and so is what generates one side from the other one.
- **Clean starts.** With probability 0.1 the ids begin in the data, not in noise: $c_s = c_1$ at all
  $s$ (the paper's training for cross-guidance). Such a side may be given and yet evolve.
- **Dropped conditions.** With probability 0.1 a net is told nothing of the other side, nor of its
  time, so that it is the field without a condition, too, which guidance needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from flowbind import draws as random
from flowbind.batch import Batch
from flowbind.flow.discrete import (
    SOURCES,
    Scheduler,
    Source,
    corrupt,
    cross_entropy,
    generalised_kl,
)
from flowbind.flow.path import sample_path

# Purposes of draws, each with streams of its own.
NOISE, IDS, CHOICES = 1, 2, 3

LATEST = 0.999  # time whose rate weighs what is later, too: at 1 it is infinite

# Shapes: n rows, * the axes of a latent, L ids of a sequence, V of the vocabulary.


@dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of the objective.

    Args:
        times: Whether both sides have one time, `shared` (the paper), or each its own, `apart`.
        source: Noise of the ids: `mask`, or `uniform`. With a mask an id that is there stays, so
            that given ids are held and do not evolve.
        degree: Degree d of the scheduler k = t^d, at least 1.
        token_loss: Loss of the ids: `cross-entropy`, or `generalised-kl`, whose mean is the bound
            of the perplexity.
        token_weight: Weight w of that loss.
        clean_ids: Share of rows whose ids start in the data; 0.1 in the paper.
        clean_latents: Share of rows whose latent starts in the data.
        unconditional: Share of rows of which a net is not told the other side; without any there
            is no guidance.

    Raises:
        ValueError: a value that is not allowed.
    """

    times: Literal["apart", "shared"] = "apart"
    source: Literal["mask", "uniform"] = "mask"
    degree: float = 1.0
    token_loss: Literal["cross-entropy", "generalised-kl"] = "cross-entropy"
    token_weight: float = 1.0
    clean_ids: float = 0.1
    clean_latents: float = 0.0
    unconditional: float = 0.1

    def __post_init__(self) -> None:
        self._check_choice("times", ("apart", "shared"))
        self._check_choice("source", tuple(SOURCES))
        self._check_choice("token_loss", ("cross-entropy", "generalised-kl"))
        self.scheduler()  # refuses a degree

        if not self.token_weight >= 0:
            raise ValueError(
                f"token_weight must be a number, at least 0, not {self.token_weight}"
            )
        if not 0 <= self.unconditional < 1:
            raise ValueError(
                f"unconditional is a probability in [0, 1), not {self.unconditional}"
            )
        shares = (self.clean_ids, self.clean_latents)
        if not (min(shares) >= 0 and sum(shares) <= 1):
            raise ValueError(
                "clean_ids and clean_latents are probabilities of at most 1 together, not "
                f"{self.clean_ids} and {self.clean_latents}"
            )

    def _check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise ValueError(f"{name} is one of {', '.join(allowed)}, not '{value}'")

    def scheduler(self) -> Scheduler:
        """How much of the ids is there at a time."""
        return Scheduler(self.degree)

    def noise(self, vocabulary: int) -> Source:
        """The noise of ids of a vocabulary."""
        return SOURCES[self.source](vocabulary)


class Draws(NamedTuple):
    """Everything random in one step, of each row.

    Attributes:
        t: Times of latents in [0, 1), with shape (n,).
        t_ids: Times of ids in [0, 1), with shape (n,).
        noise: Standard normal draws, with shape (n, *).
        uniform: Draws in [0, 1) of ids, with shape (n, L, 2): whether one is data, and the noise.
        clean_ids: Whether the ids start in the data, bool with shape (n,).
        clean_latents: Whether the latent does, bool with shape (n,).
        knows_ids: Whether the velocity's net is told the ids, bool with shape (n,).
        knows_latent: Whether the posterior's net is told the latent, bool with shape (n,).
    """

    t: Tensor
    t_ids: Tensor
    noise: Tensor
    uniform: Tensor
    clean_ids: Tensor
    clean_latents: Tensor
    knows_ids: Tensor
    knows_latent: Tensor

    @classmethod
    def sample(
        cls,
        batch: Batch,
        latent: str,
        ids: str,
        config: ObjectiveConfig,
        key: int,
    ) -> "Draws":
        """The draws of a batch's rows, on its device.

        Each depends on the key and on the row's place in the global batch.

        Args:
            batch: Standardised latents.
            latent: Name of the continuous side.
            ids: Name of the discrete side.
            config: Settings of the objective.
            key: Key of the step's draws.
        """
        x = batch.latents[latent]
        streams = batch.streams(key)[latent]
        noise = random.normal(random.fork(streams, NOISE), *x.shape[1:])
        length = batch.latents[ids].shape[1]
        uniform = random.uniform(random.fork(streams, IDS), length, 2)

        choices = random.uniform(random.fork(streams, CHOICES), 5)
        t, t_ids, start, of_velocity, of_posterior = choices.to(x.dtype).unbind(1)
        is_clean = start < config.clean_ids
        either = start < config.clean_ids + config.clean_latents
        return cls(
            t=t,
            t_ids=t if config.times == "shared" else t_ids,
            noise=noise.to(x.dtype),
            uniform=uniform,
            clean_ids=is_clean,
            clean_latents=either & ~is_clean,
            knows_ids=of_velocity >= config.unconditional,
            knows_latent=of_posterior >= config.unconditional,
        )


class State(NamedTuple):
    """Both sides at a point of their path, and the velocity of the latent there.

    Attributes:
        x: Latents x_t, with shape (n, *).
        velocity: Their velocity, with shape (n, *).
        ids: Present ids, int64 with shape (n, L).
    """

    x: Tensor
    velocity: Tensor
    ids: Tensor


def sample_state(
    x_1: Tensor,
    ids_1: Tensor,
    draws: Draws,
    scheduler: Scheduler,
    source: Source,
) -> State:
    """A point of the path to data.

    Args:
        x_1: Latents, with shape (n, *).
        ids_1: Ids, with shape (n, L).
        draws: Draws of the step.
        scheduler: How much of the ids is there when.
        source: Noise of the ids.
    """
    starts_clean = draws.clean_latents.reshape(-1, *[1] * (x_1.ndim - 1))
    z = torch.where(starts_clean, x_1, draws.noise)
    x, velocity = sample_path(z, x_1, draws.t)

    k = scheduler.k(draws.t_ids)
    k = torch.where(draws.clean_ids, 1.0, k)
    ids = corrupt(ids_1, k, draws.uniform, source)
    return State(x, velocity, ids)


def flow_errors(velocity: Tensor, state: State) -> Tensor:
    """The error of each row's velocity, a mean over the latent, with shape (n,)."""
    error = velocity.to(state.velocity.dtype) - state.velocity
    return error.square().flatten(1).mean(1)


def token_errors(
    logits: Tensor,
    state: State,
    ids_1: Tensor,
    t_ids: Tensor,
    config: ObjectiveConfig,
    source: Source,
) -> Tensor:
    """The loss of each row's ids, a mean over the sequence, in nats, with shape (n,).

    Args:
        logits: What the net says of the data, with shape (n, L, V).
        state: Point of the path.
        ids_1: Ids, with shape (n, L).
        t_ids: Times of the ids, with shape (n,).
        config: Settings of the objective.
        source: Noise of the ids.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss: Callable[..., Tensor] = cross_entropy
    if config.token_loss == "generalised-kl":
        loss = generalised_kl
    errors = loss(logits, state.ids, ids_1, source).mean(1)
    if config.token_loss == "generalised-kl":
        errors = errors * config.scheduler().rate(t_ids.clamp(max=LATEST))
    return errors
