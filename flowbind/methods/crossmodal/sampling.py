r"""Both sides flow from $t = 0$ to 1 on one grid of times, each seeing the other's present state:
the latent by a solver, the ids by steps of their chain (`flowbind.flow.discrete`).

- A side that is **held** is the data, at the time 1 of its own; or at the other's, where both were
  trained with one time: what the nets then know of data beside noise is what starts clean.
- A side that is given and **evolves** starts as it was given, at $t = 0$, and goes on with the other
  (the paper's cross-guidance).
- **Guidance** is of each side for itself: the velocity's as $v_\varnothing + s\,(v_c - v_\varnothing)$,
  and the posterior's likewise, of its logits.
- **Adaptive horizon.** The latent takes several steps for each of the ids, which settle sooner. Where
  a token jumps between, it sees the latent on the line between the step's two ends.
- **Order.** What is made of noise alone need not flow together: where each side has a time of its
  own, one may go all of its way beside the other's noise, and is held while the other follows,
  $p(\text{ids})\, p(x \mid \text{ids})$ or $p(x)\, p(\text{ids} \mid x)$. Then nothing is drawn
  before there is what it should agree with.
- **Inpainting.** The given latent flows back to $t = 0$, by the field without a condition, and from
  there forward with the ids. Positions that are known run straight to what they are,
  $x_t = (1 - t)\, z + t\, x$, while the others flow beside them and begin in noise of their own.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from flowbind import draws as random
from flowbind.flow.discrete import STEPS, Logits, Scheduler, Source
from flowbind.flow.guidance import guided
from flowbind.flow.sampling import check_guidance, check_solver, check_steps
from flowbind.flow.solver import Drift, Solver, integrate
from flowbind.padding import in_blocks
from flowbind.registry import did_you_mean

ORDERS = ("together", "ids-first", "latent-first")

# Shapes: n rows, * the axes of a latent, L ids of a sequence, V of the vocabulary.


@dataclass(frozen=True)
class CrossModalSampling:
    """What may be chosen when both sides flow together.

    Args:
        steps: Solver steps of the latent from noise to data.
        horizon: Steps of the latent for each step of the ids; it divides `steps`.
        order: How pairs of noise alone come about: `together`; `ids-first`, the latent then of the
            ids; or `latent-first`, the ids then of the latent.
        solver: The latent's solver: euler, midpoint, heun2, heun3, rk4, or dopri5, which chooses its
            own steps.
        tokens: Steps of the ids: `jump`, token after token, each by the posterior of its own time,
            or `euler`, all that jump in a step by one posterior.
        guidance: Scale of the latent's guidance by the ids. 1 is the field that is told them, 0
            the one that is not; others cost twice as much.
        token_guidance: Scale of the guidance of the ids by the latent.
        temperature: Temperature of the ids' posterior, above 0: at 1 ids are drawn from it, and below
            from what is likelier, more often grammatical and less varied.
        evolve: Whether what is given evolves with the other side, rather than being held.
        inpaint: Whether a given latent is flowed back and forward again with the given ids.

    Raises:
        ValueError: a value that is not allowed, or choices that exclude each other.
    """

    steps: int = 50
    horizon: int = 1
    order: Literal["together", "ids-first", "latent-first"] = "together"
    solver: Solver = "euler"
    tokens: Literal["jump", "euler"] = "jump"
    guidance: float = 1.0
    token_guidance: float = 1.0
    temperature: float = 1.0
    evolve: bool = False
    inpaint: bool = False

    def __post_init__(self) -> None:
        check_steps("steps", self.steps)
        check_steps("horizon", self.horizon)
        if self.steps % self.horizon:
            raise ValueError(
                f"horizon divides steps: {self.horizon} does not divide {self.steps}"
            )

        if self.order not in ORDERS:
            raise ValueError(
                f"no order '{self.order}'; {did_you_mean(self.order, ORDERS)}"
            )
        check_solver(self.solver)
        if self.tokens not in STEPS:
            raise ValueError(
                f"no steps of tokens '{self.tokens}'; {did_you_mean(self.tokens, STEPS)}"
            )
        check_guidance("guidance", self.guidance)
        check_guidance("token_guidance", self.token_guidance)
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature must be a number above 0, not {self.temperature}"
            )

        if self.evolve and self.inpaint:
            raise ValueError(
                "evolve and inpaint exclude each other; choose one of them"
            )


@dataclass(frozen=True)
class JointFlow:
    """The flow of both sides by trained nets; each row comes out the same alone.

    Args:
        velocity: Net of the velocity, v(x, t, ids, t_ids, is_known): -> (n, *).
        posterior: Net of the posterior's logits, (ids, t_ids, x, t, is_known) -> (n, L, V).
        positions: Positions that a net sees of each row.
        scheduler: How much of the ids is there when.
        source: Noise of the ids.
        is_shared: Whether the nets know one time alone, that of both sides.
        sampling: Choices.
    """

    velocity: nn.Module
    posterior: nn.Module
    positions: int
    scheduler: Scheduler
    source: Source
    is_shared: bool
    sampling: CrossModalSampling

    @property
    def precision(self) -> torch.dtype:
        """The nets' precision. States and what is added to them are float32 at least."""
        return next(self.velocity.parameters()).dtype

    @property
    def exact(self) -> torch.dtype:
        """The precision of states."""
        return torch.promote_types(self.precision, torch.float32)

    def pairs(
        self,
        x: Tensor,
        ids: Tensor,
        streams: Tensor,
        asks_x: bool = True,
        asks_ids: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Where both sides end that begin in noise, in the order that is chosen.

        Args:
            x: Latents at t = 0, with shape (n, *).
            ids: Ids at t = 0, with shape (n, L).
            streams: Random stream of each row, with shape (n,).
            asks_x: Whether latents are asked for. A side that is not, and that comes second, stays
                noise.
            asks_ids: Whether ids are.
        """
        order = self.sampling.order
        if order == "ids-first":
            _, ids = self.forth(x, ids, streams, held_x=0.0)
            return self.forth(x, ids, streams, held_ids=1.0) if asks_x else (x, ids)
        if order == "latent-first":
            x, _ = self.forth(x, ids, streams, held_ids=0.0)
            return self.forth(x, ids, streams, held_x=1.0) if asks_ids else (x, ids)
        return self.forth(x, ids, streams)

    def forth(
        self,
        x: Tensor,
        ids: Tensor,
        streams: Tensor,
        held_x: float | None = None,
        held_ids: float | None = None,
        known: "Known | None" = None,
    ) -> tuple[Tensor, Tensor]:
        """Where both sides end, with shapes (n, *) and (n, L). A held one is returned as it is.

        Args:
            x: Latents at t = 0, or at the time at which they are held.
            ids: Ids at t = 0, or at the time at which they are held.
            streams: Random stream of each row, with shape (n,).
            held_x: Time at which the latents are held, 1 of data; None where they flow.
            held_ids: Time at which the ids are.
            known: What is known of the latents.
        """
        # Beside ids that are held the latent has no reason to stop between.
        count = (
            1 if held_ids is not None else self.sampling.steps // self.sampling.horizon
        )
        times = torch.linspace(0, 1, count + 1, dtype=torch.float64).tolist()

        for number, (start, stop) in enumerate(pairwise(times)):
            before = x
            if held_x is None:
                drift = self._drift(ids, start if held_ids is None else held_ids)
                if known is not None:
                    drift = known.guide(drift)
                substeps = self.sampling.steps // count
                x = integrate(drift, x, start, stop, substeps, self.sampling.solver)

            if held_ids is None:
                logits = self._logits(before, x, start, stop, held_x)
                of_step = random.fork(streams, number)
                ids = self._step(logits, ids, start, stop, of_step)

        if known is not None:
            x = known.fill(x)
        return x, ids

    def _step(
        self,
        logits: Logits,
        ids: Tensor,
        start: float,
        stop: float,
        streams: Tensor,
    ) -> Tensor:
        """A step of the ids' chain, int64 with shape (n, L)."""
        begin = torch.full(
            (len(ids),),
            start,
            dtype=torch.float64,
            device=ids.device,
        )
        end = torch.full_like(begin, stop)

        def tempered(ids: Tensor, t: Tensor) -> Tensor:
            return logits(ids, t) / self.sampling.temperature

        step = STEPS[self.sampling.tokens]
        return step(tempered, ids, begin, end, self.scheduler, self.source, streams)

    def back(self, x: Tensor, ids: Tensor) -> Tensor:
        """Where latents come from, by the field without a condition, with shape (n, *).

        Args:
            x: Latents at t = 1, with shape (n, *).
            ids: Ids, with shape (n, L), of which the net is told nothing.
        """
        drift = self._drift(ids, 0.0, scale=0.0)
        return integrate(drift, x, 1.0, 0.0, self.sampling.steps, self.sampling.solver)

    def _drift(
        self,
        ids: Tensor,
        t_ids: float,
        scale: float | None = None,
    ) -> Drift:
        """The velocity beside ids that stay as they are, (n, *), (n,) -> (n, *)."""

        def field(x: Tensor, t: Tensor, is_known: Tensor, ids: Tensor) -> Tensor:
            time = t if self.is_shared else torch.full_like(t, t_ids)
            return self._call(self.velocity, x, t, ids, time, is_known)

        scale = self.sampling.guidance if scale is None else scale
        return guided(field, scale, ids)

    def _logits(
        self,
        before: Tensor,
        after: Tensor,
        start: float,
        stop: float,
        held_x: float | None,
    ) -> Logits:
        """The posterior's logits beside latents that move on a line, (n, L), (n,) -> (n, L, V)."""
        scale = self.sampling.token_guidance
        if held_x is not None:
            return self.logits_beside(after, scale, held_x)

        def logits(ids: Tensor, t: Tensor) -> Tensor:
            share = (t - start) / (stop - start)
            share = share.reshape(-1, *[1] * (before.ndim - 1)).to(before.dtype)
            x = torch.lerp(before, after, share)
            return guided(self._posterior, scale, x, t)(ids, t)

        return logits

    def logits_beside(
        self,
        x: Tensor,
        scale: float,
        held: float = 1.0,
    ) -> Logits:
        """The posterior's logits beside latents that stay, (n, L), (n,) -> (n, L, V).

        Args:
            x: Latents, with shape (n, *).
            scale: Scale of the guidance by them; 0 tells nothing of them.
            held: Their time; 1 of data.
        """

        def logits(ids: Tensor, t: Tensor) -> Tensor:
            t_x = t if self.is_shared else torch.full_like(t, held)
            return guided(self._posterior, scale, x, t_x)(ids, t)

        return logits

    def _posterior(
        self,
        ids: Tensor,
        t_ids: Tensor,
        is_known: Tensor,
        x: Tensor,
        t: Tensor,
    ) -> Tensor:
        return self._call(self.posterior, ids, t_ids, x, t, is_known)

    def _call(self, net: nn.Module, *inputs: Tensor) -> Tensor:
        """A net's outputs, in blocks of rows."""
        rows = []
        for each in inputs:
            rows.append(each.to(self.precision) if each.is_floating_point() else each)

        def compute(numbers: Tensor) -> Tensor:
            return net(*[each[numbers] for each in rows])

        numbers = torch.arange(len(rows[0]), device=rows[0].device)
        return in_blocks(compute, numbers, self.positions).to(self.exact)


@dataclass(frozen=True)
class Known:
    """What is known of latents, which runs straight from where it begins to what it is.

    Args:
        is_known: Whether a position is known, bool with a shape that expands to (n, *).
        z: Where the latents begin, with shape (n, *).
        x: What they are, with shape (n, *).
    """

    is_known: Tensor
    z: Tensor
    x: Tensor

    def guide(self, drift: Drift) -> Drift:
        """A velocity that is the straight path's where the latents are known."""
        return lambda x, t: torch.where(self.is_known, self.x - self.z, drift(x, t))

    def fill(self, x: Tensor) -> Tensor:
        """Latents that are what is known, to the bit."""
        return torch.where(self.is_known, self.x, x)
