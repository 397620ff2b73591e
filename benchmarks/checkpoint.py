"""What a checkpoint costs: seconds to write it, bring it to the disk, hash it and read it back, beside the steps between.

    python benchmarks/checkpoint.py [--folder DIR] [--repeats 3]

A checkpoint holds the weights, their moving average and Adam's two moments: 16 bytes a parameter in float32. At the
size of recipes/shapes.yaml all four modalities are saved; at the paper's size one of three (3 GB), with a third of the
rows of a step: seconds of both grow with the modalities alike, so that the share stays. Steps are in float32.
`--folder` decides the disk.
"""

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from flowbind.batch import Batch
from flowbind.methods.flowbind.objective import Draws, ObjectiveConfig, losses
from flowbind.nets.mlp import Drift, Head
from flowbind.train.checkpoints import fault, write_checkpoint
from flowbind.train.ema import follow

STEPS = 1000  # between two checkpoints
# Latent width, modalities, samples, and sizes of the networks.
SIZES = {
    "recipes/shapes.yaml": (
        64,
        4,
        240,
        {"width": 256, "depth": 3, "ratio": 2},
        {"width": 256, "depth": 2},
    ),
    "the paper's, one modality": (768, 1, 256, {}, {}),
}


def median(run, repeats: int) -> float:
    """Median seconds of `run`."""
    found = []
    for number in range(repeats):
        begin = time.perf_counter()
        run(number)
        found.append(time.perf_counter() - begin)
    return sorted(found)[repeats // 2]


def cost(
    features: int,
    modalities: int,
    samples: int,
    drift: dict,
    head: dict,
    folder: Path,
    repeats: int,
) -> list[float]:
    """MiB of a checkpoint, seconds of a step, of writing and hashing without and with a sync, and of reading back."""
    names = [f"m{i}" for i in range(modalities)]
    nets = nn.ModuleDict(
        {
            "drifts": nn.ModuleDict({name: Drift(features, **drift) for name in names}),
            "heads": nn.ModuleDict({name: Head(features, **head) for name in names}),
        }
    )
    average = copy.deepcopy(nets)
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-4, fused=True)
    # Pairs: half the modalities of a sample are there.
    whole = torch.arange(samples).split(samples // max(modalities // 2, 1))
    rows = {name: whole[number // 2] for number, name in enumerate(names)}
    batch = Batch.of(
        {name: torch.randn(len(r), features) for name, r in rows.items()}, rows
    )

    def step(_: int) -> None:
        optimizer.zero_grad()
        found = losses(
            nets["drifts"],
            nets["heads"],
            batch,
            Draws.sample(batch, key=0),
            ObjectiveConfig(),
        )
        torch.stack(list(found.values())).sum().backward()
        optimizer.step()
        follow(average, nets, 0.999)

    def save(path: Path) -> None:
        state = {
            "state_dict": nets.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        torch.save(state, path)

    step(0)  # Adam's moments, and what is made once
    stepping = median(step, repeats)
    with patch("flowbind.files._sync"):
        unsynced = median(
            lambda number: write_checkpoint(save, folder, number), repeats
        )
    os.sync()
    writing = median(lambda number: write_checkpoint(save, folder, number), repeats)
    reading = median(lambda number: fault(folder / f"step={number}.ckpt"), repeats)
    return [
        (folder / "step=0.ckpt").stat().st_size / 2**20,
        stepping,
        unsynced,
        writing,
        reading,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, help="where to make the temporary folder"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, CPU, {torch.get_num_threads()} threads")
    print(
        "| size | checkpoint, MiB | step, s | written and hashed, s | the same, on the disk, s | read back, s | "
        f"share of {STEPS:,} steps |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, sizes in SIZES.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            mib, step, unsynced, writing, reading = cost(
                *sizes, Path(folder), options.repeats
            )
        share = (writing + reading) / (STEPS * step)
        seconds = f"{step:.4f} | {unsynced:.2f} | {writing:.2f} | {reading:.2f}"
        print(f"| {name} | {mib:,.0f} | {seconds} | {share:.2%} |", flush=True)


if __name__ == "__main__":
    main()
