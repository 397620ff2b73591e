"""Training a codec: encode, disturb, decode, compare, and export the weights as safetensors."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind import draws
from flowbind.codec import NeuralCodec
from flowbind.data.promise import write_promise
from flowbind.data.raw import RawBatch, RawDataModule
from flowbind.global_batch import share_statistics, spread
from flowbind.train.raw import RawTraining, beside

# Purposes of draws.
NOISE = 1
ENCODING = 2
RECONSTRUCTION = 3


class CodecTraining(RawTraining):
    """Trains a codec's network. A subclass says how a reconstruction is judged.

    Args:
        codec: Codec whose network is trained from fresh weights.
        export: File that receives the trained weights (float16 safetensors) when fitting ends.
        learning_rate: Highest rate of AdamW, reached after 5% of the steps, then a cosine down to
            0.
        weight_decay: Weight decay of AdamW.
        noise: Standard deviation of the noise added to a latent before it is decoded, as a share of
            each feature's own spread; it makes the decoder forgive small errors of a flow.
        semantic: Weight of a linear classifier's cross-entropy on the latent, for manifests with
            labels. It spreads the latents by meaning, as the contrastive training of large codecs
            does; 0 trains by reconstruction alone.
        seed: Seed of the noise and of all else that is drawn; with the step it decides every draw.

    Attributes:
        promised_on: Samples, at most, on which it is measured what the codec promises
            (`Codec.promise`); 0 for none, where decoding is long work.
    """

    kind = "codec"
    promised_on: ClassVar[int] = 256

    def __init__(
        self,
        codec: NeuralCodec,
        export: str,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        noise: float = 0.1,
        semantic: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(export, learning_rate, weight_decay, noise, seed)
        self.codec: Any = codec  # a subclass may train one of another kind
        self.semantic = semantic
        self.classifiers = nn.ModuleDict()

    @abstractmethod
    def reconstruction(
        self,
        latents: Tensor,
        /,
        *inputs: Any,
        **named: Any,
    ) -> Tensor:
        """How far what n latents decode to is from their samples.

        Args:
            latents: Latents, with shape (n, *shape).
            inputs: Inputs as the codec's `training_inputs` gives them, tensors each with shape
                (n, *). A subclass declares each by its own name.
            named: `streams`, the random stream of each sample, a tensor with shape (n,), as
                `flowbind.draws` takes them: all that is random here is drawn from these.

        Returns:
            Errors whose mean is the loss, with any shape: one for each sample, or for each of its
            parts.
        """

    def encode(self, *inputs: Any, **named: Any) -> Tensor:
        """The latents of n samples in training, with shape (n, *shape).

        Arguments as for `reconstruction`.
        """
        return self.net.encode(inputs[0])

    def latents(
        self,
        *inputs: Any,
        **named: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `encode`, and further errors by name, which a subclass names in `parts` and weighs."""
        return self.encode(*inputs, **named), {}

    def spread(self, latents: Tensor) -> Tensor:
        """The deviations that noise is a share of, of n latents; each feature's own by itself."""
        return spread(latents)

    def build(self) -> nn.Module:
        """The network with its first weights, drawn from torch's global generator."""
        return self.codec.build()

    def configure_model(self) -> None:
        if self.net is not None:
            return

        self.net = share_statistics(self.build())
        if self.semantic:
            features = torch.Size(self.codec.shape).numel()
            for factor, values in self.trainer.datamodule.classes.items():
                self.classifiers[factor] = nn.Linear(features, len(values))

    def errors(
        self,
        batch: RawBatch,
        noise: float,
        *position: int,
    ) -> dict[str, Tensor]:
        """The errors of a batch: of the reconstruction, and of each factor's classifier.

        A classifier has errors on the samples that have a label.

        Args:
            batch: Global batch, or one rank's part of it.
            noise: Noise on the latents, as a share of their spread.
            position: Key, with the seed and the batch's step, of what is drawn.

        Returns:
            Errors by name: of the reconstruction as `reconstruction` gives them, of a factor with
            shape (labelled samples,).
        """
        key = draws.key(self.seed, *position, batch.step)
        streams = draws.streams(key, batch.rows)
        encoding = draws.fork(streams, ENCODING)
        latents, further = self.latents(*batch.inputs, streams=encoding)

        if noise:
            unit = draws.normal(draws.fork(streams, NOISE), *latents.shape[1:])
            scale = noise * self.spread(latents.detach())
            latents = latents + scale * unit.to(latents.dtype)

        own_streams = draws.fork(streams, RECONSTRUCTION)
        reconstruction = self.reconstruction(
            latents,
            *batch.inputs,
            streams=own_streams,
        )

        errors = {"reconstruction": reconstruction, **further}
        for column, (factor, classifier) in enumerate(self.classifiers.items()):
            known = batch.labels[:, column] >= 0
            logits = classifier(latents.flatten(1))[known]
            classes = batch.labels[known, column]
            errors[factor] = F.cross_entropy(logits, classes, reduction="none")

        return errors

    @property
    def parts(self) -> list[str]:
        return ["reconstruction", *self.classifiers]

    def weigh(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The loss: that of the reconstruction, and those of the classifiers by their weight."""
        meaning = sum(losses[factor] for factor in self.classifiers)
        return losses["reconstruction"] + self.semantic * meaning

    def describe_weights(self, path: Path) -> None:
        """Measures the round trip on validation samples, with the weights that were written."""
        data = getattr(self.trainer, "datamodule", None)
        if not self.promised_on:
            return
        if not isinstance(data, RawDataModule) or not isinstance(
            self.codec,
            NeuralCodec,
        ):
            return

        arguments = self.codec.arguments() | {"weights": str(path)}
        codec = type(self.codec)(**arguments).to(self.device)
        write_promise(codec, data.raws("val", self.promised_on), beside(path))
