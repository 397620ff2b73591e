"""A judge reads what is labelled of raw samples, and knows nothing of any codec.

Latents cannot show what a codec cannot: a probe that is fitted on them finds a cube in the latent
that decodes to a barrel. A judge sees the raw sample, as a user does. It is trained on real samples
alone, by a recipe of its own, and is told apart by its weights; what it reads from real samples is
the ceiling of every value by it.

It is a metric whose features it can read: `read` gives the class of each factor. So features of
real samples are cached as any metric's are, and distances between sets may be taken in them.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from flowbind.codec import in_chunks
from flowbind.files import digest, read_json
from flowbind.frozen import check_weights, frozen
from flowbind.metric import Metric
from flowbind.padding import in_blocks

UNREADABLE = -1  # in place of a class
SHOWN = 8  # digits of the SHA-256 of weights in a name


class Judge(Metric):
    """Reads labelled factors of raw samples of one modality.

    `features` gives each sample d numbers, with shape (B, d): those from which `read` tells the
    classes, the last ones before them of a network.
    """

    minimum: ClassVar[int] = 1

    @property
    def against(self) -> str:  # type: ignore[override] # read only here
        """The modality that it judges: features are compared with those of real samples."""
        return self.judges

    @property
    @abstractmethod
    def classes(self) -> Mapping[str, Sequence[str]]:
        """Per factor that it reads, F of them, the values that it tells apart."""

    @abstractmethod
    def read(self, features: Tensor) -> Tensor:
        """The classes of n samples, as numbers of their values.

        Args:
            features: What `features` gave, with shape (n, d).

        Returns:
            Classes on the CPU, int64 with shape (n, F), `UNREADABLE` where there is none.
        """

    def read_as(self, features: Tensor, values: Mapping[str, Sequence[str]]) -> Tensor:
        """The same classes as numbers of other values, which the judge may know in another order.

        Args:
            features: What `features` gave, with shape (n, d).
            values: Values of each factor that is asked for, F of them, all among `classes`.

        Returns:
            Classes on the CPU, int64 with shape (n, F), `UNREADABLE` where there is none, or one
            that is not among the values.
        """
        read = self.read(features)
        columns = []
        for factor, wanted in values.items():
            numbers = []
            for value in self.classes[factor]:
                is_known = value in wanted
                numbers.append(list(wanted).index(value) if is_known else UNREADABLE)
            numbers.append(UNREADABLE)  # that of -1
            table = torch.tensor(numbers)

            column = list(self.classes).index(factor)
            columns.append(table[read[:, column]])
        return torch.stack(columns, dim=1)

    @property
    def label(self) -> str:
        """Which judge it is, as part of a value's name."""
        return f"{type(self).__name__},v{self.version}"

    def compute(
        self,
        made: Tensor,
        reference: Tensor,
        *sample: Tensor,
    ) -> dict[str, float]:
        """Nothing: what a judge finds is told by labels, which a metric is not given."""
        return {}


class NeuralJudge(Judge):
    """A judge whose work is done by one network with weights in a safetensors file.

    A subclass says what goes in (`prepare`), and how the network is built that makes features of it
    (`build`). A linear layer reads all factors from them. Beside the weights lies a JSON file of
    the same name, with the `classes` of each factor, and what training reached.

    Args:
        weights: Safetensors file; the weights shipped with the plugin if None.

    Attributes:
        width: Features of a sample, d.
        shipped: Weights that come with the plugin; None if there are none.
    """

    width: ClassVar[int] = 64
    shipped: ClassVar[Path | None] = None

    def __init__(self, weights: str | None = None) -> None:
        self.weights = weights

    @abstractmethod
    def build(self) -> nn.Module:
        """The network from inputs to features, (B, *) to (B, d), with fresh weights."""

    @abstractmethod
    def prepare(self, raws: Sequence[Any]) -> Tensor:
        """Stacks B raw samples into the network's input, with shape (B, *), on the CPU."""

    def training_inputs(self, raws: Sequence[Any]) -> tuple[Tensor]:
        """The network's input of B raw samples, with shape (B, *).

        The samples may be read from disk one by one, so each is asked for once.
        """
        return (in_chunks(self.prepare, raws),)

    def vary(self, inputs: Tensor, streams: Tensor) -> Tensor:
        """Inputs of n samples as another take of the same samples might have them, in training.

        Args:
            inputs: Inputs, with shape (n, *).
            streams: Random stream of each sample, with shape (n,), as `flowbind.draws` takes them.

        Returns:
            Inputs of the same shape; here they are as they were.
        """
        return inputs

    @property
    def file(self) -> Path:
        """The safetensors file of the weights.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: none is given, and none ships.
        """
        path = self.shipped if self.weights is None else Path(self.weights)
        if path is None:
            raise ValueError(
                f"{type(self).__name__} comes without weights; train them with its recipe in "
                "recipes/judges, and give them as its `weights`"
            )
        check_weights(path, self._owner)
        return path

    @property
    def _owner(self) -> str:
        return f"judge {type(self).__name__}"

    @cached_property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """Per factor, the values that it tells apart, from the file beside the weights.

        Raises:
            ValueError: the file is not there, or not what training writes.
        """
        path = self.file.with_suffix(".json")
        content = read_json(path) if path.is_file() else None
        classes = content.get("classes") if isinstance(content, dict) else None
        if not isinstance(classes, dict) or not all(map(_are_names, classes.values())):
            raise ValueError(
                f"{path}: has no `classes` of the judge {type(self).__name__}; it lies beside the "
                "weights that training writes, and comes along with them"
            )
        return classes

    @cached_property
    def net(self) -> "JudgeNet":
        """The frozen network; raises as `frozen` and `classes` do."""
        classes = self.classes

        def build() -> JudgeNet:
            return JudgeNet(self.build(), self.width, classes)

        net = frozen(build, self.file, self._owner)
        return cast(JudgeNet, net.to(self.device))

    @torch.inference_mode()
    def features(self, kind: str, raws: Sequence[Any]) -> Tensor:
        inputs = self.prepare(raws)
        return in_blocks(self.net.trunk, inputs.to(self.device))

    @torch.inference_mode()
    def read(self, features: Tensor) -> Tensor:
        features = features.to(self.device, torch.float32)
        logits = self.net.read(features)
        numbers = [part.argmax(1) for part in logits]
        return torch.stack(numbers, dim=1).cpu()

    @property
    def label(self) -> str:
        checksum = digest(self.file)
        return f"{type(self).__name__},{checksum[:SHOWN]}"

    def fingerprint(self) -> dict[str, Any]:
        checksum = digest(self.file)
        return super().fingerprint() | {"weights": checksum}


class JudgeNet(nn.Module):
    """A network from inputs to features, and a linear layer that reads all factors from them.

    Args:
        trunk: Network from inputs to features, (B, *) to (B, d).
        width: Features, d.
        classes: Values of each factor.
    """

    def __init__(
        self,
        trunk: nn.Module,
        width: int,
        classes: Mapping[str, Sequence[str]],
    ) -> None:
        super().__init__()
        self.counts = [len(values) for values in classes.values()]
        self.trunk = trunk
        self.classifier = nn.Linear(width, sum(self.counts))

    def read(self, features: Tensor) -> tuple[Tensor, ...]:
        """Logits of each factor, with shape (B, classes), of features, with shape (B, d)."""
        return self.classifier(features).split(self.counts, dim=1)


def _are_names(values: Any) -> bool:
    """Whether these are the values of a factor."""
    return (
        isinstance(values, list)
        and len(values) > 0
        and all(isinstance(value, str) for value in values)
    )
