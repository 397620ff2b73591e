"""CrossFlow: its losses against slow re-derivations, what is random in it, its choices, and the paper's size."""

import math
from dataclasses import replace

import pytest
import torch
import yaml

import flowbind
from flowbind import draws as random
from flowbind.batch import Batch
from flowbind.flow.objective import FlowConfig
from flowbind.method import Networks
from flowbind.methods.crossflow import CrossFlow
from flowbind.methods.crossflow.method import EncoderConfig
from flowbind.methods.crossflow.objective import (
    Draws,
    ObjectiveConfig,
    Place,
    contrast,
    flow_errors,
    reconstruction,
)
from flowbind.methods.crossflow.signs import start_signs
from flowbind.nets.dit import DiTConfig
from flowbind.nets.variational import EncoderSize, Normal
from flowbind.testing.method import LAWS, Subject, share
from flowbind.testing.ranks import Ranks
from tests.toy import Word
from tests.toy_kinds import DigitGrid, DigitSequence

ENCODER = EncoderConfig(width=16, depth=1, heads=2, hidden=16)
NET = DiTConfig(width=16, depth=2, heads=2)
WITNESS = EncoderSize(width=8, depth=1, heads=2, hidden=8)
SIZES = {"encoder": ENCODER, "net": NET, "witness": WITNESS}


def crossflow(source=None, target=None, **arguments):
    modalities = {"source": source or sequence(), "target": target or grid()}
    return CrossFlow(modalities, "source", "target", **(SIZES | arguments))


def sequence():
    return Word(DigitSequence(), reads="word")


def grid():
    return Word(DigitGrid(), reads="word")


def doubles(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# Losses


def slow_contrast(z, p, scale):
    """Row by row, number by number."""
    rows = len(z)
    s = torch.empty(rows, rows, dtype=z.dtype)
    for i in range(rows):
        for j in range(rows):
            a, b = z[i].flatten(), p[j].flatten()
            s[i, j] = scale * (a * b).sum() / (a.norm() * b.norm())
    errors = []
    for i in range(rows):
        forth = s[i, i].exp() / s[i].exp().sum()
        back = s[i, i].exp() / s[:, i].exp().sum()
        errors.append(-(forth.log() + back.log()) / 2)
    return torch.stack(errors)


def test_contrast_is_its_slow_derivation():
    z, p = doubles(5, 2, 3), doubles(5, 2, 3, seed=1)
    place = Place(torch.arange(5), 5)
    errors = contrast(z, p, torch.tensor(7.0).double(), place)
    torch.testing.assert_close(errors, slow_contrast(z, p, 7.0))


def test_contrast_in_closed_form():
    """Of equal rows it is log N; of orthogonal ones at scale s it is log(1 + (N - 1) e^-s)."""
    place, s = Place(torch.arange(6), 6), torch.tensor(2.5).double()
    equal = torch.ones(6, 4).double()
    expected = torch.full((6,), math.log(6)).double()
    torch.testing.assert_close(contrast(equal, equal, s, place), expected)
    orthogonal = 3 * torch.eye(6).double()
    expected = torch.full((6,), math.log(1 + 5 * math.exp(-2.5))).double()
    torch.testing.assert_close(contrast(orthogonal, orthogonal, s, place), expected)


def test_the_flow_s_error_is_its_slow_derivation():
    z, x = doubles(6, 2, 3), doubles(6, 2, 3, seed=1)
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    condition = torch.tensor([True, False, True, True, False, True])
    other = torch.tensor([1, 2, 3, 4, 5, 0])
    drawn = Draws(t, torch.zeros_like(z), condition, other)

    def field(z_t, t, condition):
        shift = torch.where(condition, 0.5, -0.5)[:, None, None]
        return z_t.sin() + t[:, None, None] + shift

    place = Place(torch.arange(6), 6)
    errors = flow_errors(field, z, x, drawn, place, ObjectiveConfig())
    for k in range(6):
        end = x[k] if condition[k] else x[other[k]]
        z_t = (1 - t[k]) * z[k] + t[k] * end
        velocity = z_t.sin() + t[k] + (0.5 if condition[k] else -0.5)
        expected = (velocity - (end - z[k])).square().sum() / 6
        torch.testing.assert_close(errors[k], expected)


def test_a_reconstruction_counts_what_is_there():
    source, again = doubles(3, 4, 5), doubles(3, 4, 5, seed=1)
    source[..., -1] = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    errors = reconstruction(source, again, masked=True)
    squares = (source - again).square()[..., :-1]
    torch.testing.assert_close(errors[0], squares[0].mean())
    torch.testing.assert_close(errors[1], squares[1, :2].mean())
    assert errors[2] == 0
    whole = reconstruction(source, again, masked=False)
    torch.testing.assert_close(whole, (source - again).square().mean((1, 2)))


def batch_of(method, rows=7):
    subject = Subject(method)
    whole = subject.batch(subject.complete, dtype=torch.float64)
    if rows == len(whole.samples["target"]):
        return whole
    latents = {name: torch.cat([x, -x])[:rows] for name, x in whole.latents.items()}
    latents["source"][..., -1].abs_()
    samples = {name: torch.arange(rows) for name in latents}
    return Batch.of(latents, samples)


def test_the_terms_are_weighted_and_of_the_target():
    batch = batch_of(crossflow())
    terms = []
    for weights in (
        {"encoder_weight": 1.0, "kl_weight": 1.0},
        {"encoder_weight": 0.5, "kl_weight": 0.01},
    ):
        method = crossflow(objective=ObjectiveConfig(**weights))
        networks = Subject(method).networks.double()
        drawn = method.draw(batch, 3)
        terms.append(method.losses(networks.nets, batch, drawn))
    one, other = terms
    assert list(one) == ["flow", "encoder", "kl"]
    assert {term.of for term in one.values()} == {"target"}
    assert torch.equal(one["flow"].errors, other["flow"].errors)
    torch.testing.assert_close(one["encoder"].errors / 2, other["encoder"].errors)
    torch.testing.assert_close(1e-2 * one["kl"].errors, other["kl"].errors)


@pytest.mark.parametrize(
    ("encoder", "objective", "names"),
    [
        ({"kind": "plain"}, {}, ["flow", "encoder"]),
        ({}, {"encoder_loss": "none"}, ["flow", "kl"]),
        ({}, {"encoder_loss": "reconstruction"}, ["flow", "encoder", "kl"]),
        ({}, {"encoder_loss": "contrastive-source"}, ["flow", "encoder", "kl"]),
        ({"kind": "direct"}, {}, ["flow"]),
    ],
)
def test_there_are_the_terms_that_are_asked_for(encoder, objective, names):
    source = grid() if encoder.get("kind") == "direct" else sequence()
    method = crossflow(
        source,
        encoder=replace(ENCODER, **encoder),
        objective=ObjectiveConfig(**objective),
    )
    nets = method.build().double()
    batch = batch_of(method)
    assert list(method.losses(nets, batch, method.draw(batch, 0))) == names


@pytest.mark.parametrize("objective", ["contrastive", "contrastive-source"])
def test_gradients_of_ranks_with_unequal_rows_average_to_those_of_one(objective):
    """With negatives, and other samples' targets, from one another."""
    settings = ObjectiveConfig(encoder_loss=objective, unconditional=0.5)
    method = crossflow(objective=settings)
    batch = batch_of(method, rows=7)

    def gradients(part):
        networks = Subject(method).networks.double()
        terms = method.losses(networks.nets, part, method.draw(part, 3))
        loss = sum(term.mean(part) for term in terms.values())
        return torch.autograd.grad(loss, list(networks.nets.parameters()))

    parts = [share(batch, rank, 3) for rank in range(3)]
    assert [len(part.latents["target"]) for part in parts] == [3, 2, 2]
    of_ranks = Ranks(3).run(lambda rank: gradients(parts[rank]))
    for whole, *each in zip(gradients(batch), *of_ranks, strict=True):
        mean = torch.stack(each).mean(0)
        torch.testing.assert_close(mean, whole, rtol=1e-9, atol=1e-12)


def test_negatives_of_one_s_own_rank_alone_break_a_law(monkeypatch):
    (law,) = (each for each in LAWS if each.__name__ == "two_ranks_average_to_one")
    law(Subject(crossflow()))
    own = Place.of
    monkeypatch.setattr(Place, "gather", lambda self, x: x)
    monkeypatch.setattr(
        Place,
        "of",
        lambda batch, name: Place(own(batch, name).numbers // 2, 3),
    )
    monkeypatch.setattr("flowbind.registry.name_of", lambda kind, cls: cls.__name__)
    with pytest.raises(AssertionError, match="'encoder' is off by"):
        law(Subject(crossflow(objective=ObjectiveConfig(unconditional=0.0))))


# Draws


def test_a_row_s_draws_depend_on_its_place_alone():
    method = crossflow(objective=ObjectiveConfig(unconditional=0.3))
    batch = batch_of(method, rows=7)
    whole = method.draw(batch, 5)
    for rank in range(2):
        part = share(batch, rank, 2)
        own = Ranks(2).run(lambda _, part=part: method.draw(part, 5))[0]
        for name, value in whole._asdict().items():
            assert torch.equal(getattr(own, name), value[rank::2]), name


def test_the_other_sample_is_another_and_any():
    method = crossflow(objective=ObjectiveConfig(unconditional=0.25))
    batch = batch_of(method, rows=7)
    counts = torch.zeros(7, 7)
    shares = []
    for key in range(2_000):
        drawn = method.draw(batch, key)
        counts[torch.arange(7), drawn.other] += 1
        shares.append(drawn.condition.double().mean())
    assert not counts.diagonal().any()
    off = counts[~torch.eye(7, dtype=torch.bool)]
    assert (off - 2_000 / 6).abs().max() < 5 * math.sqrt(2_000 / 6)
    assert torch.stack(shares).mean() == pytest.approx(0.75, abs=0.02)


def test_a_sample_alone_is_its_own_other():
    method = crossflow()
    drawn = method.draw(batch_of(method, rows=1), 0)
    assert drawn.other.tolist() == [0]


def test_times_are_of_the_law_that_is_asked_for():
    streams = random.streams(1, torch.arange(20_000))
    late = ObjectiveConfig(time_mean=1.0, time_std=0.5).draw_times(streams)
    logit = torch.logit(late.double())
    assert logit.mean().item() == pytest.approx(1.0, abs=0.02)
    assert logit.std().item() == pytest.approx(0.5, abs=0.02)
    uniform = ObjectiveConfig(times="uniform").draw_times(streams).sort().values
    steps = torch.arange(20_000) / 20_000
    assert (uniform - steps).abs().max() < 0.02


# Generation


# Signs of failure


def test_signs_of_starts_in_closed_form():
    x = doubles(4000, 3)
    noise = doubles(4000, 3, seed=1)
    told = Normal(3**0.5 * doubles(4000, 3, seed=2), torch.ones_like(x))
    silent = Normal(torch.ones_like(x), torch.ones_like(x))

    def signs(normal, field):
        return start_signs(normal, x, noise, field, FlowConfig())

    def knows(z, t, is_told):
        assert is_told.all()
        assert not t.any()
        return x - z

    good = signs(told, knows)
    assert float(good["spread"].value) == pytest.approx(0.75, abs=0.01)
    assert float(good["first_velocity"].value) == 0
    assert not any(sign.complaint for sign in good.values())

    # Of a target with variance 1 and starts with 4, what is known of the start alone leaves 1 of 5.
    half = signs(told, lambda z, *_: -z)["first_velocity"]
    assert float(half.value) == pytest.approx(0.2, abs=0.01)
    bad = signs(silent, lambda z, *_: torch.zeros_like(z))
    assert float(bad["spread"].value) == 0
    assert "hardly depend on the source" in bad["spread"].complaint
    assert float(bad["first_velocity"].value) == 1
    assert "knows nothing of its target" in bad["first_velocity"].complaint
    assert not start_signs(Normal(x[:1], x[:1]), x[:1], noise[:1], knows, FlowConfig())


@pytest.mark.parametrize("kind", ["variational", "plain"])
def test_a_model_s_signs_are_of_its_starts(kind):
    method = crossflow(encoder=replace(ENCODER, kind=kind))
    nets = Subject(method).networks.double().nets
    batch = batch_of(method)
    with torch.no_grad():
        signs = method.signs(nets, batch, method.Sampling(), key=3)
        again = method.signs(nets, batch, method.Sampling(), key=3)
    assert signs == again
    assert list(signs) == ["spread", "first_velocity"]
    assert (float(signs["spread"].value) == 1) == (kind == "plain")


@pytest.fixture
def generating():
    """A method with networks that have something to say, and standardised sources."""
    method = crossflow()
    subject = Subject(method)
    x = subject.batch(subject.complete).latents["source"]
    return method, subject.networks.nets, x, random.streams(0, torch.arange(len(x)))


def test_a_start_is_the_mean_and_as_much_noise_as_is_asked_for(generating):
    method, nets, x, streams = generating

    def start(**choices):
        with torch.no_grad():
            return method.start(nets, "source", x, method.choose(**choices), streams)

    with torch.no_grad():
        normal = nets.start(x)
    torch.testing.assert_close(start(variety=0), normal.mean)
    noise = (start() - normal.mean) / normal.std
    assert noise.std().item() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(
        start(variety=0.5), normal.mean + 0.5 * noise * normal.std
    )
    assert start().shape == (len(x), *DigitGrid.shape)


def test_guidance_1_is_the_conditional_field_and_0_the_unconditional(generating):
    method, nets, x, streams = generating

    def finish(scale):
        sampling = method.choose(steps=3, guidance=scale)
        with torch.no_grad():
            z = method.start(nets, "source", x, sampling, streams)
            return z, method.finish(nets, z, ["target"], sampling, streams)["target"]

    by_scale = {}
    for scale, condition in ((1.0, True), (0.0, False)):
        z, by_scale[scale] = finish(scale)
        for step in range(3):
            t = torch.full((len(z),), step / 3)
            with torch.no_grad():
                z = z + nets.velocity(z, t, torch.full((len(z),), condition)) / 3
        torch.testing.assert_close(by_scale[scale], z)
    assert not torch.allclose(by_scale[0.0], by_scale[1.0])
    assert not torch.allclose(finish(3.0)[1], by_scale[1.0])


def test_a_direct_start_is_the_source(generating):
    _, _, _, streams = generating
    method = crossflow(grid(), encoder=replace(ENCODER, kind="direct"))
    nets = method.build()
    x = doubles(6, *DigitGrid.shape).float()
    state = method.start(nets, "source", x, method.Sampling(), streams)
    assert torch.equal(state, x)
    noisy = crossflow(grid(), encoder=replace(ENCODER, kind="direct", noise=0.5))
    state = noisy.start(nets := noisy.build(), "source", x, noisy.Sampling(), streams)
    assert (state - x).std().item() == pytest.approx(0.5, abs=0.1)
    assert not list(nets.start.parameters())


def test_a_model_without_an_unconditional_field_has_no_guidance():
    method = crossflow(objective=ObjectiveConfig(unconditional=0.0))
    with pytest.raises(ValueError, match=r"^guidance is 1, not 2.0: the model has "):
        method.choose(guidance=2.0)
    assert method.choose(guidance=1).steps == 50


@pytest.mark.parametrize(
    ("choice", "value"),
    [
        ("steps", 0),
        ("steps", True),
        ("solver", "eulr"),
        ("guidance", math.nan),
        ("guidance", "7"),
        ("variety", -1),
    ],
)
def test_choices_that_cannot_be_are_refused(choice, value):
    with pytest.raises(ValueError, match=choice):
        crossflow().choose(**{choice: value})


# What a method may be


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossFlow({"a": grid()}, "a", "a", **SIZES), "the two modalities"),
        (
            lambda: CrossFlow({"a": grid(), "b": grid()}, "a", "c", **SIZES),
            "one each: a, b; not 'a' and 'c'",
        ),
        (
            lambda: crossflow(encoder=replace(ENCODER, kind="direct")),
            r"a direct start has the target's shape \(3, 4, 4\)",
        ),
        (lambda: crossflow(net=replace(NET, patch=3)), "no patches of side 3"),
        (lambda: crossflow(net=replace(NET, heads=5)), "no multiple of the 5 heads"),
        (lambda: replace(ENCODER, noise=0.1), "learns its own"),
        (lambda: replace(ENCODER, kind="direkt"), "encoder.kind is"),
        (lambda: replace(ENCODER, kind="plain", noise=-1), "encoder.noise must"),
        (lambda: ObjectiveConfig(path="bent"), "path is one of straight, sine-cosine"),
        (lambda: ObjectiveConfig(encoder_loss="clip"), "encoder_loss is one of"),
        (lambda: ObjectiveConfig(kl_weight=math.nan), "kl_weight must be a number"),
        (lambda: ObjectiveConfig(unconditional=1.0), "unconditional is a probability"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_latents_that_are_ids_are_refused():
    from tests.toy_kinds import DigitIds

    with pytest.raises(ValueError, match="the latents of 'source' are ids"):
        crossflow(Word(DigitIds(), reads="word"))


def test_a_method_is_made_without_drawing():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    crossflow()
    assert torch.equal(torch.rand(1), expected)


# The paper's size


class Clip(DigitSequence):
    """77 tokens of 768 features, and whether they are there."""

    shape = (77, 769)


class Latent(DigitGrid):
    """Of a picture of 256 x 256 in Stable Diffusion's autoencoder."""

    shape = (4, 32, 32)


PAPER = {  # parameters of each part; the paper says 0.95 billion in all
    "start": 104_942_848,
    "velocity": 857_731_600,
    "witness": 3_577_093,  # of training alone, and not in the paper's count
}


def test_the_paper_s_size():
    modalities = {"text": Word(Clip(), reads="w"), "image": Word(Latent(), reads="w")}
    method = CrossFlow(modalities, "text", "image")
    with torch.device("meta"):
        nets = Networks(method).nets
        normal = nets.start(torch.zeros(2, 77, 769))
        z = normal.sample(torch.zeros(2, 4, 32, 32))
        velocity = nets.velocity(z, torch.zeros(2), torch.zeros(2, dtype=torch.bool))
    assert normal.mean.shape == normal.std.shape == velocity.shape == (2, 4, 32, 32)
    counts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in nets.named_children()
    }
    print(counts)
    assert counts == PAPER
    assert (PAPER["start"] + PAPER["velocity"]) / 1e9 == pytest.approx(0.95, abs=0.02)


# Whole


def test_the_toy_world_is_learnt_released_and_loaded(world, command, tmp_path):
    recipe = yaml.safe_load((world / "recipe.yaml").read_text())
    recipe["model"] = {
        "class_path": "crossflow",
        "init_args": {
            "modalities": recipe["model"]["init_args"]["modalities"],
            "source": "word",
            "target": "vector",
            "encoder": {"width": 64, "depth": 1},
            "net": {"width": 32, "depth": 2, "heads": 2},
            "witness": {"width": 32, "depth": 1},
        },
    }
    recipe["training"]["ema_decay"] = 0.9
    recipe["evaluation"] = {"sampling": {"steps": 10, "guidance": 1.5}, "limit": 64}
    path = world / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    for verb in ("encode", "fit", "test"):
        code, _, err = command(verb, "--config", path)
        assert code == 0, err

    model = flowbind.load(world / "run/model")
    assert model.sampling.guidance == 1.5
    words = ["302", "113", "021", "330"]
    vectors = model.generate({"word": words}, to="vector")["vector"]
    again = flowbind.load(world / "run/model").generate({"word": words}, to="vector")
    assert all(map(torch.equal, vectors, again["vector"]))
    expected = torch.tensor([[float(digit) for digit in word] for word in words])
    assert (torch.stack(vectors) - expected).abs().mean() < 0.4

    code, out, err = command("generate", world / "run/model", "--help")
    assert code == 0, err
    assert "--guidance" in out
    code, _, err = command(
        "generate", world / "run/model", "--from", "vector=[1,2,3]", "--to", "word",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 2
    assert len(err.strip().splitlines()) == 1
