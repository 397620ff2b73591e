"""The transformer of sequences: what is not there has no influence, and attention is what it says."""

import math

import pytest
import torch
from torch.nn import functional as F

from flowbind.nets.positions import sinusoids
from flowbind.nets.transformer import SelfAttention, Transformer, attend

LENGTH, FEATURES, WIDTH, HEADS = 6, 5, 16, 4


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Transformer(LENGTH, FEATURES, WIDTH, depth=2, heads=HEADS, hidden=24)
    return net.eval()


@pytest.fixture
def x():
    return torch.randn(3, LENGTH, FEATURES, generator=torch.Generator().manual_seed(1))


# Of each row: all, some, none that is last, none at all.
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0]]).bool()


@pytest.mark.parametrize("rubbish", [1.0, 1e30, float("nan"), float("inf")])
def test_positions_that_are_not_there_have_no_influence_to_the_bit(net, x, rubbish):
    other = torch.where(MASK[..., None], x, rubbish)
    before = net(torch.where(MASK[..., None], x, 0), MASK)
    assert before.isfinite().all()
    assert torch.equal(net(other, MASK), before)
    assert not before[~MASK].any()


def test_they_have_no_gradient_either(net, x):
    x = x.requires_grad_()
    net(x, MASK).square().sum().backward()
    assert not x.grad[~MASK].any()
    assert x.grad[MASK].any(1).all()


def test_one_that_is_there_has_influence(net, x):
    other = x.clone()
    other[1, 2] += 1
    before, after = net(x, MASK), net(other, MASK)
    assert not torch.allclose(before[1, 0], after[1, 0])
    assert torch.equal(before[0], after[0])


def test_a_sequence_without_positions_is_finite(net, x):
    out = net(x, torch.zeros(3, LENGTH, dtype=torch.bool))
    assert not out.any()


def test_without_a_mask_all_are_there(net, x):
    everywhere = torch.ones(3, LENGTH, dtype=torch.bool)
    torch.testing.assert_close(net(x), net(x, everywhere))


def test_attention_is_the_formula():
    torch.manual_seed(0)
    attention = SelfAttention(WIDTH, HEADS).double()
    x = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    mask = MASK[1:]
    q, k, v = F.linear(x, attention.qkv.weight, attention.qkv.bias).chunk(3, dim=2)
    size = WIDTH // HEADS
    heads = []
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)
        scores = scores.masked_fill(~mask[:, None], -math.inf)
        heads.append(scores.softmax(2) @ v[..., part])
    expected = attention.proj_out(torch.cat(heads, dim=2))
    torch.testing.assert_close(attention(x, mask), expected)


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_in_bfloat16_attention_is_float32s_rounded_with_its_gradients(
    autocast, is_masked
):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)
    inputs = [torch.randn(*shape, generator=generator) for shape in shapes]
    mask = torch.rand(2, 1, 1, 7, generator=generator) < 0.6 if is_masked else None
    rounded = [x.bfloat16().requires_grad_() for x in inputs]
    exact = [x.detach().float().requires_grad_() for x in rounded]

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = attend(*rounded, mask)
    expected = F.scaled_dot_product_attention(*exact, attn_mask=mask)
    assert torch.equal(y, expected.bfloat16())

    slope = torch.randn(y.shape, generator=generator).bfloat16()
    y.backward(slope)
    expected.backward(slope.float())
    for x, of_x in zip(rounded, exact, strict=True):
        assert torch.equal(x.grad, of_x.grad.bfloat16())


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="the width 16 is no multiple of the 3 heads"):
        SelfAttention(16, 3)


@pytest.mark.parametrize("sides", [(7,), (3, 4), (1,)])
@pytest.mark.parametrize("width", [8, 10, 16])
def test_positions_are_told_apart(sides, width):
    features = sinusoids(sides, width)
    assert features.shape == (math.prod(sides), width)
    assert len(features.unique(dim=0)) == len(features)
    # The columns of a grid's row differ in the second half alone.
    if len(sides) == 2:
        half = width // 4 * 2
        assert torch.equal(features[0, :half], features[1, :half])
