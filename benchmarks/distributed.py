"""What several processes cost: rows a second and core of DDP, against one process on one core and on as many.

Trains the sizes of recipes/shapes.yaml on made-up latents through the real command line, with the same rows a core: on one
process of one thread, on one of several threads, and on several of one thread, each `--repeats` times in turn; printed
are medians and their ratio. Also prints the share of a run that checkpoints take.

    python benchmarks/distributed.py [--processes 2] [--steps 300] [--repeats 3]
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from flowbind.cli.recipe import build
from flowbind.store import LINE, finish_store, write_shard

RECIPE = Path(__file__).parents[1] / "recipes/shapes.yaml"
PAIRS = (["text", "image"], ["text", "audio"], ["image", "points"])
ROWS, CORE_BATCH = 6000, 192


def make_store(folder: Path) -> None:
    modalities = build(["--config", str(RECIPE)]).model.modalities
    strata = []
    for number, names in enumerate(PAIRS):
        tensors = {name: torch.randn(ROWS, *modalities[name].codec.shape) for name in names}
        write_shard(folder / f"{number}.safetensors", tensors | {LINE: torch.arange(ROWS)}, {})
        strata.append((names, [f"{number}.safetensors"]))
    prints = {name: modality.codec.fingerprint() for name, modality in modalities.items()}
    finish_store(folder, strata, prints, "made up", "")


def steps_per_second(folder: Path, processes: int, threads: int, steps: int, every: int) -> float:
    """Of one training run, from its own lines of progress."""
    strategy = ["--trainer.strategy=ddp"] if processes > 1 else []
    done = subprocess.run(
        [
            sys.executable, "-m", "flowbind", "fit", "--config", RECIPE, "--resume=never", *strategy,
            f"--data.init_args.manifests={{train: {folder}/made-up.jsonl}}", f"--data.init_args.store={folder}",
            f"--data.init_args.batch_size={CORE_BATCH * processes * threads}", f"--trainer.devices={processes}",
            "--trainer.accelerator=cpu", f"--trainer.max_steps={steps}", f"--trainer.default_root_dir={folder}/run",
            f"--checkpoints.every={every}", "--trainer.precision=32-true",
        ],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(re.findall(rf"step {steps}/{steps} \(([\d.]+)/s\)", done.stderr)[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cores, never = options.processes, 10**9
    # Processes, threads, and steps between checkpoints.
    runs = [(1, 1, never), (1, cores, never), (cores, 1, never), (1, 1, 50)]
    found: list[list[float]] = [[] for _ in runs]
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder) / "train")
        for _ in range(options.repeats):
            for rates, (processes, threads, every) in zip(found, runs, strict=True):
                rates.append(steps_per_second(Path(folder), processes, threads, options.steps, every))
    *rates, saving = (sorted(rates)[len(rates) // 2] for rates in found)
    one = rates[0]
    print(f"torch {torch.__version__}, {CORE_BATCH} samples a core and step")
    print("| processes | threads | steps/s | rows/s and core | of one core |\n|---|---|---|---|---|")
    for rate, (processes, threads, _) in zip(rates, runs, strict=False):
        print(f"| {processes} | {threads} | {rate:.1f} | {2 * CORE_BATCH * rate:,.0f} | {rate / one:.2f} |")
    cost = (1 / saving - 1 / one) * 50
    print(f"a checkpoint: {1e3 * cost:.0f} ms, {cost * one / 1000:.2%} of 1,000 steps")


if __name__ == "__main__":
    main()
