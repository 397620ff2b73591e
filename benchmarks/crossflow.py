"""CrossFlow's training step and its generation, against a plain loop after the published code.

Both train the same networks on the same latents (token features of 20 x 385 to grids of 4 x 8 x 8), in this process, by
turns. The plain loop writes attention out (scores, softmax, product), steps one parameter at a time, and averages weights
one parameter at a time. Printed are steps a second, the ratio, the share of this machine's own matrix rate that forward
and backward of the velocity net reach (the rate is that of the net's largest product, measured in between), what guidance
costs in one call of twice the rows and in two calls, and what the frozen text encoder would cost if captions were encoded
in every step, not once. With `--bfloat16` products are in bfloat16, those of the plain loop and of the matrix rate, too; a step
of ours in float32 is printed beside.

    python benchmarks/crossflow.py [--device cuda] [--width 192] [--depth 6] [--patch 1] [--batch 128] [--turns 5]
        [--bfloat16]
"""

import argparse
import copy
import math
import time
from contextlib import contextmanager
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from flowbind_image import Image
from flowbind_image.grid import GridImage
from flowbind_shapes.caption import describe
from flowbind_shapes.scene import draw
from flowbind_text import Text
from flowbind_text.token_features import TokenFeatures
from torch import Tensor

from flowbind import draws
from flowbind.batch import Batch
from flowbind.flow.guidance import guided
from flowbind.methods.crossflow import CrossFlow
from flowbind.methods.crossflow.method import EncoderConfig
from flowbind.nets.dit import RATIO, DiTConfig
from flowbind.nets.variational import EncoderSize
from flowbind.train.ema import follow

ATTENTION = "flowbind.nets.transformer.F.scaled_dot_product_attention"


def written_out(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None):
    """Attention as a formula."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    return scores.softmax(-1) @ v


class Loop:
    """Networks, their average and an optimiser.

    Args:
        method: Method that is trained.
        device: Where.
        plain: Whether parameters are stepped and averaged one by one.
        autocast: Whether products are in bfloat16.
    """

    def __init__(
        self,
        method: CrossFlow,
        device: torch.device,
        plain: bool,
        autocast: bool,
    ) -> None:
        torch.manual_seed(0)
        self.method = method
        self.plain = plain
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=autocast)
        self.nets = method.build().to(device)
        self.average = copy.deepcopy(self.nets).requires_grad_(False)
        how = {"foreach": False} if plain else {"fused": True}
        self.optimizer = torch.optim.Adam(self.nets.parameters(), lr=1e-4, **how)

    def step(self, batch: Batch, number: int) -> None:
        drawn = self.method.draw(batch, draws.key(0, number))
        with self.autocast:
            terms = self.method.losses(self.nets, batch, drawn)
            loss = sum(term.mean(batch) for term in terms.values())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

        if not self.plain:
            follow(self.average, self.nets, 0.999)
            return
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.nets.parameters(), strict=True)
            for average, parameter in pairs:
                average.mul_(0.999).add_(parameter, alpha=0.001)


@contextmanager
def timed(device: torch.device, into: list[float]):
    """Appends the seconds of a block."""
    begin = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize()
    into.append(time.perf_counter() - begin)


def batch_of(rows: int, device: torch.device) -> Batch:
    """Standardised latents: captions of 6 to 20 tokens, and grids."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(rows, 20, 385, generator=generator)
    lengths = torch.randint(6, 21, (rows, 1), generator=generator)
    text[..., -1] = (torch.arange(20) < lengths).float()
    text = text * text[..., -1:]
    image = torch.randn(rows, 4, 8, 8, generator=generator)
    samples = torch.arange(rows)
    both = {"text": samples, "image": samples}
    return Batch.of({"text": text, "image": image}, both).to(device)


def flops(config: DiTConfig, rows: int) -> float:
    """Of forward and backward of the velocity net's products, attention's included."""
    tokens = (8 // config.patch) ** 2 + 1
    weights = (4 + 2 * RATIO) * config.width**2 * config.depth
    products = 2 * rows * tokens * weights
    attention = 4 * rows * tokens**2 * config.width * config.depth
    return 3 * (products + attention)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--patch", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--bfloat16", action="store_true", help="products in bfloat16")
    given = parser.parse_args()

    device = torch.device(given.device)
    config = DiTConfig(given.width, given.depth, given.heads, given.patch)
    modalities = {"text": Text(TokenFeatures()), "image": Image(GridImage())}
    method = CrossFlow(
        modalities,
        "text",
        "image",
        EncoderConfig(width=192, depth=2, heads=4, hidden=384),
        config,
        EncoderSize(width=64, depth=2, heads=4),
    )
    batch = batch_of(given.batch, device)
    ours = Loop(method, device, plain=False, autocast=given.bfloat16)
    plain = Loop(method, device, plain=True, autocast=given.bfloat16)
    exact = Loop(method, device, plain=False, autocast=False)

    velocity = ours.nets.velocity
    z = batch.latents["image"]
    t = torch.full((given.batch,), 0.5, device=device)
    tokens = given.batch * (velocity.tokens.count + 1)
    left = torch.randn(tokens, given.width, device=device)
    right = torch.randn(given.width, RATIO * given.width, device=device)

    def two_calls(x: Tensor, t: Tensor) -> Tensor:
        yes = torch.ones(len(x), dtype=torch.bool, device=device)
        conditional, unconditional = velocity(x, t, yes), velocity(x, t, ~yes)
        return unconditional + 2 * (conditional - unconditional)

    generator = np.random.default_rng(0)
    captions = describe(draw(given.batch, generator), generator)
    encoder = TokenFeatures().to(device)

    names = (
        "ours",
        "plain",
        "in float32",
        "net",
        "matrix",
        "one call",
        "two calls",
        "encoder",
    )
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(given.turns + 1):
        with timed(device, seconds["ours"]):
            ours.step(batch, turn)
        with timed(device, seconds["plain"]), patch(ATTENTION, written_out):
            plain.step(batch, turn)
        with timed(device, seconds["in float32"]):
            exact.step(batch, turn)
        with timed(device, seconds["net"]), ours.autocast:
            velocity(z, t, t > 0).square().mean().backward()
        with timed(device, seconds["matrix"]), torch.no_grad(), ours.autocast:
            for _ in range(20):
                left @ right
        with timed(device, seconds["one call"]), torch.no_grad():
            guided(velocity, 2.0)(z, t)
        with timed(device, seconds["two calls"]), torch.no_grad():
            two_calls(z, t)
        with timed(device, seconds["encoder"]):
            encoder.encode(captions)

    # The first turn is not counted.
    by_name = {name: median(times[1:]) for name, times in seconds.items()}
    rate = 20 * 2 * tokens * given.width**2 * RATIO / by_name["matrix"]
    share = flops(config, given.batch) / by_name["net"] / rate
    for name, value in by_name.items():
        print(f"{name}: {value:.3f} s")
    print(
        f"steps a second: {1 / by_name['ours']:.2f}, plain {1 / by_name['plain']:.2f}"
    )
    print(f"plain over ours: {by_name['plain'] / by_name['ours']:.2f}")
    print(f"share of the matrix rate ({rate / 1e9:.0f} GFLOP/s): {share:.0%}")
    print(f"in float32 over ours: {by_name['in float32'] / by_name['ours']:.2f}")
    print(
        f"guidance, two calls over one: {by_name['two calls'] / by_name['one call']:.2f}"
    )
    in_step = 1 + by_name["encoder"] / by_name["ours"]
    print(f"step with the frozen encoder in it over ours: {in_step:.2f}")


if __name__ == "__main__":
    main()
