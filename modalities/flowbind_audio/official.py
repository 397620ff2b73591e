"""The sounds' files of FlowBind's authors, as weights of this package's codec.

`lightweight_audio_ae.pth` is the adapter, `clap.pt` a checkpoint of laion-clap.
"""

from pathlib import Path

import torch

from flowbind.pickles import check_shapes, read_pickle, state_dict
from flowbind.tensors import save_tensors
from flowbind_audio.adapter import ClapAdapter
from flowbind_audio.clap import load_weights

WHAT = "the authors' adapter of sounds"
# Of every CLAP with an HTSAT and a text tower: their ends, and what is behind them.
PARTS = (
    "audio_branch.patch_embed.proj.weight",
    "audio_projection.0.weight",
)
FUSION = "fusion_model."  # within the names of weights that only a CLAP with fusion has


def convert_adapter(source: Path, target: Path) -> None:
    """Writes their adapter in safetensors.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: it is damaged or of another layout; one line.
    """
    state = state_dict(read_pickle(source, WHAT), source, WHAT)

    with torch.device("meta"):
        adapter = ClapAdapter()
    shapes = {name: tuple(x.shape) for name, x in adapter.state_dict().items()}
    check_shapes(state, shapes, source, WHAT)

    save_tensors({name: tensor.float() for name, tensor in state.items()}, target)


def convert_clap(source: Path, target: Path) -> None:
    """Writes a checkpoint of laion-clap in safetensors: its weights, and nothing else.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: it is damaged or of another layout; one line.
    """
    weights = load_weights(source)
    layout = f"{source}: another layout than that of a checkpoint of laion-clap"
    for name in PARTS:
        if name not in weights:
            raise ValueError(f"{layout}: it has no {name}")
    if any(FUSION in name for name in weights):
        raise ValueError(
            f"{layout} without fusion: it has weights of a fusion, which mixes random crops"
        )
    save_tensors(weights, target)
