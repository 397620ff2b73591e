"""Cross-modal flows: losses against slow re-derivations, what is random, and all ways to generate."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import yaml

import flowbind
from flowbind import draws as random
from flowbind.batch import Batch
from flowbind.flow.discrete import euler_step
from flowbind.method import Direction, Networks
from flowbind.methods.crossmodal import CrossModal
from flowbind.methods.crossmodal.alignment import (
    TEMPERATURE,
    AlignConfig,
    Places,
    attention_errors,
    feature_errors,
)
from flowbind.methods.crossmodal.method import STEP
from flowbind.methods.crossmodal.objective import ObjectiveConfig
from flowbind.methods.crossmodal.sampling import CrossModalSampling
from flowbind.nets.mmdit import MMDiTConfig
from flowbind.nets.token_transformer import TokenTransformerConfig
from flowbind.testing.method import Subject, share
from flowbind.testing.ranks import Ranks
from tests.toy import DIGITS, Vector, Word
from tests.toy_kinds import DigitGrid, DigitIds, DigitSequence

NET = MMDiTConfig(width=16, depth=2, heads=2)
TOKEN_NET = TokenTransformerConfig(width=16, depth=2, heads=2, reading=1)
ALIGN = AlignConfig("features", block=1, attention_weight=0.5, hidden=16)


def grid():
    return Word(DigitGrid(), reads="word")


def crossmodal(latent=None, align=None, net=NET, **objective):
    modalities = {"word": Word(DigitIds()), "grid": latent or grid()}
    if align is not None:
        modalities["features"] = Word(DigitGrid(), reads="word")
    config = ObjectiveConfig(**objective)
    return CrossModal(modalities, net, TOKEN_NET, config, align)


def batch_of(method):
    subject = Subject(method)
    return subject.batch(subject.complete, dtype=torch.float64)


def doubles(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# Losses


class Watched(torch.nn.Module):
    """A network, and what it was last called with."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.calls = []

    def forward(self, *inputs):
        self.calls.append(inputs)
        return self.net(*inputs)


def watch(nets):
    nets.velocity = Watched(nets.velocity)
    nets.posterior = Watched(nets.posterior)
    return nets


@pytest.mark.parametrize("source", ["mask", "uniform"])
@pytest.mark.parametrize("loss", ["cross-entropy", "generalised-kl"])
def test_losses_are_their_slow_derivation(source, loss):
    method = crossmodal(
        source=source, token_loss=loss, degree=2.0, token_weight=0.5, clean_latents=0.2
    )
    nets = watch(Subject(method).networks.double().nets)
    batch = batch_of(method)
    drawn = method.draw(batch, 3)
    terms = method.losses(nets, batch, drawn)
    x_t, t, ids, t_ids, knows_ids, *_ = nets.velocity.calls[0]
    assert all(map(torch.equal, nets.posterior.calls[0], (ids, t_ids, x_t, t)))
    assert terms["flow"].of == "grid"
    assert terms["tokens"].of == "word"

    x_1, ids_1 = batch.latents["grid"], batch.latents["word"]
    velocity = nets.velocity.net(x_t, t, ids, t_ids, knows_ids)
    logits = nets.posterior.net(ids, t_ids, x_t, t, drawn.knows_latent)
    q = logits.softmax(-1)
    for n in range(len(x_1)):
        z = x_1[n] if drawn.clean_latents[n] else drawn.noise[n]
        torch.testing.assert_close(x_t[n], (1 - t[n]) * z + t[n] * x_1[n])
        flow = (velocity[n] - (x_1[n] - z)).square().mean()
        torch.testing.assert_close(terms["flow"].errors[n], flow)

        expected = 0
        for i in range(3):
            is_data = drawn.clean_ids[n] or drawn.uniform[n, i, 0] < t_ids[n] ** 2
            noise = DIGITS if source == "mask" else int(drawn.uniform[n, i, 1] * DIGITS)
            assert ids[n, i] == (ids_1[n, i] if is_data else noise)
            nats = -q[n, i, ids_1[n, i]].log()
            if source == "mask":
                error = nats * (ids[n, i] == DIGITS)
            elif loss == "cross-entropy":
                error = nats
            elif ids[n, i] == ids_1[n, i]:
                error = 1 - q[n, i, ids[n, i]]
            else:
                error = nats - q[n, i, ids[n, i]]
            if loss == "generalised-kl":
                error = error * 2 * t_ids[n] / (1 - t_ids[n] ** 2)
            expected = expected + error / 3
        torch.testing.assert_close(terms["tokens"].errors[n], 0.5 * expected)


def test_a_net_is_told_nothing_of_what_is_dropped():
    """Its rows are the same whatever the other side is, to the bit; the others are not."""
    method = crossmodal(unconditional=0.5)
    nets = Subject(method).networks.double().nets
    batch = batch_of(method)
    drawn = method.draw(batch, 4)
    assert 0 < drawn.knows_ids.sum() < len(drawn.t)
    assert 0 < drawn.knows_latent.sum() < len(drawn.t)

    def terms(name, other):
        latents = batch.latents | {name: other}
        changed = Batch.of(latents, batch.samples)
        return method.losses(nets, changed, drawn._replace(clean_ids=drawn.t >= 0))

    word = batch.latents["word"]
    one, other = terms("word", word), terms("word", (word + 1) % DIGITS)
    same = one["flow"].errors == other["flow"].errors
    assert torch.equal(same, ~drawn.knows_ids)

    masked = drawn._replace(clean_ids=drawn.t < 0, t_ids=torch.zeros_like(drawn.t))
    x = batch.latents["grid"]
    errors = []
    for latent in (x, -x):
        changed = Batch.of(batch.latents | {"grid": latent}, batch.samples)
        errors.append(method.losses(nets, changed, masked)["tokens"].errors)
    assert torch.equal(errors[0] == errors[1], ~drawn.knows_latent)


# Draws


@pytest.mark.parametrize("times", ["apart", "shared"])
def test_a_row_s_draws_depend_on_its_place_alone(times):
    method = crossmodal(times=times, clean_latents=0.3, unconditional=0.3)
    batch = batch_of(method)
    whole = method.draw(batch, 5)
    assert torch.equal(whole.t, whole.t_ids) == (times == "shared")
    for rank in range(2):
        part = share(batch, rank, 2)
        own = Ranks(2).run(lambda _, part=part: method.draw(part, 5))[0]
        for name, value in whole._asdict().items():
            assert torch.equal(getattr(own, name), value[rank::2]), name


def test_draws_have_their_shares():
    method = crossmodal(clean_ids=0.1, clean_latents=0.2, unconditional=0.3)
    batch = batch_of(method)
    drawn = [method.draw(batch, key) for key in range(2_000)]
    count = 2_000 * len(drawn[0].t)

    def mean(name):
        return sum(getattr(each, name).double().sum().item() for each in drawn) / count

    for name, expected in (
        ("clean_ids", 0.1),
        ("clean_latents", 0.2),
        ("knows_ids", 0.7),
        ("knows_latent", 0.7),
        ("t", 0.5),
        ("t_ids", 0.5),
    ):
        assert mean(name) == pytest.approx(expected, abs=0.02), name
    assert not any((each.clean_ids & each.clean_latents).any() for each in drawn)
    t = torch.cat([each.t for each in drawn])
    t_ids = torch.cat([each.t_ids for each in drawn])
    assert torch.corrcoef(torch.stack([t, t_ids]))[0, 1].abs() < 0.03


# Alignment


def test_alignment_in_closed_form():
    y = doubles(4, 6, 5)
    torch.testing.assert_close(feature_errors(3 * y, y), torch.zeros(4).double())
    torch.testing.assert_close(feature_errors(-y, y), torch.full((4,), 2.0).double())

    direction = F.normalize(y, dim=-1)
    likeness = torch.einsum("npd,nqd->npq", direction, direction) / TEMPERATURE
    attention = likeness.softmax(-1)[:, None]
    heads = torch.cat([attention * 0.5, attention * 1.5], dim=1)
    assert attention_errors(heads, y).abs().max() < 1e-12

    even = torch.full((4, 2, 6, 6), 1 / 6).double()
    entropy = -(attention * attention.log()).sum(-1).mean((1, 2))
    expected = math.log(6) - entropy
    torch.testing.assert_close(attention_errors(even, y), expected)


def test_features_are_laid_over_the_net_s_tokens():
    y = doubles(2, 16, 3)
    same = Places((16, 3), (4, 4))
    assert torch.equal(same.features(y), y)
    half = Places((16, 3), (2, 2)).features(y)
    assert half.shape == (2, 4, 3)
    constant = torch.ones(2, 16, 3).double()
    torch.testing.assert_close(
        Places((16, 3), (2, 2)).features(constant), torch.ones(2, 4, 3).double()
    )
    grid = y.mT.reshape(2, 3, 4, 4)
    torch.testing.assert_close(Places((3, 4, 4), (2, 2)).features(grid), half)
    # The upper left of four is nearest to the upper left of sixteen.
    corner = y.clone()
    corner[:, 0] += 100
    moved = (Places((16, 3), (2, 2)).features(corner) - half).abs().sum(-1)
    assert (moved.argmax(1) == 0).all()
    with pytest.raises(ValueError, match=r"have 15 positions, which are not laid over"):
        Places((15, 3), (4, 4))


def test_alignment_ends_early_and_goes_through_the_features_alone():
    align = replace(ALIGN, until=10)
    method = crossmodal(align=align)
    networks = Subject(method).networks.double()
    batch = batch_of(method)
    drawn = method.draw(batch, 3)

    def terms(step):
        return method.losses(networks.nets, replace(batch, step=step), drawn)

    before, after = terms(9), terms(10)
    assert list(before) == ["flow", "tokens", "features", "attention"]
    for name in ("features", "attention"):
        assert before[name].errors.all()
        assert not after[name].errors.any()
    assert torch.equal(before["flow"].errors, after["flow"].errors)
    plain = replace(align, attention_weight=0.0)
    assert list(crossmodal(align=plain).losses(networks.nets, batch, drawn)) == [
        "flow",
        "tokens",
        "features",
    ]


# Generation


# Signs of failure


def looked_up(keys, values):
    """What belongs to rows that are found among others."""

    def values_of(rows):
        is_same = (rows.flatten(1)[:, None] == keys.flatten(1)).all(-1)
        assert is_same.any(1).all()
        return values[is_same.int().argmax(1)]

    return values_of


@pytest.mark.parametrize("times", ["apart", "shared"])
@pytest.mark.parametrize("source", ["mask", "uniform"])
def test_signs_tell_a_net_that_reads_from_one_that_does_not(times, source):
    loss = {"token_loss": "generalised-kl", "degree": 2.0}
    method = crossmodal(times=times, source=source, **loss)
    rows = 16
    digits = [torch.arange(rows) // DIGITS**place % DIGITS for place in range(3)]
    ids, x = torch.stack(digits, dim=1), doubles(rows, *method.shape)
    samples = torch.arange(rows)
    both = {"word": samples, "grid": samples}
    batch = Batch.of({"word": ids, "grid": x}, both)
    x_of, ids_of = looked_up(ids, x), looked_up(x, ids)

    def velocity(x_t, t, ids, t_ids, is_known):
        assert is_known.all()
        assert not t.any()
        assert (t_ids == (1 if times == "apart" else 0)).all()
        return x_of(ids) - x_t

    def posterior(ids, t_ids, x, t, is_known):
        assert is_known.all()
        assert not t_ids.any()
        assert (t == (1 if times == "apart" else 0)).all()
        return 30.0 * F.one_hot(ids_of(x), DIGITS).double()

    reading = SimpleNamespace(velocity=velocity, posterior=posterior)
    signs = method.signs(reading, batch, method.Sampling(), key=3)
    assert list(signs) == ["reads/grid", "reads/word"]
    for sign in signs.values():
        assert float(sign.value) == pytest.approx(1, abs=1e-9)
        assert not sign.complaint

    blind = SimpleNamespace(
        velocity=lambda x_t, *_: -x_t,
        posterior=lambda ids, *_: torch.zeros(*ids.shape, DIGITS).double(),
    )
    for sign in method.signs(blind, batch, method.Sampling(), key=3).values():
        assert float(sign.value) == 0
        assert "does not depend on the other" in sign.complaint
    one = {name: number[:1] for name, number in both.items()}
    alone = Batch.of({"word": ids[:1], "grid": x[:1]}, one)
    assert not method.signs(reading, alone, method.Sampling(), key=3)


class Generating:
    """A method with networks that have something to say, and data."""

    def __init__(self, rows=6, **objective):
        self.method = crossmodal(**({"source": "uniform"} | objective))
        subject = Subject(self.method)
        self.nets = subject.networks.nets
        latents = subject.batch(subject.complete).latents
        self.data = {name: x[:rows] for name, x in latents.items()}
        self.streams = random.streams(0, torch.arange(rows))

    @torch.no_grad()
    def __call__(self, sources, targets, known=None, **choices):
        method, streams = self.method, self.streams
        sampling = method.choose(**choices)
        states = []
        for name in sources:
            x = self.data[name]
            states.append(method.start(self.nets, name, x, sampling, streams))
        state = method.fuse(states, sampling, streams)
        if known is not None:
            state = method.hold(state, {"grid": known})
        return method.finish(self.nets, state, targets, sampling, streams)


BOTH = ["grid", "word"]


@pytest.mark.parametrize("tokens", ["jump", "euler"])
@pytest.mark.parametrize("source", ["mask", "uniform"])
def test_pairs_of_nothing_are_data(source, tokens):
    pairs = Generating(source=source)([], BOTH, steps=4, tokens=tokens)
    assert pairs["grid"].shape == (6, *DigitGrid.shape)
    assert pairs["word"].dtype == torch.int64
    assert 0 <= pairs["word"].min() <= pairs["word"].max() < DIGITS


@pytest.mark.parametrize("name", BOTH)
def test_a_held_side_comes_out_as_it_went_in_to_the_bit(name):
    generate = Generating()
    pairs = generate([name], BOTH, steps=4)
    assert torch.equal(pairs[name], generate.data[name])
    (other,) = {*BOTH} - {name}
    assert not torch.equal(pairs[other], generate.data[other])
    alone = generate([name], [other], steps=4)
    assert torch.equal(alone[other], pairs[other])


@pytest.mark.parametrize("times", ["apart", "shared"])
def test_times_of_held_sides_are_their_own_or_the_only_one(times):
    generate = Generating(times=times)
    watch(generate.nets)
    generate(["word"], ["grid"], steps=4)
    calls = generate.nets.velocity.calls
    for number, (_, t, ids, t_ids, is_known, *_) in enumerate(calls):
        assert (t == number / 4).all()
        assert (t_ids == (t if times == "shared" else 1)).all()
        assert is_known.all()
        assert torch.equal(ids[:6], generate.data["word"])
    assert not generate.nets.posterior.calls

    generate(["grid"], ["word"], steps=4, tokens="euler")
    calls = generate.nets.posterior.calls
    for number, (_, t_ids, x, t, is_known) in enumerate(calls):
        assert (t_ids == number / 4).all()
        assert (t == (t_ids if times == "shared" else 1)).all()
        assert is_known.all()
        assert torch.equal(x[:6], generate.data["grid"])


@pytest.mark.parametrize("times", ["apart", "shared"])
@pytest.mark.parametrize("horizon", [1, 2])
def test_both_sides_by_euler_are_their_slow_derivation(times, horizon):
    """Algorithm 1 of the paper, with as many steps of the latent for each of the ids."""
    generate = Generating(times=times, degree=2.0)
    method, nets = generate.method, generate.nets
    sampling = {"steps": 6, "horizon": horizon, "tokens": "euler", "guidance": 2.0}
    pairs = generate([], BOTH, **sampling)
    begin = generate([], BOTH, steps=1)  # to know that there is something to see
    assert not torch.equal(begin["grid"], pairs["grid"])

    rows = len(generate.streams)
    x = random.normal(random.fork(generate.streams, 1), *method.shape)
    uniform = random.uniform(random.fork(generate.streams, 2), method.length)
    ids = method.source.start(uniform)
    streams = random.fork(generate.streams, STEP)
    yes = torch.ones(rows, dtype=torch.bool)
    with torch.no_grad():
        for number in range(6 // horizon):
            start = torch.full((rows,), number * horizon / 6)
            before = x
            for substep in range(horizon):
                t = start + substep / 6
                t_ids = t if times == "shared" else start
                told = nets.velocity(x, t, ids, t_ids, yes)
                untold = nets.velocity(x, t, ids, t_ids, ~yes)
                x = x + (untold + 2 * (told - untold)) / 6

            def logits(ids, t, x=before, time=start):
                return nets.posterior(ids, time, x, time, yes)

            stop = torch.full((rows,), (number + 1) * horizon / 6)
            of_step = random.fork(streams, number)
            how = method.scheduler, method.source, of_step
            ids = euler_step(logits, ids, start, stop.clamp(max=1), *how)
    torch.testing.assert_close(pairs["grid"], x)
    assert torch.equal(pairs["word"], ids)


def test_a_horizon_spares_steps_of_the_ids():
    generate = Generating()
    watch(generate.nets)
    for horizon in (1, 2, 6):
        generate.nets.velocity.calls.clear()
        generate.nets.posterior.calls.clear()
        generate([], BOTH, steps=6, horizon=horizon, tokens="euler")
        assert len(generate.nets.velocity.calls) == 6
        assert len(generate.nets.posterior.calls) == 6 // horizon


def test_tokens_that_jump_see_the_latent_of_their_time():
    """On the line between the ends of the step."""
    generate = Generating(source="mask")
    watch(generate.nets)
    pairs = generate([], BOTH, steps=1)
    noise = random.normal(random.fork(generate.streams, 1), *generate.method.shape)
    calls = generate.nets.posterior.calls
    assert len(calls) == 3
    for _, t_ids, x, t, _ in calls:
        assert torch.equal(t_ids, t)
        assert (t > 0).all()
        share = t[:6, None, None, None]
        torch.testing.assert_close(x[:6], noise.lerp(pairs["grid"], share))


@pytest.mark.parametrize("source", ["mask", "uniform"])
@pytest.mark.parametrize("first", BOTH)
def test_of_sides_in_order_the_second_is_made_of_the_first(first, source):
    """The first one flows beside noise, at the noise's time; the second is made of it, as of data."""
    generate = Generating(source=source)
    order = {"word": "ids-first", "grid": "latent-first"}[first]
    (second,) = {*BOTH} - {first}
    watch(generate.nets)
    choices = {"steps": 4, "tokens": "euler", "guidance": 2.0}
    pairs = generate([], BOTH, order=order, **choices)

    of_ids = [call[3] for call in generate.nets.posterior.calls]
    of_latents = [call[3] for call in generate.nets.velocity.calls]
    before, after = (of_ids, of_latents) if first == "word" else (of_latents, of_ids)
    assert len(before) == len(after) == 4
    assert all((times == 0).all() for times in before)
    assert all((times == 1).all() for times in after)

    generate.data[first] = pairs[first]
    given = generate([first], [second], **choices)
    assert torch.equal(pairs[second], given[second])


@pytest.mark.parametrize("first", BOTH)
def test_of_sides_in_order_the_first_alone_is_that_of_its_pair(first):
    """And the second, which nobody asked for, is not made."""
    generate = Generating()
    order = {"word": "ids-first", "grid": "latent-first"}[first]
    pairs = generate([], BOTH, steps=3, order=order)
    watch(generate.nets)
    alone = generate([], [first], steps=3, order=order)
    assert torch.equal(alone[first], pairs[first])
    velocities = len(generate.nets.velocity.calls)
    posteriors = len(generate.nets.posterior.calls)
    assert not (velocities if first == "word" else posteriors)


@pytest.mark.parametrize("given", BOTH)
def test_beside_what_is_given_there_is_no_order(given):
    generate = Generating()
    plain = generate([given], BOTH, steps=3)
    for order in ("ids-first", "latent-first"):
        ordered = generate([given], BOTH, steps=3, order=order)
        for name in BOTH:
            assert torch.equal(ordered[name], plain[name])


def test_a_model_of_one_time_has_no_order():
    method = crossmodal(times="shared")
    assert method.choose().order == "together"
    with pytest.raises(ValueError, match=r"one time for both sides .*times: shared"):
        method.choose(order="ids-first")


@pytest.mark.parametrize("choice", ["guidance", "token_guidance"])
def test_guidance_1_is_told_the_other_side_and_0_is_not(choice):
    generate = Generating(source="mask")
    given, made = ("word", "grid") if choice == "guidance" else ("grid", "word")
    net = "velocity" if choice == "guidance" else "posterior"
    watch(generate.nets)
    results = {}
    for scale in (1.0, 0.0, 3.0):
        calls = getattr(generate.nets, net).calls
        calls.clear()
        results[scale] = generate([given], [made], steps=3, **{choice: scale})[made]
        is_known = calls[0][4]
        expected = {1.0: [1] * 6, 0.0: [0] * 6, 3.0: [1] * 6 + [0] * 6}[scale]
        assert is_known.int().tolist()[: len(expected)] == expected
    # Untold, it does not depend on what is given, to the bit.
    generate.data[given] = generate.data[given].flip(0)
    untold = generate([given], [made], steps=3, **{choice: 0.0})[made]
    assert torch.equal(untold, results[0.0])
    told = generate([given], [made], steps=3)[made]
    assert not torch.equal(told, results[1.0])


def test_cold_ids_are_the_likeliest_and_others_are_drawn():
    generate = Generating(source="mask")
    watch(generate.nets)
    once = {"steps": 1, "tokens": "euler"}
    cold = generate(["grid"], ["word"], temperature=1e-6, **once)["word"]
    logits = generate.nets.posterior(*generate.nets.posterior.calls[0])
    assert torch.equal(cold, logits[:6].argmax(-1))

    drawn = generate(["grid"], ["word"], **once)["word"]
    hot = generate(["grid"], ["word"], temperature=1e6, **once)["word"]
    assert not torch.equal(drawn, cold)
    assert not torch.equal(drawn, hot)


def test_a_given_side_that_evolves_starts_as_it_was_given():
    generate = Generating(clean_latents=0.1)
    watch(generate.nets)
    pairs = generate(["word"], BOTH, steps=4, evolve=True)
    _, t, ids, t_ids, *_ = generate.nets.velocity.calls[0]
    assert torch.equal(ids[:6], generate.data["word"])
    assert not t.any()
    assert not t_ids.any()
    assert not torch.equal(pairs["word"], generate.data["word"])

    generate.nets.posterior.calls.clear()
    pairs = generate(["grid"], BOTH, steps=4, evolve=True, tokens="euler")
    _, t_ids, x, t, _ = generate.nets.posterior.calls[0]
    assert torch.equal(x[:6], generate.data["grid"])
    assert not t.any()
    assert not torch.equal(pairs["grid"], generate.data["grid"])
    both = generate(BOTH, BOTH, steps=4, evolve=True)
    assert both["word"].shape == (6, 3)


def test_inpainting_goes_back_and_forward():
    """By one field both ways it would be nowhere; with the ids it is."""
    generate = Generating(source="mask")
    how = {"steps": 40, "solver": "rk4", "inpaint": True}
    same = generate(BOTH, ["grid"], guidance=0.0, **how)["grid"]
    torch.testing.assert_close(same, generate.data["grid"], rtol=1e-3, atol=1e-3)
    other = generate(BOTH, ["grid"], guidance=1.0, **how)["grid"]
    assert (other - generate.data["grid"]).abs().max() > 0.01
    pairs = generate(BOTH, BOTH, **how)
    assert torch.equal(pairs["word"], generate.data["word"])
    alone = generate(["grid"], BOTH, **how)
    assert not torch.equal(alone["word"], generate.data["word"])


@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5"])
def test_inpainting_holds_what_is_known_to_the_bit(solver):
    generate = Generating(source="mask")
    x = generate.data["grid"]
    known = torch.zeros(x.shape, dtype=torch.bool)
    known[..., :2] = True
    watch(generate.nets)
    how = {"steps": 4, "solver": solver, "inpaint": True}
    y = generate(BOTH, ["grid"], known=known, **how)["grid"]
    assert torch.equal(y[known], x[known])
    assert not torch.equal(y[~known], x[~known])
    # On its way what is known is on the straight line from where it began.
    forward = [call for call in generate.nets.velocity.calls if call[4].all()]
    z = forward[0][0]
    for x_t, t, *_ in forward:
        line = z.lerp(torch.cat([x, x[-1:].expand(10, *x.shape[1:])]), t[0])
        if solver == "euler":
            torch.testing.assert_close(x_t[:6][known], line[:6][known])


REFUSED = [
    (["grid", "word"], ["grid"], {}, "nothing is left to make"),
    (["word"], ["grid"], {"inpaint": True}, "inpaint makes 'grid' of itself"),
    (["grid"], ["word"], {"inpaint": True}, "inpaint makes 'grid' of itself"),
    ([], BOTH, {"evolve": True}, "evolve is of what is given"),
    (["grid"], ["word"], {"evolve": True}, "not learnt how 'grid' does"),
]


@pytest.mark.parametrize(("sources", "targets", "choices", "message"), REFUSED)
def test_choices_that_do_not_go_together_are_refused(
    sources, targets, choices, message
):
    with pytest.raises(ValueError, match=message) as refusal:
        Generating()(sources, targets, **choices)
    assert "\n" not in str(refusal.value)


def test_masks_are_of_latents_and_of_inpainting():
    generate = Generating()
    direction = Direction(tuple(BOTH), ("grid",))
    method = generate.method
    method.check(direction, method.choose(inpaint=True), ["grid"])
    with pytest.raises(ValueError, match="choose inpaint, too"):
        method.check(direction, method.choose(evolve=True), ["grid"])
    both = Direction(tuple(BOTH), tuple(BOTH))
    with pytest.raises(ValueError, match="a part of 'grid' may be held"):
        method.check(both, method.choose(inpaint=True), ["word"])


def test_with_a_mask_given_ids_do_not_evolve():
    with pytest.raises(ValueError, match=r"^evolve: 'word' cannot, since with a mask"):
        Generating(source="mask")(["word"], ["grid"], evolve=True)
    with pytest.raises(ValueError, match=r"objective.clean_ids: 0"):
        Generating(clean_ids=0.0)(["word"], ["grid"], evolve=True)


@pytest.mark.parametrize("ids", [-1, DIGITS])
def test_ids_out_of_range_are_refused(ids):
    generate = Generating()
    generate.data["word"][2, 1] = ids
    with pytest.raises(ValueError, match=r"^'word' has ids from .* has 0 to 3$"):
        generate(["word"], ["grid"])


def test_what_is_offered():
    method = crossmodal()
    assert method.offers([], ["word", "grid"])
    assert method.offers([], ["grid"])
    assert method.offers(["word"], ["grid", "word"])
    assert method.offers(["word", "grid"], ["grid"])
    assert not method.offers(["word"], ["word"])
    assert not method.offers(["word"], [])
    assert not crossmodal(align=ALIGN).offers(["features"], ["word"])
    assert method.trains_on(["word", "grid", "other"])
    assert not method.trains_on(["word"])


@pytest.mark.parametrize(
    ("choice", "value"),
    [
        ("steps", 0),
        ("horizon", 3),
        ("order", "ids"),
        ("solver", "eulr"),
        ("tokens", "leap"),
        ("guidance", math.nan),
        ("token_guidance", "7"),
    ],
)
def test_choices_that_cannot_be_are_refused(choice, value):
    with pytest.raises(ValueError, match=choice.replace("tokens", "steps of tokens")):
        crossmodal().choose(**{choice: value})


def test_evolving_and_inpainting_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        crossmodal().choose(evolve=True, inpaint=True)


def test_a_model_without_an_unconditional_field_has_no_guidance():
    method = crossmodal(unconditional=0.0)
    for choices in ({"guidance": 2.0}, {"token_guidance": 0.0}, {"inpaint": True}):
        with pytest.raises(ValueError, match=r"objective.unconditional: 0"):
            method.choose(**choices)
    assert method.choose(guidance=1).steps == 50


# The bound


@pytest.mark.parametrize("source", ["mask", "uniform"])
def test_of_nets_that_know_nothing_the_bound_is_in_closed_form(source):
    """All ids are as likely: log V nats an id with a mask; with uniform noise

    k/V-weighted: the integral of (1-k)(1-1/V) log V + [k + (1-k)/V] - 1/V over dk / (1 - k).
    """
    method = crossmodal(source=source)
    nets = Networks(method).nets
    subject = Subject(method)
    batch = subject.batch(*[subject.complete] * 40)
    with torch.no_grad():
        values = method.measures(nets, batch, key=3)
    assert list(values) == ["nats-an-id[word|grid]", "nats-an-id[word]"]
    last, v = 0.999, DIGITS
    if source == "mask":
        expected = math.log(v)
    else:
        jumps = last * (1 - 1 / v) * math.log(v)
        stays = (1 - 1 / v) * (-math.log(1 - last) - last)
        expected = jumps + stays + math.log(v)
    for value in values.values():
        assert value.shape == (240,)
        error = value.std().item() / math.sqrt(240)
        assert value.mean().item() == pytest.approx(expected, abs=4 * error)
    assert error < 0.1 * expected


def test_a_model_that_is_never_untold_has_one_bound():
    method = crossmodal(unconditional=0.0)
    batch = Subject(method).batch(("word", "grid"))
    values = method.measures(Networks(method).nets, batch, key=3)
    assert list(values) == ["nats-an-id[word|grid]"]


# What a method may be


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CrossModal({"a": grid(), "b": grid()}, NET, TOKEN_NET),
            "not a, b, of which ids are none",
        ),
        (
            lambda: CrossModal(
                {"a": Word(DigitIds()), "b": grid(), "c": Vector()}, NET, TOKEN_NET
            ),
            "not a, b, c, of which ids are a",
        ),
        (
            lambda: crossmodal(Word(DigitSequence(), reads="word")),
            "masked sequences, which do not evolve",
        ),
        (
            lambda: crossmodal(align=replace(ALIGN, block=3)),
            "align.block is 3, and the net has 2 blocks",
        ),
        (
            lambda: CrossModal(
                {"a": Word(DigitIds()), "b": grid()}, NET, TOKEN_NET, align=ALIGN
            ),
            "align.features is a modality of the model, a, b; not 'features'",
        ),
        (lambda: crossmodal(net=replace(NET, patch=3)), "no patches of side 3"),
        (lambda: ObjectiveConfig(times="alike"), "times is one of apart, shared"),
        (lambda: ObjectiveConfig(source="masks"), "source is one of mask, uniform"),
        (lambda: ObjectiveConfig(token_loss="l2"), "token_loss is one of"),
        (lambda: ObjectiveConfig(degree=0.0), "degree must be a number"),
        (lambda: ObjectiveConfig(token_weight=math.nan), "token_weight must be"),
        (lambda: ObjectiveConfig(unconditional=1.0), "unconditional is a probability"),
        (
            lambda: ObjectiveConfig(clean_ids=0.6, clean_latents=0.5),
            "are probabilities",
        ),
        (lambda: replace(ALIGN, feature_weight=-1.0), "feature_weight must be"),
        (lambda: replace(ALIGN, until=-1), "until is a step"),
        (lambda: CrossModalSampling(temperature=0.0), "temperature must be a number"),
        (lambda: CrossModalSampling(temperature=math.nan), "temperature must be"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as refusal:
        make()
    assert "\n" not in str(refusal.value)


# Whole


@pytest.fixture
def recipe(world):
    """The toy world's recipe for a joint flow of words as ids and vectors."""
    recipe = yaml.safe_load((world / "recipe.yaml").read_text())
    ids = {"codec": {"class_path": "digit-ids"}}
    recipe["model"] = {
        "class_path": "crossmodal",
        "init_args": {
            "modalities": {
                "word": {"class_path": "word", "init_args": ids},
                "vector": {"class_path": "vector"},
            },
            "net": {"width": 48, "depth": 2, "heads": 2},
            "token_net": {"width": 48, "depth": 1, "heads": 2, "reading": 0},
            "objective": {"source": "uniform", "degree": 1.0},
        },
    }
    recipe["training"] |= {"ema_decay": 0.97, "learning_rate": 1.0e-2}
    recipe["data"]["init_args"]["batch_size"] = 256
    recipe["trainer"] |= {"max_steps": 240, "val_check_interval": 240}
    recipe["evaluation"] = {"sampling": {"steps": 10}, "limit": 64, "gallery": 4}
    path = world / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_the_toy_world_is_learnt_released_and_loaded(world, recipe, command):
    for verb in ("encode", "fit", "test"):
        code, _, err = command(verb, "--config", recipe)
        assert code == 0, err

    model = flowbind.load(world / "run/model")
    words = ["302", "113", "021", "330"]
    vectors = model.generate({"word": words}, to="vector")["vector"]
    again = flowbind.load(world / "run/model").generate({"word": words}, to="vector")
    assert all(map(torch.equal, vectors, again["vector"]))
    expected = torch.tensor([[float(digit) for digit in word] for word in words])
    assert (torch.stack(vectors) - expected).abs().mean() < 0.4
    back = model.generate({"vector": list(expected)}, to="word")["word"]
    same = sum(map(str.__eq__, "".join(back), "".join(words)))
    assert same > 8

    pairs = model.generate({}, to=["word", "vector"], count=32)
    told = torch.tensor([[float(digit) for digit in word] for word in pairs["word"]])
    error = (torch.stack(pairs["vector"]) - told).abs().mean()
    shuffled = (torch.stack(pairs["vector"]) - told.roll(1, 0)).abs().mean()
    assert error < 0.6 * shuffled
    assert len(set(pairs["word"])) > 10


def test_what_choices_exclude_is_not_measured_and_a_line_says_so(
    world, recipe, command
):
    """Words evolve; vectors, which the model has not learnt to, and what is of noise alone do not."""
    short = ("--trainer.max_steps=2", "--trainer.val_check_interval=2")
    line = ("--config", recipe, *short, "--evaluation.sampling.evolve=true")
    assert command("encode", "--config", recipe)[0] == 0
    code, _, err = command("fit", *line)
    assert (code, "none are drawn" in err) == (0, False), err
    assert (world / "run/samples/step=2.png").is_file()

    code, _, err = command("test", *line)
    assert code == 0, err
    excluded = [each for each in err.splitlines() if "is not measured: evolve" in each]
    assert [each.partition(" is ")[0] for each in excluded] == [
        "vector->word",
        "->word+vector",
    ]
    results = json.loads((world / "run/metrics.json").read_text())
    assert list(results["directions"]) == ["word->vector"]

    code, _, err = command("test", *line[:-1], "--evaluation.sampling.inpaint=true")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "inpaint makes 'vector' of itself" in err
