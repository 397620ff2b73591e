"""Any metric of torchmetrics under flowbind's names and provenance.

    metrics:
      - class_path: torchmetrics
        init_args:
          metric: torchmetrics.image.PeakSignalNoiseRatio
          judges: image
          settings: {data_range: 1.0}

Raw samples become tensors, which are cached as any metric's features are: integers of 8 bits as
numbers in [0, 1] when they are compared, strings as they are. The metric is updated with what was
generated and what that is compared with, in its own order of arguments.
"""

import inspect
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from math import isfinite
from typing import Any

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor

from flowbind.errors import first_line
from flowbind.metric import Metric
from flowbind.registry import did_you_mean

AT_ONCE = 64  # samples of an update
LONGEST = 1024  # bytes of a string, in UTF-8
LEVELS = 255
CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class TorchMetric(Metric):
    """A metric of torchmetrics.

    Args:
        metric: Its class by a dotted path, such as `torchmetrics.image.PeakSignalNoiseRatio`.
        judges: Registered name of the modality whose generations are judged.
        against: Registered name of the modality they are compared with; `judges` if None.
        settings: Arguments of the class.
        size: Lengths of the last axes to which samples are resized, linearly: [64, 64] of
            pictures. None: they have one shape already.

    Raises:
        ValueError: no such metric.
    """

    def __init__(
        self,
        metric: str,
        judges: str,
        against: str | None = None,
        settings: dict[str, Any] | None = None,
        size: list[int] | None = None,
    ) -> None:
        self.metric = metric
        self.judges = judges
        self.against = against or judges
        self.settings = settings
        self.size = size
        self._class = metric_class(metric)
        # Features by kind, until the metric saw both.
        self._first: dict[str, Tensor] = {}

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"torchmetrics": version("torchmetrics")}

    @cached_property
    def built(self) -> torchmetrics.Metric:
        """The metric itself.

        Raises:
            ValueError: its arguments do not fit, or a package or weights are not there; one line.
        """
        try:
            return self._class(**self.settings or {})
        except TypeError as error:
            raise ValueError(
                f"{self.metric}: {first_line(error)}; its arguments are `settings`"
            ) from None
        except Exception as error:  # of whatever it loads
            raise ValueError(f"{self.metric}: {first_line(error)}") from None

    def features(self, kind: str, raws: Sequence[Any]) -> Tensor:
        """Samples as one tensor: strings as their UTF-8, filled up with zeros, with shape (B, L)."""
        assert (
            self.built is not None
        )  # what is missing shows before anything is generated
        tensors = []
        for raw in raws:
            tensors.append(
                _bytes(raw) if isinstance(raw, str) else self._sized(kind, raw)
            )

        shapes = {tuple(tensor.shape) for tensor in tensors}
        if len(shapes) > 1:
            listed = " and ".join(str(shape) for shape in sorted(shapes)[:2])
            raise ValueError(
                f"{self.metric}: samples of '{kind}' have the shapes {listed}; give size, the "
                "lengths of the last axes, such as [64, 64]"
            )
        features = torch.stack(tensors)
        self._try(kind, features)
        return features

    def _try(self, kind: str, features: Tensor) -> None:
        """Shows the metric its first samples, for it may take none of this kind.

        Otherwise that would show when all is generated.
        """
        kinds = {self.judges, self.against}
        if self._first.keys() >= kinds:
            return
        self._first[kind] = features[:1]
        if not self._first.keys() >= kinds:
            return

        metric = self.built.to(self.device)
        made, reference = self._first[self.judges], self._first[self.against]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._update(metric, _arguments_of(metric.update), made, reference)
        except Exception as error:
            listed = " and ".join(f"'{name}'" for name in sorted(kinds))
            raise ValueError(
                f"{self.metric}: does not take samples of {listed} ({first_line(error)}); choose "
                "another metric, or other modalities by judges and against"
            ) from None
        finally:
            metric.reset()

    def _sized(self, kind: str, raw: Any) -> Tensor:
        """A sample that is no string, resized if that is asked for."""
        if not isinstance(raw, Tensor):
            raise ValueError(
                f"{self.metric}: samples of '{kind}' are no tensors and no strings, which "
                "torchmetrics would take"
            )
        if self.size is None:
            return raw.cpu()

        axes = len(self.size)
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[axes]
        x = raw.cpu().float().reshape(1, -1, *raw.shape[-axes:])
        antialias = {"antialias": True} if axes == 2 else {}
        resized = F.interpolate(x, size=self.size, mode=mode, **antialias)
        resized = resized.reshape(*raw.shape[:-axes], *self.size)
        if raw.dtype == torch.uint8:
            resized = resized.round().clamp(0, LEVELS)
        return resized.to(raw.dtype)

    def compute(
        self,
        made: Tensor,
        reference: Tensor,
        *sample: Tensor,
    ) -> dict[str, float]:
        metric = self.built.to(self.device)
        metric.reset()
        names = _arguments_of(metric.update)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # advice about memory and batches
                for begin in range(0, len(made), AT_ONCE):
                    rows = slice(begin, begin + AT_ONCE)
                    self._update(metric, names, made[rows], reference[rows])
                value = metric.compute()
        except Exception as error:  # of a metric that takes other samples
            raise ValueError(f"{self.metric}: {first_line(error)}") from None
        return dict(self._named(value))

    def _update(
        self,
        metric: torchmetrics.Metric,
        names: Sequence[str],
        made: Tensor,
        reference: Tensor,
    ) -> None:
        """Shows the metric a batch, as its arguments ask for."""
        if "real" in names:  # one set after the other, such as the Frechet distance
            metric.update(self._values(reference), real=True)
            metric.update(self._values(made), real=False)
        elif len(names) == 1:
            metric.update(self._values(made))
        else:
            metric.update(self._values(made), self._values(reference))

    def _values(self, features: Tensor) -> Any:
        """Features as the samples that they stand for: strings, or numbers on the metric's device."""
        if features.dtype == torch.int8:
            return [_string(row) for row in features]
        if features.dtype == torch.uint8:
            return features.to(self.device).float() / LEVELS
        return features.to(self.device)

    def _named(self, value: Any) -> Iterator[tuple[str, float]]:
        """A value's names, of several one each: `peak-signal-noise-ratio[torchmetrics,...]`."""
        name = CAPITAL.sub("-", self._class.__name__).lower()
        source = "torchmetrics"
        for key, setting in (self.settings or {}).items():
            source += f",{key}={setting}"

        parts = {"": value}
        if isinstance(value, dict):
            parts = {f"-{key}": part for key, part in value.items()}
        elif isinstance(value, tuple | list):
            parts = {f"-{number}": part for number, part in enumerate(value)}
        for end, part in parts.items():
            number = float(torch.as_tensor(part).float().mean())
            if isfinite(number):
                yield f"{name}{end}[{source}]", number


def metric_class(path: str) -> type[torchmetrics.Metric]:
    """A class of torchmetrics by its dotted path.

    Raises:
        ValueError: there is none; the nearest is named.
    """
    package, *names = path.split(".")
    owner: Any = torchmetrics
    if package != "torchmetrics" or not names:
        raise ValueError(
            f"metric is a class of torchmetrics by its dotted path, such as "
            f"torchmetrics.MeanSquaredError, not '{path}'"
        )
    for name in names:
        if not hasattr(owner, name):
            known = [key for key in dir(owner) if not key.startswith("_")]
            raise ValueError(f"{path}: no '{name}' there; {did_you_mean(name, known)}")
        owner = getattr(owner, name)
    if not isinstance(owner, type) or not issubclass(owner, torchmetrics.Metric):
        raise ValueError(f"{path}: no class of a metric")
    return owner


def _arguments_of(update: Any) -> list[str]:
    """The names of the arguments of a metric's `update` that have no default, or tell what is real."""
    names = []
    for name, parameter in inspect.signature(update).parameters.items():
        is_needed = parameter.default is inspect.Parameter.empty
        if (
            is_needed and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ) or name == "real":
            names.append(name)
    return names


def _bytes(words: str) -> Tensor:
    """A string as its UTF-8, int8 with shape (LONGEST,), which no other samples are."""
    content = words.encode()
    if len(content) > LONGEST:
        raise ValueError(
            f"'{words:.40}...' is longer than {LONGEST} bytes, of which features are"
        )
    filled = bytearray(content.ljust(LONGEST, b"\0"))
    return torch.frombuffer(filled, dtype=torch.int8).clone()


def _string(row: Tensor) -> str:
    content = row.cpu().numpy().tobytes()
    return content.rstrip(b"\0").decode()
