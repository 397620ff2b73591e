"""A frozen network with the weights of a safetensors file: what codecs and judges work with."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from flowbind.errors import last_line
from flowbind.files import WEIGHTS, check_regular


def frozen(
    build: Callable[[], nn.Module],
    path: Path,
    owner: str,
) -> nn.Module:
    """A network in evaluation mode, on the CPU, that takes no gradients.

    Args:
        build: Function that makes the network with fresh weights, which are not drawn.
        path: File of its weights.
        owner: What the network is of, for messages: `codec SmallImage`, `judge ImageJudge`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds other weights, or a buffer of the network is never saved.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_weights(path, owner)
    try:
        # Weights made in inference mode, in which a codec works, could not be moved and used.
        with torch.inference_mode(False):
            with torch.device("meta"), _Undrawn():
                net = build()
            state = {}
            for name, tensor in load_file(path).items():
                state[name] = tensor.float()
            net.load_state_dict(state, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{path}: these are not weights of the {owner} ({last_line(error)})"
        ) from None

    absent = [name for name, buffer in net.named_buffers() if buffer.is_meta]
    if absent:
        raise ValueError(
            f"{owner.split()[-1]}: the buffers {', '.join(absent)} are not in its weights; "
            "make them persistent"
        )
    return net.eval().requires_grad_(False)


def check_weights(path: Path, owner: str) -> None:
    """Refuses a path where no file of weights is; arguments and errors as for `frozen`."""
    if not path.is_file():
        kind = owner.split()[0]
        raise FileNotFoundError(
            f"{path}: no such weights for the {owner}; "
            f"train them with its recipe in recipes/{kind}s"
        )
    check_regular(path, WEIGHTS)


class _Undrawn(TorchFunctionMode):
    """Leaves out normal draws for weights that are loaded next.

    On the meta device the first such draw takes seconds.
    """

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = named or {}
        return (
            named["tensor"]
            if function is nn.init.normal_
            else function(*arguments, **named)
        )
