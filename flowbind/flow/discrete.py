r"""Discrete flow matching: sequences of ids that jump from noise to data.

The mathematics is that of Campbell et al. (arXiv 2402.04997) and Gat et al. (arXiv 2407.15595).
A path mixes the data $x_1$ with noise $p_0$, each token $i$ for itself,

$$
p_t(x \mid x_1) = \prod_i \bigl( k_t\, \delta_{x_1^i}(x^i) + (1 - k_t)\, p_0(x^i) \bigr),
\qquad k_t = t^d .
$$

Noise is the mask, an id beside the vocabulary's, or uniform in the vocabulary.

**Rates.** A chain in continuous time, whose token $i$ jumps to $j$ at the rate $u^i(j, x)$, has the
marginals of a path where Kolmogorov's forward equation holds, $\dot p_t(x) = \sum_i \sum_{y} u^i(x^i,
y)\, p_t(y)$ over all $y$ that differ from $x$ in token $i$ at most. It does for one $x_1$ with the
first of these rates and, because it is linear in $u\,p$, for all data with their mean over
$p(x_1 \mid x_t)$,

$$
u_t^i(j, x \mid x_1) = r_t\, \bigl(\delta_{x_1^i}(j) - \delta_{x^i}(j)\bigr), \qquad
u_t^i(j, x) = r_t\, \bigl(q_t^i(j \mid x) - \delta_{x^i}(j)\bigr), \qquad
r_t = \frac{\dot k_t}{1 - k_t} ,
$$

where $q_t^i(j \mid x)$ is the posterior of the token's data, given the whole sequence: what a
network learns. For the same reason the rates of a path with a second side, discrete or continuous,
are the sum of both sides', each with its mean over the posterior given the state of both.

**Steps.** So each token comes up at the rate $r_t$, whatever the state is, and becomes a draw from
its posterior then, which may be what it was. From $t$ to $t'$ it comes up with the probability

$$
1 - \exp\Bigl(-\int_t^{t'} r\Bigr) = \frac{k_{t'} - k_t}{1 - k_t} ,
$$

which is 1 for $t' = 1$: the last step is exact. An Euler step asks for all posteriors once, at its
beginning. Or each token has its next time, and the earliest one jumps, after which the posteriors
are asked for again: with a mask that is exact in law. With uniform noise tokens come up infinitely
often on the way to 1, and so in the last step each comes up once.

**Losses.** Cross-entropy is $-\log q^i(x_1^i \mid x_t)$ of every token that may still jump. The
generalised Kullback-Leibler divergence of two rates is

$$
D(u, v) = \sum_i \sum_{j \ne x^i} u^i(j) \log \frac{u^i(j)}{v^i(j)} - u^i(j) + v^i(j) ,
$$

which is 0 where they are the same and nowhere else. Of the rates towards one $x_1$ from the model's
it is $r_t$ times

$$
g(x_1, x) = \sum_i 1[x_1^i \ne x^i]\, \bigl(-\log q^i(x_1^i \mid x)\bigr)
+ \delta_{x_1^i}(x^i) - q^i(x^i \mid x) ,
$$

whose mean over $p(x_1 \mid x_t)$ is least at the posterior. With a mask both losses are the same.

**Bound of the perplexity.** Let $P$ be the law of the path of states towards one $x_1$, and $Q$ the
law of what the model generates. Both begin in $p_0$, and $P$ ends in $x_1$, so that $-\log Q(x_1)
\le \operatorname{KL}(P \Vert Q)$ by Jensen. Of two jump processes the divergence of their laws
grows by that of their rates (Girsanov), so up to a time $\tau$ it is $\int_0^\tau r_t\,
\mathbb E\,g(x_1, x_t)\, \mathrm d t$. With the last step, from $\tau$ to 1, in which each token that
may jump is drawn from its posterior,

$$
-\log Q(x_1) \le \int_0^{k_\tau} \mathbb E_{x_t \mid x_1}\, g(x_1, x_t)\, \frac{\mathrm d k}{1 - k}
+ \mathbb E_{x_\tau \mid x_1} \sum_i -\log q^i(x_1^i \mid x_\tau) .
$$

It is one of the chain that is run, and finite for each posterior that excludes nothing; without a
last step it would not be, with uniform noise, for any but a perfect one. With a mask it is tight at
the true posterior as $\tau \to 1$. With uniform noise it is not: what comes up and stays what it was
leaves no trace in the data. So bounds of the two do not compare.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind import draws

LAST = 0.999  # k at which the last step of the bound begins
EVALUATIONS = 32  # points of the bound's integral, of each row

# Shapes: n rows, L tokens, V ids of the vocabulary, S states: V, or with a mask V + 1.

# Logits of the data at (x_t, t): (n, L), (n,) -> (n, L, V).
Logits = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Scheduler:
    """How much of the data is there: k(t) = t^degree.

    Args:
        degree: Degree of the polynomial, at least 1; more of it leaves the data for later.

    Raises:
        ValueError: a degree below 1.
    """

    degree: float = 1.0

    def __post_init__(self) -> None:
        if not self.degree >= 1:
            raise ValueError(f"degree must be a number, at least 1, not {self.degree}")

    def k(self, t: Tensor) -> Tensor:
        """The share of the data at times `t` in [0, 1]."""
        return t**self.degree

    def time(self, k: Tensor) -> Tensor:
        """The times at which the share is `k`, in [0, 1]."""
        return k ** (1 / self.degree)

    def rate(self, t: Tensor) -> Tensor:
        """How often a token comes up, r = k' / (1 - k), at times `t`; infinite at 1."""
        return self.degree * t ** (self.degree - 1) / (1 - self.k(t))

    def probability(self, start: Tensor, stop: Tensor) -> Tensor:
        """The probability that a token comes up from `start` to `stop`; exactly 1 for stop = 1."""
        k = self.k(start)
        return (self.k(stop) - k) / (1 - k)

    def next_time(self, t: Tensor, uniform: Tensor) -> Tensor:
        """When a token comes up next, after `t`, by draws in [0, 1)."""
        left = (1 - self.k(t)) * (1 - uniform)
        return self.time(1 - left)


@dataclass(frozen=True)
class Source(ABC):
    """Noise p_0 of a token, and which tokens it lets jump.

    Args:
        vocabulary: Number V of ids.
    """

    vocabulary: int

    @property
    @abstractmethod
    def states(self) -> int:
        """Number S of what a token may be."""

    @abstractmethod
    def start(self, uniform: Tensor) -> Tensor:
        """Noise, int64 with any shape, by draws in [0, 1)."""

    @abstractmethod
    def moves(self, x: Tensor) -> Tensor:
        """Whether tokens may jump, bool with the shape of `x`."""

    @abstractmethod
    def stays(self, logits: Tensor, x: Tensor) -> Tensor:
        """Probabilities q(x | x) that tokens stay what they are, with shape (n, L).

        Args:
            logits: What a network says of the data, with shape (n, L, V).
            x: States, with shape (n, L).
        """

    @abstractmethod
    def posterior(self, logits: Tensor, x: Tensor) -> Tensor:
        """Probabilities q of what tokens become where they come up, with shape (n, L, S).

        Args:
            logits: What a network says of the data, with shape (n, L, V).
            x: States, with shape (n, L).
        """


class Mask(Source):
    """A mask, id V, in place of the data. A token jumps once: what is no mask is the data."""

    @property
    def states(self) -> int:
        return self.vocabulary + 1

    def start(self, uniform: Tensor) -> Tensor:
        return torch.full_like(uniform, self.vocabulary, dtype=torch.int64)

    def moves(self, x: Tensor) -> Tensor:
        return x == self.vocabulary

    def stays(self, logits: Tensor, x: Tensor) -> Tensor:
        return (~self.moves(x)).to(logits.dtype)

    def posterior(self, logits: Tensor, x: Tensor) -> Tensor:
        probabilities = F.pad(logits.softmax(-1), (0, 1))
        certain = F.one_hot(x, self.states).to(logits.dtype)
        return torch.where(self.moves(x)[..., None], probabilities, certain)


class Uniform(Source):
    """Each id of the vocabulary, equally likely. A token may jump as often as it comes up."""

    @property
    def states(self) -> int:
        return self.vocabulary

    def start(self, uniform: Tensor) -> Tensor:
        return (uniform.double() * self.vocabulary).long()

    def moves(self, x: Tensor) -> Tensor:
        return torch.ones_like(x, dtype=torch.bool)

    def stays(self, logits: Tensor, x: Tensor) -> Tensor:
        return torch.exp(-_nats(logits, x))

    def posterior(self, logits: Tensor, x: Tensor) -> Tensor:
        return logits.softmax(-1)


SOURCES: dict[str, type[Source]] = {"mask": Mask, "uniform": Uniform}


# The path, its rates and its losses


def corrupt(x_1: Tensor, k: Tensor, uniform: Tensor, source: Source) -> Tensor:
    """A point of the path to `x_1`, int64 with shape (n, L).

    Args:
        x_1: Data, ids with shape (n, L).
        k: Share of the data, with shape (n,).
        uniform: Draws in [0, 1), with shape (n, L, 2): whether it is data, and the noise.
        source: Noise.
    """
    is_data = uniform[..., 0] < k[:, None]
    return torch.where(is_data, x_1, source.start(uniform[..., 1]))


def rates(q: Tensor, x: Tensor, r: Tensor) -> Tensor:
    """The rates u(j, x) of every token, with shape (n, L, S); those of a token add up to 0.

    Args:
        q: Posterior, with shape (n, L, S).
        x: States, with shape (n, L).
        r: How often a token comes up, with shape (n,).
    """
    stay = F.one_hot(x, q.shape[-1]).to(q.dtype)
    return r[:, None, None] * (q - stay)


def divergence(u: Tensor, v: Tensor, x: Tensor) -> Tensor:
    """The generalised divergence D(u, v) of rates, of each token, with shape (n, L).

    Args:
        u: Rates, with shape (n, L, S).
        v: Others, with shape (n, L, S).
        x: States that they lead away from, with shape (n, L).
    """
    terms = torch.xlogy(u, u) - torch.xlogy(u, v) - u + v
    is_jump = F.one_hot(x, u.shape[-1]) == 0
    return torch.where(is_jump, terms, 0).sum(-1)


def cross_entropy(logits: Tensor, x_t: Tensor, x_1: Tensor, source: Source) -> Tensor:
    """-log q(x_1 | x_t) of each token that may jump and 0 of others, in nats, with shape (n, L).

    Args:
        logits: What a network says of the data, with shape (n, L, V).
        x_t: States, with shape (n, L).
        x_1: Data, ids with shape (n, L).
        source: Noise.
    """
    return torch.where(source.moves(x_t), _nats(logits, x_1), 0)


def generalised_kl(logits: Tensor, x_t: Tensor, x_1: Tensor, source: Source) -> Tensor:
    """The divergence of the rates towards `x_1` from the model's, over r, with shape (n, L).

    Args:
        logits: What a network says of the data, with shape (n, L, V).
        x_t: States, with shape (n, L).
        x_1: Data, ids with shape (n, L).
        source: Noise.
    """
    is_there = x_t == x_1
    jumps = torch.where(is_there, 0, _nats(logits, x_1))
    return jumps + is_there.to(logits.dtype) - source.stays(logits, x_t)


def _nats(logits: Tensor, ids: Tensor) -> Tensor:
    """-log of the probabilities of ids, with shape (n, L)."""
    log_probabilities = logits.log_softmax(-1)
    return -log_probabilities.gather(-1, ids[..., None])[..., 0]


# Steps of the chain


def euler_step(
    logits: Logits,
    x: Tensor,
    start: Tensor,
    stop: Tensor,
    scheduler: Scheduler,
    source: Source,
    streams: Tensor,
) -> Tensor:
    """One step, in which the posteriors are those of its beginning, int64 with shape (n, L).

    Args:
        logits: Logits of the data at (x, t), with shapes (n, L), (n,) -> (n, L, V).
        x: States at `start`, with shape (n, L).
        start: Times of the beginning, with shape (n,).
        stop: Times of the end, with shape (n,).
        scheduler: How much of the data is there when.
        source: Noise.
        streams: Random stream of each row for this step, with shape (n,).
    """
    comes_up, choice = draws.uniform(streams, x.shape[1], 2).unbind(-1)
    q = source.posterior(logits(x, start), x)
    probability = scheduler.probability(start.double(), stop.double())
    jumps = comes_up < probability[:, None]
    return torch.where(jumps, draw(q, choice), x)


def jump_step(
    logits: Logits,
    x: Tensor,
    start: Tensor,
    stop: Tensor,
    scheduler: Scheduler,
    source: Source,
    streams: Tensor,
) -> Tensor:
    """The same, token after token: the one that comes up first, by the posterior of that time.

    Posteriors are asked for as often as tokens come up in the row where most do. In a step to 1
    each comes up once.
    """
    rows = torch.arange(len(x), device=x.device)
    start = start.double()
    is_last = stop == 1

    # Chains have no memory: the next time since `start` is as likely as since any time before.
    uniform = draws.uniform(draws.fork(streams, 0), x.shape[1])
    times = scheduler.next_time(start[:, None], uniform)
    times = torch.where(source.moves(x), times, torch.inf)

    count = 0
    while True:
        earliest, token = times.min(1)
        comes_up = (earliest < stop) | (is_last & earliest.isfinite())
        if not comes_up.any():
            return x

        # A row has come up in every turn so far, or will not again: the turn is its own number.
        count += 1
        choice, wait = draws.uniform(draws.fork(streams, count), 2).unbind(-1)
        t = torch.where(comes_up, earliest, start)
        q = source.posterior(logits(x, t), x)[rows, token]
        jumped = x.index_put((rows, token), draw(q, choice))
        x = torch.where(comes_up[:, None], jumped, x)

        again = source.moves(x)[rows, token] & ~is_last
        after = torch.where(again, scheduler.next_time(t, wait), torch.inf)
        after = torch.where(comes_up, after, earliest)
        times = times.index_put((rows, token), after)


def draw(q: Tensor, uniform: Tensor) -> Tensor:
    """Ids by their probabilities, int64 with shape (*).

    Args:
        q: Probabilities, with shape (*, S).
        uniform: Draws in [0, 1), with shape (*).
    """
    cumulated = q.cumsum(-1)
    level = uniform.to(q.dtype) * cumulated[..., -1]
    ids = torch.searchsorted(cumulated, level[..., None], right=True)
    return ids[..., 0].clamp(max=q.shape[-1] - 1)


STEPS: dict[str, Callable[..., Tensor]] = {"jump": jump_step, "euler": euler_step}


def bound(
    logits: Logits,
    x_1: Tensor,
    scheduler: Scheduler,
    source: Source,
    streams: Tensor,
    evaluations: int = EVALUATIONS,
) -> Tensor:
    """A bound of -log Q(x_1) in the mean over what is drawn, in nats, with shape (n,).

    Args:
        logits: Logits of the data at (x, t), with shapes (n, L), (n,) -> (n, L, V).
        x_1: Data, ids with shape (n, L).
        scheduler: How much of the data is there when.
        source: Noise.
        streams: Random stream of each row, with shape (n,).
        evaluations: Points of the integral, one drawn in each of as many equal parts.
    """
    length = x_1.shape[1]

    def at(k: Tensor, streams: Tensor) -> tuple[Tensor, Tensor]:
        """A state where the share of the data is k, and its logits."""
        x_t = corrupt(x_1, k, draws.uniform(streams, length, 2), source)
        return x_t, logits(x_t, scheduler.time(k))

    nats = torch.zeros(len(x_1), dtype=torch.float64, device=x_1.device)
    for part in range(evaluations):
        of_part = draws.fork(streams, part)
        place = draws.uniform(draws.fork(of_part, 0), 1)[:, 0].double()
        k = LAST * (part + place) / evaluations
        x_t, said = at(k, draws.fork(of_part, 1))
        errors = generalised_kl(said, x_t, x_1, source).sum(1)
        nats += LAST / evaluations * errors / (1 - k)

    last = torch.full_like(nats, LAST)
    x_t, said = at(last, draws.fork(streams, evaluations))
    return nats + cross_entropy(said, x_t, x_1, source).sum(1)
