"""Flow matching: its loss against a slow re-derivation, the cross-attention that tells it the source, and its generation."""

import math
from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn

import flowbind
from flowbind import draws as random
from flowbind.flow.objective import FlowConfig
from flowbind.flow.sampling import FlowSampling, carry
from flowbind.methods.flow_matching import FlowMatching
from flowbind.methods.flow_matching.method import Draws
from flowbind.nets.context import Context
from flowbind.nets.dit import DiT, DiTConfig
from flowbind.nets.transformer import CrossAttention
from flowbind.testing.method import Subject
from tests.test_crossflow import batch_of
from tests.test_dit import arguments, shaken
from tests.toy import Word
from tests.toy_kinds import DigitGrid, DigitSequence

NET = DiTConfig(width=16, depth=2, heads=2)
SHAPES = [(3, 4, 6), (5, 4), (7,)]


def sequence():
    return Word(DigitSequence(), reads="word")


def grid():
    return Word(DigitGrid(), reads="word")


def flow_matching(source=None, target=None, net=NET, **objective):
    modalities = {"source": source or sequence(), "target": target or grid()}
    return FlowMatching(modalities, "source", "target", net, FlowConfig(**objective))


def doubles(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def sequences(lengths=(1, 5, 3)):
    """Masked ones of these lengths, whose padding is 0."""
    source = doubles(len(lengths), 5, 4, seed=2)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    source[..., -1] = mask.double()
    return source * mask[..., None]


# Cross-attention


def test_cross_attention_is_its_slow_derivation():
    attention = CrossAttention(8, heads=2).double()
    x, context = doubles(2, 3, 8), doubles(2, 4, 8, seed=1)
    mask = torch.tensor([[True, True, False, True], [False, False, True, False]])
    with torch.no_grad():
        y = attention(x, context, mask)
        q = attention.q(x)
        k, v = attention.kv(context).chunk(2, dim=2)

        expected = torch.zeros_like(q)
        for row in range(2):
            for head in (slice(0, 4), slice(4, 8)):
                for i in range(3):
                    scores = k[row, :, head] @ q[row, i, head] / 2
                    weights = scores.exp() * mask[row]
                    share = weights / weights.sum()
                    expected[row, i, head] = share @ v[row, :, head]
        torch.testing.assert_close(y, attention.proj_out(expected))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="no multiple of the 3 heads"):
        CrossAttention(8, heads=3)


@pytest.mark.parametrize("source", SHAPES)
def test_a_context_is_the_source_s_tokens_or_the_null_token(source):
    context = Context(source, masked=False, width=8, patch=2).double()
    y = doubles(4, *source)
    condition = torch.tensor([True, False, True, False])
    tokens, is_there = context(y, condition)
    count = context.tokens.count
    assert tokens.shape == (4, 1 + count, 8)
    assert torch.equal(is_there[:, 1:], condition[:, None].expand(4, count))
    assert torch.equal(is_there[:, 0], ~condition)
    assert torch.equal(tokens[:, 0], context.null.expand(4, 8))


def test_a_sequence_without_a_position_is_as_none():
    context = Context((5, 4), masked=True, width=8, patch=1).double()
    _, is_there = context(sequences((0, 2, 5)), torch.tensor([True, True, False]))
    there = [[1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert is_there.int().tolist() == there


# The net with a context


def net_of(target=(3, 4, 6), source=(5, 4), masked=True, indicator="tokens"):
    config = replace(NET, indicator=indicator)
    return DiT(target, config, Context(source, masked, config.width, config.patch))


@pytest.mark.parametrize("target", SHAPES)
def test_a_fresh_net_is_0_and_its_blocks_are_the_identity(target):
    net = net_of(target).double()
    x, t, condition = arguments(target)
    source = sequences()
    assert torch.equal(net(x, t, condition, source), torch.zeros_like(x))
    tokens, time = doubles(3, 4, 16), doubles(3, 16)
    context = net.context(source, condition)
    assert torch.equal(net.blocks[0](tokens, time, context), tokens)


def test_what_is_masked_has_no_influence_to_the_bit():
    net = shaken(net_of())
    x, t, _ = arguments((3, 4, 6))
    source, other = sequences(), sequences()
    padding = source[..., -1:] < 0.5
    other[..., :-1] = torch.where(padding, math.inf, source[..., :-1])
    told = torch.ones(3, dtype=torch.bool)
    assert torch.equal(net(x, t, told, source), net(x, t, told, other))


def test_the_unconditional_field_does_not_depend_on_the_source_to_the_bit():
    net = shaken(net_of())
    x, t, condition = arguments((3, 4, 6))
    source = sequences()
    velocity = net(x, t, condition, source)
    other = net(x, t, condition, source + torch.tensor([1.0, 1, 1, 0]).double())
    assert torch.equal(velocity[~condition], other[~condition])
    differences = (velocity - other)[condition].abs().flatten(1).amax(1)
    assert (differences > 1e-6).all()


@pytest.mark.parametrize("indicator", ["tokens", "time"])
def test_every_parameter_matters(indicator):
    net = shaken(net_of(indicator=indicator))
    loss = net(*arguments((3, 4, 6)), sequences()).square().sum()
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    assert all(g.isfinite().all() and g.any() for g in gradients)


def test_half_precision_in_is_half_precision_out():
    net = shaken(net_of()).bfloat16()
    x, t, condition = arguments((3, 4, 6))
    velocity = net(x.bfloat16(), t.bfloat16(), condition, sequences().bfloat16())
    assert velocity.dtype == torch.bfloat16


def test_without_a_context_it_is_the_same_net_less_the_cross_attention():
    plain, crossing = DiT((3, 4, 6), NET), net_of()
    shared = dict(crossing.named_parameters())
    assert plain.state_dict().keys() < shared.keys()
    extra = shared.keys() - plain.state_dict().keys()
    assert all(name.startswith("context.") or ".cross_" in name for name in extra)


# Losses


def test_the_loss_is_its_slow_derivation():
    method = flow_matching()
    batch = batch_of(method, rows=6)
    nets = Subject(method).networks.double().nets
    source, target = batch.latents["source"], batch.latents["target"]
    drawn = Draws(
        t=torch.linspace(0, 0.9, 6, dtype=torch.float64),
        noise=doubles(*target.shape, seed=4),
        condition=torch.tensor([True, False, True, True, False, True]),
    )
    with torch.no_grad():
        (term,) = method.losses(nets, batch, drawn).values()
        for k, (t, noise, condition) in enumerate(zip(*drawn, strict=True)):
            z_t = (1 - t) * noise + t * target[k]
            row = slice(k, k + 1)
            velocity = nets(z_t[None], t[None], condition[None], source[row])[0]
            expected = (velocity - (target[k] - noise)).square().mean()
            torch.testing.assert_close(term.errors[k], expected)
    assert term.of == "target"


def test_draws_are_of_their_laws():
    method = flow_matching(unconditional=0.25)
    batch = batch_of(method, rows=7)
    drawn = [method.draw(batch, key) for key in range(1_000)]
    t = torch.cat([each.t for each in drawn])
    noise = torch.cat([each.noise for each in drawn])
    condition = torch.cat([each.condition for each in drawn])
    assert condition.double().mean().item() == pytest.approx(0.75, abs=0.02)
    assert torch.logit(t).mean().item() == pytest.approx(0, abs=0.05)
    assert torch.logit(t).std().item() == pytest.approx(1, abs=0.05)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)


# Generation


class Straight(nn.Module):
    """The exact velocity of straight paths that all end at c, or at -c without a condition."""

    def __init__(self, c=3.0):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c))

    def forward(self, x, t, condition):
        end = torch.where(condition, self.c, -self.c)[:, None]
        return (end - x) / (1 - t)[:, None]


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_a_flow_in_closed_form(scale):
    """Guided at scale s the paths end at s c - (1 - s) c, for any number of Euler steps."""
    z = doubles(6, 2).float()
    for steps in (1, 4):
        x = carry(Straight(), z, FlowSampling(steps=steps, guidance=scale), 1)
        torch.testing.assert_close(x, torch.full_like(x, 3 * (2 * scale - 1)))


def test_guidance_mixes_the_told_and_the_untold_field():
    method = flow_matching()
    subject = Subject(method)
    nets = subject.networks.nets
    y = subject.batch(subject.complete).latents["source"]
    streams = random.streams(0, torch.arange(len(y)))

    def finish(**choices):
        sampling = method.choose(steps=1, **choices)
        with torch.no_grad():
            return method.finish(nets, y, ["target"], sampling, streams)["target"]

    untold, told, guided = (finish(guidance=scale) for scale in (0, 1, 3))
    assert not torch.allclose(untold, told, atol=1e-4)
    # Of a single Euler step the ends are on a line, as the velocities are.
    expected = untold + 3 * (told - untold)
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-5)

    t = torch.zeros(len(y))
    noise = random.normal(random.fork(streams, 3), *DigitGrid.shape)
    with torch.no_grad():
        velocity = nets(noise, t, t == 0, y)
        torch.testing.assert_close(told, noise + velocity)
        still = nets(torch.zeros_like(noise), t, t == 0, y)
    torch.testing.assert_close(finish(variety=0), still)


def test_a_model_without_an_unconditional_field_has_no_guidance():
    with pytest.raises(ValueError, match=r"^guidance is 1, not 2.0: the model has "):
        flow_matching(unconditional=0.0).choose(guidance=2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlowMatching({"a": grid()}, "a", "a", NET), "the two modalities"),
        (lambda: flow_matching(net=replace(NET, patch=3)), "no patches of side 3"),
        (lambda: flow_matching(net=replace(NET, heads=5)), "of the 5 heads"),
        (lambda: flow_matching(path="bent"), "path is one of straight, sine-cosine"),
        (lambda: flow_matching(time_std=math.nan), "time_std must be a number"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as refusal:
        make()
    assert "\n" not in str(refusal.value)


# The paper's size


class Clip(DigitSequence):
    """77 tokens of 768 features, and whether they are there."""

    shape = (77, 769)


class Latent(DigitGrid):
    """Of a picture of 256 x 256 in Stable Diffusion's autoencoder."""

    shape = (4, 32, 32)


def test_the_paper_s_size():
    """Ordinary flow matching has 1.04 billion parameters there (arXiv 2412.15213)."""
    modalities = {"text": Word(Clip(), reads="w"), "image": Word(Latent(), reads="w")}
    with torch.device("meta"):
        nets = FlowMatching(modalities, "text", "image").build()
    count = sum(parameter.numel() for parameter in nets.parameters())
    assert count / 1e9 == pytest.approx(1.04, abs=0.02)


# Whole


def test_the_toy_world_is_learnt_released_and_loaded(world, command):
    recipe = yaml.safe_load((world / "recipe.yaml").read_text())
    recipe["model"] = {
        "class_path": "flow-matching",
        "init_args": {
            "modalities": recipe["model"]["init_args"]["modalities"],
            "source": "word",
            "target": "vector",
            "net": {"width": 32, "depth": 2, "heads": 2},
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
    words = ["302", "113", "021", "330"]
    vectors = model.generate({"word": words}, to="vector")["vector"]
    again = flowbind.load(world / "run/model").generate({"word": words}, to="vector")
    assert all(map(torch.equal, vectors, again["vector"]))
    expected = torch.tensor([[float(digit) for digit in word] for word in words])
    assert (torch.stack(vectors) - expected).abs().mean() < 0.4
