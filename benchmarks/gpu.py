"""The paper's size on one GPU: a training step, eager and compiled, and generation.

    python benchmarks/gpu.py [--device cuda] [--steps 30] [--only step generate]

Three modalities (latents 768, width 1152, depth 12), 1,024 samples of three pairings in 2,048
rows. A step is forward, backward, clipping, Adam and, at every eighth, the moving average; steps
follow one another as in training, without waiting for the device. Its products are counted by the
formula of docs/scale.md, and so is the state that the optimiser moves; both are set beside rates
measured here. Generation is `Model.translate` from one source to one target, 10 Euler steps a leg.
`--tiny` makes everything small, to try the script itself.
"""

import argparse
import copy
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import torch
from noise import Noise, NoiseCodec
from plan import FREQUENCIES, W, drift_weights, optimizer_bytes, step_flops
from torch import nn

from flowbind.batch import Batch
from flowbind.generation import Model
from flowbind.method import Networks
from flowbind.methods.flowbind import FlowBind
from flowbind.methods.flowbind.objective import Draws, ObjectiveConfig, losses
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.train.ema import EVERY, follow

NAMES, SAMPLES, STEPS = ("a", "b", "c"), 1024, 200_000
# Which of the three pairings have each modality.
PAIRS = {
    "a": (0, 1),
    "b": (0, 2),
    "c": (1, 2),
}
HEAD = "| step of 1,024 samples | times | forward + backward, ms | optimiser, ms | step, ms"
HEAD += " | TFLOP/s | peak, GiB | samples/s | 200,000 steps, h | first step, s |"


class Variant(NamedTuple):
    """How a step is computed: dtype under autocast, TF32 for float32, torch.compile, times."""

    dtype: torch.dtype
    tf32: bool
    compiled: bool
    times: str

    def __str__(self) -> str:
        name = (
            "bfloat16"
            if self.dtype == torch.bfloat16
            else "TF32"
            if self.tf32
            else "float32"
        )
        return f"{name}, {'compiled' if self.compiled else 'eager'}"


FULL, HALF = torch.float32, torch.bfloat16
VARIANTS = [
    Variant(FULL, False, False, "mixture"),
    Variant(FULL, True, False, "mixture"),
    Variant(HALF, False, False, "mixture"),
    Variant(HALF, False, False, "both"),
    Variant(HALF, False, True, "mixture"),
    Variant(HALF, False, True, "both"),
    Variant(FULL, True, True, "mixture"),
]


@contextmanager
def tf32(allowed: bool):
    """A block in which products of float32 may be computed in TF32, or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(
    run: Callable[[], object], device: torch.device, repeats: int, warm: int = 3
) -> float:
    """Of one call of `run`, the mean over calls that follow one another."""
    for _ in range(warm):
        run()
    wait(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    wait(device)
    return (time.perf_counter() - begin) / repeats


def product_rate(
    device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int]
) -> float:
    """FLOP/s of a product (m, k) by (k, n) of random numbers."""
    m, k, n = sizes
    x = torch.randn(m, k, device=device, dtype=dtype)
    y = torch.randn(k, n, device=device, dtype=dtype)
    return 2 * m * k * n / seconds(lambda: x @ y, device, 20)


def copy_rate(device: torch.device, count: int) -> float:
    """Bytes/s, read and written, of copying so many float32 numbers on the device."""
    x, y = torch.randn(count, device=device), torch.empty(count, device=device)
    return 8 * count / seconds(lambda: y.copy_(x), device, 20)


class Training:
    """What a step needs: networks, their average, an optimiser, and a batch that stays."""

    def __init__(
        self,
        device: torch.device,
        variant: Variant,
        drift: DriftConfig,
        head: HeadConfig,
        width: int,
    ):
        self.device, self.variant, self.count = device, variant, 0
        modalities = {name: Noise(NoiseCodec(width)) for name in NAMES}
        with device:
            self.flows = FlowBind(modalities, drift, head).build()
        self.average = copy.deepcopy(self.flows).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.flows.parameters(), lr=1e-4, fused=True)
        self.config = ObjectiveConfig(times=variant.times)

        parts = torch.arange(SAMPLES, device=device).tensor_split(3)
        rows = {
            name: torch.cat([parts[i] for i in pairs]) for name, pairs in PAIRS.items()
        }
        latents = {
            name: torch.randn(len(own), width, device=device)
            for name, own in rows.items()
        }
        self.batch = Batch.of(latents, rows)
        if variant.compiled:
            for net in [*self.flows.drifts.values(), *self.flows.heads.values()]:
                net.compile(dynamic=False)

    def learn(self) -> None:
        """Forward and backward."""
        self.optimizer.zero_grad()
        with torch.autocast(
            self.device.type, self.variant.dtype, enabled=self.variant.dtype != FULL
        ):
            drawn = Draws.sample(self.batch, key=self.count)
            found = losses(
                self.flows.drifts, self.flows.heads, self.batch, drawn, self.config
            )
        torch.stack(list(found.values())).sum().backward()

    def update(self) -> None:
        """Clipping, Adam, and the average at its turn."""
        nn.utils.clip_grad_norm_(self.flows.parameters(), 1.0)
        self.optimizer.step()
        self.count += 1
        if self.count % EVERY == 0:
            follow(self.average, self.flows, 0.9995)

    def step(self) -> None:
        self.learn()
        self.update()


def flops(times: str) -> float:
    """Of a step of 2,048 rows; `both` calls each drift twice a row."""
    rows = 2 * SAMPLES
    again = rows * (6 * drift_weights() - 2 * FREQUENCIES * W)
    return step_flops(rows) + again * (times == "both")


def measure_step(device: torch.device, variant: Variant, repeats: int, *sizes) -> str:
    """A line of the table."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with tf32(variant.tf32):
        training = Training(device, variant, *sizes)
        begin = time.perf_counter()
        training.step()
        wait(device)
        first = time.perf_counter() - begin

        step = seconds(training.step, device, repeats)
        learn = seconds(training.learn, device, repeats)
        update = seconds(training.update, device, repeats)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    rate = flops(variant.times) / learn / 1e12
    cells = [
        variant,
        variant.times,
        f"{1e3 * learn:.1f}",
        f"{1e3 * update:.1f}",
        f"{1e3 * step:.1f}",
        f"{rate:.0f}",
    ]
    cells += [
        f"{peak:.1f}",
        f"{SAMPLES / step:,.0f}",
        f"{STEPS * step / 3600:.2f}",
        f"{first:.0f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def measure_generation(
    device: torch.device, repeats: int, drift: DriftConfig, head: HeadConfig, width: int
) -> None:
    """Prints a table: translation from one source to one target by the flows alone."""
    modalities = {name: Noise(NoiseCodec(width)) for name in NAMES}
    with device:
        method = FlowBind(modalities, drift, head)
        networks = Networks(method).eval().requires_grad_(False)
    model = Model(method, networks)
    print(
        "| generation, 10 Euler steps a leg | batch | ms | samples/s |\n|---|---|---|---|",
        flush=True,
    )
    for name, allowed in (("float32", False), ("TF32", True), ("bfloat16", False)):
        if name == "bfloat16":
            networks.bfloat16()
        for rows in (1, 16, 1024):
            x = {"a": torch.randn(rows, width, device=device)}
            with tf32(allowed):
                took = seconds(lambda x=x: model.translate(x, ["b"]), device, repeats)
            print(
                f"| {name} | {rows:,} | {1e3 * took:.1f} | {rows / took:,.0f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=30, help="that are timed")
    parser.add_argument(
        "--only", nargs="+", choices=["step", "generate"], default=["step", "generate"]
    )
    parser.add_argument(
        "--variants", type=int, nargs="+", default=list(range(len(VARIANTS)))
    )
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    sizes = DriftConfig(), HeadConfig(), 768
    square = 8192
    if options.tiny:
        sizes, square = (DriftConfig(16, 1, 1), HeadConfig(16, 1), 8), 64

    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {where}", flush=True)
    if "step" in options.only:
        inner = (2 * SAMPLES // 3, 1152, 4608)
        for name, dtype, allowed in (
            ("float32", FULL, False),
            ("TF32", FULL, True),
            ("bfloat16", HALF, False),
        ):
            with tf32(allowed):
                rates = [
                    product_rate(device, dtype, (m, k, n)) / 1e12
                    for m, k, n in ((square,) * 3, inner)
                ]
            print(
                f"{name}: {rates[0]:.0f} TFLOP/s for {square}^3, {rates[1]:.0f} for {inner}",
                flush=True,
            )
        moved = copy_rate(device, square**2 * 8)
        floor = f"{1e3 * optimizer_bytes() / moved:.1f} ms"
        print(f"memory: {moved / 1e12:.2f} TB/s; Adam and average at that: {floor}")
        print(HEAD, "|---" * 10 + "|", sep="\n", flush=True)
        for number in options.variants:
            print(
                measure_step(device, VARIANTS[number], options.steps, *sizes),
                flush=True,
            )
    if "generate" in options.only:
        measure_generation(device, options.steps, *sizes)


if __name__ == "__main__":
    main()
