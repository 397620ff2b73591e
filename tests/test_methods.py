"""The laws of methods, on every one that is installed, and that each law fails where it is broken."""

from dataclasses import dataclass, replace

import pytest
import torch

from flowbind import Direction, Loss, Modality
from flowbind.flow.objective import FlowConfig
from flowbind.methods.crossflow import CrossFlow
from flowbind.methods.crossflow.method import EncoderConfig
from flowbind.methods.crossflow.objective import ObjectiveConfig as CrossFlowObjective
from flowbind.methods.crossmodal import CrossModal
from flowbind.methods.crossmodal.alignment import AlignConfig
from flowbind.methods.crossmodal.objective import ObjectiveConfig as CrossModalObjective
from flowbind.methods.flow_matching import FlowMatching
from flowbind.methods.flowbind import FlowBind
from flowbind.methods.flowbind.objective import ObjectiveConfig
from flowbind.nets.dit import DiTConfig
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.nets.mmdit import MMDiTConfig
from flowbind.nets.token_transformer import TokenTransformerConfig
from flowbind.nets.variational import EncoderSize
from flowbind.testing.method import LAWS, Subject
from tests.toy import ToyCodec, Vector, Word, WordCodec
from tests.toy_kinds import DigitGrid, DigitIds, DigitSequence

SIZES = DriftConfig(width=16, depth=2), HeadConfig(width=16, depth=1, dropout=0.1)


def modalities():
    return {"word": Word(), "vector": Vector(), "other": Vector(ToyCodec(seed=3))}


KINDS = {
    "sequence": lambda: Word(DigitSequence(), reads="word"),
    "grid": lambda: Word(DigitGrid(), reads="word"),
    "vector": Vector,
}


def flow_matching(source, target, indicator="tokens", **how):
    """Flow matching of latents of two kinds, in a small network."""
    return FlowMatching(
        {"source": KINDS[source](), "target": KINDS[target]()},
        "source",
        "target",
        DiTConfig(16, depth=2, heads=2, indicator=indicator),
        FlowConfig(**how),
    )


def crossflow(source, target, indicator="tokens", noise=0.0, kind="variational", **how):
    """CrossFlow between latents of two kinds, in small networks."""
    return CrossFlow(
        {"source": KINDS[source](), "target": KINDS[target]()},
        "source",
        "target",
        EncoderConfig(16, depth=1, heads=2, hidden=16, kind=kind, noise=noise),
        DiTConfig(16, depth=2, heads=2, indicator=indicator),
        EncoderSize(8, depth=1, heads=2, hidden=8),
        CrossFlowObjective(**how),
    )


def crossmodal(latent, align=None, **how):
    """A joint flow over latents of some kind and ids, in small networks."""
    modalities = {"ids": Word(DigitIds(), reads="word"), "latent": KINDS[latent]()}
    if align is not None:
        modalities["features"] = KINDS[align]()
        align = AlignConfig("features", block=1, attention_weight=0.5, hidden=8)
    return CrossModal(
        modalities,
        MMDiTConfig(16, depth=2, heads=2),
        TokenTransformerConfig(16, depth=1, heads=2, reading=1),
        CrossModalObjective(**how),
        align,
    )


METHODS = {
    "flowbind": lambda: FlowBind(modalities(), *SIZES),
    "flowbind, as its authors": lambda: FlowBind(
        modalities(),
        *SIZES,
        ObjectiveConfig(times="both", normalize=False, leave_own_out=0.0),
    ),
    "crossflow, masked sequence to grid": lambda: crossflow("sequence", "grid"),
    "crossflow, grid to grid, direct": lambda: crossflow(
        "grid", "grid", kind="direct", unconditional=0.0
    ),
    "crossflow, grid to sequence": lambda: crossflow(
        "grid",
        "sequence",
        indicator="time",
        path="sine-cosine",
        encoder_loss="contrastive-source",
    ),
    "crossflow, vector to vector": lambda: crossflow(
        "vector",
        "vector",
        kind="plain",
        noise=0.5,
        times="uniform",
        encoder_loss="reconstruction",
    ),
    "flow matching, masked sequence to grid": lambda: flow_matching("sequence", "grid"),
    "flow matching, grid to sequence": lambda: flow_matching(
        "grid", "sequence", indicator="time", path="sine-cosine"
    ),
    "flow matching, vector to vector": lambda: flow_matching(
        "vector", "vector", times="uniform", unconditional=0.0
    ),
    "cross-modal, vector, as its authors": lambda: crossmodal("vector", times="shared"),
    "cross-modal, grid, aligned": lambda: crossmodal("grid", align="grid"),
    "cross-modal, vector, uniform noise": lambda: crossmodal(
        "vector",
        source="uniform",
        token_loss="generalised-kl",
        degree=2.0,
        clean_latents=0.2,
        unconditional=0.0,
    ),
}


@pytest.mark.parametrize("each", LAWS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", METHODS)
def test_laws(name, each, toys):
    each(Subject(METHODS[name]()))


# Each law, on a method that breaks it and no other.


class Forgetful(FlowBind):
    def __init__(self, modalities: dict[str, Modality], extra: int = 1) -> None:
        super().__init__(modalities, *SIZES)
        self.extra = extra + 1


class Sizes(FlowBind):
    """FlowBind of small networks, whose description is its own."""

    def __init__(self, modalities: dict[str, Modality]) -> None:
        super().__init__(modalities, *SIZES)


class HiddenBuffer(Sizes):
    def build(self):
        nets = super().build()
        nets.register_buffer("scale", torch.ones(1), persistent=False)
        return nets


class Keeping(Sizes):
    def build(self):
        self.nets = super().build()
        return self.nets


class Rolling(Sizes):
    def losses(self, nets, batch, draws):
        terms = super().losses(nets, batch, draws)
        return {
            name: Loss(of, errors + torch.rand(1))
            for name, (of, errors) in terms.items()
        }


class Summing(Sizes):
    def losses(self, nets, batch, draws):
        terms = super().losses(nets, batch, draws)
        return {
            name: Loss(of, errors.sum()[None]) for name, (of, errors) in terms.items()
        }


class Idle(Sizes):
    def build(self):
        nets = super().build()
        nets.idle = torch.nn.Parameter(torch.zeros(1))
        return nets


class Placeless(Sizes):
    """Draws by a row's place on its own rank."""

    def draw(self, batch, key):
        return super().draw(replace(batch, place=None), key)


class Demanding(Sizes):
    @dataclass(frozen=True)
    class Sampling:
        steps: int


class Elsewhere(Sizes):
    def directions(self):
        return [Direction(("word",), ("nowhere",))]


class Leaning(Sizes):
    """What is generated leans on the other samples of its batch."""

    def finish(self, nets, state, targets, sampling, streams):
        return super().finish(nets, state + state.mean(0), targets, sampling, streams)


class Tupled(Sizes):
    """Called linear, as FlowBind is, with states that cannot be added."""

    def start(self, *arguments):
        return (super().start(*arguments),)

    def fuse(self, states, sampling, streams):
        return super().fuse([state for (state,) in states], sampling, streams)


BROKEN = {
    "a_description_makes_it_again": Forgetful,
    "networks_take_their_weights_on_the_meta_device": HiddenBuffer,
    "building_keeps_nothing": Keeping,
    "losses_depend_on_networks_batch_and_draws_alone": Rolling,
    "losses_are_of_rows": Summing,
    "every_parameter_has_a_gradient": Idle,
    "two_ranks_average_to_one": Placeless,
    "choices_are_a_dataclass": Demanding,
    "directions_are_of_its_modalities": Elsewhere,
    "every_direction_gives_latents": Leaning,
    "states_that_are_linear_may_be_mixed": Tupled,
}


@pytest.mark.parametrize("each", LAWS, ids=lambda each: each.__name__)
def test_a_broken_law_is_named(each, toys, monkeypatch):
    method = BROKEN[each.__name__](modalities())
    monkeypatch.setattr("flowbind.registry.name_of", lambda kind, cls: cls.__name__)
    monkeypatch.setattr("flowbind.registry.load", lambda kind, name: NAMED[name])
    with pytest.raises(
        AssertionError,
        match=f"{type(method).__name__} breaks the law '{each.__name__}'",
    ):
        each(Subject(method))


NAMED = {
    cls.__name__: cls for cls in (*BROKEN.values(), Word, Vector, WordCodec, ToyCodec)
}
