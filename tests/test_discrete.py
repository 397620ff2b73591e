"""Discrete flow matching on state spaces small enough to enumerate, in float64."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from flowbind import draws
from flowbind.flow.discrete import (
    LAST,
    STEPS,
    Mask,
    Scheduler,
    Uniform,
    bound,
    corrupt,
    cross_entropy,
    divergence,
    draw,
    generalised_kl,
    rates,
)

SOURCES = {"mask": Mask, "uniform": Uniform}
TIMES = [0.05, 0.3, 0.7, 0.95]


class World:
    """Sequences of L ids below V with drawn probabilities, and their path, by enumeration."""

    def __init__(self, source, vocabulary=3, length=2, degree=1.0, seed=0):
        self.source = SOURCES[source](vocabulary)
        self.scheduler = Scheduler(degree)
        self.length = length
        self.data = enumerate_sequences(vocabulary, length)
        self.states = enumerate_sequences(self.source.states, length)

        generator = torch.Generator().manual_seed(seed)
        weights = torch.rand(len(self.data), generator=generator, dtype=torch.float64)
        self.p_1 = weights / weights.sum()
        ids = torch.arange(self.source.states)
        is_noise = ids == vocabulary if source == "mask" else ids >= 0
        self.p_0 = is_noise.double() / is_noise.sum()

    def conditional(self, k):
        """p(x | x_1) of every data and state, with shape (data, states)."""
        return self.path(self.states, k)

    def path(self, x, k):
        """p(x | x_1) of every data, with shape (data, n), of states with shape (n, L)."""
        same = (self.data[:, None] == x[None]).double()
        return (k * same + (1 - k) * self.p_0[x]).prod(-1)

    def marginal(self, k):
        """p(x) of every state, with shape (states,)."""
        return self.p_1 @ self.conditional(k)

    def posterior(self, k):
        """q^i(j | x) of every state, with shape (states, L, V); even where there is none."""
        return self.posterior_at(self.states, k)

    def posterior_at(self, x, k):
        """The same of some states, each at a share of its own, with shape (n, 1)."""
        joint = self.p_1[:, None] * self.path(x, k)
        one_hot = torch.nn.functional.one_hot(self.data, self.source.vocabulary)
        q = torch.einsum("dx,div->xiv", joint, one_hot.double())
        total = joint.sum(0)[:, None, None]
        even = torch.full_like(q, 1 / self.source.vocabulary)
        return torch.where(total > 0, q / total, even)

    def number(self, x):
        """The number of each state, sequences with shape (n, L)."""
        powers = self.source.states ** torch.arange(self.length).flip(0)
        return (x * powers).sum(-1)

    def logits(self, x, t):
        """The true logits, each row at a time of its own."""
        return safe_log(self.posterior_at(x, self.scheduler.k(t.double())[:, None]))

    def generator(self, q, r):
        """The matrix A of dp/dt = A p, of rates by a posterior with shape (states, L, S)."""
        u = rates(
            q, self.states, torch.full((len(self.states),), r, dtype=torch.float64)
        )
        matrix = torch.zeros(len(self.states), len(self.states)).double()
        for y, state in enumerate(self.states):
            for i in range(self.length):
                for j in range(self.source.states):
                    after = state.clone()
                    after[i] = j
                    matrix[self.number(after), y] += u[y, i, j]
        return matrix


def enumerate_sequences(ids, length):
    return torch.tensor(list(product(range(ids), repeat=length)))


def derivative(function, t):
    """d/dt of a function of a time, to rounding."""
    t = torch.as_tensor(t, dtype=torch.float64)
    return torch.autograd.functional.jacobian(function, t)


WORLDS = [(source, degree) for source in SOURCES for degree in (1.0, 2.0, 3.0)]


@pytest.mark.parametrize(("source", "degree"), WORLDS)
@pytest.mark.parametrize("t", TIMES)
def test_rates_satisfy_the_forward_equation(source, degree, t):
    world = World(source, degree=degree)
    moved = derivative(lambda t: world.marginal(world.scheduler.k(t)), t)
    time = torch.tensor(t, dtype=torch.float64)
    k, r = world.scheduler.k(time), world.scheduler.rate(time)
    logits = safe_log(world.posterior(k))
    q = world.source.posterior(logits, world.states)
    flow = world.generator(q, r.item()) @ world.marginal(k)
    assert (flow - moved).abs().max() < 1e-10
    off = world.generator(q.flip(-1), r.item()) @ world.marginal(k)
    assert (off - moved).abs().max() > 1e-4


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("t", TIMES)
def test_rates_towards_one_datum_satisfy_it_too(source, t):
    world = World(source, degree=2.0)
    time = torch.tensor(t, dtype=torch.float64)
    r = world.scheduler.rate(time).item()
    for datum in range(len(world.data)):
        moved = derivative(lambda t, d=datum: world.conditional(t**2)[d], t)
        target = world.data[datum].expand(len(world.states), -1)
        q = torch.nn.functional.one_hot(target, world.source.states).double()
        flow = world.generator(q, r) @ world.conditional(time**2)[datum]
        assert (flow - moved).abs().max() < 1e-10


@pytest.mark.parametrize("sources", [("mask", "mask"), ("mask", "uniform")])
@pytest.mark.parametrize("degrees", [(1.0, 1.0), (1.0, 3.0)])
def test_rates_of_two_sides_satisfy_it_together(sources, degrees):
    """Each side has noise and times of its own; its rates see the states of both, and add up."""
    first, second = (
        World(source, vocabulary=v, length=1, degree=degree)
        for source, v, degree in zip(sources, (3, 4), degrees, strict=True)
    )
    generator = torch.Generator().manual_seed(3)
    joint = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    joint /= joint.sum()

    def marginal(t):
        left = first.conditional(first.scheduler.k(t))
        right = second.conditional(second.scheduler.k(t))
        return torch.einsum("ab,ax,by->xy", joint, left, right)

    for t in TIMES:
        moved = derivative(marginal, t)
        time = torch.tensor(t, dtype=torch.float64)
        left = first.conditional(first.scheduler.k(time))
        right = second.conditional(second.scheduler.k(time))
        p = marginal(time)

        # Posteriors of either side's data, given both states, (first states, second states, V).
        of_first = torch.einsum("ab,ax,by->xya", joint, left, right) / p[..., None]
        of_second = torch.einsum("ab,ax,by->xyb", joint, left, right) / p[..., None]
        flow = torch.zeros_like(p)
        for y in range(p.shape[1]):
            q = first.source.posterior(safe_log(of_first[:, y, None]), first.states)
            r = first.scheduler.rate(time).item()
            flow[:, y] += first.generator(q, r) @ p[:, y]
        for x in range(p.shape[0]):
            q = second.source.posterior(safe_log(of_second[x, :, None]), second.states)
            r = second.scheduler.rate(time).item()
            flow[x] += second.generator(q, r) @ p[x]
        assert (flow - moved).abs().max() < 1e-10


def safe_log(q):
    return q.clamp(min=1e-300).log()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("degree", [1.0, 2.0])
def test_a_continuous_and_a_discrete_side_satisfy_it_together(source, degree):
    """d/dt p(x, c) = -d/dx (v p) + sum_y u(c, y) p(x, y), at points of the plane of x and t.

    A datum is a number m and an id a; x_t = (1 - t) z + t m with z normal, so p is in closed form.
    """
    world = World(source, vocabulary=3, length=1, degree=degree, seed=5)
    means = torch.tensor([-1.5, 0.4, 2.0]).double()
    weights = torch.tensor(
        [[0.2, 0.1, 0.05], [0.05, 0.25, 0.1], [0.05, 0.0, 0.2]]
    ).double()  # of the number (rows) and the id

    def joint(x, t):
        """p(x, c, m, a), with shape (m, a, states)."""
        normal = torch.exp(-(((x - t * means) / (1 - t)) ** 2) / 2)
        normal = normal / (1 - t) / math.sqrt(2 * math.pi)
        ids = world.conditional(world.scheduler.k(t))
        return weights[..., None] * normal[:, None, None] * ids

    def density(x, t):
        return joint(x, t).sum((0, 1))

    def current(x, t):
        """v p: the velocity (m - x) / (1 - t) in the mean over the posterior, times p."""
        velocity = (means - x) / (1 - t)
        return (joint(x, t) * velocity[:, None, None]).sum((0, 1))

    for place, time in product([-1.0, 0.1, 1.3], [0.1, 0.5, 0.8]):
        x = torch.tensor(place, dtype=torch.float64)
        t = torch.tensor(time, dtype=torch.float64)
        moved = derivative(partial(density, x), t)
        transported = derivative(partial(current, t=t), x)

        q = joint(x, t).sum(0) / density(x, t)
        q = world.source.posterior(safe_log(q.T[:, None]), world.states)
        jumped = world.generator(q, world.scheduler.rate(t).item()) @ density(x, t)
        assert (moved - (jumped - transported)).abs().max() < 1e-10
        assert (moved + transported).abs().max() > 1e-4


# Steps


def simulate(world, step, steps, rows, seed, stop=1.0):
    """States at a time, of chains that begin in noise."""
    streams = draws.streams(draws.key(seed), torch.arange(rows))
    noise = draws.uniform(draws.fork(streams, 0), world.length)
    x = world.source.start(noise)
    times = torch.linspace(0, stop, steps + 1, dtype=torch.float64)
    for number in range(steps):
        start, end = times[number].expand(rows), times[number + 1].expand(rows)
        of_step = draws.fork(streams, number + 1)
        x = STEPS[step](
            world.logits, x, start, end, world.scheduler, world.source, of_step
        )
    return x


def chi_square(world, x, probabilities):
    """The p-value of states being drawn from probabilities."""
    counts = torch.bincount(world.number(x), minlength=len(probabilities)).double()
    possible = probabilities > 1e-12
    assert not counts[~possible].any()
    expected = probabilities[possible] / probabilities[possible].sum() * len(x)
    return stats.chisquare(counts[possible].numpy(), expected.numpy()).pvalue


CHAINS = {  # how many steps a chain needs until what they leave out cannot be seen
    ("mask", "jump"): 2,
    ("mask", "euler"): 100,
    ("uniform", "jump"): 40,
    ("uniform", "euler"): 100,
}


@pytest.mark.parametrize(("source", "step"), CHAINS)
@pytest.mark.parametrize("stop", [0.5, 1.0])
def test_chains_have_the_path_s_marginals(source, step, stop):
    world = World(source, degree=2.0)
    steps = CHAINS[source, step]
    x = simulate(world, step, steps, rows=10_000, seed=1, stop=stop)
    probabilities = world.marginal(world.scheduler.k(torch.tensor(stop).double()))
    assert chi_square(world, x, probabilities) > 0.01


def test_a_wrong_posterior_is_seen():
    world = World("mask", degree=2.0)
    wrong = World("mask", degree=2.0, seed=1)
    x = simulate(wrong, "jump", 2, rows=10_000, seed=1)
    assert chi_square(world, x, world.marginal(torch.tensor(1.0))) < 1e-6


def test_one_step_by_jumps_is_exact_with_a_mask_and_an_euler_step_is_not():
    """Drawn at once, tokens do not know of one another."""
    world = World("mask", length=3, vocabulary=2)
    probabilities = world.marginal(torch.tensor(1.0).double())
    one_by_one = simulate(world, "jump", 1, rows=10_000, seed=2)
    assert chi_square(world, one_by_one, probabilities) > 0.01
    at_once = simulate(world, "euler", 1, rows=10_000, seed=2)
    assert chi_square(world, at_once, probabilities) < 1e-6


@pytest.mark.parametrize("source", SOURCES)
def test_both_kinds_of_steps_agree_in_law(source):
    world = World(source, degree=1.0, seed=4)
    counts = []
    for step in STEPS:
        x = simulate(world, step, 60, rows=8_000, seed=3, stop=0.9)
        counts.append(np.bincount(world.number(x), minlength=len(world.states)))
    counts = np.array(counts)
    counts = counts[:, counts.sum(0) > 0]
    assert stats.chi2_contingency(counts).pvalue > 0.01


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("source", SOURCES)
def test_the_last_step_is_exact(source, step):
    """Whatever the state, it ends in a draw of the posterior: here one that is certain."""
    world = World(source, vocabulary=5, length=4)
    rows = 64
    data = torch.randint(5, (rows, 4), generator=torch.Generator().manual_seed(0))
    streams = draws.streams(1, torch.arange(rows))
    x = world.source.start(draws.uniform(streams, 4))

    def certain(x, t):
        return 1e3 * torch.nn.functional.one_hot(data, 5).double()

    for start in (0.0, 0.5, 1 - 1e-9):
        begin = torch.full((rows,), start, dtype=torch.float64)
        end = torch.ones(rows)
        y = STEPS[step](certain, x, begin, end, world.scheduler, world.source, streams)
        assert torch.equal(y, data)


@pytest.mark.parametrize("step", STEPS)
def test_a_row_is_the_same_alone_and_among_others(step):
    world = World("uniform", vocabulary=5, length=4)
    streams = draws.streams(1, torch.arange(8))
    x = world.source.start(draws.uniform(streams, 4))

    def logits(x, t):
        return torch.nn.functional.one_hot(x.flip(1), 5).double() + t[:, None, None]

    def after(rows):
        start = torch.full((len(x[rows]),), 0.2)
        stop = torch.full((len(x[rows]),), 0.7)
        how = world.scheduler, world.source, streams[rows]
        return STEPS[step](logits, x[rows], start, stop, *how)

    together = after(slice(None))
    assert not torch.equal(together, x)
    for row in range(8):
        assert torch.equal(after(slice(row, row + 1))[0], together[row])


def test_a_mask_asks_once_for_each_token_and_euler_once():
    world = World("mask", length=6, vocabulary=2)
    calls = []

    def logits(x, t):
        calls.append(t)
        return torch.zeros(*x.shape, 2).double()

    x = torch.full((3, 6), 2)
    start, stop = torch.zeros(3), torch.ones(3)
    how = world.scheduler, world.source, draws.streams(0, torch.arange(3))
    for step, expected in (("jump", 6), ("euler", 1)):
        calls.clear()
        assert (STEPS[step](logits, x, start, stop, *how) < 2).all()
        assert len(calls) == expected
        times = torch.stack(calls)
        assert (times.diff(dim=0) >= 0).all()


def test_draws_have_their_probabilities():
    q = torch.tensor([0.0, 0.3, 0.0, 0.6, 0.1, 0.0])
    streams = draws.streams(2, torch.arange(20_000))
    uniform = draws.uniform(streams, 1)[:, 0]
    ids = draw(q.expand(20_000, 6), uniform)
    counts = torch.bincount(ids, minlength=6)
    assert not counts[q == 0].any()
    expected = 20_000 * q[q > 0]
    assert stats.chisquare(counts[q > 0], expected * counts.sum() / expected.sum())[1]
    ends = draw(q.expand(2, 6), torch.tensor([0.0, 1 - 2.0**-24]))
    assert ends.tolist() == [1, 4]


# Path and scheduler


@pytest.mark.parametrize("source", SOURCES)
def test_the_path_has_its_marginals(source):
    world = World(source, vocabulary=4, length=1)
    rows = 20_000
    streams = draws.streams(3, torch.arange(rows))
    x_1 = torch.full((rows, 1), 2)
    uniform = draws.uniform(streams, 1, 2)
    x_t = corrupt(x_1, torch.full((rows,), 0.3), uniform, world.source)
    assert chi_square(world, x_t, world.conditional(0.3)[2]) > 0.01
    at_once = corrupt(x_1, torch.ones(rows), uniform, world.source)
    assert torch.equal(at_once, x_1)
    noise = corrupt(x_1, torch.zeros(rows), uniform, world.source)
    assert torch.equal(noise, world.source.start(uniform[..., 1]))


@pytest.mark.parametrize("degree", [1.0, 2.0, 2.5])
def test_a_scheduler_agrees_with_itself(degree):
    scheduler = Scheduler(degree)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(scheduler.time(scheduler.k(t)), t)
    inner = t[1:-1]
    slope = torch.stack([derivative(scheduler.k, time) for time in inner])
    torch.testing.assert_close(scheduler.rate(inner), slope / (1 - scheduler.k(inner)))
    assert (scheduler.probability(inner, torch.ones_like(inner)) == 1).all()
    middle = (inner + 1) / 2
    waits = 1 - scheduler.probability(inner, middle)
    again = 1 - scheduler.probability(middle, (middle + 1) / 2)
    both = 1 - scheduler.probability(inner, (middle + 1) / 2)
    torch.testing.assert_close(waits * again, both)
    # The next time is after t', where the wait's draw is as large as its probability says.
    edge = scheduler.next_time(inner, scheduler.probability(inner, middle))
    torch.testing.assert_close(edge, middle)


def test_a_degree_below_1_is_refused():
    with pytest.raises(ValueError, match=r"^degree must be a number, at least 1"):
        Scheduler(0.5)


# Losses


@pytest.mark.parametrize("source", SOURCES)
def test_the_generalised_divergence_vanishes_exactly_at_the_truth(source):
    world = World(source)
    k = torch.tensor(0.4).double()
    q = world.source.posterior(safe_log(world.posterior(k)), world.states)
    r = torch.full((len(world.states),), 1.7).double()
    true = rates(q, world.states, r)
    assert not divergence(true, true, world.states).any()
    wrong = world.source.posterior(
        safe_log(World(source, seed=1).posterior(k)), world.states
    )
    errors = divergence(true, rates(wrong, world.states, r), world.states)
    may_jump = world.source.moves(world.states)
    assert (errors[may_jump] > 1e-6).all()
    assert (errors >= -1e-15).all()
    assert not errors[~may_jump].any()


@pytest.mark.parametrize("source", SOURCES)
def test_the_loss_is_the_divergence_of_the_rates_towards_the_data(source):
    world = World(source, vocabulary=4)
    generator = torch.Generator().manual_seed(0)
    rows = 50
    x_1 = torch.randint(4, (rows, 2), generator=generator)
    uniform = torch.rand(rows, 2, 2, generator=generator)
    x_t = corrupt(x_1, torch.full((rows,), 0.5), uniform, world.source)
    logits = torch.randn(rows, 2, 4, generator=generator, dtype=torch.float64)

    r = torch.full((rows,), 2.3).double()
    target = torch.nn.functional.one_hot(x_1, world.source.states).double()
    u = rates(target, x_t, r)
    v = rates(world.source.posterior(logits, x_t), x_t, r)
    slow = divergence(u, v, x_t)
    fast = 2.3 * generalised_kl(logits, x_t, x_1, world.source)
    torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("loss", [generalised_kl, cross_entropy])
@pytest.mark.parametrize("source", SOURCES)
def test_losses_are_least_at_the_posterior(loss, source):
    """Their gradient there, in the mean over the data and the path, is 0."""
    world = World(source)
    k = torch.tensor(0.4).double()
    joint = world.p_1[:, None] * world.conditional(k)
    logits = world.posterior(k).clamp(min=1e-9).log().requires_grad_()
    count = len(world.states)
    mean = 0
    for datum, x_1 in enumerate(world.data):
        possible = joint[datum] > 0
        states = world.states[possible]
        x_1 = x_1.expand(len(states), -1)
        errors = loss(logits[possible], states, x_1, world.source).sum(1)
        mean = mean + (joint[datum][possible] * errors).sum()
    (gradient,) = torch.autograd.grad(mean, logits)
    assert gradient.abs().max() < 1e-7
    assert gradient.shape[0] == count


def test_with_a_mask_both_losses_are_the_same():
    source = Mask(5)
    generator = torch.Generator().manual_seed(0)
    x_1 = torch.randint(5, (20, 3), generator=generator)
    uniform = torch.rand(20, 3, 2, generator=generator)
    x_t = corrupt(x_1, torch.full((20,), 0.5), uniform, source)
    logits = torch.randn(20, 3, 5, generator=generator)
    one = generalised_kl(logits, x_t, x_1, source)
    assert torch.equal(one, cross_entropy(logits, x_t, x_1, source))
    assert one.any()


# Bound


def generated(world, logits):
    """Q(x_1) of every data: the chain to the last step, by its matrix exponential, then that step.

    Time is s = -log(1 - k), in which r = 1; the posterior, (states, L, V), is the same at all times.
    """
    q = world.source.posterior(logits, world.states)
    end = -math.log(1 - LAST)
    chain = torch.linalg.matrix_exp(end * world.generator(q, 1.0))
    begin = world.p_0[world.states].prod(-1)
    tokens = torch.arange(world.length)
    last = torch.stack([q[:, tokens, x_1].prod(-1) for x_1 in world.data])
    return last @ (chain @ begin)


def exact_bound(world, logits_at):
    """The bound of every data, its integral by Gauss and Legendre in s."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    end = -math.log(1 - LAST)
    shares = 1 - np.exp(-end * (nodes + 1) / 2)
    bounds = torch.zeros(len(world.data)).double()
    for k, weight in zip(shares, weights, strict=True):
        bounds += end / 2 * weight * mean_error(world, logits_at(k), k, generalised_kl)
    return bounds + mean_error(world, logits_at(LAST), LAST, cross_entropy)


def mean_error(world, logits, k, loss):
    """An error of every data, in the mean over its path."""
    p = world.conditional(k)
    errors = []
    for datum, x_1 in enumerate(world.data):
        possible = p[datum] > 0
        states = world.states[possible]
        x_1 = x_1.expand(len(states), -1)
        of_state = loss(logits[possible], states, x_1, world.source).sum(1)
        errors.append((p[datum][possible] * of_state).sum())
    return torch.stack(errors)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_is_one_of_what_is_generated(source, seed):
    """Of any posterior, for every data."""
    world = World(source)
    generator = torch.Generator().manual_seed(seed)
    shape = len(world.states), world.length, world.source.vocabulary
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    q = generated(world, logits)
    assert q.sum().item() == pytest.approx(1)
    bounds = exact_bound(world, lambda k: logits)
    assert (bounds >= -q.log() - 1e-12).all()
    # That is no empty word: what is left out of it is not a bound.
    if source == "uniform":
        fits = mean_error(world, logits, LAST, cross_entropy)
        assert (fits < -q.log()).any()


def test_with_a_mask_the_bound_is_tight_at_the_truth():
    """But for the last step, which draws the tokens that are left at once."""
    world = World("mask", length=3, vocabulary=2)
    bounds = exact_bound(world, lambda k: safe_log(world.posterior(torch.tensor(k))))
    entropy = -(world.p_1 * world.p_1.log()).sum()
    mean = (world.p_1 * bounds).sum()
    assert 0 <= mean - entropy < 1e-5


def test_with_uniform_noise_the_bound_is_loose_at_the_truth():
    world = World("uniform")
    at = lambda k: safe_log(world.posterior(torch.tensor(k)))  # noqa: E731
    entropy = -(world.p_1 * world.p_1.log()).sum()
    assert (world.p_1 * exact_bound(world, at)).sum() - entropy > 0.05


@pytest.mark.parametrize("degree", [1.0, 3.0])
@pytest.mark.parametrize("source", SOURCES)
def test_the_drawn_bound_is_the_exact_one_in_the_mean(source, degree):
    world = World(source, degree=degree)
    generator = torch.Generator().manual_seed(0)
    shape = len(world.states), world.length, world.source.vocabulary
    table = torch.randn(shape, generator=generator, dtype=torch.float64)
    exact = exact_bound(world, lambda k: table)

    rows = 4_000
    for datum in (0, 4):
        x_1 = world.data[datum].expand(rows, -1)
        streams = draws.streams(draws.key(datum), torch.arange(rows))
        drawn = bound(
            lambda x, t: table[world.number(x)],
            x_1,
            world.scheduler,
            world.source,
            streams,
            evaluations=4,
        )
        error = drawn.std() / math.sqrt(rows)
        assert (drawn.mean() - exact[datum]).abs() < 4 * error
        assert error < 0.1 * exact[datum]
