"""Guidance: a scale of 1 is the conditional field, 0 the unconditional one, and others cost one call of twice the rows."""

import pytest
import torch

from flowbind.flow.guidance import guided


class Field:
    """Two fields that are told apart, and how they were called."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, condition):
        self.calls.append((len(x), condition.tolist()))
        shift = torch.where(condition[:, None], 2.0, -1.0)
        return torch.sin(x) * t[:, None] + shift


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, generator=generator), torch.tensor([0.0, 0.25, 1.0])


@pytest.mark.parametrize(("scale", "condition"), [(1, True), (1.0, True), (0, False)])
def test_one_field_alone_is_asked_for_alone(scale, condition, state):
    x, t = state
    field = Field()
    velocity = guided(field, scale)(x, t)
    assert field.calls == [(3, [condition] * 3)]
    assert torch.equal(velocity, Field()(x, t, torch.full((3,), condition)))


@pytest.mark.parametrize("scale", [-1.0, 0.5, 1.5, 7.0])
def test_any_other_scale_is_on_the_line_through_both_in_one_call(scale, state):
    x, t = state
    field = Field()
    velocity = guided(field, scale)(x, t)
    assert field.calls == [(6, [True] * 3 + [False] * 3)]
    conditional = Field()(x, t, torch.ones(3, dtype=torch.bool))
    unconditional = Field()(x, t, torch.zeros(3, dtype=torch.bool))
    expected = unconditional + scale * (conditional - unconditional)
    torch.testing.assert_close(velocity, expected)


def test_times_may_be_one_number_seen_as_many(state):
    """As a solver's are: a view of stride 0."""
    x, _ = state
    t = torch.tensor(0.5).expand(3)
    torch.testing.assert_close(
        guided(Field(), 3.0)(x, t), guided(Field(), 3.0)(x, t.clone())
    )
