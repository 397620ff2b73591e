"""The captions' decoder of FlowBind's authors, `gemmae_3.pt`, as weights of this package's codec.

It holds a projector (`prefix_proj`) and a language model that was trained with it (`model`).
"""

from pathlib import Path

import torch
from torch import Tensor

from flowbind.pickles import check_shapes, read_pickle, state_dict
from flowbind.tensors import save_tensors

WHAT = "the authors' decoder of captions"
PARTS = ("prefix_proj", "model")
TABLE = "model.embed_tokens.weight"  # a row for each piece
TIED = "lm_head.weight"  # the table again


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
    if TABLE not in lm:
        raise ValueError(
            f"{source}: another layout than that of {WHAT}: model has no {TABLE}"
        )

    width = lm[TABLE].shape[1]
    check_shapes(projector, _shapes(features, width, prefix), source, WHAT)
    if TIED in lm and torch.equal(lm[TIED], lm[TABLE]):
        del lm[TIED]

    weights: dict[str, Tensor] = {}
    for name, tensor in projector.items():
        weights[f"projector.{name}"] = tensor.float()
    for name, tensor in lm.items():
        weights[f"lm.{name}"] = tensor.to(torch.bfloat16)
    save_tensors(weights, target)


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
