"""A standard metric: values that are known by name elsewhere, for generations of one kind.

A metric sees raw samples, as users get them. It turns each into a tensor of one shape, and the
tensors of all samples into values; so samples may be seen in any order and on any number of
devices, and the tensors of real samples are cached.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from flowbind.component import Component, move


class Metric(Component):
    """Judges generations.

    Constructing one loads nothing; every constructor argument is kept as the attribute of its name.

    Attributes:
        judges: Registered name of the modality whose generations are judged.
        against: Registered name of the modality they are compared with. If it is the same, real
            samples of the target; if it is another, the source of that kind, and directions without
            such a source are left out.
        minimum: Number of samples below which a value would mislead; fewer are refused.
        version: Number that is raised whenever the same samples would give other features.
        multi_reference: Whether a generation is compared with all the real samples that the
            manifest gives for it under `references`, not only with the sample's own value.
    """

    group: ClassVar = "metrics"
    judges: str
    against: str
    minimum: ClassVar[int] = 2
    version: ClassVar[int] = 1
    multi_reference: ClassVar[bool] = False
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def features(self, kind: str, raws: Sequence[Any]) -> Tensor:
        """Features of B raw samples of one modality, from which values are computed.

        Args:
            kind: Registered name of their modality: `judges` or `against`.
            raws: Raw samples as the modality's `read` gives them.

        Returns:
            A tensor with shape (B, *) on the metric's device, the same * in every call for one
            kind.

        Raises:
            ValueError: weights or a package that are needed are not there; one line says what to
                do.
        """

    @abstractmethod
    def compute(
        self,
        made: Tensor,
        reference: Tensor,
        *sample: Any,
        **named: Any,
    ) -> dict[str, float]:
        """The values by name, such as `fid[torch-fidelity,inception-v3-compat]`.

        The names lack the number of samples, which `counted` adds.

        Args:
            made: Features of n generations, with shape (n, *).
            reference: Features of what each is compared with, row by row, with shape (n, *); with
                `multi_reference`, of the m real samples of all, with shape (m, *), each
                generation's own first among its references.
            sample: Generation that each of the m belongs to, a tensor with shape (m,); only with
                `multi_reference`.
            named: Nothing is given by name. Like the type of `sample`, it lets a subclass declare
                the arguments that it takes and no others.

        Raises:
            ValueError: the features cannot give a value that means what its name says; one line
                says why.
        """

    def fingerprint(self) -> dict[str, Any]:
        """What decides the features, as flat JSON: features of real samples are cached under it."""
        return {
            "metric": type(self).__name__,
            "version": self.version,
            **self.arguments(),
        }

    def to(self, device: torch.device | str) -> Self:
        """Moves the metric to a device, with the networks that it has built. Returns it."""
        return move(self, device)


def counted(name: str, count: int) -> str:
    """A value's full name: `fid[torch-fidelity]` over 9 samples is `fid[torch-fidelity,n=9]`."""
    if name.endswith("]"):
        return f"{name.removesuffix(']')},n={count}]"
    return f"{name}[n={count}]"
