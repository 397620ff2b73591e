"""The two nets of a joint flow: what they start as, what each sees of the other side, and attention by a slow second way."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn import ModuleList

from flowbind.nets.mmdit import JointBlock, LastBlock, MMDiT, MMDiTConfig
from flowbind.nets.token_transformer import TokenTransformer, TokenTransformerConfig
from tests.test_dit import SHAPES, shaken

V, L, ROWS = 11, 6, 4
SMALL = {"width": 16, "depth": 3, "heads": 2, "patch": 2}


def velocity_net(shape=(3, 4, 6), **more) -> MMDiT:
    return MMDiT(shape, V, L, MMDiTConfig(**(SMALL | more)))


def token_net(shape=(3, 4, 6), **more) -> TokenTransformer:
    config = TokenTransformerConfig(**(SMALL | {"reading": 2} | more))
    return TokenTransformer(V, L, shape, config)


def states(shape, rows=ROWS, dtype=torch.float64):
    """A latent, its times, ids with masks among them, and their times."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, *shape, generator=generator, dtype=dtype)
    ids = torch.randint(V + 1, (rows, L), generator=generator)
    t = torch.linspace(0.1, 0.9, rows, dtype=dtype)
    return x, t, ids, t.flip(0) / 2


def run(net, x, t, ids, t_ids, is_known):
    """Either net on the same states."""
    if isinstance(net, MMDiT):
        return net(x, t, ids, t_ids, is_known)
    return net(ids, t_ids, x, t, is_known)


KNOWN = torch.ones(ROWS, dtype=torch.bool)
each_net = pytest.mark.parametrize("build", [velocity_net, token_net])
each_shape = pytest.mark.parametrize("shape", SHAPES)


@each_shape
@each_net
def test_a_fresh_net_says_nothing_yet(build, shape):
    """Velocity 0, and a posterior in which all ids are as likely."""
    net = build(shape).double()
    x, t, ids, t_ids = states(shape)
    out = run(net, x, t, ids, t_ids, KNOWN)
    assert out.shape == (x.shape if build is velocity_net else (ROWS, L, V))
    assert not out.any()


def test_fresh_blocks_are_the_identity():
    net = velocity_net().double()
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    context = torch.randn(3, 4, 16, dtype=torch.float64)
    time = torch.randn(3, 16, dtype=torch.float64)
    for block in net.blocks:
        after, context_after, _ = block(x, context, time)
        assert torch.equal(after, x)
        assert context_after is None or torch.equal(context_after, context)

    net = token_net().double()
    for block in net.readers:
        assert torch.equal(block(x, time), x)
    for block in net.blocks:
        assert torch.equal(block(x, time, [context]), x)


@each_shape
@each_net
def test_both_states_and_both_times_matter_row_by_row(build, shape):
    net = shaken(build(shape))
    x, t, ids, t_ids = states(shape)
    out = run(net, x, t, ids, t_ids, KNOWN)
    others = [
        run(net, x + 1, t, ids, t_ids, KNOWN),
        run(net, x, t / 2, ids, t_ids, KNOWN),
        run(net, x, t, (ids + 1) % (V + 1), t_ids, KNOWN),
        run(net, x, t, ids, t_ids + 0.2, KNOWN),
        run(net, x, t, ids, t_ids, ~KNOWN),
    ]
    for other in others:
        assert ((other - out).abs().flatten(1).amax(1) > 1e-6).all()

    for k in range(ROWS):
        row = slice(k, k + 1)
        alone = run(net, x[row], t[row], ids[row], t_ids[row], KNOWN[row])
        torch.testing.assert_close(alone, out[row], rtol=1e-12, atol=1e-12)


@each_shape
@each_net
def test_what_is_not_known_has_no_influence_to_the_bit(build, shape):
    """Neither what the other side holds nor its time, in rows that are not told; in others both."""
    net = shaken(build(shape)).float()
    x, t, ids, t_ids = states(shape, dtype=torch.float32)
    is_known = torch.tensor([True, False, True, False])
    out = run(net, x, t, ids, t_ids, is_known)

    if build is velocity_net:
        other = run(net, x, t, (ids + 1) % (V + 1), 1 - t_ids, is_known)
    else:
        other = run(net, x * torch.inf, 1 - t, ids, t_ids, is_known).nan_to_num(7.0)
        out = out.nan_to_num(7.0)
    assert torch.equal(other[~is_known], out[~is_known])
    assert not torch.isclose(other[is_known], out[is_known]).flatten(1).all(1).any()


@each_net
def test_the_order_of_ids_and_the_place_of_a_patch_count(build):
    net = shaken(build())
    x, t, ids, t_ids = states((3, 4, 6))
    out = run(net, x, t, ids, t_ids, KNOWN)
    for other in (
        run(net, x.flip(-1), t, ids, t_ids, KNOWN).flip(-1),
        run(net, x, t, ids.roll(1, 1), t_ids, KNOWN),
    ):
        assert not torch.allclose(other, out)


@each_net
def test_every_parameter_matters(build):
    net = shaken(build())
    x, t, ids, t_ids = states((3, 4, 6))
    ids[:2] = torch.arange(12).reshape(2, 6)  # every id once
    is_known = torch.arange(ROWS) < 3
    loss = run(net, x, t, ids, t_ids, is_known).square().sum()
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    assert all(g.isfinite().all() and g.any() for g in gradients)


@each_net
def test_no_rows_give_no_rows_and_gradients_of_0(build):
    net = shaken(build())
    out = run(net, *states((3, 4, 6), rows=0), KNOWN[:0])
    assert len(out) == 0
    gradients = torch.autograd.grad(out.sum(), list(net.parameters()))
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_net
def test_precision_in_is_precision_out(build, dtype):
    net = shaken(build()).to(dtype)
    out = run(net, *states((3, 4, 6), dtype=dtype), ~KNOWN)
    assert out.dtype == dtype


@each_net
def test_weights_are_all_that_a_net_built_on_meta_needs(build):
    torch.manual_seed(0)
    net = shaken(build())
    with torch.device("meta"):
        empty = build()
    empty.load_state_dict(net.state_dict(), assign=True)
    arguments = (*states((3, 4, 6)), KNOWN)
    assert torch.equal(run(empty, *arguments), run(net, *arguments))


@each_shape
@each_net
def test_no_net_and_no_block_returns_a_view(build, shape):
    """Split over devices by FSDP2 they may not: a hook would be lost."""
    net = build(shape)
    views = []

    def look(module, inputs, outputs):
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        views.extend(type(module) for x in parts if x is not None and x._is_view())

    blocks = [
        b for part in net.children() if isinstance(part, ModuleList) for b in part
    ]
    for module in (net, *blocks):
        module.register_forward_hook(look)
    x, t, ids, t_ids = states(shape, dtype=torch.float32)
    run(net, x, t, ids, t_ids, KNOWN)
    if build is velocity_net:
        net(x, t, ids, t_ids, KNOWN, look_at=1)
    assert len(blocks) >= 3
    assert not views


# Attention of both sides together, by sums over positions


def layer_norm(x):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt()


def slow_side(block, x, time):
    """What the time does to one side, and its queries, keys and values by head and position."""
    shift, scale, *rest = block.modulation(time).chunk(6, dim=1)
    before = layer_norm(x) * (1 + scale[:, None]) + shift[:, None]
    qkv = block.attention.qkv(before).chunk(3, dim=2)
    heads = [part.unflatten(2, (block.attention.heads, -1)) for part in qkv]
    return heads, rest


def slow_attention(q, keys, values):
    """Of each query, position by position: (n, P, h, d)."""
    out = torch.zeros_like(q)
    for n in range(q.shape[0]):
        for p in range(q.shape[1]):
            for h in range(q.shape[2]):
                scores = [
                    (q[n, p, h] @ k).item() / math.sqrt(q.shape[3])
                    for k in keys[n, :, h]
                ]
                weights = [math.exp(score) for score in scores]
                for weight, v in zip(weights, values[n, :, h], strict=True):
                    out[n, p, h] += weight / sum(weights) * v
    return out


def slow_rest(block, x, attended, rest):
    gate_1, shift_2, scale_2, gate_2 = (each[:, None] for each in rest)
    x = x + gate_1 * block.attention.proj_out(attended.flatten(2))
    return x + gate_2 * block.mlp(layer_norm(x) * (1 + scale_2) + shift_2)


@torch.no_grad()
def test_a_joint_block_is_attention_over_both_sides():
    block = shaken(JointBlock(8, 2))
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    context = torch.randn(2, 4, 8, dtype=torch.float64)
    time = torch.randn(2, 8, dtype=torch.float64)
    (q_x, k_x, v_x), rest_x = slow_side(block.latent, x, time)
    (q_c, k_c, v_c), rest_c = slow_side(block.context, context, time)
    keys, values = torch.cat([k_x, k_c], 1), torch.cat([v_x, v_c], 1)

    after, context_after, _ = block(x, context, time)
    expected = slow_rest(block.latent, x, slow_attention(q_x, keys, values), rest_x)
    torch.testing.assert_close(after, expected, rtol=1e-10, atol=1e-10)
    attended = slow_attention(q_c, keys, values)
    expected = slow_rest(block.context, context, attended, rest_c)
    torch.testing.assert_close(context_after, expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_the_last_block_attends_to_the_context_too():
    block = shaken(LastBlock(8, 2))
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    context = torch.randn(2, 4, 8, dtype=torch.float64)
    time = torch.randn(2, 8, dtype=torch.float64)
    (q, k_x, v_x), rest = slow_side(block.latent, x, time)
    shift, scale = block.modulation(time)[:, None].chunk(2, dim=2)
    kv = block.kv(layer_norm(context) * (1 + scale) + shift).chunk(2, dim=2)
    k_c, v_c = (part.unflatten(2, (2, -1)) for part in kv)

    after, _, _ = block(x, context, time)
    attended = slow_attention(q, torch.cat([k_x, k_c], 1), torch.cat([v_x, v_c], 1))
    expected = slow_rest(block.latent, x, attended, rest)
    torch.testing.assert_close(after, expected, rtol=1e-10, atol=1e-10)


# What alignment looks at


@pytest.mark.parametrize("block", [1, 2, 3])
def test_looking_changes_nothing_and_sees_the_block(block):
    net = shaken(velocity_net())
    x, t, ids, t_ids = states((3, 4, 6))
    velocity, features, attention = net(x, t, ids, t_ids, KNOWN, look_at=block)
    assert torch.equal(velocity, net(x, t, ids, t_ids, KNOWN))
    assert features.shape == (ROWS, 6, 16)

    blind = net(x, t, ids, t_ids, KNOWN, look_at=block, attends=False)
    assert torch.equal(blind.features, features)
    assert blind.attention is None

    assert attention.shape == (ROWS, 2, 6, 6)
    torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention[..., 0]))

    # Features are what the next block gets.
    tokens, context = net.latent(x), net.ids(ids)
    time = net.time(t, t_ids, KNOWN)
    for part in net.blocks[:block]:
        before = tokens
        tokens, context, _ = part(tokens, context, time)
    assert torch.equal(features, tokens)

    # And attention is that among the latent's tokens alone.
    (q, k, _), _ = slow_side(part.latent, before, time)
    scores = torch.einsum("nphd,nqhd->nhpq", q, k) / math.sqrt(8)
    torch.testing.assert_close(attention, F.softmax(scores, dim=-1))


# Sizes


def test_the_size_of_the_recipe_of_record():
    """By the layers, over 4 x 32 x 32 latents and CLIP's 49,408 ids."""
    width, vocabulary, length = 768, 49408, 77
    with torch.device("meta"):
        velocity = MMDiT((4, 32, 32), vocabulary, length, MMDiTConfig())
        config = TokenTransformerConfig()
        tokens = TokenTransformer(vocabulary, length, (4, 32, 32), config)

    def linear(features, out):
        return features * out + out

    dit = sum(linear(width, n * width) for n in (6, 3, 1, 4)) + linear(4 * width, width)
    keys = linear(width, 2 * width)
    cross = linear(width, width) + keys + linear(width, width)
    time = 2 * (linear(256, width) + linear(width, width)) + width
    latent = linear(16, width) + 256 * width
    ids = (vocabulary + 1 + length) * width
    both = time + latent + ids + width + keys  # a null token, and the last modulation

    assert count(velocity) == both + 23 * 2 * dit + dit + 2 * keys + linear(width, 16)
    expected = both + 6 * dit + 12 * (dit + cross) + linear(width, vocabulary)
    assert count(tokens) == expected
    assert (round(count(velocity) / 1e6), round(count(tokens) / 1e6)) == (543, 299)


def count(net) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("config", [MMDiTConfig, TokenTransformerConfig])
@pytest.mark.parametrize("wrong", [{"width": 0}, {"depth": -1}, {"patch": 1.5}])
def test_sizes_that_no_net_has_are_refused(config, wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"^{config.__name__}: {name} is "):
        config(**(SMALL | wrong))


def test_what_does_not_fit_is_refused_in_one_line():
    with pytest.raises(ValueError, match="MMDiTConfig: no block"):
        MMDiTConfig(**(SMALL | {"depth": 0}))
    with pytest.raises(ValueError, match="has no patches"):
        velocity_net((3, 4, 5))
    with pytest.raises(ValueError, match="no multiple of the 3 heads"):
        velocity_net(heads=3)
    with pytest.raises(ValueError, match="no multiple of the 3 heads"):
        token_net(heads=3)
    with pytest.raises(ValueError, match="reading is -1"):
        TokenTransformerConfig(**SMALL, reading=-1)
