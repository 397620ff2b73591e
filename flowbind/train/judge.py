"""Training a judge: real samples, a little noise, and the cross-entropy of every labelled factor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind import draws
from flowbind.data.raw import RawBatch
from flowbind.files import write_json
from flowbind.global_batch import share_statistics, spread
from flowbind.judge import JudgeNet, NeuralJudge
from flowbind.train.raw import RawTraining, beside

NOISE, LEVEL, TAKE = 1, 2, 3  # purposes of draws


class JudgeTraining(RawTraining):
    """Trains a judge's network to read all labelled factors of a manifest's samples.

    Args:
        judge: Judge whose network is trained from fresh weights.
        export: File that receives the trained weights (float16 safetensors) when fitting ends; the
            JSON file beside it has the classes, and the accuracy on validation samples.
        learning_rate: Highest rate of AdamW, reached after 5% of the steps, then a cosine down to
            0.
        weight_decay: Weight decay of AdamW.
        noise: Standard deviation of the noise added to an input, at most, as a share of its spread
            over the batch; each sample has a level of its own. A judge without it may turn on
            details that nobody sees.
        seed: Seed of the noise; with the step it decides every draw.
    """

    kind = "judge"

    def __init__(
        self,
        judge: NeuralJudge,
        export: str,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        noise: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(export, learning_rate, weight_decay, noise, seed)
        self.judge = judge
        self.classes: Mapping[str, list[str]] = {}

    def configure_model(self) -> None:
        if self.net is not None:
            return

        self.classes = self.trainer.datamodule.classes
        if not self.classes:
            raise ValueError(
                f"{self.trainer.datamodule.train}: no sample has labels, which a judge reads; give "
                "each its `labels` (docs/formats.md)"
            )
        self.net = share_statistics(self.build())

    def build(self) -> nn.Module:
        return JudgeNet(self.judge.build(), self.judge.width, self.classes)

    def errors(
        self,
        batch: RawBatch,
        noise: float,
        *position: int,
    ) -> dict[str, Tensor]:
        """The cross-entropy of each factor, on the samples that have a label of it."""
        (inputs,) = batch.inputs
        if noise:
            key = draws.key(self.seed, *position, batch.step)
            streams = draws.streams(key, batch.rows)
            inputs = self._disturbed(inputs, noise, streams)

        errors = {}
        features = self.net.trunk(inputs)
        logits = self.net.read(features)
        for column, (factor, part) in enumerate(zip(self.parts, logits, strict=True)):
            known = batch.labels[:, column] >= 0
            classes = batch.labels[known, column]
            exact = part[known].to(torch.promote_types(part.dtype, torch.float32))
            errors[factor] = F.cross_entropy(exact, classes, reduction="none")
        return errors

    def _disturbed(
        self,
        inputs: Tensor,
        noise: float,
        streams: Tensor,
    ) -> Tensor:
        """Another take of n samples, each with noise of its own level.

        Args:
            inputs: Inputs of the network, with shape (n, *).
            noise: Level of the noise at most, as a share of each feature's spread.
            streams: Random stream of each sample, with shape (n,).
        """
        inputs = self.judge.vary(inputs, draws.fork(streams, TAKE))
        axes = [1] * (inputs.ndim - 1)
        level = draws.uniform(draws.fork(streams, LEVEL), *axes)
        unit = draws.normal(draws.fork(streams, NOISE), *inputs.shape[1:])

        if not inputs.is_floating_point():  # of pixels and counts
            inputs = inputs.to(torch.get_default_dtype())
        scale = noise * spread(inputs)
        return inputs + scale * (level * unit).to(inputs.dtype)

    @property
    def parts(self) -> list[str]:
        return list(self.classes)

    def weigh(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The sum of the factors' losses."""
        values = torch.stack(list(losses.values()))
        return values.sum()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["classes"] = dict(self.classes)

    def export_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Writes the weights that a checkpoint holds, and their classes; as `RawTraining`'s."""
        self.classes = checkpoint.get("classes", {})
        super().export_checkpoint(checkpoint, path)
        write_json(beside(path), {"classes": self.classes})

    def describe_weights(self, path: Path) -> None:
        """Writes the classes, and how many validation samples the written weights read rightly."""
        write_json(beside(path), {"classes": self.classes})
        arguments = self.judge.arguments() | {"weights": str(path)}
        judge = type(self.judge)(**arguments).to(self.device)

        data = self.trainer.datamodule
        inputs, labels = data.parts["val"].tensors
        features = []
        for part in inputs.split(data.batch_size):
            with torch.inference_mode():
                features_of_part = judge.net.trunk(part.to(self.device))
                features.append(features_of_part.cpu())
        read = judge.read(torch.cat(features))

        # A sample without a label is read rightly whatever is read.
        right = (read == labels) | (labels < 0)
        of_factors = right.double().mean(0).tolist()
        accuracy = dict(zip(self.classes, of_factors, strict=True))
        accuracy["joint"] = right.all(1).double().mean().item()
        shares = {name: round(share, 4) for name, share in accuracy.items()}
        write_json(
            beside(path),
            {"classes": self.classes, "accuracy": shares, "samples": len(labels)},
        )
