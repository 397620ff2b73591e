"""Training a codec: encode, disturb, decode, compare, and export the weights as safetensors."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

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
        self.codec = codec
        self.semantic = semantic
        self.classifiers = nn.ModuleDict()

    @abstractmethod
    def reconstruction(
        self,
        latents: Tensor,
        *inputs: Tensor,
        streams: Tensor,
    ) -> Tensor:
        """How far what n latents decode to is from their samples.

        Args:
            latents: Latents, with shape (n, *shape).
            inputs: Inputs as the codec's `training_inputs` gives them, each with shape (n, *).
            streams: Random stream of each sample, with shape (n,), as `flowbind.draws` takes them:
                all that is random here is drawn from these.

        Returns:
            Errors whose mean is the loss, with any shape: one for each sample, or for each of its
            parts.
        """

    def encode(self, *inputs: Tensor, streams: Tensor) -> Tensor:
        """The latents of n samples in training, with shape (n, *shape).

        Arguments as for `reconstruction`.
        """
        return self.net.encode(inputs[0])

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
        own_streams = draws.fork(streams, ENCODING)
        latents = self.encode(*batch.inputs, streams=own_streams)

        if noise:
            shape = latents.shape[1:]
            unit = draws.normal(draws.fork(streams, NOISE), *shape)
            scale = noise * spread(latents.detach())
            latents = latents + scale * unit.to(latents.dtype)

        own_streams = draws.fork(streams, RECONSTRUCTION)
        reconstruction = self.reconstruction(
            latents, *batch.inputs, streams=own_streams
        )

        errors = {"reconstruction": reconstruction}
        for column, (factor, classifier) in enumerate(self.classifiers.items()):
            known = batch.labels[:, column] >= 0
            logits = classifier(latents.flatten(1))
            logits = logits[known]
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

    @property
    def statistics(self) -> list[Tensor]:
        """Running statistics of the network, which a forward pass moves."""
        return [buffer for buffer in self.buffers() if buffer.is_floating_point()]

    def on_train_batch_start(self, batch: RawBatch, index: int) -> None:
        self.before = [buffer.clone() for buffer in self.statistics]

    def on_train_batch_end(self, outputs: object, batch: RawBatch, index: int) -> None:
        # What is not finite would stay so.
        for buffer, before in zip(self.statistics, self.before, strict=True):
            buffer.copy_(torch.where(buffer.isfinite(), buffer, before))
        super().on_train_batch_end(outputs, batch, index)

    def training_step(self, batch: RawBatch, index: int) -> Tensor:
        errors = self.errors(batch, self.noise, TRAINING)
        losses = means(errors)
        loss = self.weigh(losses)
        self.watch(loss, batch.step)

        # Lightning's books cost time at every step, and are shown at these alone.
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:
            values = [loss.detach() for loss in losses.values()]
            values = self.trainer.strategy.reduce(torch.stack(values), reduce_op="mean")
            self._log("train", losses, values)
        return loss

    def _log(self, part: str, names: Iterable[str], values: Tensor) -> None:
        """Logs the losses of the global batch, or of all samples, and their weighted sum."""
        # Lightning keeps those of `val` over an epoch, and asks for it, though all ranks have the
        # same.
        sync = part == "val"
        losses = dict(zip(names, values.unbind(), strict=True))
        named = {f"{part}/{name}": value for name, value in losses.items()}
        self.log_dict(named, sync_dist=sync)
        self.log(f"{part}/loss", self.weigh(losses), prog_bar=True, sync_dist=sync)

    def trouble_at(self, step: int) -> list[str]:
        steps = self.trainer.datamodule.steps
        batch = self.transfer_batch_to_device(steps.at(step), self.device, 0)
        self.eval()  # in which no sample's error hangs on others

        trouble = []
        for name, errors in self.errors(batch, 0.0, TRAINING).items():
            bad = ~errors.isfinite().cpu()
            if not bad.any():
                continue

            if errors.shape[:1] == batch.rows.shape:
                is_bad_row = bad.reshape(len(bad), -1).any(1)
                lines = steps.lines(step)[is_bad_row]
                trouble.append(bad_rows(name, lines.tolist(), self.global_rank))
            else:  # of parts of samples, or of those samples that have a label
                count = int(bad.sum())
                trouble.append(
                    f"the loss of '{name}' in {count} of {bad.numel()} errors "
                    f"of rank {self.global_rank}"
                )
        return trouble

    def on_validation_epoch_start(self) -> None:
        # By name, the sum of all errors and their number.
        self.totals: dict[str, Tensor] = {}

    def validation_step(self, batch: RawBatch, index: int) -> None:
        if not len(batch.rows):  # the other ranks have the last samples
            return

        for name, errors in self.errors(batch, 0.0, VALIDATION).items():
            count = torch.tensor(
                errors.numel(), dtype=torch.float64, device=self.device
            )
            total = errors.sum(dtype=torch.float64)
            pair = torch.stack([total, count])
            self.totals[name] = self.totals.get(name, 0) + pair

    def on_validation_epoch_end(self) -> None:
        names = ["reconstruction", *self.classifiers]
        none = torch.zeros(2, dtype=torch.float64, device=self.device)
        totals = [self.totals.get(name, none) for name in names]
        totals = torch.stack(totals)
        totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        sums, counts = totals.unbind(1)
        means = sums / counts.clamp(min=1)
        self._log("val", names, means.float())

    def rate_at(self, step: int) -> float:
        """The learning rate of the step after `step` others."""
        steps = self.trainer.max_steps
        warmup = round(WARMUP * steps)
        return rate_at(step, steps, self.learning_rate, warmup, "cosine")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = []
        for parameter in self.parameters():
            if parameter.requires_grad:
                trained.append(parameter)
        return torch.optim.AdamW(
            trained,
            lr=self.rate_at(0),
            betas=BETAS,
            weight_decay=self.weight_decay,
            fused=True,
        )

    def on_train_epoch_start(self) -> None:
        if self.trainer.datamodule is not None:
            self.trainer.datamodule.begin_at(self.trainer.global_step)

    def on_train_start(self) -> None:
        rate = self.rate_at(self.trainer.global_step)
        resume_rate(self.trainer, rate)

    def optimizer_step(self, *args: Any, **named: Any) -> None:
        super().optimizer_step(*args, **named)

        # With this step, which the trainer has not counted yet.
        done = self.trainer.global_step + 1
        rate = self.rate_at(done)
        set_rate(self.trainer.optimizers[0], rate)

    def configure_callbacks(self) -> list[Callback]:
        return [Export(), Agreement()]

    def export_trained(self) -> None:
        """Writes the trained weights, and beside them what they promise of a round trip."""
        if self.trainer.is_global_zero:
            path = Path(self.export)
            promise_file(path).unlink(missing_ok=True)  # of other weights
            self.write_weights(path)
            self._promise(path)
            say(f"wrote {self.export}")

    def _promise(self, path: Path) -> None:
        """Measures the round trip on validation samples, with the weights that were written."""
        data = getattr(self.trainer, "datamodule", None)
        if not self.promised_on:
            return
        if not isinstance(data, RawDataModule):
            return
        if not isinstance(self.codec, NeuralCodec):
            return

        arguments = self.codec.arguments() | {"weights": str(path)}
        codec = type(self.codec)(**arguments).to(self.device)
        raws = data.raws("val", self.promised_on)
        write_promise(codec, raws, promise_file(path))

    def check_export(self, run_folder: Path) -> None:
        """Refuses, before the first step, a place where the weights could not be written."""
        check_place(Path(self.export))

    def export_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Writes the weights that a checkpoint holds.

        Args:
            checkpoint: Checkpoint with `state_dict`, as `read_checkpoint` gives it.
            path: Path of the file.

        Raises:
            ValueError: the checkpoint is of another network, or the place is a folder.
        """
        check_place(path)
        state = with_prefix(checkpoint["state_dict"], "net.")
        self.net = self.build()
        try:
            result = self.net.load_state_dict(state, strict=self.strict_loading)
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint is of another codec ({last_line(error)})"
            ) from None
        unknown = result.unexpected_keys
        if unknown or not state:
            content = ", ".join(unknown[:3]) or "no network"
            raise ValueError(f"the checkpoint is of another codec (it holds {content})")

        promise_file(path).unlink(missing_ok=True)
        self.write_weights(path)

    def write_weights(self, path: Path) -> None:
        """Writes what was trained: the network."""
        export_weights(self.net, path)


def export_weights(net: nn.Module, path: Path) -> None:
    """Writes a network's weights as float16 safetensors, beside and then renamed."""
    weights = {}
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor = tensor.half()
        weights[name] = tensor
    save_tensors(weights, path)
