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
from torch import Tensor

from flowbind.errors import first_line, last_line
from flowbind.files import check_regular, read_json
from flowbind.generation import Model
from flowbind.method import Networks
from flowbind.methods.flowbind.method import FlowBind, FlowBindSampling, Flows
from flowbind.methods.flowbind.objective import ObjectiveConfig
from flowbind.modality import Modality
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.pickles import read_pickle

# Their names, and ours: of the drift net, and of the head.
DRIFT = {
    r"time_embed\.(\d)": r"time.mlp.\1",
    r"input_proj": r"proj_in",
    r"res_blocks\.(\d+)\.adaLN_modulation\.1": r"blocks.\1.modulation",
    r"res_blocks\.(\d+)\.mlp\.fc1": r"blocks.\1.mlp.0",
    r"res_blocks\.(\d+)\.mlp\.fc2": r"blocks.\1.mlp.2",
    r"out": r"proj_out",
}
HEAD = {
    r"logvar\.(\d)": r"layers.\1",
    r"logvar\.(\d)\.in_layers\.(0|2)": r"layers.\1.layers.\2",
    r"logvar\.(\d)\.out_layers\.0": r"layers.\1.layers.3",
    r"logvar\.(\d)\.out_layers\.3": r"layers.\1.layers.6",
}
# What this reader knows.
SETTING = {
    "prior": "explicit_residual",
    "t_cond": "adaln",
    "feat_scale": 1.0,
}
LAST = "logvar.4."  # of the head: a linear layer behind three blocks
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
            f"{checkpoint}: it has {', '.join(states)}, the recipe has {', '.join(modalities)}; "
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
    # The head's last layer gives twice the width, of which the first half is the estimate.
    state = dict(state)
    for key, tensor in state.items():
        if key.startswith(LAST):
            state[key] = tensor[:width]

    try:
        flows.drifts[name].load_state_dict(_renamed(state, DRIFT), assign=True)
        flows.heads[name].load_state_dict(_renamed(state, HEAD), assign=True)
    except RuntimeError as error:
        reason = last_line(error)
        raise ValueError(
            f"{checkpoint}: '{name}' does not fit a latent of {width} ({reason})"
        ) from None

    unknown = [key for key in state if not _matches(key, DRIFT | HEAD)]
    if unknown:
        raise ValueError(
            f"{checkpoint}: '{name}' has weights that are not known: {', '.join(unknown[:3])}"
        )


def _json(path: Path) -> dict[str, Any]:
    """The settings of their model, with whole numbers for its sizes."""
    try:
        settings = read_json(path, SETTINGS)
        return settings | {
            key: int(settings[key]) for key in ("hidden_dim", "num_layers")
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not the authors' config.json, with hidden_dim and num_layers ({error!r})"
        ) from None


def _states(path: Path) -> dict[str, dict[str, Tensor]]:
    """The weights of each modality, by their names."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")

    content = read_pickle(path, "the authors' checkpoint")
    try:
        states = {
            str(name): dict(state.items())
            for name, state in content["model_state_dict"].items()
        }
        for state in states.values():
            if not all(isinstance(tensor, Tensor) for tensor in state.values()):
                raise TypeError("something else than tensors among the weights")
        return states
    except (AttributeError, KeyError, TypeError) as error:
        reason = first_line(error)
        raise ValueError(
            f"{path}: not the authors' checkpoint, or a damaged one ({reason})"
        ) from None


def _matches(key: str, names: Mapping[str, str]) -> str | None:
    """Our name of one of their parameters; None if it is not one of these."""
    module, _, parameter = key.rpartition(".")
    for pattern, replacement in names.items():
        if re.fullmatch(pattern, module):
            return f"{re.sub(pattern, replacement, module)}.{parameter}"
    return None


def _renamed(
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
) -> dict[str, Tensor]:
    """Those of the weights that have one of the names, in float32 under ours."""
    renamed = {}
    for key, tensor in state.items():
        name = _matches(key, names)
        if name:
            renamed[name] = tensor.float()
    return renamed


def _statistic(path: Path, width: int) -> Tensor:
    """The mean or standard deviation of a file, float32 with shape (width,)."""
    check_regular(path)  # the readers below would wait for a pipe

    try:
        return _read_tensor(path).float().reshape(width)
    except OSError:
        raise
    except Exception as error:  # whatever the three readers say
        reason = first_line(error)
        raise ValueError(
            f"{path}: not {width} numbers in .npy, .pt or .safetensors ({reason})"
        ) from None


def _read_tensor(path: Path) -> Tensor:
    """The one tensor of a file, by its suffix."""
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    if path.suffix == ".safetensors":
        (tensor,) = load_file(path).values()
        return tensor
    return read_pickle(path, "a file of numbers")
