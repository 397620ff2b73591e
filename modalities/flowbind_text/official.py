"""The captions' decoder of FlowBind's authors, `gemmae_3.pt`, as weights of this package's codec.

It holds a projector (`prefix_proj`) and a language model that was trained with it (`model`).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from flowbind.pickles import check_shapes, read_pickle, state_dict
from flowbind.tensors import save_tensors

WHAT = "the authors' decoder of captions"
PARTS = ("prefix_proj", "model")
TABLE = "model.embed_tokens.weight"  # a row for each piece
NORM = "model.norm.weight"
TIED = "lm_head.weight"  # the table again
LAYER = re.compile(r"model\.layers\.(?P<number>\d{1,4})\.(?P<rest>.+)")


def convert(source: Path, target: Path, features: int, prefix: int) -> None:
    """Writes the decoder as the codec `SentencePrefixLM` takes it, in safetensors.

    The language model is written in bfloat16, in which the authors' code runs it.

    Args:
        source: Their file; read with weights only.
        target: File to write.
        features: Features of a latent, D.
        prefix: Embeddings of a prefix, K.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: it is damaged or of another layout; one line.
    """
    content = read_pickle(source, WHAT)
    names = list(content) if isinstance(content, dict) else []
    if not set(PARTS) <= set(names):
        listed = ", ".join(map(str, names)) or "no names"
        raise ValueError(
            f"{source}: another layout than that of {WHAT}: it has {listed:.200}, not "
            f"{' and '.join(PARTS)}"
        )

    projector, lm = (state_dict(content[part], source, part) for part in PARTS)
    fault = _fault_of(lm)
    if fault:
        raise ValueError(f"{source}: another layout than that of {WHAT}: model {fault}")

    width = lm[TABLE].shape[1]
    check_shapes(projector, _shapes(features, width, prefix), source, WHAT)
    lm.pop(TIED, None)

    weights: dict[str, Tensor] = {}
    for name, tensor in projector.items():
        weights[f"projector.{name}"] = tensor.float()
    for name, tensor in lm.items():
        weights[f"lm.{name}"] = tensor.to(torch.bfloat16)
    save_tensors(weights, target)


def _fault_of(lm: Mapping[str, Tensor]) -> str:
    """Why a language model's weights are not all there, or no such weights; empty if they are."""
    for name in (TABLE, NORM):
        if name not in lm:
            return f"has no {name}"
    if lm[TABLE].dim() != 2:
        return f"has a {TABLE} of {lm[TABLE].dim()} axes, not 2"
    if TIED in lm and not torch.equal(lm[TIED], lm[TABLE]):
        return f"has a {TIED} that differs from {TABLE}; Gemma has one for both"

    # Every layer has what the others have.
    layers: dict[int, set[str]] = {}
    for name in lm:
        layer = LAYER.fullmatch(name)
        if layer:
            layers.setdefault(int(layer["number"]), set()).add(layer["rest"])
    for number in range(max(layers, default=-1) + 1):
        for rest in sorted(set().union(*layers.values()) - layers.get(number, set())):
            return f"has no model.layers.{number}.{rest}"
    return ""


def _shapes(features: int, width: int, prefix: int) -> dict[str, tuple[int, ...]]:
    """The projector's parameters, for a language model of a width W."""
    hidden = max(features, width)
    return {
        "net.0.weight": (hidden, features),
        "net.0.bias": (hidden,),
        "net.2.weight": (prefix * width, hidden),
        "net.2.bias": (prefix * width,),
        "ln.weight": (width,),
        "ln.bias": (width,),
    }
