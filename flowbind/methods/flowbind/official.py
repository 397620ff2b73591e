"""The checkpoint that FlowBind's authors released, as a model of flowbind: under other names.

Their file holds, per modality, a drift net and a head (there `logvar`, of whose last layer the
second half is unused); the standardisation lies in files of its own. Nothing of it is unpickled but
tensors and plain containers.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flowbind.errors import first_line
from flowbind.files import check_regular, read_json
from flowbind.generation import Model
from flowbind.method import Networks
from flowbind.methods.flowbind.method import FlowBind, FlowBindSampling, Flows
from flowbind.methods.flowbind.objective import ObjectiveConfig
from flowbind.modality import Modality
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.pickles import check_shapes, read_pickle, state_dict

# Our names of layers, and theirs; N is the number of a block.
THEIRS = {
    "time.mlp.0": "time_embed.0",
    "time.mlp.2": "time_embed.2",
    "proj_in": "input_proj",
    "blocks.N.modulation": "res_blocks.N.adaLN_modulation.1",
    "blocks.N.mlp.0": "res_blocks.N.mlp.fc1",
    "blocks.N.mlp.2": "res_blocks.N.mlp.fc2",
    "proj_out": "out",
}
THEIRS_OF_A_HEAD = {
    "layers.0": "logvar.0",
    "layers.N.layers.0": "logvar.N.in_layers.0",
    "layers.N.layers.2": "logvar.N.in_layers.2",
    "layers.N.layers.3": "logvar.N.out_layers.0",
    "layers.N.layers.6": "logvar.N.out_layers.3",
    "layers.4": "logvar.4",
}
BLOCK = re.compile(r"(?<=^blocks\.)\d+(?=\.)|(?<=^layers\.)\d+(?=\.)")
# What this reader knows.
SETTING = {
    "prior": "explicit_residual",
    "t_cond": "adaln",
    "feat_scale": 1.0,
}
LAST = ("logvar.4.weight", "logvar.4.bias")  # of the head, behind three blocks
SIZES = ("hidden_dim", "num_layers")
SETTINGS = 2**20  # bytes of their config.json at most
DROPOUT = 0.1  # of their heads
OBJECTIVE = ObjectiveConfig(
    times="both",
    normalize=False,
    noise_variance=10.0,
    leave_own_out=0.0,
)

SAMPLING = FlowBindSampling(
    10,
    source_steps=None,
    solver="euler",
    variety=0.0,
)


def read_official(
    checkpoint: Path,
    config: Path,
    modalities: Mapping[str, Modality],
    statistics: Mapping[str, tuple[Path, Path]],
) -> Model:
    """Reads the authors' released files.

    Args:
        checkpoint: Pickle with `model_state_dict[modality]`; read with weights only.
        config: JSON with `hidden_dim` and `num_layers`.
        modalities: Modalities by the checkpoint's names; their codecs give the latents that it was
            trained on.
        statistics: Per modality, the files of mean and standard deviation, with shape (1, D) or
            (D,).

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged or of another layout, modalities do not agree, or statistics
            are missing.
    """
    settings = _json(config)
    for key, known in SETTING.items():
        if settings.get(key, known) != known:
            raise ValueError(
                f"{config}: {key} is {settings[key]!r}, allowed is {known!r}: "
                "a layout that is not known"
            )

    states = _states(checkpoint)
    if states.keys() != modalities.keys():
        raise ValueError(
            f"{checkpoint}: it has {', '.join(states)}, the codecs are of {', '.join(modalities)}; "
            "both need the same modalities"
        )
    for name in states:
        if name not in statistics:
            raise ValueError(
                f"no statistics of '{name}': give --mean {name}=FILE and --std {name}=FILE"
            )

    drift = DriftConfig(width=settings["hidden_dim"], depth=settings["num_layers"])
    head = HeadConfig(width=settings["hidden_dim"], dropout=DROPOUT)
    method = FlowBind(dict(modalities), drift, head, OBJECTIVE)

    # Networks take the checkpoint's tensors: sizes that it does not bear out cost nothing.
    with torch.device("meta"):
        networks = Networks(method)
    networks.standard.to_empty(device="cpu")
    for name, state in states.items():
        width = modalities[name].codec.shape[0]
        _load_flow(networks.nets, name, state, width, checkpoint)
        mean, std = (_statistic(path, width) for path in statistics[name])
        if std.min() <= 0:
            raise ValueError(
                f"{statistics[name][1]}: a standard deviation is above 0, this has {std.min():g}"
            )
        networks.standard[name].set(mean, std)
    return Model(method, networks.eval().requires_grad_(False), SAMPLING)


def _load_flow(
    flows: Flows,
    name: str,
    state: Mapping[str, Tensor],
    width: int,
    checkpoint: Path,
) -> None:
    """Gives the drift net and the head of one modality their weights.

    Raises:
        ValueError: weights of other sizes, some that are missing, or some that are not known.
    """
    drift, head = flows.drifts[name], flows.heads[name]
    names = _names(drift, THEIRS), _names(head, THEIRS_OF_A_HEAD)
    shapes = {}
    for net, theirs in zip((drift, head), names, strict=True):
        for key, parameter in net.state_dict().items():
            shapes[theirs[key]] = tuple(parameter.shape)
    # A head's last layer gives twice the width, of which the first half is the estimate.
    for key in LAST:
        shapes[key] = (2 * width, *shapes[key][1:])

    sizes = (
        f"hidden_dim {drift.proj_in.out_features} and num_layers {len(drift.blocks)}"
    )
    what = f"the authors' flow of '{name}' with {sizes} and latents of {width}"
    check_shapes(state, shapes, checkpoint, what)

    for net, theirs in zip((drift, head), names, strict=True):
        weights = {}
        for key, parameter in net.state_dict().items():
            weights[key] = state[theirs[key]][: len(parameter)].float()
        net.load_state_dict(weights, assign=True)


def _names(net: nn.Module, theirs: Mapping[str, str]) -> dict[str, str]:
    """The authors' names of a network's parameters, by ours."""
    names = {}
    for key in net.state_dict():
        layer, _, parameter = key.rpartition(".")
        numbers = BLOCK.findall(layer)
        name = theirs[BLOCK.sub("N", layer)]
        for number in numbers:
            name = name.replace(".N.", f".{number}.")
        names[key] = f"{name}.{parameter}"
    return names


def _json(path: Path) -> dict[str, Any]:
    """The settings of their model, with whole numbers for its sizes."""
    what = f"the authors' config.json, with {' and '.join(SIZES)}"
    settings = read_json(path, SETTINGS)
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: not {what}")

    for key in SIZES:
        value = settings.get(key)
        if type(value) is not int:
            given = f"its {key} is {value!r}" if key in settings else f"it has no {key}"
            raise ValueError(f"{path}: not {what}: {given}")
    return settings


def _states(path: Path) -> dict[str, dict[str, Tensor]]:
    """The weights of each modality, by their names."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")

    what = "the authors' checkpoint"
    content = read_pickle(path, what)
    try:
        parts = dict(content["model_state_dict"])
    except (KeyError, TypeError, ValueError):
        names = ", ".join(map(str, content)) if isinstance(content, dict) else ""
        raise ValueError(
            f"{path}: not {what}: it has {names[:200] or 'no names'}, no model_state_dict"
        ) from None
    return {str(name): state_dict(part, path, what) for name, part in parts.items()}


def _statistic(path: Path, width: int) -> Tensor:
    """The mean or standard deviation of a file, float32 with shape (width,)."""
    check_regular(path)  # the readers below would wait for a pipe

    try:
        statistic = _read_tensor(path).float().reshape(width)
    except OSError:
        raise
    except Exception as error:  # whatever the three readers say
        reason = first_line(error)
        raise ValueError(
            f"{path}: not {width} numbers in .npy, .pt or .safetensors ({reason})"
        ) from None

    if not statistic.isfinite().all():
        raise ValueError(f"{path}: has numbers that are not finite")
    return statistic


def _read_tensor(path: Path) -> Tensor:
    """The one tensor of a file, by its suffix."""
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    if path.suffix == ".safetensors":
        (tensor,) = load_file(path).values()
        return tensor
    return read_pickle(path, "a file of numbers")
