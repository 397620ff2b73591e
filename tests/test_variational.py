"""Encoders by kind of source, and the normal distribution that they give, against closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import Normal as Reference
from torch.distributions import kl_divergence

from flowbind.nets.variational import (
    EncoderSize,
    Fixed,
    Normal,
    Variational,
    divergence,
    encoder_of,
)

SIZE = EncoderSize(width=16, depth=1, heads=2, hidden=24)
SOURCES = {  # shape, masked
    "vector": ((7,), False),
    "sequence": ((5, 4), False),
    "masked": ((5, 4), True),
    "grid": ((3, 16, 24), False),
}
TARGETS = [(6,), (4, 3), (2, 8, 12), (1, 32, 48), (2, 5, 5)]

each_source = pytest.mark.parametrize("source", SOURCES)
each_target = pytest.mark.parametrize("target", TARGETS, ids=str)


def rows(shape, masked=False, count=3):
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    if masked:
        x[..., -1] = (
            torch.arange(shape[0]) < torch.arange(1, count + 1)[:, None]
        ).float()
    return x


@each_source
@each_target
def test_every_kind_of_source_reaches_every_shape(source, target):
    shape, masked = SOURCES[source]
    torch.manual_seed(0)
    net = Variational(shape, masked, target, SIZE)
    mean, std = net(rows(shape, masked))
    assert mean.shape == std.shape == (3, *target)
    assert (std > 0).all()

    gradients = torch.autograd.grad((mean + std).sum(), list(net.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    none = net(rows(shape, count=0))
    assert none.mean.shape == (0, *target)
    torch.autograd.grad(none.mean.sum() + none.std.sum(), list(net.parameters()))


@each_source
def test_half_precision_is_kept(source):
    shape, masked = SOURCES[source]
    net = Variational(shape, masked, (2, 8, 12), SIZE).to(torch.bfloat16)
    mean, std = net(rows(shape, masked).to(torch.bfloat16))
    assert mean.dtype == std.dtype == torch.bfloat16
    assert mean.isfinite().all()


@each_source
def test_a_row_is_the_same_alone(source):
    shape, masked = SOURCES[source]
    torch.manual_seed(0)
    net = Variational(shape, masked, (2, 8, 12), SIZE).double()
    x = rows(shape, masked).double()
    together = net(x).mean
    for k in range(3):
        alone = net(x[k : k + 1]).mean
        torch.testing.assert_close(alone, together[k : k + 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rubbish", [3.0, float("nan")])
def test_what_a_masked_position_holds_has_no_influence_to_the_bit(rubbish):
    shape, masked = SOURCES["masked"]
    torch.manual_seed(0)
    net = Variational(shape, masked, (6,), SIZE)
    x = rows(shape, masked)
    other = x.clone()
    other[..., :-1][x[..., -1] == 0] = rubbish
    for before, after in zip(net(x), net(other), strict=True):
        assert torch.equal(before, after)
    one_more = x.clone()
    one_more[0, 1, -1] = 1
    assert not torch.equal(net(x).mean[0], net(one_more).mean[0])


def test_the_divergence_is_the_closed_form_and_the_integral():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    std = torch.rand(4, 2, 3, generator=generator, dtype=torch.float64) + 0.1
    kl = divergence(Normal(mean, std))

    standard = Reference(torch.zeros_like(mean), torch.ones_like(std))
    expected = kl_divergence(Reference(mean, std), standard)
    torch.testing.assert_close(kl, expected.flatten(1).sum(1))

    # A sum over the latent of integrals of p (log p - log q), by the trapezoid rule.
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    p = Reference(mean[..., None], std[..., None]).log_prob(x)
    q = Reference(0.0, 1.0).log_prob(x)
    integral = torch.trapezoid(p.exp() * (p - q), x).sum((1, 2))
    torch.testing.assert_close(kl, integral, rtol=1e-6, atol=1e-6)


def test_a_standard_normal_has_none():
    assert not divergence(Normal(torch.zeros(2, 5), torch.ones(2, 5))).any()


def test_samples_have_the_mean_and_the_deviation():
    normal = Normal(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 2.0]]))
    noise = torch.tensor([[0.0, 1.0]])
    assert torch.equal(normal.sample(noise), torch.tensor([[1.0, 0.0]]))


def test_a_fixed_deviation_is_what_it_says():
    x = rows((2, 4, 4))
    mean, std = Fixed(torch.nn.Identity(), (2, 4, 4), 0.25)(x)
    assert torch.equal(mean, x)
    assert torch.equal(std, torch.full_like(x, 0.25))


def test_a_fresh_grid_is_unfolded_where_it_can_be():
    near = encoder_of((3, 16, 24), False, (1, 1, 32, 48), SIZE)
    assert (near.fold, near.unfold) == (2, 4)
    far = encoder_of((3, 16, 24), False, (1, 2, 5, 5), SIZE)
    assert (far.fold, far.unfold) == (2, 0)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_without_hidden_layers_the_starts_of_vectors_add_up(depth):
    torch.manual_seed(0)
    net = Variational((7,), False, (2, 3), replace(SIZE, depth=depth)).double()
    assert sum(isinstance(layer, nn.Linear) for layer in net.modules()) == depth + 1
    x = torch.randn(3, 5, 7, dtype=torch.float64)
    a, b, c = (net(part).mean for part in x)
    composed = net(x[0] - x[1] + x[2]).mean
    assert torch.allclose(composed, a - b + c) == (depth == 0)
    # How large a vector is says something: only what is hidden is normalised.
    assert not torch.allclose(net(2 * x[0]).mean, a, atol=1e-2)


def test_a_source_of_another_kind_is_refused():
    with pytest.raises(
        ValueError, match=r"^a latent of shape \(1, 2, 3, 4\) is no vector"
    ):
        encoder_of((1, 2, 3, 4), False, (1, 2), SIZE)
    with pytest.raises(ValueError, match="allowed are multiples of 8"):
        EncoderSize(width=20)
    with pytest.raises(ValueError, match=r"EncoderSize: heads is 0"):
        EncoderSize(heads=0)


def test_the_reduction_of_the_papers_size():
    """CLIP's 77 tokens of 768 features, and whether they are there, to a latent of 4 x 32 x 32."""
    with torch.device("meta"):
        net = Variational((77, 769), True, (4, 32, 32), EncoderSize())
        mean, std = net(torch.zeros(2, 77, 769))
    assert mean.shape == std.shape == (2, 4, 32, 32)
    assert net.encoder.proj_out.in_features == 77 * 96
    assert math.prod((77, 768)) / math.prod((4, 32, 32)) == pytest.approx(14.4, abs=0.1)
