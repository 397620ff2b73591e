"""The ragged batch, and its links against a double loop."""

import random

import pytest
import torch

from flowbind.batch import Batch, find_links


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def brute_force(samples):
    return [
        (i, j) for i, a in enumerate(samples) for j, b in enumerate(samples) if a == b
    ]


def pairs(links):
    return list(zip(links.target.tolist(), links.estimate.tolist(), strict=True))


def check_links(samples):
    links = find_links(torch.tensor(samples, dtype=torch.long))
    assert links.target.dtype == links.estimate.dtype == torch.long
    assert pairs(links) == brute_force(samples)


@pytest.mark.parametrize("seed", range(40))
def test_links_are_all_pairs_of_rows_of_one_sample(seed):
    draw = random.Random(seed)
    count = draw.randint(1, 12)  # samples; some may have no row
    check_links([draw.randrange(count) for _ in range(draw.randint(0, 30))])


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [0],
        [5],
        [0, 0],
        [1, 0],
        [3, 3, 3, 3],
        [0, 1, 2, 0, 1, 2],
        [2, 1, 0, 0, 1, 2],
        [9, 0, 9],
        [2**40, 7, 2**40],
    ],
)
def test_links_of_small_structures(samples):
    check_links(samples)


def make():
    """Samples: 0 has a and b, 1 has a, 2 has b, in another order; nobody has c."""
    latents = {"a": torch.randn(2, 3), "b": torch.randn(2, 3), "c": torch.zeros(0, 3)}
    return latents, {
        "a": torch.tensor([0, 1]),
        "b": torch.tensor([2, 0]),
        "c": torch.zeros(0, dtype=torch.long),
    }


def test_a_batch_numbers_its_rows_in_the_order_of_its_latents():
    latents, samples = make()
    # Only the order of the latents counts.
    batch = Batch.of(latents, dict(reversed(samples.items())))
    assert batch.rows == [2, 2, 0]
    assert pairs(batch.links) == [(0, 0), (0, 3), (1, 1), (2, 2), (3, 0), (3, 3)]
    other = Batch.of({"b": latents["b"], "c": latents["c"], "a": latents["a"]}, samples)
    assert pairs(other.links) == brute_force([2, 0, 0, 1])


def test_a_batch_keeps_what_it_was_given_apart():
    latents, samples = make()
    batch = Batch.of(latents, samples)
    del latents["c"]
    assert list(batch.latents) == list(batch.samples) == ["a", "b", "c"]


def tensors(batch):
    return [
        *batch.latents.values(),
        *batch.samples.values(),
        batch.links.target,
        batch.links.estimate,
    ]


def test_map_reaches_every_tensor_and_leaves_the_batch_alone():
    batch = Batch.of(*make())
    before = [tensor.clone() for tensor in tensors(batch)]
    mapped = batch.map(lambda tensor: tensor + 1)
    assert list(mapped.latents) == list(batch.latents)
    for old, kept, new in zip(before, tensors(batch), tensors(mapped), strict=True):
        assert torch.equal(old, kept)
        assert torch.equal(old + 1, new)


def test_to_moves_every_tensor():
    batch = Batch.of(*make())
    assert all(tensor.device.type == "meta" for tensor in tensors(batch.to("meta")))
    assert all(
        torch.equal(a, b)
        for a, b in zip(tensors(batch), tensors(batch.to("cpu")), strict=True)
    )


def test_pin_memory_pins_every_tensor(monkeypatch):
    pinned = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor
    )
    batch = Batch.of(*make())
    assert isinstance(batch.pin_memory(), Batch)
    assert {id(tensor) for tensor in pinned} == {
        id(tensor) for tensor in tensors(batch)
    }
