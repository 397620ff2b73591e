"""Data at scale: opening and reading stores of many shards, reading from disk, finishing a store, permuting 10^9 rows.

    OMP_NUM_THREADS=1 python benchmarks/scale.py [--rows 10000000] [--shard 2048] [--cold-mib 512] [--folder DIR]

Stores are made up in a temporary folder under `--folder` (default: the system's), which is removed. Their latents are
holes in sparse files, which read as zeros and take no room on the disk; the line of each row is written, and every row
read is checked by it. Every table row is a process of its own. Memory is the process's own (RssAnon): pages of mapped
files are the system's cache. The files read from disk are no holes; their pages are dropped from the cache before.
"""

import argparse
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from flowbind.data.memory_map import Mapped
from flowbind.data.mixture import permuted
from flowbind.data.shard import LINE, layout, read_header, write_shard
from flowbind.data.store import LatentStore, finish_store

NAMES = ("a", "b")
BATCH = 1024
BILLION = 10**9


def own_memory() -> float:
    """MiB of this process alone."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def sparse_store(folder: Path, rows: int, width: int, shard: int) -> None:
    """Rows of two modalities in float16; only headers and lines are written."""
    files = [f"0-{number:05d}.safetensors" for number in range(-(-rows // shard))]
    for number, file in enumerate(files):
        lines = torch.arange(number * shard, min(rows, (number + 1) * shard))
        sizes = {LINE: ("I64", [len(lines)], 8)} | {
            name: ("F16", [len(lines), width], 2 * width) for name in NAMES
        }
        header, end = {"__metadata__": {"key": "made up"}}, 0
        for name, (dtype, shape, size) in sizes.items():
            header[name] = {
                "dtype": dtype,
                "shape": shape,
                "data_offsets": [end, end + len(lines) * size],
            }
            end += len(lines) * size
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text + lines.numpy().tobytes())
            stream.truncate(8 + len(text) + end)
    finish_store(folder, [(NAMES, files)], {name: {} for name in NAMES}, "made up", "")


def looped(store: LatentStore):
    """The plain way to read a batch: numpy's memory map of each tensor, and a loop over the batch's shards."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Each map keeps a file open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    shards, maps = store.strata[0].shards, {name: [] for name in NAMES}
    for shard in shards:
        path = store.folder / shard.file
        for name, (_, shape, begin) in layout(
            path, *read_header(path), shard.rows
        ).items():
            if name in maps:
                maps[name].append(
                    np.memmap(path, np.float16, "r", begin, (shard.rows, *shape))
                )
    starts = np.cumsum([0] + [shard.rows for shard in shards])[:-1]

    def gather(rows: np.ndarray) -> None:
        shard = np.searchsorted(starts, rows, side="right") - 1
        for parts in maps.values():
            out = np.empty((len(rows), *parts[0].shape[1:]), np.float16)
            for number in np.unique(shard):
                here = shard == number
                out[here] = parts[number][rows[here] - starts[number]]

    return gather


def rate(gather, count: int, seconds: float = 2.0) -> float:
    """Rows a second in random batches."""
    random, done, begin = np.random.default_rng(0), 0, time.perf_counter()
    while (took := time.perf_counter() - begin) < seconds:
        gather(random.integers(0, count, BATCH))
        done += BATCH
    return done / took


def read(folder: Path) -> None:
    """A store's opening and its random batches."""
    before, begin = own_memory(), time.perf_counter()
    store = LatentStore(folder)
    opened = time.perf_counter()
    store.gather(0, np.arange(BATCH))
    first = time.perf_counter()
    rows = np.random.default_rng(1).integers(0, store.rows, 50 * BATCH)
    assert store.gather(0, rows, [LINE])[LINE].numpy().tolist() == rows.tolist()
    for name in NAMES:  # the whole store into the system's cache
        for start in range(0, store.rows, 2**16):
            store.gather(0, np.arange(start, min(store.rows, start + 2**16)), [name])
    files = len(os.listdir("/proc/self/fd"))
    early = own_memory()
    ours = rate(lambda rows: store.gather(0, rows), store.rows)
    grown = own_memory()
    try:
        plain = rate(looped(store), store.rows)
        against = f"{plain:,.0f} | {ours / plain:.1f}"
    except OSError as error:
        against = f"{error.strerror} | -"
    (width,) = store.fields["a"].shape
    print(
        f"| {store.rows:,} x {width} | {len(store.strata[0].shards):,} | {opened - begin:.3f} | {first - opened:.3f} | "
        f"{ours:,.0f} | {against} | {early - before:.0f} + {grown - early:.1f} | {files} |"
    )


def cold(folder: Path, mib: int) -> None:
    """First batches from files that are not in memory, each after dropping their pages."""
    blob = np.random.default_rng(0).bytes(2**24)
    files = [(folder / str(number), len(blob)) for number in range(-(-mib // 16))]
    for path, _ in files:
        with path.open("wb") as stream:
            stream.write(blob)
            stream.flush()
            os.fsync(stream.fileno())
    random, found = np.random.default_rng(1), {False: [], True: []}
    for _ in range(5):
        for scattered, took in found.items():
            for path, _ in files:
                handle = os.open(path, os.O_RDONLY)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(handle)
            mapped = Mapped(files, scattered)
            places = mapped.addresses[
                random.integers(0, len(files), BATCH)
            ] + 1536 * random.integers(0, 10_000, BATCH)
            begin = time.perf_counter()
            mapped.rows(places, 1536)
            took.append(time.perf_counter() - begin)
    system, ours = (sorted(took)[2] for took in found.values())
    print(f"| {1e3 * system:.0f} | {1e3 * ours:.0f} | {system / ours:.1f} |")


def finish(folder: Path, shards: int, shard: int) -> None:
    """Statistics and checksums over shards of real latents (the same, under many names)."""
    latents = {name: torch.randn(shard, 768).half() for name in NAMES}
    write_shard(
        folder / "0.safetensors", latents | {LINE: torch.arange(shard)}, {"key": ""}
    )
    files = ["0.safetensors"] + [f"{number}.safetensors" for number in range(1, shards)]
    for file in files[1:]:
        os.link(folder / files[0], folder / file)
    # Warm.
    finish_store(
        folder, [(NAMES, files[:1])], {name: {} for name in NAMES}, "made up", ""
    )
    before, begin = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        time.perf_counter(),
    )
    finish_store(folder, [(NAMES, files)], {name: {} for name in NAMES}, "made up", "")
    took, peak = (
        time.perf_counter() - begin,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
    size = (folder / files[0]).stat().st_size
    print(
        f"| {shards} x {shard:,} | {shards * shard / took:,.0f} | {shards * size / took / 2**20:,.0f} | {(peak - before) / 1024:.0f} |"
    )


def permute() -> None:
    """Positions to rows of a permutation of 10^9."""
    for size, repeats in ((BATCH, 500), (2**20, 4)):
        rows = np.empty(repeats * size, np.int64)
        rows[:] = -1  # takes its memory now
        before, begin = own_memory(), time.perf_counter()
        for positions in np.arange(repeats * size).reshape(repeats, size):
            rows[positions] = permuted(positions, BILLION, np.full(size, 7, np.uint64))
        # Of the positions.
        took, grown = (
            time.perf_counter() - begin,
            own_memory() - before - rows.nbytes / 2**20,
        )
        again = len(rows) - len(np.unique(rows))
        assert rows.min() >= 0
        assert rows.max() < BILLION
        print(
            f"| {size:,} | {1e3 * took / repeats:.2f} | {repeats * size / took:,.0f} | {grown:.0f} | "
            f"{again} (of a random map: {len(rows) ** 2 / 2 / BILLION:,.0f}) |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, default=10_000_000, help="of the largest store"
    )
    parser.add_argument("--shard", type=int, default=2048, help="rows of a shard")
    parser.add_argument(
        "--cold-mib", type=int, default=512, help="MiB to write and read from disk"
    )
    parser.add_argument(
        "--folder", type=Path, help="where to make the temporary folder"
    )
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part, folder, *sizes = options.part
        {"read": read, "cold": cold, "finish": finish}[part](
            Path(folder), *map(int, sizes)
        )
        return

    def run(part: str, *sizes: int, store: tuple[int, int] | None = None) -> None:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            if store:
                sparse_store(Path(folder), *store, options.shard)
            command = [
                sys.executable,
                __file__,
                "--part",
                part,
                folder,
                *map(str, sizes),
            ]
            subprocess.run(
                command,
                check=True,
                stderr=subprocess.DEVNULL if part == "finish" else None,
            )

    print(
        f"torch {torch.__version__}, CPU, {torch.get_num_threads()} threads; two modalities in float16"
    )
    print(
        "| rows x width | shards | opening, s | first batch, s | rows/s | loop over shards, rows/s | ratio | own memory, MiB | open files |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for rows, width in (
        (options.rows // 10, 768),
        (options.rows // 10, 64),
        (options.rows, 64),
    ):
        run("read", store=(rows, width))
    print(
        "\n| first batch from disk: the system's way, ms | page by page, ms | ratio |\n|---|---|---|",
        flush=True,
    )
    run("cold", options.cold_mib)
    print(
        "\n| finishing: shards x rows | rows/s | MiB/s | memory grown, MiB |\n|---|---|---|---|",
        flush=True,
    )
    for shards in (20, 80):
        run("finish", shards, options.shard)
    print(
        "\n| permutation of 10^9: positions | ms | rows/s | memory grown, MiB | rows met twice |\n|---|---|---|---|---|"
    )
    permute()


if __name__ == "__main__":
    main()
