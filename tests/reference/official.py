"""The authors' networks, derived again from the published layout of their checkpoint: plain functions of a state dict."""

import math

import torch

ROOT2 = math.sqrt(2)


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(x, eps):
    mean = x.mean(1, keepdim=True)
    return (x - mean) / (((x - mean) ** 2).mean(1, keepdim=True) + eps).sqrt()


def silu(x):
    return x / (1 + torch.exp(-x))


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / ROOT2))


def drift(state, x, t, layers):
    """Velocity at (x, t), with shapes (n, D), (n,) -> (n, D)."""
    angles = torch.stack(
        [t * math.exp(-math.log(10) * k / 128) for k in range(128)], dim=1
    )
    time = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
    time = linear(state, "time_embed.2", silu(linear(state, "time_embed.0", time)))
    h = linear(state, "input_proj", x)
    for n in range(layers):
        shift, scale, gate = linear(
            state, f"res_blocks.{n}.adaLN_modulation.1", silu(time)
        ).chunk(3, dim=1)
        inner = norm(h, 1e-6) * (1 + scale) + shift
        h = h + gate * linear(
            state,
            f"res_blocks.{n}.mlp.fc2",
            gelu(linear(state, f"res_blocks.{n}.mlp.fc1", inner)),
        )
    return linear(state, "out", h)


def head(state, x):
    """The estimate of the shared latent: (n, D) -> (n, D)."""
    h = linear(state, "logvar.0", x)
    for n in (1, 2, 3):
        name = f"logvar.{n}"
        inner = (
            norm(h, 1e-5) * state[f"{name}.in_layers.0.weight"]
            + state[f"{name}.in_layers.0.bias"]
        )
        inner = linear(state, f"{name}.in_layers.2", silu(inner))
        inner = (
            norm(inner, 1e-5) * state[f"{name}.out_layers.0.weight"]
            + state[f"{name}.out_layers.0.bias"]
        )
        h = h + linear(state, f"{name}.out_layers.3", silu(inner))
    return linear(state, "logvar.4", h)[:, : x.shape[1]]


def shapes(d, w, layers):
    """Every parameter of one modality, by name."""
    found = {
        "time_embed.0": (w, 256),
        "time_embed.2": (w, w),
        "input_proj": (w, d),
        "out": (d, w),
    }
    for n in range(layers):
        found |= {
            f"res_blocks.{n}.adaLN_modulation.1": (3 * w, w),
            f"res_blocks.{n}.mlp.fc1": (4 * w, w),
            f"res_blocks.{n}.mlp.fc2": (w, 4 * w),
        }
    found |= {"logvar.0": (w, d), "logvar.4": (2 * d, w)}
    for n in (1, 2, 3):
        found |= {f"logvar.{n}.in_layers.2": (w, w), f"logvar.{n}.out_layers.3": (w, w)}
    weights = {f"{name}.weight": shape for name, shape in found.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in found.items()}
    norms = {
        f"logvar.{n}.{part}_layers.0.{kind}": (w,)
        for n in (1, 2, 3)
        for part in ("in", "out")
        for kind in ("weight", "bias")
    }
    return weights | biases | norms
