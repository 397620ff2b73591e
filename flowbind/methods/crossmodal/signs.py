r"""Signs that one side of a joint flow does not read the other, from real latents.

With $\ell$ the loss of a side that is noise, beside the data $y$ of the other side, and $y'$ the
data of another sample,

$$
\text{reads} = 1 - \frac{\operatorname{E}\, \ell(y)}{\operatorname{E}\, \ell(y')} ,
$$

0 where a net makes nothing of the other side. A net that does not read has a loss that falls all the
same, of what it learns of its own side.
"""

from torch import Tensor

from flowbind.method import Sign

# Where a line is said (docs/watch.md).
LEAST = 0.01

BLIND = (
    "what it says of its side does not depend on the other; let its net read the other in fewer "
    "tokens (patch), raise training.learning_rate, or train for longer"
)


def reading_sign(told: Tensor, mistold: Tensor) -> Sign:
    """How much a net reads of the other side.

    Args:
        told: Loss of each row beside its own sample's other side, with shape (n,).
        mistold: The same beside another sample's, with shape (n,).
    """
    return Sign(1 - told.mean() / mistold.mean(), BLIND, least=LEAST)
