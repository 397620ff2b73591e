"""The networks: sizes, the layout of the authors' released model, and what they start as."""

import re
from dataclasses import asdict

import pytest
import torch

from flowbind.draws import streams
from flowbind.nets.mlp import Drift, DriftConfig, Dropout, Head, HeadConfig
from tests.reference import nets as reference

FEATURES, WIDTH, DEPTH = 5, 16, 3
# Names of the authors' checkpoint from ours, in this order.
DRIFT_NAMES = {
    r"^time\.mlp\.": "time_embed.",
    r"^proj_in\.": "input_proj.",
    r"^proj_out\.": "out.",
    r"^blocks\.(\d+)\.modulation\.": r"res_blocks.\1.adaLN_modulation.1.",
    r"^blocks\.(\d+)\.mlp\.0\.": r"res_blocks.\1.mlp.fc1.",
    r"^blocks\.(\d+)\.mlp\.2\.": r"res_blocks.\1.mlp.fc2.",
}
HEAD_NAMES = {
    r"^layers\.(\d+)\.layers\.([0-2])\.": r"logvar.\1.in_layers.\2.",
    r"^layers\.(\d+)\.layers\.3\.": r"logvar.\1.out_layers.0.",
    r"^layers\.(\d+)\.layers\.6\.": r"logvar.\1.out_layers.3.",
    r"^layers\.": "logvar.",
}


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


def randomised(net, seed=0):
    """The net in float64 with every weight drawn anew: what starts at zero or one would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.double().parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
    return net


def renamed(net, names):
    weights = dict(net.named_parameters())
    for pattern, name in names.items():
        weights = {re.sub(pattern, name, key): value for key, value in weights.items()}
    return weights


def small_drift(depth=DEPTH):
    return randomised(Drift(FEATURES, width=WIDTH, depth=depth, ratio=4))


def small_head(depth=DEPTH):
    return randomised(Head(FEATURES, width=WIDTH, depth=depth, dropout=0.1)).eval()


def rows(count=6):
    """Latents, the last one small (there the norms' eps matters), and their times, both ends included."""
    x = torch.randn(
        count, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    x[-1:] *= 1e-3
    return x, torch.linspace(0, 1, count, dtype=torch.float64)


def test_sizes_at_the_papers_configuration():
    with torch.device("meta"):
        drift, head = (
            Drift(768, **asdict(DriftConfig())),
            Head(768, **asdict(HeadConfig())),
        )
    assert parameters(drift) == 178_684_032
    assert parameters(head) == 9_754_752


def test_the_drift_is_that_of_the_released_model():
    drift = small_drift()
    with torch.no_grad():  # a small input shows the eps of the norm
        drift.proj_in.weight.mul_(0.05)
        drift.proj_in.bias.zero_()
    weights = renamed(drift, DRIFT_NAMES)
    for x, t, v in zip(*rows(), drift(*rows()), strict=True):
        torch.testing.assert_close(
            v, reference.drift(weights, x, t.item(), DEPTH), rtol=1e-12, atol=1e-12
        )


def test_the_head_is_that_of_the_released_model():
    head = small_head()
    weights = renamed(head, HEAD_NAMES)
    for part in (
        "weight",
        "bias",
    ):  # the released one has as many outputs again, which are unused
        last = f"logvar.{DEPTH + 1}.{part}"
        weights[last] = torch.cat(
            [weights[last], torch.full_like(weights[last], torch.nan)]
        )
    x, _ = rows()
    for row, estimate in zip(x, head(x), strict=True):
        torch.testing.assert_close(
            estimate, reference.head(weights, row, DEPTH), rtol=1e-12, atol=1e-12
        )


def test_a_fresh_drift_is_linear_and_knows_no_time():
    torch.manual_seed(0)
    drift = Drift(FEATURES, width=WIDTH, depth=DEPTH).double()
    x, t = rows()
    linear = drift.proj_out(drift.proj_in(x))
    torch.testing.assert_close(drift(x, t), linear)
    torch.testing.assert_close(drift(x, 1 - t), linear)


def test_a_fresh_head_is_linear():
    torch.manual_seed(0)
    head = Head(FEATURES, width=WIDTH, depth=DEPTH).double()
    x, _ = rows()
    torch.testing.assert_close(head(x), head.layers[-1](head.layers[0](x)))


@pytest.mark.parametrize("net", [small_drift(), small_head()], ids=["drift", "head"])
def test_the_weights_are_all_there_is(net):
    """A net built without memory and then given weights is the same net: that is how released models are loaded."""
    arguments = rows()[: 2 if isinstance(net, Drift) else 1]
    with torch.device("meta"):
        other = type(net)(FEATURES, width=WIDTH, depth=DEPTH)
    other.load_state_dict(net.state_dict(), assign=True)
    assert torch.equal(other.to("cpu").eval()(*arguments), net(*arguments))


@pytest.mark.parametrize("net", [small_drift(), small_head()], ids=["drift", "head"])
def test_every_parameter_matters(net):
    arguments = rows()[: 2 if isinstance(net, Drift) else 1]
    gradients = torch.autograd.grad(
        net(*arguments).square().sum(), list(net.parameters())
    )
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


@pytest.mark.parametrize("net", [small_drift(), small_head()], ids=["drift", "head"])
def test_a_batch_of_one_equals_a_row_of_many(net):
    arguments = rows()[: 2 if isinstance(net, Drift) else 1]
    many = net(*arguments)
    for k in range(len(many)):
        torch.testing.assert_close(
            net(*(a[k : k + 1] for a in arguments)),
            many[k : k + 1],
            rtol=1e-12,
            atol=1e-12,
        )


@pytest.mark.parametrize("net", [small_drift(), small_head()], ids=["drift", "head"])
def test_zero_rows_give_zero_rows_and_zero_gradients(net):
    arguments = rows(0)[: 2 if isinstance(net, Drift) else 1]
    out = net(*arguments)
    assert out.shape == (0, FEATURES)
    # Raises if a parameter took no part.
    gradients = torch.autograd.grad(out.sum(), list(net.parameters()))
    assert not any(gradient.any() for gradient in gradients)


def test_dropout_is_the_heads_alone_and_only_in_training():
    torch.manual_seed(0)
    x, _ = rows()
    head, (one, other) = (
        small_head(),
        (streams(seed, torch.arange(len(x))) for seed in (0, 1)),
    )
    assert torch.equal(head(x, one), head(x))
    head.train()
    assert torch.equal(head(x, one), head(x, one))
    torch.testing.assert_close(
        head(x[1:2], one[1:2]), head(x, one)[1:2], rtol=1e-12, atol=1e-12
    )
    assert not torch.equal(head(x, one), head(x, other))
    assert not torch.equal(head(x, one), head(x))
    off = randomised(
        Head(FEATURES, width=WIDTH, depth=DEPTH, dropout=HeadConfig().dropout)
    ).train()
    assert torch.equal(off(x, one), off(x))
    assert not any(
        isinstance(module, Dropout)
        for module in Drift(FEATURES, width=WIDTH, depth=1).modules()
    )


@pytest.mark.parametrize("dropout", [-0.1, 1, 1.5, float("nan")])
def test_a_dropout_that_is_no_probability_is_refused(dropout):
    with pytest.raises(
        ValueError, match=r"^HeadConfig: dropout is a probability in \[0, 1\)"
    ):
        HeadConfig(dropout=dropout)


@pytest.mark.parametrize("net", [Drift, Head])
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_a_latent_that_is_no_vector_is_refused_in_one_line(net, shape):
    with pytest.raises(
        ValueError,
        match=rf"^the MLP nets take .* not of shape {re.escape(str(shape))}; .*$",
    ):
        net(*shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_in_is_precision_out(dtype):
    x, t = (values.to(dtype) for values in rows())
    assert small_drift().to(dtype)(x, t).dtype == dtype
    assert small_head().to(dtype)(x).dtype == dtype
