"""Laws of paths and of the times they are trained at."""

import math
from functools import partial

import pytest
import torch

from flowbind.flow.path import sample_path, sample_sine_cosine_path, stop_gradient
from flowbind.flow.times import both_times, logit_normal_times, mixture_times

SHAPES = [(1, 4), (7, 4), (3, 2, 5), (0, 4)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pair(shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
def test_ends_are_the_shared_latent_at_0_and_the_modality_at_1(shape):
    z, x = pair(shape)
    for t, end in ((0.0, z), (1.0, x)):
        torch.testing.assert_close(sample_path(z, x, torch.full(shape[:1], t)).x_t, end)
    assert torch.equal(sample_path(z, x, torch.zeros(shape[0])).x_t, z)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_row_has_its_own_time(shape):
    z, x = pair(shape)
    t = torch.linspace(0, 1, shape[0], dtype=torch.float64)
    x_t = sample_path(z, x, t).x_t
    assert x_t.shape == shape
    for k in range(shape[0]):
        torch.testing.assert_close(x_t[k], (1 - t[k]) * z[k] + t[k] * x[k])


def test_velocity_is_the_derivative_of_the_path():
    z, x = pair((3, 2, 5))
    t = torch.rand(3, dtype=torch.float64)
    x_t, velocity = sample_path(z, x, t)
    assert torch.equal(velocity, x - z)
    # Exact: the path is straight.
    derivative = sample_path(z, x, t + 0.5).x_t - sample_path(z, x, t - 0.5).x_t
    torch.testing.assert_close(derivative, velocity)
    # Following it arrives.
    torch.testing.assert_close(x_t + (1 - t[:, None, None]) * velocity, x)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_reaches_the_latent_only_at_time_zero(shape):
    z, x = pair(shape)
    z.requires_grad_()
    t = torch.tensor([0.0, 1e-9, 1.0, 0.5, 0.0, 0.3, 0.0])[: shape[0]]
    stopped = stop_gradient(z, t)
    assert torch.equal(stopped, z)
    x_t, velocity = sample_path(stopped, x, t)
    (through_input,) = torch.autograd.grad(x_t.sum(), z, retain_graph=True)
    (through_target,) = torch.autograd.grad(velocity.sum(), z)
    zero = (t == 0).double().reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    assert torch.equal(through_input, zero)
    assert torch.equal(through_target, -zero)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sine_cosine_path_has_its_ends_and_their_variance(shape):
    z, x = pair(shape)
    for t, end in ((0.0, z), (1.0, x)):
        at_end = sample_sine_cosine_path(z, x, torch.full(shape[:1], t)).x_t
        torch.testing.assert_close(at_end, end)

    t = torch.linspace(0, 1, shape[0], dtype=torch.float64)
    for k, x_t in enumerate(sample_sine_cosine_path(z, x, t).x_t):
        angle = math.pi * float(t[k]) / 2
        torch.testing.assert_close(x_t, math.cos(angle) * z[k] + math.sin(angle) * x[k])


@pytest.mark.parametrize("path", [sample_path, sample_sine_cosine_path])
def test_a_velocity_is_the_derivative_by_autograd_and_by_differences(path):
    z, x = pair((3, 2, 5))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    velocity = path(z, x, t).velocity
    # Reverse twice is forward: the gradient in t is linear in what x_t is weighed by.
    t.requires_grad_()
    weight = torch.ones_like(x, requires_grad=True)
    weighed = (path(z, x, t).x_t * weight).sum()
    (slope,) = torch.autograd.grad(weighed, t, create_graph=True)
    (derivative,) = torch.autograd.grad(slope.sum(), weight)
    torch.testing.assert_close(derivative, velocity)
    t, step = t.detach(), 1e-5
    ahead, behind = path(z, x, t + step).x_t, path(z, x, t - step).x_t
    torch.testing.assert_close(
        (ahead - behind) / (2 * step), velocity, rtol=1e-8, atol=1e-8
    )


def test_logit_normal_times_are_what_they_are_called():
    normal = torch.randn(40_000, dtype=torch.float64)
    t = logit_normal_times(normal, mean=-0.5, std=2.0)
    assert ((t > 0) & (t < 1)).all()
    torch.testing.assert_close(torch.logit(t), -0.5 + 2 * normal)
    half = logit_normal_times(torch.zeros(1), mean=0.0, std=1.0)
    assert torch.equal(half, torch.tensor([0.5]))


def test_mixture_times_by_their_draws():
    uniform = torch.tensor([0.0, 0.0, 0.25, 0.25, 0.75])
    # Alpha 0.2, then (1 - 0.2) 0.5 = 0.4 for t = 1.
    choice = torch.tensor([0.0, 0.19, 0.2, 0.59, 0.6])
    t = mixture_times(uniform, choice, alpha=0.2, endpoint=0.5)
    assert torch.equal(t, torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.25]]))


def test_both_times_by_their_draws():
    uniform = torch.tensor([0.0, 0.0, 0.25, 0.75])
    choice = torch.tensor([0.0, 0.49, 0.5, 0.99])
    t = both_times(uniform, choice, endpoint=0.5)
    assert torch.equal(t, torch.tensor([[1.0, 1.0, 0.75, 0.25], [0.0, 0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("law", [partial(mixture_times, alpha=0.3), both_times])
def test_inner_times_are_never_zero(law):
    # The largest float32 that torch.rand gives is 1 - 2^-24.
    uniform = torch.tensor([0.0, 0.5, 1 - 2**-24])
    t = law(uniform, torch.full((3,), 0.999), endpoint=0.3)[0]
    assert (t > 0).all()
    assert (t <= 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("endpoint", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_shares_of_the_times(alpha, endpoint, dtype):
    rows = 40_000
    uniform, choice = torch.rand(
        2, rows, dtype=dtype, generator=torch.Generator().manual_seed(0)
    )
    deviation = 5 * 0.5 / rows**0.5  # five standard errors, at most
    both = both_times(uniform, choice, endpoint)
    assert both.shape == (2, rows)
    assert both.dtype == dtype
    assert not both[1].any()
    mixture = mixture_times(uniform, choice, alpha, endpoint)
    assert mixture.shape == (1, rows)
    assert mixture.dtype == dtype
    for t, zero in ((mixture[0], alpha), (both[0], 0.0)):
        assert abs((t == 0).double().mean() - zero) <= deviation * (0 < zero < 1)
        one = (1 - zero) * endpoint
        # An inner time may be 1.
        assert abs((t == 1).double().mean() - one) <= deviation * (0 < one < 1) + 1e-4
        inside = t[(t > 0) & (t < 1)].double().sort().values
        if endpoint < 1 and zero < 1:  # Kolmogorov and Smirnov: the rest is uniform
            cumulative = torch.arange(1, len(inside) + 1) / len(inside)
            assert (inside - cumulative).abs().max() < 2.5 / len(inside) ** 0.5
        else:
            assert len(inside) == 0
