"""The networks of the authors' released checkpoint, one row at a time, with its names of the weights.

`weights` maps those names to tensors; x is one latent, with shape (D,), and t one time in [0, 1].
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def standardised(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt((centred * centred).mean() + eps)


def drift(weights: Mapping[str, Tensor], x: Tensor, t: float, depth: int) -> Tensor:
    angles = [t * math.exp(-math.log(10) * k / 128) for k in range(128)]
    sinusoids = torch.tensor(
        [*map(math.cos, angles), *map(math.sin, angles)], dtype=x.dtype
    )
    time = linear(
        weights, "time_embed.2", silu(linear(weights, "time_embed.0", sinusoids))
    )
    x = linear(weights, "input_proj", x)
    for n in range(depth):
        block = f"res_blocks.{n}"
        shift, scale, gate = linear(
            weights, f"{block}.adaLN_modulation.1", silu(time)
        ).split(len(x))
        inner = standardised(x, eps=1e-6) * (1 + scale) + shift
        x = x + gate * linear(
            weights,
            f"{block}.mlp.fc2",
            gelu(linear(weights, f"{block}.mlp.fc1", inner)),
        )
    return linear(weights, "out", x)


def head(weights: Mapping[str, Tensor], x: Tensor, depth: int) -> Tensor:
    """The first half of the last layer's output; the checkpoint's second half is unused."""
    width = len(x)
    x = linear(weights, "logvar.0", x)
    for n in range(1, depth + 1):
        block = f"logvar.{n}"
        inner = x
        for norm, layer in (
            ("in_layers.0", "in_layers.2"),
            ("out_layers.0", "out_layers.3"),
        ):
            inner = (
                standardised(inner, eps=1e-5) * weights[f"{block}.{norm}.weight"]
                + weights[f"{block}.{norm}.bias"]
            )
            inner = linear(weights, f"{block}.{layer}", silu(inner))
        x = x + inner
    return linear(weights, f"logvar.{depth + 1}", x)[:width]
