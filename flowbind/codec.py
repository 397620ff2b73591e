"""A codec turns raw samples into latents and back; it is frozen.

Raw samples are whatever the modality reads (a string, a picture, a waveform); latents are tensors
of one fixed shape. A codec is a light description until it is first used: constructing one loads
nothing. It is no `nn.Module`, so it is never in `parameters()`, checkpoints or a distributed
wrapper.

Every constructor argument is kept as the attribute of the same name, with JSON values: that is how
released models, fingerprints and messages know how a codec was made.
"""

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from flowbind.component import Component, move
from flowbind.files import digest, read_json
from flowbind.frozen import frozen
from flowbind.libraries import Extra, require
from flowbind.padding import in_blocks

CHUNK = 256  # raw samples in memory while training inputs are made of them
OF_ONE_SAMPLE = re.compile(r"'.*'|\d\S*")  # what a caveat says of it alone
PROMISED = (
    "reconstruction_error_p95"  # key, in the file beside weights, of what they promise
)


class Codec(Component):
    """Frozen encoder and decoder of one modality.

    Attributes:
        shape: Shape of one latent, without the batch; `(D,)` for a vector.
        dtype: Type of the latents, as kept in a store.
        vocabulary: Number of ids, where latents are ids: whole numbers of int64 from 0 on, with
            shape (L,). None for all other latents.
        masked: Whether latents are sequences, (L, D), of which not every position is there: the
            last feature is then 1 where one is and 0 where there is padding, which is 0 in all
            features.
        decodes: Whether raw samples can be made of latents. Where not, the modality is a source
            alone, and `decode` raises ValueError with one line.
        version: Number that is raised whenever the same weights would encode differently.
        licences: Licence of what an argument names by default or in its usual setting, for a
            model's card.
    """

    group: ClassVar = "codecs"
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    vocabulary: int | None = None
    masked: bool = False
    decodes: bool = True
    version: ClassVar[int] = 1
    licences: ClassVar[Mapping[str, str]] = {}
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def encode(self, raws: Sequence[Any]) -> Tensor:
        """Encodes B raw samples to latents, with shape (B, *shape), on the codec's device."""

    @abstractmethod
    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[Any]:
        """Decodes latents, with shape (B, *shape), to B raw samples.

        What is drawn at random is drawn from `generator`.
        """

    def caveat(self, raw: Any) -> str:
        """What a raw sample loses in this codec and should not, in half a line.

        So it is where its numbers are far from those the codec was made for. Empty where nothing is
        known. No sample is refused for it: a line says it, with how many are like it, whatever
        their numbers and quoted words. It should be quick.
        """
        return ""

    def known(self, masks: Sequence[Any]) -> Tensor:
        """Which numbers of latents are known where a part of a sample is not, bool, (B, *shape).

        Args:
            masks: Unknown part of each of B samples, as the modality's `read_mask` gives it.

        Raises:
            ValueError: latents have no places, so that each number is of the whole sample.
        """
        raise ValueError(
            f"{type(self).__name__} takes no mask: each number of its latents is of the whole sample"
        )

    def fingerprint(self) -> dict[str, Any]:
        """What decides the latents, as flat JSON: codecs with equal fingerprints encode alike."""
        return {
            "codec": type(self).__name__,
            "version": self.version,
            **self.arguments(),
        }

    def libraries(self, use: str) -> Mapping[str, str | Extra]:
        """Modules that are needed beyond flowbind's own, each with the command that installs it.

        Args:
            use: What they are needed for: `encode` or `decode`.
        """
        return {}

    def check_libraries(self, use: str) -> None:
        """Imports what encoding or decoding needs, before long work begins.

        Raises:
            ValueError: a library is not installed, or cannot be imported; one line that says what
                to do.
        """
        for module, install in self.libraries(use).items():
            require(module, f"{type(self).__name__} ({use})", install)

    def promise(self) -> float | None:
        """The error of a round trip that 95 of 100 samples stay below, in the measure of `errors`.

        The samples are those for which the codec was made. None promises nothing. Where there is a
        promise, `flowbind encode` says in a line if it is not kept.
        """
        return None

    def errors(self, raws: Sequence[Any], again: Sequence[Any]) -> Tensor:
        """How much each of B raw samples lost on the way to its latent and back, with shape (B,).

        It is 0 where nothing was lost, in whatever measure fits the samples. A codec that promises
        has it.

        Args:
            raws: B raw samples.
            again: Raw samples that their latents were decoded to.
        """
        raise NotImplementedError(
            f"{type(self).__name__} promises no error of its round trip, and measures none"
        )

    def files(self) -> dict[str, Path]:
        """The arguments that name a file or folder of this machine.

        A released model takes copies of these along. An argument that may also name something on a
        hub is among them where its value is there as a path.
        """
        return {}

    def convert(self, argument: str, source: Path, target: Path) -> None:
        """Writes a file that somebody else made for an argument, as this codec reads it.

        Args:
            argument: Argument that is to name the file.
            source: File as it is distributed; nothing in it is run.
            target: File to write, in safetensors.

        Raises:
            OSError: a file cannot be read or written.
            ValueError: it is damaged or of another layout, or this codec knows none; one line.
        """
        raise ValueError(
            f"{type(self).__name__} reads no file of somebody else's as its {argument}"
        )

    def to(self, device: torch.device | str) -> Self:
        """Moves the codec to a device, with the networks that it has built. Returns it."""
        return move(self, device)


class NeuralCodec(Codec):
    """A codec whose work is done by one network with weights in a safetensors file.

    A subclass says how the network is built (`build`), what goes in (`prepare`) and what comes out
    (`finish`). The network has two methods, `encode(inputs) -> latents` and
    `decode(latents) -> outputs`.

    Args:
        weights: Safetensors file; the weights shipped with the plugin if None.
    """

    shipped: ClassVar[Path]

    def __init__(self, weights: str | None = None) -> None:
        self.weights = weights

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with fresh weights, drawn from torch's global generator."""

    @abstractmethod
    def prepare(self, raws: Sequence[Any]) -> Tensor:
        """Stacks B raw samples into the network's input, with shape (B, *), on the CPU."""

    def training_inputs(self, raws: Sequence[Any]) -> tuple[Tensor, ...]:
        """What training needs of B raw samples, each with shape (B, *).

        First the network's input, then targets, if they differ. The samples may be read from disk
        one by one as they are asked for, so each is asked for once, and few are in memory.
        """
        return (in_chunks(self.prepare, raws),)

    @abstractmethod
    def finish(self, outputs: Tensor) -> list[Any]:
        """Turns the network's output for B samples into B raw samples."""

    @property
    def file(self) -> Path:
        """The safetensors file of the weights."""
        if self.weights is None:
            return self.shipped
        return Path(self.weights)

    def files(self) -> dict[str, Path]:
        """The weights, shipped ones too: a later version of the plugin may ship others."""
        if self.weights is None and not hasattr(self, "shipped"):
            return {}
        return {"weights": self.file}

    def promise(self) -> float | None:
        """What the JSON file beside the weights says, which training writes; None if there is none.

        Raises:
            ValueError: the file is not what training writes.
        """
        path = promise_file(self.file)
        if not path.is_file():
            return None

        content = read_json(path)
        error = content.get(PROMISED) if isinstance(content, dict) else None
        if not isinstance(error, int | float) or not 0 <= error < math.inf:
            raise ValueError(
                f"{path}: has no number '{PROMISED}'; remove it, or train the codec again"
            )
        return float(error)

    @torch.inference_mode()
    def errors(self, raws: Sequence[Any], again: Sequence[Any]) -> Tensor:
        """The mean absolute difference of what goes into the network, with shape (B,)."""
        differences = self.prepare(again).float()
        differences = differences - self.prepare(raws).float()
        return differences.abs().flatten(1).mean(1)

    @cached_property
    def net(self) -> Any:
        """The frozen network of `build`, in evaluation mode."""
        owner = f"codec {type(self).__name__}"
        net = frozen(self.build, self.file, owner)
        return net.to(self.device)

    @torch.inference_mode()
    def encode(self, raws: Sequence[Any]) -> Tensor:
        inputs = self.prepare(raws)
        return in_blocks(self.net.encode, inputs.to(self.device))

    @torch.inference_mode()
    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[Any]:
        latents = latents.to(self.device, torch.float32)
        outputs = in_blocks(self.net.decode, latents)
        return self.finish(outputs)

    def fingerprint(self) -> dict[str, Any]:
        checksum = digest(self.file)
        return super().fingerprint() | {"weights": checksum}


def check_ids(ids: Tensor, vocabulary: int, whose: str, what: str = "ids") -> None:
    """Refuses ids that a vocabulary does not have.

    Args:
        ids: Ids, with any shape.
        vocabulary: Number V of ids.
        whose: How the vocabulary is called where something is said of it.
        what: How the ids are called there.

    Raises:
        ValueError: an id below 0, or from V on.
    """
    if not ids.numel():
        return
    least, most = int(ids.min()), int(ids.max())
    if least < 0 or most >= vocabulary:
        raise ValueError(
            f"{what} from {least} to {most}; {whose} has 0 to {vocabulary - 1}"
        )


def kind_of(caveat: str) -> str:
    """A caveat without its numbers and quoted words, which are one sample's."""
    return OF_ONE_SAMPLE.sub("", caveat)


def in_chunks(
    prepare: Callable[[Sequence[Any]], Tensor],
    raws: Sequence[Any],
) -> Tensor:
    """What `prepare` makes of all raw samples, with shape (B, *), of which few are in memory."""
    parts = []
    for start in range(0, len(raws), CHUNK):
        # Without a name, which would keep one chunk while the next one is read.
        parts.append(prepare(raws[start : start + CHUNK]))
    return torch.cat(parts)


def promise_file(weights: Path) -> Path:
    """The file beside a file of weights that says what they promise."""
    return weights.with_suffix(".json")
