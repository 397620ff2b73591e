"""torch.compile of drifts and heads at the size of recipes/shapes.yaml: seconds of a step, and of compiling.

    OMP_NUM_THREADS=1 python benchmarks/compile.py [--device cuda] [--dtype bfloat16] [--repeats 30]

Four modalities, 240 samples in 480 rows, one call a modality of constant shape. Forward and backward are timed in turns,
eager and compiled, in this process. `benchmarks/step.py --compile` does the same at the paper's size.
"""

import argparse
import copy
import time

import torch
from torch import nn

from flowbind.batch import Batch
from flowbind.methods.flowbind.objective import Draws, ObjectiveConfig, losses
from flowbind.nets.mlp import Drift, Head

FEATURES, DRIFT, HEAD = (
    64,
    {"width": 256, "depth": 3, "ratio": 2},
    {"width": 256, "depth": 2},
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    with device:
        # The samples of the recipe's text, image, audio and points in a batch of its three pairs.
        rows = {"a": torch.arange(160), "b": torch.arange(80, 240)}
        rows |= {"c": torch.arange(80), "d": torch.arange(160, 240)}
        drifts = nn.ModuleDict({name: Drift(FEATURES, **DRIFT) for name in rows})
        heads = nn.ModuleDict({name: Head(FEATURES, **HEAD) for name in rows})
        batch = Batch.of(
            {name: torch.randn(len(r), FEATURES) for name, r in rows.items()}, rows
        )
    kinds = {
        "eager": (drifts, heads),
        "compiled": (copy.deepcopy(drifts), copy.deepcopy(heads)),
    }
    for net in [*kinds["compiled"][0].values(), *kinds["compiled"][1].values()]:
        net.compile(dynamic=False)

    def learn(drifts: nn.ModuleDict, heads: nn.ModuleDict) -> float:
        begin = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            found = losses(
                drifts, heads, batch, Draws.sample(batch, key=0), ObjectiveConfig()
            )
        torch.stack(list(found.values())).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    first = {kind: learn(*nets) for kind, nets in kinds.items()}
    took = {kind: [] for kind in kinds}
    for _ in range(options.repeats):
        for kind, nets in kinds.items():
            took[kind].append(learn(*nets))
    eager, compiled = (sorted(found)[options.repeats // 2] for found in took.values())
    where = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__}, {where}, {options.dtype}")
    print(
        "| eager, ms | compiled, ms | ratio | first step compiled, s | pays after steps |"
    )
    print("|---|---|---|---|---|")
    pays = (
        f"{first['compiled'] / (eager - compiled):,.0f}"
        if compiled < eager
        else "never"
    )
    print(
        f"| {1e3 * eager:.1f} | {1e3 * compiled:.1f} | {eager / compiled:.2f} | {first['compiled']:.0f} | {pays} |"
    )


if __name__ == "__main__":
    main()
