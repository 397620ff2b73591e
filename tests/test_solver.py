"""Solvers against closed forms, in both directions."""

import math

import pytest
import torch

from flowbind.flow.solver import SOLVERS, integrate

# Order, which is also the number of drift calls a step.
FIXED = {
    "euler": 1,
    "midpoint": 2,
    "heun2": 2,
    "heun3": 3,
    "rk4": 4,
}
BOTH_WAYS = pytest.mark.parametrize(
    ("start", "stop"), [(0.0, 1.0), (1.0, 0.0), (0.1, 0.7)]
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Recorded:
    """A drift that remembers the times it was called at, one list a row, and that they were right for its rows."""

    def __init__(self, drift):
        self.drift = drift
        self.calls = []

    def __call__(self, x, t):
        assert t.shape == (len(x),)
        assert t.dtype == x.dtype
        self.calls.append(t.tolist())
        return self.drift(x, t)

    @property
    def times(self):
        """Of each call, where all rows are at one time."""
        assert all(len(set(call)) == 1 for call in self.calls)
        return [call[0] for call in self.calls]


def logistic(x, t):
    """dx/dt = 2 x (1 - x) cos(t), so logit(x) - 2 sin(t) is constant."""
    return 2 * x * (1 - x) * t[:, None].cos()


def logistic_solution(x, start, stop):
    return torch.special.expit(
        torch.special.logit(x) + 2 * (math.sin(stop) - math.sin(start))
    )


def states(rows=3):
    return torch.linspace(0.1, 0.9, 2 * rows, dtype=torch.float64).reshape(rows, 2)


@BOTH_WAYS
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("solver", FIXED)
@pytest.mark.parametrize("shape", [(1, 3), (4, 3), (4, 2, 3)])
def test_a_straight_field_is_exact_in_any_number_of_steps(
    shape, solver, steps, start, stop
):
    x, velocity = torch.randn(2, *shape, dtype=torch.float64)
    found = integrate(lambda x, t: velocity, x, start, stop, steps=steps, solver=solver)
    torch.testing.assert_close(
        found, x + (stop - start) * velocity, rtol=1e-14, atol=1e-14
    )


@BOTH_WAYS
@pytest.mark.parametrize("solver", FIXED)
def test_observed_order(solver, start, stop):
    x, steps = states(), 20
    exact = logistic_solution(x, start, stop)
    coarse, fine = (
        (integrate(logistic, x, start, stop, steps=k, solver=solver) - exact)
        .abs()
        .max()
        for k in (steps, 2 * steps)
    )
    assert abs(math.log2(coarse / fine) - FIXED[solver]) < 0.15


@BOTH_WAYS
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
def test_dopri5_is_within_tolerance_of_the_matrix_exponential(tolerance, start, stop):
    matrix = torch.tensor(
        [[-0.5, 3.0, 0.0], [-3.0, -0.5, 1.0], [0.0, 0.5, 1.0]], dtype=torch.float64
    )
    x = torch.randn(
        4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    exact = x @ torch.matrix_exp((stop - start) * matrix)
    found = integrate(
        lambda x, t: x @ matrix, x, start, stop, solver="dopri5", tolerance=tolerance
    )
    error = (found - exact).abs().max()
    # The tolerance is a step's; errors of some ten steps add up.
    assert error < 20 * tolerance
    # And it does not work for nothing.
    assert tolerance == 1e-10 or error > 1e-3 * tolerance


@pytest.mark.parametrize(
    ("solver", "steps", "tolerance"),
    [
        ("euler", 200, 2e-2),
        ("midpoint", 100, 1e-4),
        ("heun2", 100, 1e-4),
        ("heun3", 40, 1e-4),
        ("rk4", 20, 1e-5),
        ("dopri5", 1, 1e-4),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back(dtype, solver, steps, tolerance):
    x = states().to(dtype)
    there = integrate(logistic, x, start=1, stop=0, steps=steps, solver=solver)
    back = integrate(logistic, there, start=0, stop=1, steps=steps, solver=solver)
    assert back.dtype == dtype
    assert (there - x).abs().max() > 0.1
    torch.testing.assert_close(back, x, rtol=0, atol=tolerance)


@BOTH_WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 7, 10])
@pytest.mark.parametrize("solver", FIXED)
def test_calls_and_times_of_the_fixed_methods(solver, steps, dtype, start, stop):
    drift = Recorded(logistic)
    integrate(drift, states().to(dtype), start, stop, steps=steps, solver=solver)
    step = (stop - start) / steps
    within = {
        "euler": [0],
        "midpoint": [0, 0.5],
        "heun2": [0, 1],
        "heun3": [0, 1 / 3, 2 / 3],
        "rk4": [0, 1 / 3, 2 / 3, 1],
    }[solver]
    expected = [start + (k + part) * step for k in range(steps) for part in within]
    assert drift.times == pytest.approx(
        expected, abs=1e-12 if dtype == torch.float64 else 1e-7
    )


@BOTH_WAYS
def test_dopri5_calls_the_drift_nowhere_beyond_the_ends(start, stop):
    drift = Recorded(lambda x, t: -x * (1 + t[:, None]))
    found = integrate(drift, states(), start, stop, solver="dopri5")
    assert min(start, stop) <= min(min(call) for call in drift.calls)
    assert max(max(call) for call in drift.calls) <= max(start, stop)
    torch.testing.assert_close(
        found,
        states() * math.exp(start + start**2 / 2 - stop - stop**2 / 2),
        rtol=1e-4,
        atol=0,
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_row_does_not_depend_on_the_others(solver):
    """Also where rows need steps of very different sizes: here their speeds differ by a factor of 50."""
    x, speed = (
        torch.randn(6, 2, dtype=torch.float64),
        torch.linspace(1, 50, 6, dtype=torch.float64),
    )

    def turning(x, t, speed):
        return (
            speed[:, None] * torch.stack([-x[:, 1], x[:, 0]], dim=1) * (1 + t[:, None])
        )

    together = integrate(
        lambda x, t: turning(x, t, speed), x, 0, 1, solver=solver, tolerance=1e-6
    )
    for k in range(len(x)):
        alone = integrate(
            lambda x, t, k=k: turning(x, t, speed[k : k + 1]),
            x[k : k + 1],
            0,
            1,
            solver=solver,
            tolerance=1e-6,
        )
        torch.testing.assert_close(
            alone,
            together[k : k + 1],
            rtol=0,
            atol=1e-14 * max(1, together.abs().max().item()),
        )


def test_a_row_of_dopri5_takes_the_steps_that_it_needs():
    """A still row and a fast one: the still row's times reach the end after a few steps."""
    speed = torch.tensor([[0.0], [30.0]], dtype=torch.float64)
    drift = Recorded(
        lambda x, t: speed[: len(x)] * (speed[: len(x)] * t[:, None]).cos()
    )
    integrate(drift, torch.zeros(2, 1, dtype=torch.float64), 0, 1, solver="dopri5")
    still, fast = zip(*drift.calls, strict=True)
    assert len(set(still)) < 40
    assert len(set(fast)) > 2 * len(set(still))


@BOTH_WAYS
@pytest.mark.parametrize("solver", FIXED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fixed_steps_are_torchdiffeq_s_to_the_bit(dtype, solver, start, stop):
    from torchdiffeq import odeint

    x = torch.randn(3, 5, dtype=dtype)
    matrix = torch.randn(5, 5, dtype=dtype)

    def drift(x, t):
        return (x @ matrix * t[:, None].cos()).tanh()

    grid = torch.linspace(start, stop, 8, dtype=torch.float64)
    theirs = odeint(
        lambda t, y: drift(y, t.to(dtype).expand(len(y))),
        x,
        grid[[0, -1]],
        method=solver,
        options={"grid_constructor": lambda *_: grid},
    )
    ours = integrate(drift, x, start, stop, steps=7, solver=solver)
    assert torch.equal(ours, theirs[-1])


def test_dopri5_agrees_with_an_independent_implementation():
    """torchdiffeq's, of each row alone."""
    from torchdiffeq import odeint

    x, ends = states(4), torch.tensor([0.2, 0.9], dtype=torch.float64)
    ours = integrate(logistic, 4 * x, 0.2, 0.9, solver="dopri5", tolerance=1e-9)
    for k in range(len(x)):
        theirs = odeint(
            lambda t, y: logistic(y, t.expand(1)),
            4 * x[k : k + 1],
            ends,
            method="dopri5",
            rtol=1e-9,
            atol=1e-9,
        )
        torch.testing.assert_close(ours[k : k + 1], theirs[-1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_overflows_leaves_the_others_alone(bad):
    def drift(x, t):
        # 1 / x falls at rate 1: 0.9 explodes at t = 1.11, 1.2 before 1.
        return torch.where(x > 5, bad, x.square())

    x = torch.tensor([[0.5], [1.2], [0.25]], dtype=torch.float64)
    found = integrate(drift, x, 0, 1, solver="dopri5")
    assert found.isfinite().flatten().tolist() == [True, False, True]
    torch.testing.assert_close(found[::2], 1 / (1 / x[::2] - 1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_rows_need_no_drift(solver):
    x = torch.zeros(0, 3)
    assert integrate(
        lambda x, t: pytest.fail("called"), x, 0, 1, solver=solver
    ).shape == (0, 3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradients_pass_through(solver):
    x = states()[:1].clone().requires_grad_()
    integrate(
        logistic, x, 0, 1, steps=50, solver=solver, tolerance=1e-8
    ).sum().backward()
    y = states()[:1].clone().requires_grad_()
    logistic_solution(y, 0, 1).sum().backward()
    torch.testing.assert_close(
        x.grad, y.grad, rtol=0.05 if solver == "euler" else 1e-3, atol=0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"solver": "heun"},
            "no solver 'heun'; allowed: euler, midpoint, heun2, heun3, rk4, dopri5",
        ),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"steps": -2, "solver": "dopri5"}, "steps must be at least 1, not -2"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        integrate(logistic, states(), 0, 1, **arguments)
