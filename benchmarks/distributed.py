"""What several processes cost: rows a second and core of DDP, against one process on one core and on as many.

Trains the sizes of recipes/shapes.yaml on made-up latents through the real command line, with the same samples a core: on
one process of one thread, on one of several threads, and on several of one thread, each `--repeats` times in turn; printed
are medians and their ratios. Also prints the share of a run that checkpoints take.

    python benchmarks/distributed.py [--processes 2] [--samples 192 768] [--steps 160] [--repeats 3]
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
from flowbind.data.shard import LINE, write_shard
from flowbind.data.store import finish_store
from flowbind.train.ema import EACH

RECIPE = Path(__file__).parents[1] / "recipes/shapes.yaml"
PAIRS = (["text", "image"], ["text", "audio"], ["image", "points"])
ROWS, EVERY = 6000, 20  # pairs of each kind; steps between two checkpoints


def make_store(folder: Path) -> None:
    modalities = build(["--config", str(RECIPE)]).model.modalities
    strata = []
    for number, names in enumerate(PAIRS):
        tensors = {
            name: torch.randn(ROWS, *modalities[name].codec.shape) for name in names
        }
        write_shard(
            folder / f"{number}.safetensors", tensors | {LINE: torch.arange(ROWS)}, {}
        )
        strata.append((names, [f"{number}.safetensors"]))
    prints = {
        name: modality.codec.fingerprint() for name, modality in modalities.items()
    }
    finish_store(folder, strata, prints, "made up", "")


def steps_per_second(
    folder: Path, samples: int, processes: int, threads: int, steps: int, every: int
) -> float:
    """Of one training run, from its own lines of progress, without the first steps, at which the average follows each time."""
    strategy = ["--trainer.strategy=ddp"] if processes > 1 else []
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "flowbind",
            "fit",
            "--config",
            RECIPE,
            "--resume=never",
            *strategy,
            f"--data.init_args.manifests={{train: {folder}/made-up.jsonl}}",
            f"--data.init_args.store={folder}",
            f"--data.init_args.batch_size={samples * processes * threads}",
            f"--trainer.devices={processes}",
            "--trainer.accelerator=cpu",
            f"--trainer.max_steps={steps}",
            f"--trainer.default_root_dir={folder}/run",
            f"--checkpoints.every={every}",
            "--trainer.precision=32-true",
        ],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = re.findall(r"fit: (\d+)/\d+ steps .*?\(([\d.]+)/s\)", done.stderr)
    seconds = {int(step): int(step) / float(rate) for step, rate in lines}
    first, last = min(step for step in seconds if step >= EACH), max(seconds)
    return (last - first) / (seconds[last] - seconds[first])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--samples", type=int, nargs="+", default=[192, 768], help="a core and step"
    )
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cores, never = options.processes, 10**9
    # Processes, threads, and steps between checkpoints.
    runs = [(1, 1, never), (1, cores, never), (cores, 1, never), (1, 1, EVERY)]
    print(f"torch {torch.__version__}")
    print(
        "| samples a core | processes | threads | steps/s | rows/s and core | of one core | of one process |\n|---|---|---|---|---|---|---|"
    )
    checkpoints = []
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder) / "train")
        for samples in options.samples:
            found: list[list[float]] = [[] for _ in runs]
            for _ in range(options.repeats):
                for rates, (processes, threads, every) in zip(found, runs, strict=True):
                    rates.append(
                        steps_per_second(
                            Path(folder),
                            samples,
                            processes,
                            threads,
                            options.steps,
                            every,
                        )
                    )
            *rates, saving = (sorted(rates)[len(rates) // 2] for rates in found)
            for rate, (processes, threads, _) in zip(rates, runs, strict=False):
                print(
                    f"| {samples} | {processes} | {threads} | {rate:.2f} | {2 * samples * rate:,.0f} | {rate / rates[0]:.2f} "
                    f"| {rate / rates[1]:.2f} |",
                    flush=True,
                )
            cost = (1 / saving - 1 / rates[0]) * EVERY
            checkpoints.append(
                f"{samples} samples: a checkpoint {1e3 * cost:.0f} ms, {cost * rates[0] / 1000:.2%} of 1,000 steps"
            )
    print("\n".join(checkpoints))


if __name__ == "__main__":
    main()
