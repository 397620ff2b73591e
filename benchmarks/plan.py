"""What a run past one machine would need, by formula: the tables of docs/scale.md.

    python benchmarks/plan.py [--gpus 8 64 512] [--rows-per-gpu 2048]

Nothing here is a measurement of a GPU. Counts (parameters, operations, bytes) follow from the networks and are checked
against them in tests/test_scale.py; times follow from the rates below, which are makers' figures.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields

from flowbind.data.shard import Shard
from flowbind.train.ema import EVERY

# The paper's size.
D, W, DEPTH, RATIO, HEAD_DEPTH, FREQUENCIES = (
    768,
    1152,
    12,
    4,
    3,
    256,
)
MODALITIES, ROWS, STEPS = 3, 2048, 200_000  # 1,024 pairs are 2,048 rows
FLOAT, HALF = 4, 2  # bytes

# Makers' figures for an H100 SXM node, all taken as reached in full but the first.
# FLOP/s in bfloat16 without sparsity; the share is a target, not a measurement.
MATRIX = 0.6 * 989e12
MEMORY = 3.35e12  # bytes/s
NVLINK = 450e9  # bytes/s and direction of a GPU in a node
NETWORK = 400e9  # bytes/s and direction of a node of 8 GPUs with 8 links of 400 Gbit/s


def drift_weights(
    d: int = D, w: int = W, depth: int = DEPTH, ratio: int = RATIO
) -> int:
    """Entries of a drift net's matrices."""
    return FREQUENCIES * w + w * w + 2 * d * w + depth * (3 + 2 * ratio) * w * w


def drift_parameters(
    d: int = D, w: int = W, depth: int = DEPTH, ratio: int = RATIO
) -> int:
    """The matrices and their biases."""
    return drift_weights(d, w, depth, ratio) + 3 * w + d + depth * (4 + ratio) * w


def head_weights(d: int = D, w: int = W, depth: int = HEAD_DEPTH) -> int:
    """Entries of a head's matrices."""
    return 2 * d * w + 2 * depth * w * w


def head_parameters(d: int = D, w: int = W, depth: int = HEAD_DEPTH) -> int:
    """The matrices, their biases, and the norms."""
    return head_weights(d, w, depth) + w + d + 6 * depth * w


def step_flops(
    rows: int,
    d: int = D,
    w: int = W,
    depth: int = DEPTH,
    ratio: int = RATIO,
    head: int = HEAD_DEPTH,
) -> int:
    """Of the matrix products of forward and backward, one drift call a row (`times: mixture`): six a weight and row, less
    the gradients of what is no function of a weight, the sinusoids of the time and the latents that the heads read."""
    weights = drift_weights(d, w, depth, ratio) + head_weights(d, w, head)
    return rows * (6 * weights - 2 * FREQUENCIES * w - 2 * d * w)


def drift_activations(
    d: int = D, w: int = W, depth: int = DEPTH, ratio: int = RATIO
) -> int:
    """Numbers kept for the backward pass for each row of a drift net."""
    return FREQUENCIES + d + 5 * w + depth * ((8 + 2 * ratio) * w + 2)


def head_activations(d: int = D, w: int = W, depth: int = HEAD_DEPTH) -> int:
    """Numbers kept for the backward pass for each row of a head."""
    return d + w + depth * (6 * w + 4)


def parameters() -> int:
    """Of all modalities."""
    return MODALITIES * (drift_parameters() + head_parameters())


def reduced(ranks: int, size: float) -> float:
    """Bytes that a rank sends when a ring sums `size` bytes over all ranks (reduce-scatter, then all-gather)."""
    return 2 * (ranks - 1) / ranks * size


def sharded(ranks: int, weights: float, gradients: float) -> float:
    """Bytes that a rank sends in a step of FSDP: weights gathered twice, forward and backward; gradients scattered."""
    return (ranks - 1) / ranks * (2 * weights + gradients)


def optimizer_bytes(ranks: int = 1) -> float:
    """Bytes of memory that Adam (reads weight, gradient and two moments, writes all but the gradient) and the moving
    average (reads it and the weight, writes it, every few steps) move in a step, where parameters are shared out over
    `ranks`."""
    return (7 + 3 / EVERY) * FLOAT * parameters() / ranks


def row_bytes(modalities: int = 2, d: int = D) -> int:
    """Of one pair in a store: its latents in float16, and its line."""
    return modalities * d * HALF + 8


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In markdown."""
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]
    )


def step_table() -> str:
    """One step on one GPU."""
    kept = ROWS * (drift_activations() + head_activations())
    sizes = [
        ("parameters", f"{parameters():,}"),
        ("weights, float32", f"{FLOAT * parameters() / 1e9:.2f} GB"),
        ("gradients, float32", f"{FLOAT * parameters() / 1e9:.2f} GB"),
        ("Adam's two moments, float32", f"{2 * FLOAT * parameters() / 1e9:.2f} GB"),
        ("moving average, float32", f"{FLOAT * parameters() / 1e9:.2f} GB"),
        ("kept for backward, float32", f"{FLOAT * kept / 1e9:.2f} GB"),
        (
            "a checkpoint: weights, moments, average",
            f"{4 * FLOAT * parameters() / 1e9:.2f} GB",
        ),
        ("operations of matrix products", f"{step_flops(ROWS) / 1e12:.2f} TFLOP"),
        ("bytes moved by Adam and the average", f"{optimizer_bytes() / 1e9:.1f} GB"),
        (
            "*matrix products, if at 60% of the maker's rate*",
            f"{1e3 * step_flops(ROWS) / MATRIX:.1f} ms",
        ),
        (
            "*Adam and the average, if at the maker's rate*",
            f"{1e3 * optimizer_bytes() / MEMORY:.1f} ms",
        ),
        (
            f"*{STEPS:,} steps of both*",
            f"{STEPS * (step_flops(ROWS) / MATRIX + optimizer_bytes() / MEMORY) / 3600:.2f} h",
        ),
    ]
    return table(["a step of 1,024 pairs", ""], [list(row) for row in sizes])


def devices_table(gpus: Sequence[int] = (8, 64, 512), rows: int = ROWS) -> str:
    """Computing and communicating on many GPUs: `rows` rows on each, or `ROWS` on all together."""
    found = []
    for ranks in gpus:
        link = NVLINK if ranks <= 8 else NETWORK
        ddp = reduced(ranks, FLOAT * parameters())
        fsdp = sharded(ranks, HALF * parameters(), FLOAT * parameters())
        found.append(
            [
                str(ranks),
                f"{1e3 * step_flops(rows) / MATRIX:.1f}",
                f"{1e3 * step_flops(ROWS) / ranks / MATRIX:.2f}",
                f"{ddp / 1e9:.2f} GB: {1e3 * ddp / link:.1f}",
                f"{fsdp / 1e9:.2f} GB: {1e3 * fsdp / link:.1f}",
                f"{1e3 * optimizer_bytes() / MEMORY:.1f}",
                f"{1e3 * optimizer_bytes(ranks) / MEMORY:.2f}",
                f"{5 * FLOAT * parameters() / ranks / 1e9:.2f}",
            ]
        )
    head = [
        "GPUs",
        f"*matrix products, ms*: {rows:,} rows a GPU",
        f"{ROWS:,} rows in all",
        "DDP sends: *ms*",
        "FSDP sends: *ms*",
    ]
    head += ["*Adam and average, ms*: DDP", "FSDP", "state a GPU under FSDP, GB"]
    return table(head, found)


def store_table(
    shards: Sequence[int] = (2048, 16_384, 65_536), rows: int = 10**9
) -> str:
    """A store of 10^9 pairs, in shards of so many rows."""
    values = {
        field.name: "0" * 64 if field.name != "file" else "0-00000.safetensors"
        for field in fields(Shard)
    }
    # As deep as in the manifest, about.
    entry = len(json.dumps([values | {"rows": 10**4, "bytes": 10**8}], indent=4))
    found = [
        [
            f"{size:,}",
            f"{size * row_bytes() / 2**20:,.0f}",
            f"{-(-rows // size):,}",
            f"{-(-rows // size) * entry / 1e6:.1f}",
        ]
        for size in shards
    ]
    return table(
        [
            "rows of a shard",
            "MiB of a shard",
            "shards, and memory maps",
            "manifest, MB",
        ],
        found,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--rows-per-gpu", type=int, default=ROWS)
    options = parser.parse_args()
    print(
        step_table(),
        devices_table(options.gpus, options.rows_per_gpu),
        store_table(),
        sep="\n\n",
    )


if __name__ == "__main__":
    main()
