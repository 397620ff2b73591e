"""The plan of docs/scale.md: its formulas are those of the networks, the optimiser and the store, and its tables are current.

`python -m tests.test_scale` writes the tables into the page again.
"""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flowbind.batch import Batch
from flowbind.data.shard import LINE, write_shard
from flowbind.methods.flowbind.objective import Draws, ObjectiveConfig, losses
from flowbind.nets.mlp import Drift, Head

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"
TABLES = ("step_table", "devices_table", "store_table")

spec = importlib.util.spec_from_file_location("plan", ROOT / "benchmarks" / "plan.py")
plan = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plan)

SIZES = [
    {"d": 6, "w": 16, "depth": 1, "ratio": 4},
    {"d": 10, "w": 24, "depth": 3, "ratio": 2},
]


def drift(d, w, depth, ratio):
    return Drift(d, width=w, depth=depth, ratio=ratio)


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def matrices(net):
    return sum(
        parameter.numel() for parameter in net.parameters() if parameter.ndim == 2
    )


@pytest.mark.parametrize(
    "size",
    [*SIZES, {"d": plan.D, "w": plan.W, "depth": plan.DEPTH, "ratio": plan.RATIO}],
)
def test_parameters_of_a_drift_net(size):
    with torch.device("meta"):
        net = drift(**size)
    assert (matrices(net), count(net)) == (
        plan.drift_weights(**size),
        plan.drift_parameters(**size),
    )


@pytest.mark.parametrize(
    "size", [(6, 16, 1), (10, 24, 4), (plan.D, plan.W, plan.HEAD_DEPTH)]
)
def test_parameters_of_a_head(size):
    with torch.device("meta"):
        net = Head(size[0], width=size[1], depth=size[2])
    assert (matrices(net), count(net)) == (
        plan.head_weights(*size),
        plan.head_parameters(*size),
    )


def test_the_paper_s_parameters():
    assert (plan.drift_parameters(), plan.head_parameters()) == (178_684_032, 9_754_752)
    assert plan.parameters() == 3 * (178_684_032 + 9_754_752)


@pytest.mark.parametrize("size", SIZES)
def test_operations_of_a_step(size):
    names, rows = ("a", "b"), {"a": torch.arange(7), "b": torch.arange(4)}
    drifts = {name: drift(**size) for name in names}
    heads = {name: Head(size["d"], width=size["w"], depth=2) for name in names}
    batch = Batch.of(
        {name: torch.randn(len(r), size["d"]) for name, r in rows.items()}, rows
    )
    with FlopCounterMode(display=False) as counter:
        found = losses(
            drifts,
            heads,
            batch,
            Draws.sample(batch, key=0),
            ObjectiveConfig(times="mixture"),
        )
        torch.stack(list(found.values())).sum().backward()
    assert counter.get_total_flops() == plan.step_flops(11, **size, head=2)


def kept(net, *inputs):
    """Bytes that the backward pass needs, without the weights."""
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    held = {}

    def pack(tensor):
        if (storage := tensor.untyped_storage()).data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net(*inputs)
    return sum(storage.nbytes() for storage in held.values())


@pytest.mark.parametrize("size", SIZES)
def test_what_is_kept_for_backward(size):
    x = torch.randn(9, size["d"], requires_grad=True)
    assert kept(drift(**size), x, torch.rand(9)) == 4 * 9 * plan.drift_activations(
        **size
    )
    head = Head(size["d"], width=size["w"], depth=2)
    assert kept(head, x.detach()) == 4 * 9 * plan.head_activations(
        size["d"], size["w"], 2
    )


def test_adam_keeps_two_numbers_a_parameter():
    net = Head(6, width=16, depth=1)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    net(torch.randn(3, 6)).sum().backward()
    optimizer.step()
    moments = [
        x for state in optimizer.state.values() for x in state.values() if x.ndim
    ]
    assert sum(x.numel() for x in moments) == 2 * count(net)


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_bytes_that_a_ring_sends(ranks):
    """A ring, link by link: each rank hands on one part of `ranks` at a time, until every part has met every rank."""
    values = torch.randn(ranks, ranks, dtype=torch.float64)  # rank, part
    wanted, sent = values.sum(0), 0
    for adding, rounds in ((True, ranks - 1), (False, ranks - 1)):
        for number in range(rounds):
            parts = [(rank - number + (not adding)) % ranks for rank in range(ranks)]
            messages = [values[rank, part].clone() for rank, part in enumerate(parts)]
            for rank, (part, message) in enumerate(zip(parts, messages, strict=True)):
                to = (rank + 1) % ranks
                values[to, part] = values[to, part] + message if adding else message
            sent += 1  # part of each rank
    torch.testing.assert_close(values, wanted.expand(ranks, ranks))
    assert plan.reduced(ranks, ranks) == pytest.approx(sent)
    # A half of it scatters, the other gathers.
    assert plan.sharded(ranks, 0, ranks) == pytest.approx(sent / 2)


def test_bytes_of_a_row_in_a_store(tmp_path):
    for rows in (1000, 3000):
        latents = {
            name: torch.zeros(rows, 6, dtype=torch.float16) for name in ("a", "b")
        }
        write_shard(
            tmp_path / f"{rows}.safetensors", latents | {LINE: torch.arange(rows)}, {}
        )
    sizes = [(tmp_path / f"{rows}.safetensors").stat().st_size for rows in (1000, 3000)]
    # Of the header.
    assert sizes[1] - sizes[0] == pytest.approx(
        2000 * plan.row_bytes(modalities=2, d=6), abs=16
    )


def marked(name):
    return re.compile(rf"(<!-- {name} -->\n\n)(.*?)(\n\n<!-- end -->)", re.DOTALL)


@pytest.mark.parametrize("name", TABLES)
def test_the_page_shows_what_the_formulas_give(name):
    assert marked(name).search(PAGE.read_text()).group(2) == getattr(plan, name)()


if __name__ == "__main__":
    page = PAGE.read_text()
    for name in TABLES:
        page = marked(name).sub(
            lambda match, name=name: match[1] + getattr(plan, name)() + match[3], page
        )
    PAGE.write_text(page)
