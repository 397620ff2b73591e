"""Laws of the averaging fusion, in training and in generation."""

import math

import pytest
import torch

from flowbind.batch import Links, find_links
from flowbind.methods.flowbind.fusion import add_noise, fuse, keep, normalize

SAMPLES = [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 0, 2]  # the sample of each row


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def linked(samples):
    samples = torch.tensor(samples)
    return find_links(samples), len(samples)


def draws(links, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(links.target), generator=generator), torch.rand(
        rows, generator=generator
    )


def kept_of(links, kept, rows):
    """The kept estimates of each row, as sets."""
    found = [set() for _ in range(rows)]
    for target, estimate in zip(
        links.target[kept].tolist(), links.estimate[kept].tolist(), strict=True
    ):
        found[target].add(estimate)
    return found


@pytest.mark.parametrize("leave_own_out", [0, 0.5, 1])
@pytest.mark.parametrize("head_dropout", [0, 0.5, 0.99, 1])
def test_every_row_keeps_an_estimate(head_dropout, leave_own_out):
    links, rows = linked(SAMPLES * 50)
    kept = keep(links, rows, *draws(links, rows), head_dropout, leave_own_out)
    assert kept.dtype == torch.bool
    assert all(kept_of(links, kept, rows))


def test_nothing_is_left_out_or_dropped_unless_asked():
    links, rows = linked(SAMPLES)
    assert keep(links, rows, *draws(links, rows), 0, 0).all()


@pytest.mark.parametrize("head_dropout", [0, 0.5, 1])
def test_the_own_estimate_is_left_out_whenever_the_sample_has_another(head_dropout):
    links, rows = linked([*SAMPLES, 7])  # sample 7 has one row
    found = kept_of(
        links, keep(links, rows, *draws(links, rows), head_dropout, 1), rows
    )
    assert found[rows - 1] == {rows - 1}
    for row in range(rows - 1):
        assert row not in found[row]
        if head_dropout in (
            0,
            1,
        ):  # dropping none and dropping all both keep all the others
            assert found[row] == {
                k for k in range(rows - 1) if SAMPLES[k] == SAMPLES[row]
            } - {row}


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("q", [0.0, 0.25, 0.75])
def test_rates(q, p):
    """In samples of three rows: how many estimates a row keeps, and how often its own is among them."""
    links, rows = linked([k // 3 for k in range(30_000)])
    kept = keep(links, rows, *draws(links, rows), head_dropout=p, leave_own_out=q)
    number = kept.reshape(rows, 3).sum(dim=1)
    found = {"own": kept[links.target == links.estimate].double().mean()}
    expected = {"own": (1 - q) * (1 - p + p**3)}  # its own coin, or all three drop
    for k in (1, 2, 3):
        found[k] = (number == k).double().mean()
        expected[k] = 0.0
        for candidates, chance in ((3, 1 - q), (2, q)):
            binomial = (
                math.comb(candidates, k) * (1 - p) ** k * p ** max(candidates - k, 0)
            )
            # All drop: all are kept.
            expected[k] += chance * (
                binomial + (p**candidates if k == candidates else 0)
            )
    for name, share in expected.items():
        assert abs(found[name] - share) <= 5 * 0.5 / rows**0.5 * (0 < share < 1), name


def test_each_row_of_a_sample_draws_its_own_mask():
    links, rows = linked([k // 4 for k in range(400)])
    found = kept_of(links, keep(links, rows, *draws(links, rows), 0.5, 0), rows)
    assert any(
        len({frozenset(found[k]) for k in range(start, start + 4)}) == 4
        for start in range(0, rows, 4)
    )


def test_the_mean_is_that_of_the_kept_estimates():
    links, rows = linked(SAMPLES)
    estimates = torch.randn(rows, 5, dtype=torch.float64)
    kept = keep(links, rows, *draws(links, rows), 0.5, 0.5)
    mean, count = fuse(estimates, links, kept, rows)
    for row, among in enumerate(kept_of(links, kept, rows)):
        assert count[row] == len(among)
        torch.testing.assert_close(mean[row], estimates[sorted(among)].mean(dim=0))


def test_estimates_with_several_axes_are_averaged_as_flat_ones():
    links, rows = linked(SAMPLES)
    estimates = torch.randn(rows, 2, 3)
    kept = keep(links, rows, *draws(links, rows), 0.5, 0.5)
    flat, shaped = (
        fuse(estimates.flatten(1), links, kept, rows),
        fuse(estimates, links, kept, rows),
    )
    assert torch.equal(flat.mean.reshape(-1, 2, 3), shaped.mean)


def test_renumbering_samples_and_rows_only_renumbers_the_means():
    generator = torch.Generator().manual_seed(0)
    links, rows = linked(SAMPLES)
    estimates = torch.randn(rows, 5, dtype=torch.float64, generator=generator)
    drop, leave = draws(links, rows)
    mean, count = fuse(estimates, links, keep(links, rows, drop, leave, 0.5, 0.5), rows)

    # Row k of the new batch is row order[k] of the old.
    order = torch.randperm(rows, generator=generator)
    names = torch.randperm(4, generator=generator)
    moved = find_links(names[torch.tensor(SAMPLES)][order])
    old = {
        pair: k
        for k, pair in enumerate(
            zip(links.target.tolist(), links.estimate.tolist(), strict=True)
        )
    }
    pairs = zip(
        order[moved.target].tolist(), order[moved.estimate].tolist(), strict=True
    )
    moved_drop = drop[[old[pair] for pair in pairs]]
    found = fuse(
        estimates[order],
        moved,
        keep(moved, rows, moved_drop, leave[order], 0.5, 0.5),
        rows,
    )
    torch.testing.assert_close(found.mean, mean[order])
    assert torch.equal(found.count, count[order])


def test_generation_averages_the_sources_latents():
    """Three sources of B requests: estimate s * B + b is source s's latent of request b, and all are kept."""
    sources, requests = 3, 4
    ends = torch.randn(sources, requests, 5)
    order = torch.arange(sources * requests).reshape(sources, requests).T.flatten()
    links = Links(torch.arange(requests).repeat_interleave(sources), order)
    mean, count = fuse(
        ends.flatten(0, 1),
        links,
        torch.ones(sources * requests, dtype=torch.bool),
        requests,
    )
    torch.testing.assert_close(mean, ends.mean(dim=0))
    assert (count == sources).all()


def test_a_sum_has_one_order_however_many_threads():
    """Samples of four modalities: forward and backward give the same bits again."""
    links, rows = linked(list(range(500)) * 4)
    kept = keep(links, rows, *draws(links, rows), 0.5, 0.5)
    estimates, weights = torch.randn(2, rows, 64).unbind()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = []
        for _ in range(5):
            learnt = estimates.clone().requires_grad_()
            mean = fuse(learnt, links, kept, rows).mean
            (mean * weights).sum().backward()
            found.append(torch.cat([mean.detach(), learnt.grad]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(again, found[0]) for again in found)


def test_one_source_is_passed_on_unchanged():
    end = torch.randn(4, 5)
    links = Links(torch.arange(4), torch.arange(4))
    assert torch.equal(fuse(end, links, torch.ones(4, dtype=torch.bool), 4).mean, end)


def test_the_mean_hands_each_kept_estimate_its_share_of_the_gradient():
    links, rows = linked(SAMPLES)
    estimates = torch.randn(rows, 2, dtype=torch.float64, requires_grad=True)
    kept = keep(links, rows, *draws(links, rows), 0.5, 0.5)
    fuse(estimates, links, kept, rows).mean.sum().backward()
    among = kept_of(links, kept, rows)
    expected = [sum(1 / len(s) for s in among if row in s) for row in range(rows)]
    torch.testing.assert_close(
        estimates.grad, torch.tensor(expected).double()[:, None].expand(rows, 2)
    )


def test_no_rows():
    links, rows = linked([])
    kept = keep(links, rows, *draws(links, rows), 0.5, 0.5)
    mean, count = fuse(torch.zeros(0, 5), links, kept, rows)
    assert mean.shape == (0, 5)
    assert count.shape == (0,)
    assert normalize(mean).shape == (0, 5)
    assert add_noise(mean, count, torch.zeros(0, 5), 0.1).shape == (0, 5)


@pytest.mark.parametrize("shape", [(1, 6), (5, 6), (5, 2, 3)])
def test_normalize_in_closed_form(shape):
    z = torch.randn(shape, dtype=torch.float64) * 3 + 2
    flat, found = z.flatten(1), normalize(z).flatten(1)
    expected = (flat - flat.mean(dim=1, keepdim=True)) / (
        flat.var(dim=1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.mean(dim=1), torch.zeros(len(z)).double())
    torch.testing.assert_close(
        found.square().mean(dim=1), torch.ones(len(z)).double(), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(normalize(7 * z - 1), normalize(z), rtol=0, atol=1e-5)


def test_noise_has_the_variance_of_one_estimate_over_their_number():
    rows, variance = 4, 0.7
    count = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    mean = torch.randn(rows, 20_000, dtype=torch.float64)
    noise = torch.randn(
        rows, 20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    z = add_noise(mean, count, noise, variance)
    for k in range(rows):
        torch.testing.assert_close(
            z[k], mean[k] + (variance / count[k]) ** 0.5 * noise[k]
        )
    # Six standard errors.
    torch.testing.assert_close(
        (z - mean).var(dim=1), variance / count, rtol=0.06, atol=0
    )
    assert torch.equal(add_noise(mean, count, noise, 0.0), mean)
    shaped = add_noise(
        mean.reshape(4, 100, 200), count, noise.reshape(4, 100, 200), variance
    )
    assert torch.equal(shaped.flatten(1), z)
