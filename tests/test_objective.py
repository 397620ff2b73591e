"""The objective equals its slow re-derivation from the equations, in all settings, for all structures of subsets."""

import itertools

import pytest
import torch
from torch import nn

from flowbind.batch import Batch
from flowbind.methods.flowbind.objective import Draws, ObjectiveConfig, losses
from tests.reference import objective as reference

NAMES = ("a", "b", "c", "d")
SUBSETS = [
    set(subset)
    for size in range(1, 5)
    for subset in itertools.combinations(NAMES, size)
]
WIDTH = 3
DEFAULT = {
    "times": "mixture",
    "alpha": 0.3,
    "endpoint": 0.3,
    "normalize": True,
    "noise_variance": 0.1,
    "head_dropout": 0.5,
    "leave_own_out": 0.75,
}
AUTHORS = {
    "times": "both",
    "normalize": False,
    "noise_variance": 10.0,
    "leave_own_out": 0.0,
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class SmallDrift(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH + 1, 4), nn.Linear(4, WIDTH)

    def forward(self, x, t):
        return self.outer(self.inner(torch.cat([x, t[:, None]], dim=1)).tanh())


class SmallHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, 4), nn.Linear(4, WIDTH)

    def forward(self, x, streams=None):
        return self.outer(self.inner(x).tanh())


def networks(seed=0):
    torch.manual_seed(seed)
    drifts, heads = (
        {name: kind() for name in NAMES} for kind in (SmallDrift, SmallHead)
    )
    return nn.ModuleDict(drifts).double(), nn.ModuleDict(heads).double()


def structured(subsets, seed=0, width=WIDTH):
    """One sample per subset, as the reference takes them and as a batch whose rows stand in a random order."""
    generator = torch.Generator().manual_seed(seed)
    samples = [
        {
            n: torch.randn(width, dtype=torch.float64, generator=generator)
            for n in sorted(s)
        }
        for s in subsets
    ]
    latents, owners = {}, {}
    for name in NAMES:
        having = [number for number, sample in enumerate(samples) if name in sample]
        order = [having[k] for k in torch.randperm(len(having), generator=generator)]
        owners[name] = torch.tensor(order, dtype=torch.long)
        latents[name] = (
            torch.stack([samples[k][name] for k in order])
            if order
            else torch.zeros(0, width).double()
        )
    return samples, Batch.of(latents, owners)


def by_row(batch, draws):
    """The draws of a batch as the reference takes them."""
    rows = [
        (sample, name)
        for name in batch.latents
        for sample in batch.samples[name].tolist()
    ]
    pairs = zip(
        batch.links.target.tolist(),
        batch.links.estimate.tolist(),
        draws.drop.tolist(),
        strict=True,
    )
    per_row = (
        dict(zip(rows, values.tolist(), strict=True))
        for values in (draws.leave, draws.uniform, draws.choice)
    )
    return reference.Randomness(
        {(rows[target], rows[estimate][1]): value for target, estimate, value in pairs},
        *per_row,
        dict(zip(rows, draws.noise, strict=True)),
    )


def check(subsets, settings, seed=0):
    samples, batch = structured(subsets, seed)
    draws = Draws.sample(batch, key=seed)
    drifts, heads = networks(seed)
    parameters = [*drifts.parameters(), *heads.parameters()]

    expected = reference.losses(
        drifts, heads, samples, by_row(batch, draws), reference.Settings(**settings)
    )
    expected_gradients = torch.autograd.grad(
        sum(expected.values()), parameters, materialize_grads=True
    )
    found = losses(drifts, heads, batch, draws, ObjectiveConfig(**settings))
    gradients = torch.autograd.grad(sum(found.values()), parameters)

    assert list(found) == list(NAMES)
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-13)
    for gradient, right in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("times", ["mixture", "both"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("leave_own_out", [0, 0.5, 1])
@pytest.mark.parametrize("head_dropout", [0, 0.5, 1])
@pytest.mark.parametrize("noise_variance", [0, 0.3])
def test_equals_the_reference_in_every_setting(
    times, normalize, leave_own_out, head_dropout, noise_variance
):
    settings = DEFAULT | {
        "times": times,
        "normalize": normalize,
        "leave_own_out": leave_own_out,
        "head_dropout": head_dropout,
        "noise_variance": noise_variance,
    }
    check(SUBSETS, settings, seed=1)


@pytest.mark.parametrize("times", ["mixture", "both"])
@pytest.mark.parametrize("alpha", [0, 0.3, 1])
@pytest.mark.parametrize("endpoint", [0, 0.3, 1])
def test_equals_the_reference_at_all_times(times, alpha, endpoint):
    check(
        SUBSETS,
        DEFAULT | {"times": times, "alpha": alpha, "endpoint": endpoint},
        seed=2,
    )


@pytest.mark.parametrize("first", range(len(SUBSETS)))
def test_equals_the_reference_for_every_two_subsets(first):
    for second in range(first, len(SUBSETS)):
        check([SUBSETS[first], SUBSETS[second]], DEFAULT, seed=15 * first + second)


STRUCTURES = {
    "singles": SUBSETS[:4] * 3,
    "pairs": SUBSETS[4:10] * 2,
    "three of the pairs": [{"a", "b"}, {"a", "c"}, {"b", "d"}] * 4,
    "triples": SUBSETS[10:14] * 3,
    "quadruples": SUBSETS[14:] * 6,
    "mixture": (SUBSETS * 2)[::-1],
    "a modality with no row": [{"a", "b"}, {"a"}, {"b", "d"}] * 3,
    "a modality with one row": [{"a", "b"}] * 5 + [{"b", "c", "d"}],
    "one row": [{"c"}],
}


@pytest.mark.parametrize("settings", [{}, AUTHORS], ids=["default", "authors"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_equals_the_reference_for_structures(structure, settings):
    check(STRUCTURES[structure], DEFAULT | settings, seed=3)


@pytest.mark.parametrize("present", [["a", "b"], ["d"], []])
def test_a_modality_without_rows_has_loss_zero_and_gradients_zero(present):
    _, batch = structured([{name} for name in present])
    drifts, heads = networks()
    found = losses(drifts, heads, batch, Draws.sample(batch, key=0), ObjectiveConfig())
    sum(found.values()).backward()
    for name in {*NAMES} - {*present}:
        assert found[name] == 0
        for parameter in [*drifts[name].parameters(), *heads[name].parameters()]:
            assert parameter.grad is not None
            assert not parameter.grad.any()


@pytest.mark.parametrize("times", ["mixture", "both"])
def test_heads_learn_only_at_time_zero(times):
    _, batch = structured(SUBSETS)
    drifts, heads = networks()
    draws = Draws.sample(batch, key=0)
    for alpha, learn in ((0.0, times == "both"), (1.0, True)):
        total = sum(
            losses(
                drifts, heads, batch, draws, ObjectiveConfig(times=times, alpha=alpha)
            ).values()
        )
        gradients = torch.autograd.grad(
            total, list(heads.parameters()), retain_graph=True
        )
        assert all(bool(g.any()) == learn for g in gradients)
        assert all(
            g.any() for g in torch.autograd.grad(total, list(drifts.parameters()))
        )


def test_both_is_the_sum_of_the_mixtures_without_and_with_only_time_zero():
    _, batch = structured(SUBSETS)
    drifts, heads = networks()
    draws = Draws.sample(batch, key=0)

    def found(**settings):
        return losses(drifts, heads, batch, draws, ObjectiveConfig(**settings))

    both, inside, zero = found(times="both"), found(alpha=0.0), found(alpha=1.0)
    for name in NAMES:
        torch.testing.assert_close(
            both[name], inside[name] + zero[name], rtol=1e-12, atol=0
        )


def test_latents_with_several_axes_are_treated_as_flat_ones():
    _, flat = structured(SUBSETS, width=6)
    shaped = Batch(
        {n: x.reshape(-1, 2, 3) for n, x in flat.latents.items()},
        flat.samples,
        flat.links,
    )
    draws = Draws.sample(flat, key=0)

    def head(x, streams):
        return (x + x**2).sin()

    def drift(x, t):
        return (x * t.reshape(-1, *[1] * (x.ndim - 1))).cos()

    drifts, heads = dict.fromkeys(NAMES, drift), dict.fromkeys(NAMES, head)
    for times in ("mixture", "both"):
        config = ObjectiveConfig(times=times)
        right = losses(drifts, heads, flat, draws, config)
        found = losses(
            drifts,
            heads,
            shaped,
            draws._replace(noise=draws.noise.reshape(-1, 2, 3)),
            config,
        )
        for name in NAMES:
            torch.testing.assert_close(found[name], right[name])


def test_outputs_in_low_precision_are_only_rounded():
    """Means, noise and errors are in the latents' own precision."""
    _, batch = structured(SUBSETS)
    draws = Draws.sample(batch, key=0)

    def found(after):
        heads = dict.fromkeys(NAMES, lambda x, streams: after((3 * x).bfloat16()))
        drifts = dict.fromkeys(NAMES, lambda x, t: after(x.bfloat16()))
        return losses(drifts, heads, batch, draws, ObjectiveConfig())

    for low, high in zip(
        found(lambda x: x).values(), found(torch.Tensor.double).values(), strict=True
    ):
        assert low.dtype == torch.float64
        assert low == high


def test_a_seed_decides_the_draws():
    _, batch = structured(SUBSETS)
    first, again, other = (Draws.sample(batch, key=seed) for seed in (0, 0, 1))
    rows, links = sum(batch.rows), len(batch.links.target)
    shapes = {
        "drop": (links,),
        "leave": (rows,),
        "uniform": (rows,),
        "choice": (rows,),
        "noise": (rows, WIDTH),
    }
    for name, shape in shapes.items():
        assert getattr(first, name).shape == shape
        assert getattr(first, name).dtype == (
            torch.float64 if name == "noise" else torch.float32
        )
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_draws_are_independent_with_the_laws_they_claim():
    _, batch = structured([{"a", "b", "c"}] * 4000)
    draws = Draws.sample(batch, key=0)
    rows = sum(batch.rows)
    uniforms = torch.stack(
        [draws.drop[:rows], draws.leave, draws.uniform, draws.choice]
    ).double()
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    # All with mean 0 and variance 1.
    normals = torch.cat([(uniforms - 0.5) * 12**0.5, draws.noise.T])
    torch.testing.assert_close(
        normals.mean(dim=1),
        torch.zeros(len(normals)).double(),
        rtol=0,
        atol=5 / rows**0.5,
    )
    torch.testing.assert_close(
        torch.cov(normals), torch.eye(len(normals)).double(), rtol=0, atol=8 / rows**0.5
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", -0.1),
        ("endpoint", 1.1),
        ("head_dropout", 2),
        ("leave_own_out", float("nan")),
        ("noise_variance", -1),
    ],
)
def test_a_setting_out_of_range_is_refused_in_one_line(name, value):
    with pytest.raises(ValueError, match=rf"^{name} .*, not {value}$"):
        ObjectiveConfig(**{name: value})
