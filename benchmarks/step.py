"""A training step at the paper's size, against a plain loop as the authors' public code runs it.

Both train three modalities (D 768, width 1152, depth 12) on 384 samples of three pairings, in this process, one after
the other. The plain loop takes each pairing apart and calls each drift twice a row, in float32. Printed are seconds,
ratios, and the share of this machine's own matrix rate (measured here, at the shapes of the step) that forward and
backward reach. A processor without bfloat16 is measured in float32 alone. `--compile` compiles drifts and heads; on a GPU
hours are extrapolated.

    python benchmarks/step.py [--device cuda] [--compile] [--repeats 3]
"""

import argparse
import itertools
import time

import torch
import torch.nn.functional as F
from torch import nn

from flowbind.batch import Batch
from flowbind.methods.flowbind.objective import Draws, ObjectiveConfig, losses
from flowbind.nets.mlp import Drift, Head

NAMES, WIDTH, PAIR_SAMPLES = ("a", "b", "c"), 768, 128
PAPER_STEPS, PAPER_BATCH = 200_000, 1024


def timed(run, device: torch.device, repeats: int) -> float:
    """Median seconds of `run`, after one call that is not counted."""
    found = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return sorted(found[1:])[repeats // 2]


def matrix_rate(device: torch.device, dtype: torch.dtype, rows: int) -> float:
    """FLOP/s of the step's largest product, `rows` x 1152 by 1152 x 4608."""
    x, weight = (
        torch.randn(rows, 1152, device=device, dtype=dtype),
        torch.randn(1152, 4608, device=device, dtype=dtype),
    )

    def run():
        for _ in range(20):
            x @ weight

    return 20 * 2 * rows * 1152 * 4608 / timed(run, device, repeats=5)


def networks(device: torch.device) -> tuple[nn.ModuleDict, nn.ModuleDict]:
    with device:
        drifts = nn.ModuleDict({name: Drift(WIDTH) for name in NAMES})
        return drifts, nn.ModuleDict({name: Head(WIDTH) for name in NAMES})


def plain_loop(device: torch.device, repeats: int) -> tuple[float, float]:
    """Seconds of forward and backward, and of the optimiser, of a loop over pairings with two drift calls a row."""
    drifts, heads = networks(device)
    optimizer = torch.optim.Adam([*drifts.parameters(), *heads.parameters()], lr=1e-4)
    pairs = [
        (names, [torch.randn(PAIR_SAMPLES, WIDTH, device=device) for _ in names])
        for names in itertools.combinations(NAMES, 2)
    ]

    def learn():
        optimizer.zero_grad()
        total = 0.0
        for names, latents in pairs:
            estimates = [heads[name](x) for name, x in zip(names, latents, strict=True)]
            kept = [e for e in estimates if torch.rand(()) < 0.5] or estimates
            z = torch.stack(kept).mean(0) + (10 / len(kept)) ** 0.5 * torch.randn_like(
                latents[0]
            )
            for name, x in zip(names, latents, strict=True):
                t = torch.rand(len(x), device=device)
                x_t = (1 - t[:, None]) * z.detach() + t[:, None] * x
                total = total + F.mse_loss(drifts[name](x_t, t), x - z.detach())
                total = total + F.mse_loss(drifts[name](z, torch.zeros_like(t)), x - z)
        total.backward()

    learning = timed(learn, device, repeats)
    return learning, timed(optimizer.step, device, repeats)


def ours(
    device: torch.device, dtype: torch.dtype, compiled: bool, repeats: int, samples: int
) -> tuple[float, float]:
    """The same of flowbind's step."""
    drifts, heads = networks(device)
    optimizer = torch.optim.Adam(
        [*drifts.parameters(), *heads.parameters()], lr=1e-4, fused=True
    )
    whole = torch.arange(3 * samples, device=device).split(samples)
    # Which of the three pairings hold each modality.
    held = {
        "a": (0, 1),
        "b": (0, 2),
        "c": (1, 2),
    }
    rows = {name: torch.cat([whole[i] for i in pairs]) for name, pairs in held.items()}
    batch = Batch.of(
        {name: torch.randn(len(r), WIDTH, device=device) for name, r in rows.items()},
        rows,
    )
    if compiled:
        for net in [*drifts.values(), *heads.values()]:
            net.compile()

    def learn():
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            found = losses(
                drifts, heads, batch, Draws.sample(batch, key=0), ObjectiveConfig()
            )
        torch.stack(list(found.values())).sum().backward()

    learning = timed(learn, device, repeats)
    return learning, timed(optimizer.step, device, repeats)


def has_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are done by the device; by software a step would take half an hour."""
    return device.type == "cuda" or any(
        has for name, has in torch.cpu.get_capabilities().items() if "bf16" in name
    )


def flops(rows: int) -> float:
    """Of forward and backward: six a weight and row, counting matrix products alone."""
    with torch.device("meta"):
        weights = [
            sum(p.numel() for p in net(WIDTH).parameters() if p.ndim == 2)
            for net in (Drift, Head)
        ]
    return 6.0 * rows * sum(weights)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device, repeats = torch.device(options.device), options.repeats
    where = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__}, {where}")
    rows = 6 * PAIR_SAMPLES
    base, base_adam = plain_loop(device, repeats)
    print(
        "| step of 384 samples | forward + backward, s | optimiser, s | step against the plain loop | share of the matrix rate |"
    )
    print("|---|---|---|---|---|")
    rate = matrix_rate(device, torch.float32, rows // 3)
    print(
        f"| plain loop, float32 | {base:.3f} | {base_adam:.3f} | 1.00 | {flops(2 * rows) / base / rate:.2f} |"
    )
    dtypes = (
        [torch.float32, torch.bfloat16] if has_bfloat16(device) else [torch.float32]
    )
    for dtype in dtypes:
        rate = matrix_rate(device, dtype, rows // 3)
        learn, adam = ours(device, dtype, options.compile, repeats, PAIR_SAMPLES)
        ratio = (base + base_adam) / (learn + adam)
        name = f"flowbind, {str(dtype).removeprefix('torch.')}{', compiled' if options.compile else ''}"
        print(
            f"| {name} | {learn:.3f} | {adam:.3f} | {ratio:.2f} | {flops(rows) / learn / rate:.2f} of {rate / 1e9:.0f} GFLOP/s |"
        )
    if device.type == "cuda":
        learn, adam = ours(
            device, torch.bfloat16, options.compile, repeats, PAPER_BATCH // 3
        )
        hours = (learn + adam) * PAPER_STEPS / 3600
        print(
            f"{2 * PAPER_BATCH / (learn + adam):.0f} rows/s; {PAPER_STEPS} steps of {PAPER_BATCH}: {hours:.2f} h (extrapolated)"
        )


if __name__ == "__main__":
    main()
