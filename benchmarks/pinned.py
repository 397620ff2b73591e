"""The bits of a run: one hash each of a checkpoint's numbers, whatever they are called.

python benchmarks/pinned.py runs/shapes/checkpoints/step=40.ckpt

Two versions that train alike print the same three lines on the same machine, though modules were
renamed or moved. Weights, their moving average and the optimiser's moments are hashed tensor by
tensor, and the sorted hashes again.
"""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from flowbind.train.checkpoints import read_checkpoint

# Prefixes of the moving average's names, of all versions.
AVERAGES = (
    "average.",
    "ema.",
)


def digest(tensors: Iterable[Tensor]) -> str:
    """One hash of many tensors' shapes and numbers, in no order."""
    parts = []
    for tensor in tensors:
        data = (
            tensor.detach()
            .cpu()
            .contiguous()
            .flatten()
            .view(torch.uint8)
            .numpy()
            .tobytes()
        )
        parts.append(
            hashlib.sha256(str(tuple(tensor.shape)).encode() + data).hexdigest()
        )
    return hashlib.sha256("".join(sorted(parts)).encode()).hexdigest()


def main() -> None:
    """Prints the hashes of each checkpoint named."""
    for path in map(Path, sys.argv[1:]):
        checkpoint = read_checkpoint(path)
        state = checkpoint["state_dict"]
        moments = [
            m
            for s in checkpoint["optimizer_states"]
            for p in s["state"].values()
            for m in p.values()
        ]
        groups = {
            "weights": [
                x for name, x in state.items() if not name.startswith(AVERAGES)
            ],
            "average": [x for name, x in state.items() if name.startswith(AVERAGES)],
            "optimiser": [x for x in moments if isinstance(x, Tensor)],
        }
        print(f"{path}, step {checkpoint['global_step']}")
        for name, tensors in groups.items():
            print(f"  {name:9} {len(tensors):4} tensors  {digest(tensors)}")


if __name__ == "__main__":
    main()
