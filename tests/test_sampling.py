"""FlowBind's draws: one step inward is the regression E[z | x], then fresh noise, then the flow outward.

A world where all is known: x_j = c_j m + s_j n_j with independent standard normal m and n_j, and
z = m + sqrt(v) e. Then E[z | x_j] and the exact drifts are linear, and so is what is drawn.
"""

import pytest
import torch
from torch import nn

from flowbind.methods.flowbind.fusion import normalize
from flowbind.methods.flowbind.method import FlowBind
from flowbind.methods.flowbind.objective import ObjectiveConfig
from flowbind.nets.mlp import DriftConfig, HeadConfig
from tests.toy import Vector, Word

ROWS, WIDTH = 20_000, 3
NOISE = 0.6  # v
SHARE = {"word": (0.8, 0.6), "vector": (0.6, 0.8)}  # c_j, s_j: variance 1 each


class ExactDrift(nn.Module):
    """E[x - z | x_t] of jointly normal x and z with covariance c, variances 1 and 1 + v."""

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = c
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t):
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        end, start, both = t, 1 - t, self.c
        variance = end**2 + start**2 * (1 + NOISE) + 2 * end * start * both
        of_velocity = end - start * (1 + NOISE) + (start - end) * both
        return of_velocity / variance * x


@pytest.fixture
def nets():
    flows = nn.Module()
    flows.drifts = nn.ModuleDict(
        {name: ExactDrift(c) for name, (c, _) in SHARE.items()}
    )
    return flows


def method(normalize: bool = False) -> FlowBind:
    modalities = {"word": Word(), "vector": Vector()}
    objective = ObjectiveConfig(normalize=normalize, noise_variance=NOISE)
    return FlowBind(
        modalities,
        DriftConfig(width=8, depth=0),
        HeadConfig(width=8, depth=0),
        objective,
    )


def world():
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=generator)
    x = {}
    for name, (c, s) in SHARE.items():
        own = torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=generator)
        x[name] = c * m + s * own
    return m, x


def streams(seed):
    return torch.arange(ROWS) + ROWS * seed


@pytest.mark.parametrize("solver", ["euler", "midpoint", "rk4", "dopri5"])
def test_one_step_inward_is_the_regression(nets, solver):
    flowbind = method()
    _, x = world()
    sampling = flowbind.choose(source_steps=1, solver=solver)
    for name, (c, _) in SHARE.items():
        z = flowbind.start(nets, name, x[name], sampling, streams(0))
        torch.testing.assert_close(z, c * x[name], rtol=1e-12, atol=1e-12)


def test_what_is_drawn_has_the_variance_of_the_data_and_its_meaning(nets):
    """Var(x) is 1, and the covariance with the source is that of E[z | x_j] and the target's flow."""
    flowbind = method()
    _, x = world()
    sampling = flowbind.choose(steps=200)
    z = flowbind.start(nets, "word", x["word"], sampling, streams(0))
    state = flowbind.fuse([z], sampling, streams(1))

    # z has variance c^2 + v, the flow's start has 1 + v: what m the source leaves open is missing.
    c, _ = SHARE["word"]
    share = (c**2 + NOISE) / (1 + NOISE)
    drawn = flowbind.finish(nets, state, ["vector"], sampling, streams(2))["vector"]
    assert drawn.var().item() == pytest.approx(share, abs=0.02)

    means = flowbind.choose(sampling, variety=0.0)
    without = flowbind.finish(
        nets, flowbind.fuse([z], means, streams(1)), ["vector"], means, streams(2)
    )["vector"]
    assert without.var().item() == pytest.approx(c**2 / (1 + NOISE), abs=0.02)
    # Noise adds to the mean, and takes nothing from it.
    covariance = (drawn * without).mean() / without.square().mean()
    assert covariance.item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("sources", [["word"], ["word", "vector"]])
def test_fresh_noise_has_the_level_of_training_whatever_the_number_of_sources(
    nets, sources
):
    flowbind = method()
    _, x = world()
    for variety in (0.0, 0.5, 1.0):
        sampling = flowbind.choose(variety=variety)
        states = [
            flowbind.start(nets, name, x[name], sampling, streams(0))
            for name in sources
        ]
        mean = torch.stack(states).mean(0)
        noise = flowbind.fuse(states, sampling, streams(1)) - mean
        expected = variety**2 * NOISE
        assert noise.var().item() == pytest.approx(expected, rel=0.03, abs=1e-12)


def test_noise_follows_the_streams_alone(nets):
    flowbind = method()
    _, x = world()
    sampling = flowbind.choose()
    z = flowbind.start(nets, "word", x["word"], sampling, streams(0))
    first = flowbind.fuse([z], sampling, streams(1))
    assert torch.equal(first, flowbind.fuse([z], sampling, streams(1)))
    other = flowbind.fuse([z], sampling, streams(2))
    correlation = ((first - z) * (other - z)).mean() / NOISE
    assert abs(correlation.item()) < 0.02


def test_the_regression_goes_back_to_the_sphere_of_means(nets):
    flowbind = method(normalize=True)
    _, x = world()
    sampling = flowbind.choose(variety=0.0)
    z = flowbind.start(nets, "word", x["word"], sampling, streams(0))
    state = flowbind.fuse([z], sampling, streams(1))
    assert torch.equal(state, normalize(z))
    back = flowbind.choose(sampling, source_steps=None)
    assert torch.equal(flowbind.fuse([z], back, streams(1)), z)  # as the authors do
