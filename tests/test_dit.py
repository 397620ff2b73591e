"""The diffusion transformer: tokens and back, what it starts as, and what tells it time and field."""

import pytest
import torch

from flowbind.nets.dit import DiT, DiTConfig, Tokens

SHAPES = [(3, 4, 6), (5, 4), (7,)]
SMALL = {"width": 16, "depth": 2, "heads": 2, "patch": 2}


def shaken(net):
    """What starts at 0 would hide much."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return net.double().eval()


def arguments(shape, rows=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, *shape, generator=generator, dtype=torch.float64)
    t = torch.linspace(0, 1, rows, dtype=torch.float64)
    return x, t, torch.arange(rows) % 2 == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_are_joined_as_they_were_split(shape):
    tokens = Tokens(shape, 2)
    x, _, _ = arguments(shape)
    split = tokens.split(x)
    sides = torch.Size(tokens.sides)
    assert split.shape == (3, tokens.count, tokens.features)
    assert tokens.count == sides.numel()
    assert torch.equal(tokens.join(split), x)


def test_a_token_of_a_grid_is_a_square_of_it():
    x, _, _ = arguments((3, 4, 6))
    split = Tokens((3, 4, 6), 2).split(x)
    square = x[:, :, 2:4, 4:6]  # the last of the second row
    assert torch.equal(split[:, 5], square.flatten(1))


@pytest.mark.parametrize("indicator", ["tokens", "time"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_fresh_net_is_0_and_its_blocks_are_the_identity(shape, indicator):
    net = DiT(shape, DiTConfig(**SMALL, indicator=indicator)).double()
    x, t, condition = arguments(shape)
    assert torch.equal(net(x, t, condition), torch.zeros_like(x))
    tokens = torch.randn(3, 4, 16, dtype=torch.float64)
    time = torch.randn(3, 16, dtype=torch.float64)
    assert torch.equal(net.blocks[0](tokens, time), tokens)


@pytest.mark.parametrize("indicator", ["tokens", "time"])
@pytest.mark.parametrize("shape", SHAPES)
def test_state_time_and_field_all_matter_row_by_row(shape, indicator):
    net = shaken(DiT(shape, DiTConfig(**SMALL, indicator=indicator)))
    x, t, condition = arguments(shape)
    velocity = net(x, t, condition)
    assert velocity.shape == x.shape
    for other in (
        net(x + 1, t, condition),
        net(x, t / 2 + 0.1, condition),
        net(x, t, ~condition),
    ):
        assert ((other - velocity).abs().flatten(1).amax(1) > 1e-6).all()
    for k in range(3):
        row = slice(k, k + 1)
        alone = net(x[row], t[row], condition[row])
        torch.testing.assert_close(alone, velocity[row], rtol=1e-12, atol=1e-12)


def test_every_parameter_matters():
    for indicator in ("tokens", "time"):
        net = shaken(DiT((3, 4, 6), DiTConfig(**SMALL, indicator=indicator)))
        loss = net(*arguments((3, 4, 6))).square().sum()
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        assert all(g.isfinite().all() and g.any() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_in_is_precision_out(dtype):
    net = shaken(DiT((3, 4, 6), DiTConfig(**SMALL))).to(dtype)
    x, t, condition = arguments((3, 4, 6))
    assert net(x.to(dtype), t.to(dtype), condition).dtype == dtype


def test_no_rows_give_no_rows_and_gradients_of_0():
    net = shaken(DiT((3, 4, 6), DiTConfig(**SMALL)))
    out = net(*arguments((3, 4, 6), rows=0))
    assert out.shape == (0, 3, 4, 6)
    gradients = torch.autograd.grad(out.sum(), list(net.parameters()))
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 3, 4), (1, 2, 3, 4), ()])
def test_a_shape_without_patches_is_refused_in_one_line(shape):
    with pytest.raises(
        ValueError, match=r"^a latent of shape .* has no patches of .*$"
    ):
        DiT(shape, DiTConfig(**SMALL))


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"depth": -1}, {"patch": 1.5}, {"indicator": "token"}]
)
def test_sizes_that_no_net_has_are_refused(wrong):
    with pytest.raises(ValueError, match=f"^DiTConfig: {next(iter(wrong))} is "):
        DiTConfig(**(SMALL | wrong))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_view_is_returned(shape):
    """Split over devices by FSDP2 it may not be: a hook would be lost."""
    net = shaken(DiT(shape, DiTConfig(**SMALL)))
    assert not net(*arguments(shape))._is_view()
