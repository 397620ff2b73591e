"""The laws of methods, on every one that is installed, and that each law fails where it is broken."""

import pytest

from flowbind.methods.flowbind import FlowBind
from flowbind.methods.flowbind.objective import ObjectiveConfig
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.testing.method import LAWS, Subject
from tests.toy import ToyCodec, Vector, Word

SIZES = DriftConfig(width=16, depth=2), HeadConfig(width=16, depth=1, dropout=0.1)


def modalities():
    return {"word": Word(), "vector": Vector(), "other": Vector(ToyCodec(seed=3))}


METHODS = {
    "flowbind": lambda: FlowBind(modalities(), *SIZES),
    "flowbind, as its authors": lambda: FlowBind(
        modalities(), *SIZES, ObjectiveConfig(times="both", normalize=False, leave_own_out=0.0)
    ),
}


@pytest.mark.parametrize("each", LAWS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", METHODS)
def test_laws(name, each, toys):
    each(Subject(METHODS[name]()))
