"""The exponential moving average of trained weights: what is validated, tested and released.

It is a module beside the trained one, split over devices in the same way, so that checkpoints, resuming and FSDP treat
both alike. (Lightning's own callback copies the whole module deeply, which FSDP2 cannot do.)
"""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def decay_at(updates: int, decay: float) -> float:
    """The decay of an update, after `updates` before it: at first few steps count, so that the first weights are soon forgotten.

    `min(decay, n / (9 + n))`: the first update takes the weights whole, then the usual warm-up of moving averages
    (TensorFlow's `num_updates`).
    """
    return min(decay, updates / (9 + updates))


@torch.no_grad()
def follow(average: nn.Module, trained: nn.Module, decay: float) -> None:
    """Moves an average towards the weights of a module of the same kind: `average = decay average + (1 - decay) trained`."""
    torch._foreach_lerp_(local(average.parameters()), local(trained.parameters()), 1 - decay)


def local(tensors) -> list[Tensor]:
    """The parts of tensors that lie on this device."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor.data for tensor in tensors]
