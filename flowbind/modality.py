"""A modality: one kind of data, as a plugin describes it.

It says how samples are read, written and shown, which codec turns them into latents, and which
networks carry its flow. It is a light description: no weights live in it, networks are built when a
model asks for them.
"""

import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from numbers import Number
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from flowbind.arrays import as_tensor, describe
from flowbind.codec import Codec
from flowbind.component import Component
from flowbind.exhibit import Exhibit
from flowbind.judge import NeuralJudge
from flowbind.libraries import Extra, require
from flowbind.nets.mlp import Drift, DriftConfig, Head, HeadConfig


class Modality(Component):
    """One kind of data.

    Args:
        codec: Codec that turns raw samples into latents and back; `default_codec()` if None.
        drift: Size of this modality's drift net; the model's default if None.
        head: Size of this modality's head; the model's default if None.
        reads: Key of the manifest whose values are this modality's samples, where it is not its own
            name: so one file has several kinds of latents, such as those of two codecs.

    Attributes:
        suffixes: Suffixes of the files that hold one sample each, in lower case with the dot; the
            first is the one written.
        literal: Whether a sample may stand in a manifest or on the command line as itself rather
            than as a file.
        by_folder: Whether a file whose suffix another modality reads, too, is this one's only in a
            folder that is named after it.
        default_codec: Class of the codec that is taken where none is given.
        default_judge: Class of the judge that is trained on anybody's labelled samples; None if
            there is none.
        libraries: Modules that reading and writing files need beyond flowbind's own, each with the
            command that installs it.
        version: Number of the reader that is raised when it makes another raw sample of the same
            file, so that files are encoded again.
    """

    group: ClassVar = "modalities"
    suffixes: ClassVar[tuple[str, ...]]
    literal: ClassVar[bool] = False
    by_folder: ClassVar[bool] = False
    default_codec: ClassVar[type[Codec]]
    default_judge: ClassVar[type[NeuralJudge] | None] = None
    libraries: ClassVar[Mapping[str, str | Extra]] = {}
    version: ClassVar[int] = 1

    def __init__(
        self,
        codec: Codec | None = None,
        drift: DriftConfig | None = None,
        head: HeadConfig | None = None,
        reads: str | None = None,
    ) -> None:
        self.codec = codec or self.default_codec()
        self.drift = drift
        self.head = head
        self.reads = reads

    def check_libraries(self) -> None:
        """Imports what reading and writing files needs, before long work begins.

        Raises:
            ValueError: a library is not installed, or cannot be imported; one line that says what
                to do.
        """
        for module, install in self.libraries.items():
            require(module, type(self).__name__, install)

    def missing(self, suffix: str) -> str:
        """What reading files with one of the suffixes needs beyond `libraries`, and is not there.

        It is part of a line, which says what to do. Empty where nothing is missing.
        """
        return ""

    @abstractmethod
    def read(self, source: str | Path) -> Any:
        """Reads one raw sample from a file, or from a literal where the modality has them.

        Raises:
            ValueError: the sample is damaged or not of this kind; one line that names the file.
        """

    def accept(self, raw: Any) -> Any:
        """The raw sample, as `read` gives it and the codec takes it, of what people have in Python.

        It is called wherever a raw sample enters: on what `read` returns, which it leaves as it is,
        and on what callers give. It changes the form alone, where there is one meaning: arrays of
        other libraries, layouts, and dtypes that imply their range. Here nothing is changed, and
        what is nobody's sample is refused; a modality that knows more about its samples says so in
        a method of its own.

        Raises:
            ValueError: it is no sample of this kind; one line that says what was given and what
                would be taken.
        """
        return check_sample(raw, literal=self.literal)

    def read_mask(self, source: Any, raw: Any) -> Any:
        """Which part of a raw sample is unknown, as its codec's `known` takes it.

        Args:
            source: File of the mask, or what callers in Python have in its place.
            raw: Raw sample that it lies over.

        Raises:
            ValueError: it does not fit the sample, or samples of this kind have no parts; one line.
        """
        raise ValueError(
            f"samples of {type(self).__name__} have no parts that a mask may name"
        )

    @abstractmethod
    def write(self, raw: Any, path: Path) -> None:
        """Writes one raw sample to a file with the modality's first suffix."""

    @abstractmethod
    def preview(self, raw: Any) -> Any:
        """A raw sample in a gallery: a PIL picture, or a string that stands for itself."""

    def figures(self, source: str | Path) -> dict[str, float]:
        """Figures of a sample by name, such as `{"seconds": 2.5}`, that tell how large it is.

        `flowbind data info` gives their range. They are read without decoding the whole sample, and
        here there are none.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is damaged or not of this kind; one line that names the file.
        """
        return {}

    def exhibit(self, raw: Any) -> Exhibit:
        """A raw sample on a page, such as a recording that plays or a cloud that turns; here its preview."""
        return self.preview(raw)

    def build_drift(self, config: DriftConfig) -> nn.Module:
        """The drift net `v(x_t, t)`: (rows, *shape), (rows,) -> (rows, *shape).

        It draws nothing at random.
        """
        config = self.drift or config
        return Drift(*self.codec.shape, **asdict(config))

    def build_head(self, config: HeadConfig) -> nn.Module:
        """The head of the auxiliary encoder: (rows, *shape), streams (rows,) -> (rows, *shape).

        What it draws at random, such as dropout, it draws from the stream of each row
        (`flowbind.draws`), or nothing.
        """
        config = self.head or config
        return Head(*self.codec.shape, **asdict(config))


def check_sample(raw: Any, literal: bool) -> Any:
    """Refuses what is a raw sample of no modality; returns it otherwise.

    Args:
        raw: Value that was given.
        literal: Whether strings are samples.

    Raises:
        ValueError: nothing, a number, a missing value, a string that is empty or no sample, a list
            with one of these, or an array without numbers or with some that are not finite; one
            line.
    """
    forms = "a string, or a path" if literal else "or a path"
    allowed = f"a raw sample as `read` gives it, {forms}"
    if isinstance(raw, Tensor | np.ndarray):
        as_tensor(raw, allowed)
    if isinstance(raw, str) and literal and raw.strip():
        return raw

    parts = raw if isinstance(raw, list | tuple) else [raw]
    if not parts or any(_is_nothing(part) for part in parts):
        raise ValueError(f"{describe(raw)} is no sample; allowed: {allowed}")
    return raw


def _is_nothing(part: Any) -> bool:
    """Whether a value is no raw sample, and no part of one."""
    if isinstance(part, Tensor | np.ndarray):
        return part.ndim == 0
    return part is None or isinstance(part, Number | str | bytes | os.PathLike)


def describe_reading(modality: Modality) -> dict[str, Any]:
    """What decides the raw samples that a modality reads, besides the files, as flat JSON."""
    arguments = modality.arguments()
    for name in ("codec", "drift", "head", "reads"):
        arguments.pop(name, None)
    return {
        "modality": type(modality).__name__,
        "version": modality.version,
        **arguments,
    }
