r"""Signs that CrossFlow's training fails, read from real latents.

A start is $z_0 = \mu(y) + \sigma(y)\, \varepsilon$, and all that the flow knows of the source stands
in it. Over the samples of a batch and the numbers $d$ of a latent,

$$
\text{spread} = \frac{\sum_d \operatorname{Var}(\mu_d)}{\sum_d (\operatorname{Var}(\mu_d) + \operatorname{E}[\sigma_d^2])},
\qquad
\text{first velocity} = \frac{\operatorname{E} \lVert v(z_0, 0, 1) - \dot z_0 \rVert^2}{\operatorname{E} \lVert \dot z_0 \rVert^2} .
$$

The spread is 0 where all sources have one distribution of starts. The first velocity is 1 where the
net has learnt nothing at the time 0, of which the mean loss over all times says little.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from flowbind.flow.objective import FlowConfig
from flowbind.method import Sign
from flowbind.nets.variational import Normal

# Where a line is said (docs/watch.md). Text to image on the embedded world: spread .67, first
# velocity .46; of encoders that reach 5% and 2% there, 1.0 and .82.
LEAST_SPREAD = 0.05
MOST_ERROR = 0.97

COLLAPSED = "starts hardly depend on the source; lower objective.kl_weight, or raise encoder_weight"
BLIND = (
    "where it starts the flow knows nothing of its target; raise objective.kl_weight, take "
    "encoder_loss: contrastive, or earlier times"
)

# Shapes: n rows, * the axes of the target's latent.


def start_signs(
    normal: Normal,
    x: Tensor,
    noise: Tensor,
    field: Callable[[Tensor, Tensor, Tensor], Tensor],
    config: FlowConfig,
) -> dict[str, Sign]:
    """What starts tell of the source, and what the flow makes of them.

    Args:
        normal: Distribution of the starts, with shapes (n, *).
        x: Targets, with shape (n, *).
        noise: Standard normal draws, with shape (n, *).
        field: Velocity v(z_t, t, c), with shapes (n, *), (n,), (n,) -> (n, *).
        config: Settings of the objective.
    """
    if len(x) < 2:
        return {}
    differs = normal.mean.var(0, unbiased=False).mean()
    spread = differs / (differs + normal.std.square().mean())

    z = normal.sample(noise)
    t = z.new_zeros(len(z))
    is_told = torch.ones_like(t, dtype=torch.bool)
    error = config.errors(field, z, x, t, is_told).mean()
    size = config.errors(lambda z, *_: torch.zeros_like(z), z, x, t).mean()
    return {
        "spread": Sign(spread, COLLAPSED, least=LEAST_SPREAD),
        "first_velocity": Sign(error / size, BLIND, most=MOST_ERROR),
    }
