"""`flowbind fit` at the paper's size on random latents: steps/s, data's share, memory.

    python benchmarks/training.py [--pairs 547180] [--steps 600] [--warm 100] [OPTION ...]

A store of the paper's three pairings is made in a temporary folder (3 KB a pair), and a recipe
(`--recipe`, the paper's) is run through the command line on it, with modalities whose latents are
noise (`noise.py`); options that this script does not know are given to `flowbind fit`. The
checkpoint is written once, after the last step. Seconds are read off Lightning's profiler; the
first `--warm` steps are not counted.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from lightning.pytorch.profilers import Profiler
from noise import NoiseCodec

from flowbind.data.shard import LINE, write_shard
from flowbind.data.store import finish_store

ROOT = Path(__file__).parents[1]
# Of arXiv 2512.15420: LAION-COCO and Flickr30k, VGGSound, AudioCaps.
SHARES = {
    ("text", "image"): 272_703,
    ("image", "audio"): 183_449,
    ("text", "audio"): 91_028,
}
PAIRS, SHARD = sum(SHARES.values()), 16_384
STEP, END = "run_training_batch", "[Callback]Checkpoints.on_train_end"
DATA = ("[_TrainingEpochLoop].train_dataloader_next", "batch_to_device")
OVERLAY = """
model:
  init_args:
    modalities:
      text: {{class_path: noise.Noise}}
      image: {{class_path: noise.Noise}}
      audio: {{class_path: noise.Noise}}
evaluation: {{metrics: []}}
data:
  init_args:
    manifests: {{train: {folder}/train.jsonl, val: {folder}/val.jsonl, test: {folder}/val.jsonl}}
    store: {folder}
checkpoints: {{minutes: 1000}}
trainer:
  default_root_dir: {folder}/run
  devices: 1
  max_steps: {steps}
  profiler: {{class_path: training.Clock, init_args: {{warm: {warm}, steps: {steps}}}}}
"""


def register(site: Path) -> None:
    """Makes the modality of noise known, as an installed package's: a model is released by name."""
    package = site / "noise-1.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (package / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: noise\nVersion: 1\n"
    )
    (package / "entry_points.txt").write_text(
        "[flowbind.modalities]\nnoise = noise:Noise\n[flowbind.codecs]\nnoise = noise:NoiseCodec\n"
    )


class Clock(Profiler):
    """Seconds of what Lightning does, between two steps at which the device is waited for.

    Args:
        warm: steps that are not counted.
        steps: of the run.
    """

    def __init__(self, warm: int, steps: int) -> None:
        super().__init__()
        self.warm, self.steps, self.made = warm, steps, 0
        self.begun: dict[str, float] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        self.began = time.perf_counter()

    def start(self, action_name: str) -> None:
        self.begun[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        self.seconds[action_name] += time.perf_counter() - self.begun.pop(
            action_name, time.perf_counter()
        )
        if action_name == STEP:
            self.made += 1
            if self.made in (self.warm, self.steps):
                self._mark()

    def _mark(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.made == self.warm:
            print(
                f"the first {self.warm} steps, and all before them: {now - self.began:.0f} s",
                flush=True,
            )
            self.seconds.clear()
            self.began = now
        else:
            self.took, self.counted = now - self.began, dict(self.seconds)

    def summary(self) -> str:
        return ""

    def describe(self) -> None:
        """Prints what was measured, once the run is over."""
        if self.made < self.steps:
            return
        step = self.took / (self.steps - self.warm)
        data = sum(s for name, s in self.counted.items() if name.endswith(DATA))
        batch = self.counted[STEP]
        allocated = reserved = 0.0
        if torch.cuda.is_available():
            allocated = torch.cuda.max_memory_allocated() / 2**30
            reserved = torch.cuda.max_memory_reserved() / 2**30
        print(
            "| step, ms | steps/s | host in data | host in steps | peak, GiB (reserved) "
            "| last checkpoint, s |"
        )
        print("|---|---|---|---|---|---|")
        print(
            f"| {1e3 * step:.1f} | {1 / step:.2f} | {data / self.took:.2%} "
            f"| {batch / self.took:.1%} | {allocated:.1f} ({reserved:.1f}) "
            f"| {self.seconds[END]:.1f} |",
            flush=True,
        )
        for name, spent in sorted(self.counted.items(), key=lambda item: -item[1])[:12]:
            print(f"    {spent / self.took:6.2%} {name}")
        sys.stdout.flush()


def make_store(folder: Path, pairs: int) -> None:
    """Random latents in float16, in the paper's proportions, and a few to validate on."""
    codec = NoiseCodec()
    for split, count in (("train", pairs), ("val", 600)):
        (folder / split).mkdir(exist_ok=True)
        strata = []
        for number, (names, share) in enumerate(SHARES.items()):
            files, rows = [], max(share * count // PAIRS, 1)
            for part, start in enumerate(range(0, rows, SHARD)):
                lines = torch.arange(start, min(start + SHARD, rows))
                tensors = {
                    name: torch.randn(len(lines), *codec.shape).half() for name in names
                }
                files.append(f"{number}-{part:05d}.safetensors")
                write_shard(folder / split / files[-1], tensors | {LINE: lines}, {})
            strata.append((names, files))
        prints = {name: codec.fingerprint() for name in ("text", "image", "audio")}
        finish_store(folder / split, strata, prints, f"{folder}/{split}.jsonl", "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="recipes/flowbind/published.yaml")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--warm", type=int, default=100)
    parser.add_argument(
        "--store", type=Path, help="where the latents are, or will be kept, instead"
    )
    options, others = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.store or Path(temporary)
        folder.mkdir(exist_ok=True)
        if not (folder / "val" / "manifest.json").is_file():
            begin = time.perf_counter()
            make_store(folder, options.pairs)
            print(
                f"{options.pairs:,} pairs written in {time.perf_counter() - begin:.0f} s",
                flush=True,
            )
        if options.steps:
            overlay = folder / "overlay.yaml"
            overlay.write_text(
                OVERLAY.format(folder=folder, steps=options.steps, warm=options.warm)
            )
            register(folder / "site")
            places = [
                folder / "site",
                ROOT / "benchmarks",
                os.environ.get("PYTHONPATH", ""),
            ]
            path = os.pathsep.join(map(str, places))
            command = [
                sys.executable,
                "-m",
                "flowbind",
                "fit",
                "--config",
                options.recipe,
                "--config",
                str(overlay),
            ]
            done = subprocess.run(
                [*command, "--resume=never", *others],
                env=os.environ | {"PYTHONPATH": path},
                check=False,
            )
            raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
