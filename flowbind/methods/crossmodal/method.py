"""Cross-modal flows: one joint flow over a latent of numbers and a sequence of ids.

Making one side from the other is a matter of where the flow starts, so one model makes pairs from
noise, each side from the other, and a part of one from the rest.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowbind import draws as random
from flowbind.batch import Batch
from flowbind.codec import check_ids
from flowbind.flow.discrete import bound, cross_entropy
from flowbind.method import Direction, Loss, Method, Sign
from flowbind.methods.crossmodal.alignment import AlignConfig, Alignment
from flowbind.methods.crossmodal.objective import (
    Draws,
    ObjectiveConfig,
    flow_errors,
    sample_state,
    token_errors,
)
from flowbind.methods.crossmodal.sampling import CrossModalSampling, JointFlow, Known
from flowbind.methods.crossmodal.signs import reading_sign
from flowbind.modality import Modality
from flowbind.nets.mmdit import MMDiT, MMDiTConfig
from flowbind.nets.token_transformer import TokenTransformer, TokenTransformerConfig
from flowbind.nets.tokens import Tokens

# Purposes of draws, each with streams of its own.
START, START_IDS, STEP, BOUND = 1, 2, 3, 4

# Key, in a state, of which positions of the latent are known; no modality is called so.
KNOWN = "known positions"

# Shapes: n rows in a batch, B samples to generate, * the axes of a latent, L ids of a sequence.


class Nets(nn.Module):
    """The networks of a joint flow.

    Args:
        velocity: Velocity of the latent, given the present ids.
        posterior: Posterior of the ids, given the present latent.
        projection: Projection of a block's tokens to an encoder's features; none without alignment.
    """

    def __init__(
        self,
        velocity: MMDiT,
        posterior: TokenTransformer,
        projection: nn.Module | None,
    ) -> None:
        super().__init__()
        self.velocity = velocity
        self.posterior = posterior
        self.projection = projection


class CrossModal(Method):
    """A joint flow over a latent and a sequence of ids, each of which sees the other's state.

    Args:
        modalities: Two modalities by name, as manifests name them, one of them with latents that
            are ids; and, where there is alignment, a third one, an encoder's features.
        net: Size of the velocity's net.
        token_net: Size of the posterior's net.
        objective: Settings of the objective.
        align: Alignment of the velocity's net with the third modality; none if None.

    Raises:
        ValueError: other modalities, or shapes that the networks do not take.
    """

    Sampling = CrossModalSampling
    paper: ClassVar = "generator matching, arXiv 2410.20587"

    def __init__(
        self,
        modalities: dict[str, Modality],
        net: MMDiTConfig = MMDiTConfig(),  # noqa: B008
        token_net: TokenTransformerConfig = TokenTransformerConfig(),  # noqa: B008
        objective: ObjectiveConfig = ObjectiveConfig(),  # noqa: B008
        align: AlignConfig | None = None,
    ) -> None:
        super().__init__(modalities)
        self.net = net
        self.token_net = token_net
        self.objective = objective
        self.align = align

        self.latent, self.ids, vocabulary = self._sides()
        self.scheduler = objective.scheduler()
        self.source = objective.noise(vocabulary)
        self.alignment = None if align is None else self._alignment(align)
        with torch.device("meta"):
            self.build()

    def _sides(self) -> tuple[str, str, int]:
        """The names of the continuous and of the discrete side, and the number of ids."""
        names = list(self.modalities)
        if self.align is not None:
            if self.align.features not in names:
                raise ValueError(
                    f"align.features is a modality of the model, {', '.join(names)}; not "
                    f"'{self.align.features}'"
                )
            names.remove(self.align.features)

        ids: dict[str, int] = {}
        latents: list[str] = []
        for name in names:
            vocabulary = self.modalities[name].codec.vocabulary
            if vocabulary is None:
                latents.append(name)
            else:
                ids[name] = vocabulary

        if len(ids) != 1 or len(latents) != 1:
            raise ValueError(
                "a joint flow has two modalities, one of numbers and one of ids (a codec with a "
                f"vocabulary), and beside them what align.features names; not {', '.join(names)}, "
                f"of which ids are {', '.join(ids) or 'none'}"
            )

        (latent,) = latents
        if self.modalities[latent].codec.masked:
            raise ValueError(
                f"the latents of '{latent}' are masked sequences, which do not evolve; choose "
                "another codec"
            )
        ((name, vocabulary),) = ids.items()
        return latent, name, vocabulary

    def _alignment(self, align: AlignConfig) -> Alignment:
        if align.block > self.net.depth:
            raise ValueError(
                f"align.block is {align.block}, and the net has {self.net.depth} blocks"
            )
        shape = self.modalities[align.features].codec.shape
        return Alignment(align, shape, Tokens(self.shape, self.net.patch).sides)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one latent of the continuous side."""
        return tuple(self.modalities[self.latent].codec.shape)

    @property
    def length(self) -> int:
        """The number L of ids of a sequence."""
        return self.modalities[self.ids].codec.shape[0]

    def build(self) -> Nets:
        vocabulary = self.source.vocabulary
        head = None
        if self.alignment is not None:
            head = self.alignment.projection(self.net.width)
        return Nets(
            velocity=MMDiT(self.shape, vocabulary, self.length, self.net),
            posterior=TokenTransformer(
                vocabulary,
                self.length,
                self.shape,
                self.token_net,
            ),
            projection=head,
        )

    def trains_on(self, present: Collection[str]) -> bool:
        return set(self.modalities) <= set(present)

    def draw(self, batch: Batch, key: int) -> Draws:
        return Draws.sample(batch, self.latent, self.ids, self.objective, key)

    def losses(
        self,
        nets: Nets,
        batch: Batch,
        draws: Draws,
    ) -> dict[str, Loss]:
        x_1 = batch.latents[self.latent]
        ids_1 = batch.latents[self.ids]
        state = sample_state(x_1, ids_1, draws, self.scheduler, self.source)
        t, t_ids = draws.t, draws.t_ids

        block, attends = None, False
        if self.align is not None:
            block, attends = self.align.block, self.align.attends(batch.step)
        seen = nets.velocity(
            state.x, t, state.ids, t_ids, draws.knows_ids, block, attends
        )
        velocity = seen if self.align is None else seen.velocity
        logits = nets.posterior(state.ids, t_ids, state.x, t, draws.knows_latent)

        errors = token_errors(logits, state, ids_1, t_ids, self.objective, self.source)
        terms = {
            "flow": Loss(self.latent, flow_errors(velocity, state)),
            "tokens": Loss(self.ids, self.objective.token_weight * errors),
        }
        if self.alignment is not None and nets.projection is not None:
            y = batch.latents[self.alignment.config.features]
            aligned = self.alignment.errors(nets.projection, seen, y, batch.step)
            for name, error in aligned.items():
                terms[name] = Loss(self.latent, error)
        return terms

    def directions(self) -> list[Direction]:
        return [
            Direction((self.ids,), (self.latent,)),
            Direction((self.latent,), (self.ids,)),
            Direction((), (self.ids, self.latent)),  # pairs
        ]

    def offers(self, sources: Collection[str], targets: Collection[str]) -> bool:
        """Whether it makes these: of nothing, of one side, or of both (inpainting, evolving)."""
        sides = {self.latent, self.ids}
        if not targets or not {*sources, *targets} <= sides:
            return False
        return set(sources) == sides or not set(targets) <= set(sources)

    def choose(self, sampling: Any = None, **choices: Any) -> CrossModalSampling:
        chosen = super().choose(sampling, **choices)
        if chosen.order != "together" and self.objective.times == "shared":
            raise ValueError(
                f"order is together, not {chosen.order}: the model knows one time for both sides "
                "(objective.times: shared)"
            )
        if self.objective.unconditional:
            return chosen

        for name in ("guidance", "token_guidance"):
            scale = getattr(chosen, name)
            if scale != 1:
                raise ValueError(
                    f"{name} is 1, not {scale}: the model has learnt no unconditional field "
                    "(objective.unconditional: 0)"
                )

        if chosen.inpaint:
            raise ValueError(
                "inpaint goes back by the unconditional field, which the model has not learnt "
                "(objective.unconditional: 0)"
            )
        return chosen

    def start(
        self,
        nets: Nets,
        name: str,
        x: Tensor,
        sampling: CrossModalSampling,
        streams: Tensor,
    ) -> dict[str, Tensor]:
        """The given side, by its name.

        Raises:
            ValueError: ids that the vocabulary does not have.
        """
        if name == self.ids:
            what = f"'{name}' has ids"
            check_ids(x, self.source.vocabulary, "the vocabulary", what)
        return {name: x}

    def fuse(
        self,
        states: Sequence[Mapping[str, Tensor]],
        sampling: CrossModalSampling,
        streams: Tensor,
    ) -> dict[str, Tensor]:
        """What is given, by name; nothing where there is no source."""
        given: dict[str, Tensor] = {}
        for state in states:
            given |= state
        return given

    def hold(
        self,
        state: Mapping[str, Tensor],
        known: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """What is given, and which numbers of its latent inpainting holds."""
        return {**state, KNOWN: known[self.latent]}

    def check(
        self,
        direction: Direction,
        sampling: CrossModalSampling,
        masked: Collection[str] = (),
    ) -> None:
        sources, targets = direction

        if sampling.inpaint and not {self.latent} <= {*sources} & {*targets}:
            raise ValueError(
                f"inpaint makes '{self.latent}' of itself: it is to be a source and a target; this "
                f"is {direction}"
            )
        if masked and not sampling.inpaint:
            raise ValueError("a mask says what inpainting holds; choose inpaint, too")
        if set(masked) - {self.latent}:
            raise ValueError(
                f"a part of '{self.latent}' may be held, and none of '{self.ids}'; leave out its "
                "mask"
            )

        if sampling.evolve and not sources:
            raise ValueError("evolve is of what is given, and nothing is; leave it out")
        if len(sources) == 2 and not (sampling.evolve or sampling.inpaint):
            raise ValueError(
                f"with '{self.latent}' and '{self.ids}' given nothing is left to make; leave one "
                "out, or choose inpaint or evolve"
            )

        for name in sources if sampling.evolve else ():
            self._check_evolves(name)

    def finish(
        self,
        nets: Nets,
        state: Mapping[str, Tensor],
        targets: Sequence[str],
        sampling: CrossModalSampling,
        streams: Tensor,
    ) -> dict[str, Tensor]:
        """Both sides at t = 1, of which the targets are returned.

        Raises:
            ValueError: choices that do not go with what is given; one line.
        """
        given = tuple(name for name in (self.latent, self.ids) if name in state)
        masked = [self.latent] if KNOWN in state else []
        self.check(Direction(given, tuple(targets)), sampling, masked)

        flow = self._flow(nets, sampling)
        noise = random.normal(random.fork(streams, START), *self.shape).to(flow.exact)
        uniform = random.uniform(random.fork(streams, START_IDS), self.length)
        hidden = self.source.start(uniform)

        x = state.get(self.latent, noise)
        ids = state.get(self.ids, hidden)

        known = None
        if sampling.inpaint:
            known = self._known(flow, state, noise, hidden)
            x = known.z

        x = x.to(flow.exact)
        streams = random.fork(streams, STEP)
        if given:
            held = () if sampling.evolve else given
            holds_x = self.latent in held and not sampling.inpaint
            x, ids = flow.forth(
                x,
                ids,
                streams,
                held_x=1.0 if holds_x else None,
                held_ids=1.0 if self.ids in held else None,
                known=known,
            )
        else:
            asks_x, asks_ids = (side in targets for side in (self.latent, self.ids))
            x, ids = flow.pairs(x, ids, streams, asks_x, asks_ids)

        ends = {self.latent: x, self.ids: ids}
        return {name: ends[name] for name in targets}

    def _known(
        self,
        flow: JointFlow,
        state: Mapping[str, Tensor],
        noise: Tensor,
        hidden: Tensor,
    ) -> Known:
        """Where a given latent comes from; but noise, in place of what is not known of it."""
        x = state[self.latent].to(flow.exact)
        z = flow.back(x, hidden)
        if KNOWN not in state:
            return Known(torch.zeros_like(x, dtype=torch.bool), z, x)
        return Known(state[KNOWN], torch.where(state[KNOWN], z, noise), x)

    def _check_evolves(self, name: str) -> None:
        """Refuses that a given side evolves where the model has not learnt how."""
        objective = self.objective
        if name == self.ids and objective.source == "mask":
            raise ValueError(
                f"evolve: '{name}' cannot, since with a mask as noise an id that is there stays; "
                "leave evolve out, or train with objective.source: uniform"
            )

        share = "clean_ids" if name == self.ids else "clean_latents"
        if not getattr(objective, share):
            raise ValueError(
                f"evolve: the model has not learnt how '{name}' does (objective.{share}: 0)"
            )

    def _flow(self, nets: Nets, sampling: CrossModalSampling) -> JointFlow:
        return JointFlow(
            velocity=nets.velocity,
            posterior=nets.posterior,
            positions=Tokens(self.shape, self.net.patch).count + self.length,
            scheduler=self.scheduler,
            source=self.source,
            is_shared=self.objective.times == "shared",
            sampling=sampling,
        )

    def measures(
        self,
        nets: Nets,
        batch: Batch,
        key: int,
    ) -> dict[str, Tensor]:
        """Bounds of -log of the probabilities of real ids, in nats an id of a sequence.

        That of the ids given the latent and, where the model has learnt it, of the ids alone. All
        L ids of a sequence count, those that fill it up among them.
        """
        flow = self._flow(nets, self.Sampling())
        ids = batch.latents[self.ids]
        x = batch.latents[self.latent].to(flow.exact)
        streams = random.fork(batch.streams(key)[self.ids], BOUND)

        scales = {f"nats-an-id[{self.ids}|{self.latent}]": 1.0}
        if self.objective.unconditional:
            scales[f"nats-an-id[{self.ids}]"] = 0.0

        values = {}
        for name, scale in scales.items():
            logits = flow.logits_beside(x, scale)
            nats = bound(logits, ids, self.scheduler, self.source, streams)
            values[name] = nats / self.length
        return values

    def signs(
        self,
        nets: Nets,
        batch: Batch,
        sampling: CrossModalSampling,
        key: int,
    ) -> dict[str, Sign]:
        """Whether each side reads the other (`signs`)."""
        x, ids = batch.latents[self.latent], batch.latents[self.ids]
        if len(x) < 2:
            return {}

        drawn = self.draw(batch, key)
        noise = torch.zeros_like(drawn.t)
        data = noise if self.objective.times == "shared" else torch.ones_like(noise)
        is_told = torch.ones_like(drawn.knows_ids)
        drawn = drawn._replace(
            t=noise,
            t_ids=noise,
            clean_ids=~is_told,
            clean_latents=~is_told,
        )
        state = sample_state(x, ids, drawn, self.scheduler, self.source)

        def of_latent(other: Tensor) -> Tensor:
            velocity = nets.velocity(state.x, noise, other, data, is_told)
            return flow_errors(velocity, state)

        def of_ids(other: Tensor) -> Tensor:
            logits = nets.posterior(state.ids, noise, other, data, is_told)
            exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return cross_entropy(exact, state.ids, ids, self.source).mean(1)

        return {
            f"reads/{self.latent}": reading_sign(
                of_latent(ids), of_latent(ids.roll(1, 0))
            ),
            f"reads/{self.ids}": reading_sign(of_ids(x), of_ids(x.roll(1, 0))),
        }
