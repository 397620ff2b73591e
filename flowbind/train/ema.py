"""The exponential moving average of trained weights: what is validated, tested and released.

It is a module beside the trained one, split over devices in the same way, so that checkpoints,
resuming and FSDP treat both alike. (Lightning's own callback copies the whole module deeply, which
FSDP2 cannot do.)
"""

import math

import torch
from torch import nn

from flowbind.distributed import local

# Every one of the first 64 steps, then every 8th: an update moves three sevenths of the bytes that
# Adam's does.
EACH = 64
EVERY = 8


def decay_at(step: int, decay: float) -> float:
    """The decay of the update after `step` steps, in [0, 1]; 1 where there is none.

    A step after n others decays by `min(decay, n / (9 + n))`: the first takes the weights whole,
    then the usual warm-up of moving averages (TensorFlow's `num_updates`). An update makes up for
    all steps since the one before it.

    Args:
        step: Number of steps made, at least 1.
        decay: Decay of a step after the warm-up, in [0, 1).
    """
    if step <= EACH:
        covered = 1
    elif step % EVERY == 0:
        covered = EVERY
    else:
        covered = 0

    decays = [min(decay, n / (9 + n)) for n in range(step - covered, step)]
    return math.prod(decays)


@torch.no_grad()
def follow(average: nn.Module, trained: nn.Module, decay: float) -> None:
    """Moves an average towards the weights of a module of the same kind.

    `average = decay average + (1 - decay) trained`
    """
    averages = local(average.parameters())
    torch._foreach_lerp_(averages, local(trained.parameters()), 1 - decay)
