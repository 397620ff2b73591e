"""What was made together of noise alone: agreement, and how much of the data there is."""

import math

import pytest
import torch

from flowbind.evaluation.agreement import agreement, coverage

FACTORS = ["shape", "colour"]
GRID = torch.cartesian_prod(torch.arange(3), torch.arange(4))  # all 12 combinations


def test_agreement_is_the_share_of_samples_read_alike():
    a = torch.tensor([[0, 0], [1, 1], [2, 2], [-1, 3]])
    b = torch.tensor([[0, 0], [1, 0], [2, 2], [-1, 3]])
    shares = agreement({"text": a, "image": b}, FACTORS)
    assert (
        shares
        == {
            "agreement/shape[judges,text+image,n=4]": 0.75,  # what none reads agrees with nothing
            "agreement/colour[judges,text+image,n=4]": 0.75,
            "agreement/joint[judges,text+image,n=4]": 0.5,
        }
    )


def test_a_third_has_to_agree_too():
    b = GRID.clone()
    b[0] += 1
    c = GRID.clone()
    c[1] += 1
    shares = agreement({"a": GRID, "b": b, "c": c}, FACTORS)
    assert shares["agreement/joint[judges,a+b+c,n=12]"] == 10 / 12
    assert agreement({"a": GRID}, FACTORS) == {}


def test_real_samples_cover_themselves():
    assert coverage(GRID, GRID, "eye") == {
        "readable[judge,eye,n=12]": 1.0,
        "combinations[judge,eye,n=12]": 1.0,
        "evenness[judge,eye,n=12]": 1.0,
    }


def test_evenness_is_the_entropy_of_combinations_over_that_of_real_samples():
    read = GRID[[0] * 9 + [1] * 3]
    shares = coverage(read, GRID, "eye")
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = pytest.approx(entropy / math.log(12))
    assert shares["evenness[judge,eye,n=12]"] == expected
    assert shares["combinations[judge,eye,n=12]"] == 2 / 12


def test_what_is_not_read_and_what_is_not_real_does_not_count():
    read = torch.tensor([[-1, 0], [0, -1], [9, 9], [0, 0]])
    shares = coverage(read, GRID, "eye")
    assert shares["readable[judge,eye,n=4]"] == 0.5
    assert shares["combinations[judge,eye,n=4]"] == 1 / 12

    none = coverage(torch.full((4, 2), -1), GRID, "eye")
    assert list(none.values()) == [0, 0, 0]
