"""What data cost: modalities at constant rows, the first batch of a large store, waiting for batches, starting up.

python benchmarks/data.py [--rows 500000]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from flowbind.batch import Batch
from flowbind.data.batches import Steps
from flowbind.data.mixture import Mixture, apportion
from flowbind.data.shard import LINE, write_shard
from flowbind.data.store import LatentStore, finish_store
from flowbind.methods.flowbind.objective import Draws, ObjectiveConfig, losses
from flowbind.nets.mlp import Drift, Head

WIDTH = 768
SMALL = {"width": 256, "depth": 4}


def median(run, repeats: int = 7) -> float:
    """Median seconds of `run`, after one call that is not counted."""
    found = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return sorted(found[1:])[repeats // 2]


def modalities() -> None:
    """Forward and backward from 3 to 12 modalities at 1,536 rows: pairs along a ring of modalities."""
    print("| modalities | forward + backward, ms | against 3 | optimiser, ms |")
    print("|---|---|---|---|")
    first = None
    for count in (3, 6, 12):
        names = [f"m{i}" for i in range(count)]
        samples = torch.arange(768)
        ring = samples.split(768 // count)
        held = {name: torch.cat([ring[i], ring[i - 1]]) for i, name in enumerate(names)}
        batch = Batch.of(
            {name: torch.randn(len(rows), WIDTH) for name, rows in held.items()}, held
        )
        drifts = torch.nn.ModuleDict({name: Drift(WIDTH, **SMALL) for name in names})
        heads = torch.nn.ModuleDict(
            {name: Head(WIDTH, width=256, depth=2) for name in names}
        )
        optimizer = torch.optim.Adam(
            [*drifts.parameters(), *heads.parameters()], lr=1e-4, fused=True
        )

        def learn(drifts=drifts, heads=heads, batch=batch):
            found = losses(
                drifts, heads, batch, Draws.sample(batch, key=0), ObjectiveConfig()
            )
            torch.stack(list(found.values())).sum().backward()

        took = median(learn)
        first = first or took
        print(
            f"| {count} | {1e3 * took:.0f} | {took / first:.2f} | {1e3 * median(optimizer.step):.0f} |"
        )


def make_store(folder: Path, rows: int) -> LatentStore:
    """A store of pairs of random latents, half of each of two kinds, in shards of 50,000."""
    strata = []
    for number, names in enumerate((["a", "b"], ["a", "c"])):
        files = []
        for part, start in enumerate(range(0, rows // 2, 50_000)):
            size = min(50_000, rows // 2 - start)
            files.append(f"{number}-{part:05d}.safetensors")
            tensors = {name: torch.randn(size, WIDTH).half() for name in names}
            write_shard(
                folder / files[-1],
                tensors | {LINE: torch.arange(start, start + size)},
                {"key": ""},
            )
        strata.append((names, files))
    return finish_store(folder, strata, {name: {} for name in "abc"}, "made up", "")


def own_memory() -> float:
    """Memory of this process in MiB, without mapped pages of the store: those are the system's cache, and it takes them back."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def loader(folder: Path) -> None:
    """In its own process: seconds to the first batch, growth of memory, and seconds a batch."""
    before, begin = own_memory(), time.perf_counter()
    store = LatentStore(folder)
    rows = [stratum.rows for stratum in store.strata]
    steps = iter(Steps(store, ["a", "b", "c"], Mixture(rows, apportion(1024, rows))))
    next(steps)
    first, grown = time.perf_counter() - begin, own_memory() - before
    took = median(lambda: next(steps), repeats=50)
    print(
        f"| {sum(rows):,} | {first:.3f} | {grown:.0f} | {1e3 * took:.2f} | {2048 / took:,.0f} |"
    )


def waiting() -> None:
    """Share of a small step that passes before its batch is there."""
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), 20_000)
        rows = [stratum.rows for stratum in store.strata]
        steps = iter(Steps(store, ["a", "b", "c"], Mixture(rows, apportion(384, rows))))
        drifts = torch.nn.ModuleDict({name: Drift(WIDTH, **SMALL) for name in "abc"})
        heads = torch.nn.ModuleDict(
            {name: Head(WIDTH, width=256, depth=2) for name in "abc"}
        )
        optimizer = torch.optim.Adam(
            [*drifts.parameters(), *heads.parameters()], lr=1e-4, fused=True
        )
        spent = {"batch": 0.0, "step": 0.0}
        for number in range(25):
            begin = time.perf_counter()
            batch = next(steps)
            there = time.perf_counter()
            batch = Batch(
                {name: x.float() for name, x in batch.latents.items()},
                batch.samples,
                batch.links,
            )
            optimizer.zero_grad()
            torch.stack(
                list(
                    losses(
                        drifts,
                        heads,
                        batch,
                        Draws.sample(batch, key=0),
                        ObjectiveConfig(),
                    ).values()
                )
            ).sum().backward()
            optimizer.step()
            if number >= 5:
                spent["batch"] += there - begin
                spent["step"] += time.perf_counter() - begin
    print(
        f"waiting for data: {spent['batch'] / spent['step']:.2%} of a step of {1e3 * spent['step'] / 20:.0f} ms"
    )


def starting() -> None:
    """Seconds of the command's help, and what `import flowbind` loads."""
    took = median(
        lambda: subprocess.run(
            [sys.executable, "-c", "from flowbind.cli import main; main(['--help'])"],
            check=True,
            capture_output=True,
        )
    )
    heavy = (
        "torch",
        "lightning",
        "transformers",
        "diffusers",
        "open_clip",
        "laion_clap",
        "sentence_transformers",
    )
    code = f"import sys, flowbind; print([name for name in {heavy!r} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()
    print(
        f"flowbind --help: {took:.3f} s; of {', '.join(heavy)}, `import flowbind` loads {loaded}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--loader", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loader:
        loader(options.loader)
        return
    print(f"torch {torch.__version__}, CPU, {torch.get_num_threads()} threads")
    modalities()
    print(
        "| cached rows | first batch, s | memory grown, MiB | batch of 1,024, ms | latents/s |"
    )
    print("|---|---|---|---|---|", flush=True)
    for rows in (options.rows // 10, options.rows):
        with tempfile.TemporaryDirectory() as folder:
            make_store(Path(folder), rows)
            subprocess.run([sys.executable, __file__, "--loader", folder], check=True)
    waiting()
    starting()


if __name__ == "__main__":
    main()
